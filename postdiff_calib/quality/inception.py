"""Inception features as FID was defined on (Heusel et al. 2017, arXiv 1706.08500): 2,048 numbers an image.

The network is torchvision's Inception v3 with the pooling of the original: averages leave the padding out, and the last
block takes maxima (Seitzer, pytorch-fid). Its weights are pytorch-fid's file, a pickle, hence never fetched by this
tool and read with ``weights_only``; they are used where torch's hub cache holds them already, whole (the file's name
ends in the start of its SHA-256). Elsewhere there are no such features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from postdiff_calib.errors import ModelError
from postdiff_calib.quality.lpips import tensors_of

if TYPE_CHECKING:
    import torch

#: Of pytorch-fid's release, by the name that torch's hub cache gives it.
WEIGHTS_FILE = "pt_inception-2015-12-05-6726825d.pth"
#: Side of the images that the network takes, in pixels; classes of the original.
_SIDE, _CLASSES = 299, 1008
#: Blocks whose pooling differs: averages, and the last one's maxima.
_AVERAGED = ("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7b")
_LARGEST = "Mixed_7c"
_REMEDY = "while online, pytorch-fid puts them there; or take CLIP's features"


class Inception:
    """The network, in float32.

    Args:
        path: its weights; by default in torch's hub cache.
        device: where it runs.

    Raises:
        ModelError: the weights are absent, damaged or not this network's.
    """

    def __init__(self, path: Path | None = None, device: str = "cpu") -> None:
        import torch
        from torchvision.models import inception_v3

        path = path or Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_FILE
        state = tensors_of(path, "Inception", "pytorch-fid's", _REMEDY)
        network = inception_v3(weights=None, num_classes=_CLASSES, aux_logits=False, init_weights=False)
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise ModelError(f"Inception weights {path}", "they are not pytorch-fid's", _REMEDY) from error
        pool = torch.nn.functional
        for name in _AVERAGED:
            _pool(getattr(network, name), lambda x: pool.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False))
        _pool(getattr(network, _LARGEST), lambda x: pool.max_pool2d(x, 3, stride=1, padding=1))
        network.fc = torch.nn.Identity()
        self.device = device
        self._network: torch.nn.Module = network.float().to(device).eval().requires_grad_(False)

    def __call__(self, batches: Iterable[torch.Tensor]) -> npt.NDArray[np.float32]:
        """Features of images: batches (B, 3, H, W) in [0, 1] → (N, 2048)."""
        import torch

        found = []
        with torch.inference_mode():
            for batch in batches:
                pixels = batch.float().to(self.device)
                pixels = torch.nn.functional.interpolate(pixels, (_SIDE, _SIDE), mode="bilinear", align_corners=False)
                found.append(self._network(2 * pixels - 1).cpu().numpy())
        return np.concatenate(found).astype(np.float32)


def _pool(block: Any, pool: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Give a block another pooling before the last of its branches."""
    stock = block._forward

    def forward(x: torch.Tensor) -> list[torch.Tensor]:
        return [*stock(x)[:-1], block.branch_pool(pool(x))]

    block._forward = forward
