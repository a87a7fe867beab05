"""The metrics, in one list: name, label, direction, unit and function.

There are two kinds. A *quality* metric judges an image by itself, against its prompt: the CLIP score, and whether the
scene is right. A *fidelity* metric compares an image with the baseline's of the same prompt and seed. Quality may stay
the same, or rise, where fidelity is lost.

Per-prompt metrics return a number per picture and are compared by paired differences; set metrics return one number for
all pictures. Pictures are (B, 3, H, W) float, values in [0, 1]; ``reference`` holds the baseline's pictures of the same
prompts and seeds.

CMMD is the squared maximum mean discrepancy of unit CLIP embeddings under a Gaussian kernel (Jayasumana et al.,
arXiv 2401.09603: σ = 10, times 1000). Unlike the published code it leaves out the diagonal, hence is unbiased and
may fall slightly below 0, and it is computed in float64. Two sets of the same prompts and seeds are dependent picture
by picture: there the diagonal between the sets is left out too (Gretton et al., JMLR 13, 2012, eq. 4), without which
the estimate would be too low, by about 9/N for N prompts of ordinary CLIP embeddings. With few prompts it is noisy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from postdiff_calib.errors import ModelError
from postdiff_calib.quality import lpips

if TYPE_CHECKING:
    import torch

    from postdiff_calib.models.shapes.judge import SceneJudge
    from postdiff_calib.quality.clip import ClipScorer

#: The quality metric that every model has and that a search maximises.
SCORE = "clip"
#: PSNR of equal pictures is infinite; reported as this, in dB, so that means stay finite.
PSNR_CAP = 100.0
CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0


@dataclass(frozen=True)
class Pictures:
    """What metrics are computed from: B pictures with their prompts, and what they are judged by.

    Args:
        images: (B, 3, H, W) float, values in [0, 1].
        reference: the baseline's pictures of the same prompts and seeds, shaped alike; None leaves out fidelity.
        prompts: B prompts.
        scorer: of the CLIP score.
        judge: of scenes; None where the model has none.
    """

    images: torch.Tensor
    reference: torch.Tensor | None
    prompts: Sequence[str]
    scorer: ClipScorer
    judge: SceneJudge | None = None

    @property
    def pair(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The pictures and the reference.

        Raises:
            ValueError: there is no reference.
        """
        if self.reference is None:
            raise ValueError("a fidelity metric needs the baseline's pictures")
        return self.images, self.reference


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: on the command line and in files.
        label: in words.
        direction: which values are better.
        unit: of a value, in words.
        per_prompt: whether there is a number per picture, or one for all pictures.
        function: maps ``Pictures`` to a number per prompt, or to a single number when not per prompt.
        digits: shown after the point.
        difference_unit: of a difference of two values, in words; short, may be empty.
        highest: the largest value, or the largest drop, that a bound can sensibly have.
        equal: its value for pictures equal to the reference; None where pictures are not compared.
    """

    name: str
    label: str
    direction: Literal["higher", "lower"]
    unit: str
    per_prompt: bool
    function: Callable[[Pictures], list[float]]
    digits: int = 2
    difference_unit: str = ""
    highest: float = math.inf
    equal: float | None = None

    @property
    def quality(self) -> bool:
        """Whether it judges a picture against its prompt; a fidelity metric compares it with the baseline's."""
        return self.equal is None

    def show(self, value: float, *, signed: bool = False) -> str:
        """A value with the metric's digits; ``signed`` for a difference, which then bears its sign."""
        # adding 0.0 keeps a rounded −0.0 from being shown with a minus
        return f"{round(value, self.digits) + 0.0:{'+' if signed else ''}.{self.digits}f}".replace("-", "−")


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
    """Unbiased CMMD between two independent sets of unit embeddings, such as pictures of different prompts.

    Args:
        features: (N, D), N ≥ 2.
        reference: (M, D), M ≥ 2.

    Raises:
        ValueError: fewer than two embeddings in a set.
    """
    if len(features) < 2 or len(reference) < 2:
        raise ValueError(f"CMMD needs at least two pictures a set, got {len(features)} and {len(reference)}")
    x, y = (np.asarray(part, dtype=np.float64) for part in (features, reference))

    def within(a: npt.NDArray[np.float64]) -> float:
        gram = _kernel(a, a)
        return float((gram.sum() - np.trace(gram)) / (len(a) * (len(a) - 1)))

    return CMMD_SCALE * (within(x) + within(y) - 2 * float(_kernel(x, y).mean()))


