"""Health of generated images, checked before any score: a black frame can out-score a bad image on CLIP.

An image is unhealthy when it holds NaN or infinity, when it is constant (one colour to within quantisation), or when
it is saturated (nearly all values at the ends of the range, and jumping between them from pixel to pixel, as a diverged
sample does after clamping; a flat drawing in pure colours does not jump).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from postdiff_calib.errors import PlanError

if TYPE_CHECKING:
    import torch

#: An image whose every channel spans less than this is one colour: half a step of 8-bit quantisation.
CONSTANT_RANGE = 0.5 / 255
#: Share of values at exactly 0 or 1 above which an image may be saturated. A photograph on pure white stays below.
SATURATED_SHARE = 0.98
#: Share of neighbouring values that jump from one end to the other; noise has one half, fine stripes a few per cent.
JUMPING_SHARE = 0.1


class HealthError(PlanError):
    """Generated images are broken, so their scores would mean nothing."""


def check_health(images: torch.Tensor, prompts: Sequence[str]) -> None:
    """Refuse images that no score should be taken of.

    Args:
        images: (B, 3, H, W), values in [0, 1].
        prompts: B prompts, to name the first broken image.

    Raises:
        HealthError: names the fault, the number of images that show it, and the first prompt.
    """
    faults: dict[str, list[str]] = {}
    for image, prompt in zip(images, prompts, strict=True):
        fault = _fault(image)
        if fault:
            faults.setdefault(fault, []).append(prompt)
    for fault, where in faults.items():
        raise HealthError(
            f"{len(where)} of {len(prompts)} images",
            f"{fault}, the first for {where[0]!r}",
            "use float32 (--dtype float32) or gentler knobs",
        )


def _fault(image: torch.Tensor) -> str | None:
    values = image.float()
    if not bool(values.isfinite().all()):
        return "hold NaN or infinity"
    flat = values.flatten(1)
    if float((flat.amax(1) - flat.amin(1)).max()) < CONSTANT_RANGE:
        return "are constant"
    at_ends = float(((values <= 0) | (values >= 1)).float().mean())
    if at_ends > SATURATED_SHARE and float((values.diff(dim=-1).abs() >= 1).float().mean()) > JUMPING_SHARE:
        return "are saturated"
    return None
