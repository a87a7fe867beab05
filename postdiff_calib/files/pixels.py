"""Images in 8 bits, rounded as a saved file is, so that a file and the image it was made from read alike.

Images are float tensors with values in [0, 1]; what lies outside is cut off. The type of the numbers is the caller's:
half precision rounds otherwise than float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postdiff_calib.errors import OutputError
from postdiff_calib.files.write import refuse_output

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

#: Endings of image files that are written, and Pillow's name of their format.
IMAGE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def refuse_image(
    path: Path, *, inputs: Iterable[str | Path] = (), study: Path | None = None, what: str = "output"
) -> None:
    """``refuse_output`` for an image: its ending, too, must be of a format that is written.

    Raises:
        OutputError: as ``refuse_output``, or the ending is none of ``IMAGE_FORMATS``.
    """
    refuse_output(path, inputs=inputs, study=study, what=what)
    if path.suffix.lower() not in IMAGE_FORMATS:
        rule = f"it cannot be written ({path.suffix or 'a missing ending'} is no image's)"
        raise OutputError(f"{what} {path}", rule, f"name a file that ends in {', '.join(IMAGE_FORMATS)}")


def levels(images: torch.Tensor) -> torch.Tensor:
    """The whole numbers from 0 to 255 of each value, in the images' own type and shape."""
    return (images * 255).round().clamp(0, 255)


def rounded(images: torch.Tensor) -> torch.Tensor:
    """The same images as 8 bits leave them: multiples of 1/255, shaped alike."""
    return levels(images) / 255


def to_array(image: torch.Tensor) -> npt.NDArray[np.uint8]:
    """One image, (3, H, W), as Pillow takes it: (H, W, 3) bytes."""
    array: Any = levels(image).byte().permute(1, 2, 0).contiguous().cpu().numpy()
    return array  # type: ignore[no-any-return]
