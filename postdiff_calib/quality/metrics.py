"""The metrics, in one list: name, direction, unit and function.

Per-prompt metrics return a number per picture and are compared by paired differences; set metrics return one number for
all pictures. Pictures are (B, 3, H, W) float, values in [0, 1]; ``reference`` holds the unaccelerated model's pictures
of the same prompts and seeds.

CMMD is the squared maximum mean discrepancy of unit CLIP embeddings under a Gaussian kernel (Jayasumana et al.,
arXiv 2401.09603: σ = 10, times 1000). Unlike the published code it leaves out the diagonal, hence is unbiased and
may fall slightly below 0, and it is computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

    from postdiff_calib.quality.clip import ClipScorer

#: PSNR of equal pictures is infinite; reported as this, in dB, so that means stay finite.
PSNR_CAP = 100.0
CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0


@dataclass(frozen=True)
class Pictures:
    """What metrics are computed from: B pictures, the reference pictures of the same seeds, prompts and scorer."""

    images: torch.Tensor
    reference: torch.Tensor
    prompts: Sequence[str]
    scorer: ClipScorer


@dataclass(frozen=True)
class Metric:
    """One metric: ``function`` maps ``Pictures`` to a number per prompt, or to a single number when not per prompt."""

    name: str
    direction: Literal["higher", "lower"]
    unit: str
    per_prompt: bool
    function: Callable[[Pictures], list[float]]


def ssim(images: torch.Tensor, reference: torch.Tensor) -> list[float]:
    """Structural similarity per picture, 1 for equal pictures (Wang et al. 2004, 11-pixel Gaussian window)."""
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    values = structural_similarity_index_measure(images.float(), reference.float(), data_range=1.0, reduction="none")
    return [float(value) for value in torch.as_tensor(values).reshape(-1)]


def psnr(images: torch.Tensor, reference: torch.Tensor) -> list[float]:
    """Peak signal-to-noise ratio per picture, in dB, at most ``PSNR_CAP``."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    values = peak_signal_noise_ratio(images.float(), reference.float(), data_range=1.0, reduction="none", dim=(1, 2, 3))
    return [min(PSNR_CAP, float(value)) for value in values]


def cmmd(features: torch.Tensor, reference: torch.Tensor) -> float:
    """Unbiased CMMD between two sets of unit embeddings.

    Args:
        features: (N, D), N ≥ 2.
        reference: (M, D), M ≥ 2.

    Raises:
        ValueError: fewer than two embeddings in a set.
    """
    import torch

    if len(features) < 2 or len(reference) < 2:
        raise ValueError(f"CMMD needs at least two pictures a set, got {len(features)} and {len(reference)}")
    x, y = features.double(), reference.double()

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2 * a @ b.T
        return torch.exp(-squared.clamp_min(0) / (2 * CMMD_SIGMA**2))

    def within(a: torch.Tensor) -> torch.Tensor:
        gram = kernel(a, a)
        return (gram.sum() - gram.diagonal().sum()) / (len(a) * (len(a) - 1))

    return float(CMMD_SCALE * (within(x) + within(y) - 2 * kernel(x, y).mean()))


def _clip(pictures: Pictures) -> list[float]:
    return pictures.scorer.score(pictures.images, pictures.prompts)


def _cmmd(pictures: Pictures) -> list[float]:
    scorer = pictures.scorer
    return [cmmd(scorer.image_features(pictures.images), scorer.image_features(pictures.reference))]


METRICS: tuple[Metric, ...] = (
    Metric("clip", "higher", "100 × cosine", True, _clip),
    Metric("cmmd", "lower", "1000 × squared discrepancy", False, _cmmd),
    Metric("ssim", "higher", "similarity, 1 = equal", True, lambda p: ssim(p.images, p.reference)),
    Metric("psnr", "higher", "dB", True, lambda p: psnr(p.images, p.reference)),
)


def metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        KeyError: there is none; the message lists the names.
    """
    for candidate in METRICS:
        if candidate.name == name:
            return candidate
    raise KeyError(f"no metric {name!r}; metrics are {', '.join(m.name for m in METRICS)}")
