"""LPIPS: distance of two images in the features of a trained network (Zhang et al. 2018, arXiv 1801.03924).

The linear heads (version 0.1) and the arithmetic are torchmetrics'. The backbone is torchvision's AlexNet; its weights
are published as a pickle only, hence never fetched by this tool and read with ``weights_only``, which builds tensors
and nothing else. They are used where torch's hub cache holds them already, whole (the file's name ends in the start of
its SHA-256); elsewhere there is no LPIPS.
"""

from __future__ import annotations

import pickle
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from postdiff_calib.errors import ModelError
from postdiff_calib.files import file_sha256

if TYPE_CHECKING:
    import torch

#: torchvision's AlexNet_Weights.IMAGENET1K_V1, by the name that torch's hub cache gives it.
BACKBONE_FILE = "alexnet-owt-7be5be79.pth"
#: AlexNet's first layers leave nothing of smaller images.
MIN_SIDE = 32


class Lpips:
    """LPIPS with the AlexNet backbone, in float32 on the CPU.

    Args:
        path: the backbone's weights; by default in torch's hub cache.

    Raises:
        ModelError: the weights are absent, damaged or not AlexNet's, or this torchmetrics has no LPIPS network.
    """

    def __init__(self, path: Path | None = None) -> None:
        path = path or backbone_path()
        state = _backbone(path)
        try:
            from torchmetrics.functional.image.lpips import _LPIPS

            network = _LPIPS(pretrained=True, net="alex", pnet_rand=True)
        except (ImportError, TypeError, OSError) as error:
            raise ModelError(
                "LPIPS", f"this torchmetrics does not build it ({error})", "install torchmetrics 1.4 or later"
            ) from error
        # the backbone's slices keep the layers' own numbers: slice2.3.weight is features.3.weight
        wanted = {key: "features." + key.partition(".")[2] for key in network.net.state_dict()}
        try:
            network.net.load_state_dict({key: state[source] for key, source in wanted.items()})
        except (KeyError, RuntimeError) as error:
            raise ModelError(f"LPIPS weights {path}", "they are not AlexNet's", _REMEDY) from error
        self._network: torch.nn.Module = network.float().eval().requires_grad_(False)

    def __call__(self, images: torch.Tensor, reference: torch.Tensor) -> list[float]:
        """Distance per image: (B, 3, H, W) in [0, 1] twice → B numbers ≥ 0, 0 for equal images, lower is nearer.

        Images under 32 pixels a side are enlarged to that first.
        """
        import torch

        pair = [_large_enough(part.float().cpu()) for part in (images, reference)]
        with torch.inference_mode():
            return [float(value) for value in self._network(*pair, normalize=True).reshape(-1)]


def _large_enough(images: torch.Tensor) -> torch.Tensor:
    import torch

    short = min(images.shape[-2:])
    if short >= MIN_SIDE:
        return images
    return torch.nn.functional.interpolate(images, scale_factor=MIN_SIDE / short, mode="bilinear").clamp(0, 1)


_REMEDY = "while online, torchvision.models.alexnet(weights='DEFAULT') puts them there; or do without LPIPS"


def backbone_path() -> Path:
    """Where torch's hub cache keeps the backbone's weights on this machine."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / BACKBONE_FILE


def _backbone(path: Path) -> dict[str, torch.Tensor]:
    return tensors_of(path, "LPIPS", "AlexNet's", _REMEDY)


def tensors_of(path: Path, what: str, whose: str, remedy: str) -> dict[str, torch.Tensor]:
    """Tensors of a published pickle whose name ends in the start of its SHA-256; nothing else in it is built.

    Args:
        path: the file.
        what: what needs it, for the message.
        whose: network's weights they are, for the message.
        remedy: what to do where it cannot be used.

    Raises:
        ModelError: it is absent or damaged, or holds more than tensors.
    """
    import torch

    if not path.is_file():
        raise ModelError(what, f"{whose} weights, {path.name}, are not in {path.parent}", remedy)
    given = f"{what} weights {path}"
    if not file_sha256(path).startswith(path.stem.rpartition("-")[2]):
        raise ModelError(given, "they are damaged: name and content differ", remedy)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise ModelError(given, "they hold more than tensors, or cannot be read", remedy) from error
    if not isinstance(state, dict):
        raise ModelError(given, f"they are not {whose}", remedy)
    return state


@lru_cache(maxsize=1)
def installed() -> Lpips:
    """LPIPS as this machine has it, loaded once.

    Raises:
        ModelError: there is none; says why.
    """
    return Lpips()
