"""What a metric is: its name, direction, unit and function, and what it is computed from.

A *quality* metric judges an image by itself, against its prompt. A *fidelity* metric compares an image with the
baseline's of the same prompt and seed. Importing this module imports neither torch nor numpy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from postdiff_calib.models.shapes.judge import SceneJudge
    from postdiff_calib.quality.scorer import Scorer


@dataclass(frozen=True)
class Images:
    """What metrics are computed from: B images with their prompts, and what they are judged by.

    Args:
        images: (B, 3, H, W) float, values in [0, 1].
        reference: the baseline's images of the same prompts and seeds, shaped alike; None leaves out fidelity.
        prompts: B prompts.
        scorer: of images against prompts.
        judge: of scenes; None where the model has none.
    """

    images: torch.Tensor
    reference: torch.Tensor | None
    prompts: Sequence[str]
    scorer: Scorer
    judge: SceneJudge | None = None

    @property
    def pair(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The images and the reference.

        Raises:
            ValueError: there is no reference.
        """
        if self.reference is None:
            raise ValueError("a fidelity metric needs the baseline's images")
        return self.images, self.reference


#: (N, D) unit embeddings of images and of the baseline's, row by row → value, and its standard error.
OfSet = Callable[["npt.NDArray[Any]", "npt.NDArray[Any]"], tuple[float, float]]


@dataclass(frozen=True)
class Deviation:
    """How a value becomes a deviation: 0 for the baseline, growing as images get worse, in a unit that averages well.

    Args:
        of: value → deviation.
        slope: value → absolute derivative of ``of``, by which an error of the value becomes one of the deviation.
    """

    of: Callable[[float], float]
    slope: Callable[[float], float] = lambda value: 1.0


#: A value that is the deviation itself, e.g. a distance; a paired difference or a similarity, of which more is better.
DISTANCE = Deviation(lambda value: value)
LOSS = Deviation(lambda value: -value)
SIMILARITY = Deviation(lambda value: 1 - value)
#: A PSNR in dB: the deviation is the root mean squared error.
DECIBELS = Deviation(
    lambda value: float(10 ** (-value / 20)), lambda value: math.log(10) / 20 * float(10 ** (-value / 20))
)


def _anywhere() -> None:
    """Nothing is needed but what is installed."""


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: on the command line and in files.
        label: its name in text.
        direction: which values are better; a quality metric's are the higher ones.
        unit: of a value, as text.
        function: maps ``Images`` to a number per prompt, or to a single number for a metric of the set.
        deviation: what surrogates of guards learn; of a quality metric's paired difference it is the loss.
        digits: shown after the point.
        unknown_scale: small values are shown with more digits, as nobody knows how large the metric's are.
        difference_unit: of a difference of two values, as text; short, may be empty.
        highest: the largest value, or the largest drop, that a bound can sensibly have.
        example: a bound that a user might ask for, shown in messages and help.
        equal: its value for images equal to the reference; None where images are not compared.
        judged: it needs the model's own judge, so only models that list it on their card have it.
        of_set: where one number is for all images: it from their embeddings; None for a number per prompt.
        require: raises ModelError where this machine cannot compute it, e.g. for lack of weights.
    """

    name: str
    label: str
    direction: Literal["higher", "lower"]
    unit: str
    function: Callable[[Images], list[float]]
    deviation: Deviation = LOSS
    digits: int = 2
    unknown_scale: bool = False
    difference_unit: str = ""
    highest: float = math.inf
    example: float = 1.0
    equal: float | None = None
    judged: bool = False
    of_set: OfSet | None = None
    require: Callable[[], object] = _anywhere

    @property
    def quality(self) -> bool:
        """Whether it judges an image against its prompt; a fidelity metric compares it with the baseline's.

        Quality metrics, and no others, may be part of the objective.
        """
        return self.equal is None

    @property
    def per_prompt(self) -> bool:
        """Whether there is a number per image, or one for all images."""
        return self.of_set is None

    @property
    def guarded(self) -> str:
        """What a guard bounds, as text: a quality metric's difference, a fidelity metric's value."""
        return f"{self.label} difference" if self.quality else self.label

    @property
    def bound(self) -> str:
        """An example of a bound as it is written on the command line, e.g. ``ssim=0.8``."""
        return f"{self.name}={self.example:g}"

    def decimals(self, value: float) -> int:
        """Digits after the point of a value: those of the metric, of an unknown scale two significant ones at least.

        What is ten thousand times smaller than the metric's last digit is taken for rounding.
        """
        if not self.unknown_scale or not value or not math.isfinite(value):
            return self.digits
        needed = 1 - math.floor(math.log10(abs(value)))
        return needed if self.digits < needed <= self.digits + 5 else self.digits

    def show(self, value: float, *, signed: bool = False) -> str:
        """A value with the metric's digits; ``signed`` for a difference, which then bears its sign."""
        digits = self.decimals(value)
        # adding 0.0 keeps a rounded −0.0 from being shown with a minus
        return f"{round(value, digits) + 0.0:{'+' if signed else ''}.{digits}f}".replace("-", "−")