def paired_cmmd(features: npt.NDArray[Any], reference: npt.NDArray[Any]) -> tuple[float, float]:
    """Unbiased CMMD between pictures of the same prompts and seeds, and its standard error by the jackknife.

    Equal sets give 0 exactly. With few prompts the estimate is noisy: look at the standard error.

    Args:
        features, reference: (N, D) unit embeddings, row i of both of the same prompt and seed; N ≥ 3.

    Raises:
        ValueError: fewer than three pairs, or sets of different shapes.
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    n = len(x)
    if x.shape != y.shape or n < 3:
        raise ValueError(f"paired CMMD needs at least three pairs, got {x.shape} and {y.shape}")
    across = _kernel(x, y)
    h = _kernel(x, x) + _kernel(y, y) - across - across.T
    np.fill_diagonal(h, 0.0)
    rows = h.sum(1)
    total = float(rows.sum())
    without = (total - 2 * rows) / ((n - 1) * (n - 2))  # leaving out each prompt in turn
    error = float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))
    return CMMD_SCALE * total / (n * (n - 1)), CMMD_SCALE * error


def _kernel(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2 * a @ b.T
    gram: npt.NDArray[np.float64] = np.exp(-np.maximum(squared, 0) / (2 * CMMD_SIGMA**2))
    return gram


def _clip(pictures: Pictures) -> list[float]:
    return pictures.scorer.score(pictures.images, pictures.prompts)


def _scene(pictures: Pictures) -> list[float]:
    if pictures.judge is None:
        raise ModelError(
            "metric scene", "this model has no judge of its scenes", "leave it out; the model shapes has one"
        )
    return pictures.judge.score(pictures.images, pictures.prompts)


def _cmmd(pictures: Pictures) -> list[float]:
    sets = (pictures.scorer.image_features(part).numpy() for part in pictures.pair)
    return [paired_cmmd(*sets)[0]]


def _lpips(pictures: Pictures) -> list[float]:
    network = lpips.installed()
    if isinstance(network, ModelError):
        raise network
    return network(*pictures.pair)


METRICS: tuple[Metric, ...] = (
    Metric("clip", "CLIP score", "higher", "100 × cosine", True, _clip, difference_unit="points"),
    Metric(
        "scene",
        "scenes right",
        "higher",
        "% of scenes",
        True,
        _scene,
        digits=1,
        difference_unit="percentage points",
        highest=100.0,
    ),
    Metric("cmmd", "CMMD", "lower", "1000 × squared discrepancy", False, _cmmd, digits=4, equal=0.0),
    Metric(
        "ssim",
        "SSIM",
        "higher",
        "similarity, 1 = equal",
        True,
        lambda p: ssim(*p.pair),
        digits=3,
        highest=1.0,
        equal=1.0,
    ),
    Metric(
        "psnr",
        "PSNR",
        "higher",
        "dB",
        True,
        lambda p: psnr(*p.pair),
        digits=1,
        difference_unit="dB",
        highest=PSNR_CAP,
        equal=PSNR_CAP,
    ),
    Metric("lpips", "LPIPS", "lower", "distance, 0 = equal", True, _lpips, digits=3, equal=0.0),
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


def in_words(values: Mapping[str, float | None]) -> str:
    """Values by metric's name in a line, e.g. ``SSIM 0.750, PSNR 19.5 dB``; what was not measured is left out."""
    known = [(metric(name), value) for name, value in values.items() if value is not None]
    return ", ".join(f"{m.label} {m.show(value)} {m.difference_unit}".rstrip() for m, value in known)


def quality_metrics() -> tuple[Metric, ...]:
    """The metrics that judge a picture against its prompt; a model's card says which of them it has."""
    return tuple(m for m in METRICS if m.quality)


def fidelity_metrics() -> tuple[Metric, ...]:
    """The per-prompt comparisons with the reference pictures that this machine can compute (LPIPS wants weights)."""
    return tuple(
        m
        for m in METRICS
        if m.per_prompt and not m.quality and (m.name != "lpips" or isinstance(lpips.installed(), lpips.Lpips))
    )
