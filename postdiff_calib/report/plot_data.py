"""What the plots show, as numbers; ``plots`` draws it with matplotlib, ``html.plots`` as SVG.

Costs are relative to the baseline's, differences are in the score's points. Pure functions, nothing is drawn here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from postdiff_calib.scores.select import Arm

if TYPE_CHECKING:
    from postdiff_calib.study.arms import PlanPoint, Tradeoff

#: Histogram bars at most.
_BARS = 28
#: Room above and below what an axis has to show, as a share of it.
_ROOM = 0.06


@dataclass(frozen=True)
class ArmMarks:
    """What is drawn of an arm.

    Attributes:
        frontier: its judged plans that no other beats, cheapest first.
        judged: plans with intervals on held-out prompts.
        pale: other plans; a plan is marked in its narrowest arm alone, the baseline has a mark of its own.
    """

    frontier: tuple[PlanPoint, ...]
    judged: tuple[PlanPoint, ...]
    pale: tuple[PlanPoint, ...]


def arm_marks(points: Sequence[PlanPoint], arm: Arm) -> ArmMarks:
    """What is drawn of an arm with these plans, cheapest first."""
    own = [p for p in points if (arm != "combined" or p.arms == ("combined",)) and p.difference.low < p.difference.high]
    frontier = tuple(p for p in points if p.held_out and p.on_frontier)
    return ArmMarks(frontier, tuple(p for p in own if p.held_out), tuple(p for p in own if not p.held_out))


def tradeoff_range(tradeoff: Tradeoff) -> tuple[float, float]:
    """Ends of the vertical axis: every judged plan with its interval, the frontiers where none is; and some room."""
    points = [p for found in tradeoff.points.values() for p in found]
    counting = [p for p in points if p.held_out] or [p for p in points if p.on_frontier]
    low = min([-tradeoff.delta, *(p.difference.low for p in counting)])
    high = max([tradeoff.delta, *(p.difference.high for p in counting)])
    return low - _ROOM * (high - low), high + _ROOM * (high - low)


def tradeoff_caption(tradeoff: Tradeoff) -> str:
    """What marks and lines mean, on which prompts, and how many plans lie under the lower edge."""
    points, (low, _) = tradeoff.points["combined"], tradeoff_range(tradeoff)
    pale = f"pale: the {tradeoff.num_prompts} prompts of the search"
    text = f"{pale}, on which no plan is judged"
    if any(p.held_out for p in points):
        together = " by all metrics together" if len(tradeoff.metrics) > 1 else ""
        text = (
            f"Means of paired differences on {tradeoff.num_held_out} held-out prompts with 95 % intervals; lines: best "
            f"plan within a budget{together}; {pale}"
        )
    hidden = sum(p.difference.mean < low for p in points)
    return f"{text[0].upper()}{text[1:]}{f' ({hidden} more below the edge)' if hidden else ''}."


@dataclass(frozen=True)
class Point:
    """One plan to plot.

    Attributes:
        cost: relative to the baseline.
        mean, low, high: difference and its interval; the interval is missing with a single prompt.
        arm: the narrowest arm that it belongs to.
        tip: what to say about it, in lines.
        thin: scored on too few prompts to be chosen.
        held_out: the difference is of held-out prompts; else of the search's own.
    """

    cost: float
    mean: float
    low: float | None
    high: float | None
    arm: Arm
    tip: str
    thin: bool = False
    held_out: bool = False


def frontier_range(
    points: Sequence[Point], lines: Mapping[Arm, Sequence[Point]], winner: Point, delta: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ends of both axes, of cost and of difference.

    The upper edge shows every mean, the lower edge what is worth comparing: the frontiers, the winner's interval and
    the better four fifths of the plans; one broken plan would flatten all.
    """
    costs = [point.cost for point in points] + [winner.cost, 1.0]
    kept = [point.mean for line in lines.values() for point in line] + [0.0, -1.5 * delta]
    kept += [value for value in (winner.low, winner.mean) if value is not None]
    if points:
        kept.append(float(np.quantile([point.mean for point in points], 0.2)))
    low = min(kept)
    high = max([1.5 * delta, winner.mean if winner.high is None else winner.high, *(point.mean for point in points)])
    pad = _ROOM * (high - low)
    return (0.0, (1 + _ROOM) * max(costs)), (low - pad, high + pad)


@dataclass(frozen=True)
class Bins:
    """Counts of a histogram: bin i is from (first + i) × step to (first + i + 1) × step."""

    step: float
    first: int
    counts: tuple[int, ...]

    def edges(self, number: int) -> tuple[float, float]:
        """Both ends of a bin."""
        return (self.first + number) * self.step, (self.first + number + 1) * self.step


def bins(differences: npt.NDArray[np.float64], low: float, high: float) -> Bins:
    """Per-prompt differences in bins, of which 0 is a border; the interval [low, high] of their mean is inside.

    Args:
        differences: (n,) finite, score minus the baseline's.
        low, high: the interval.
    """
    extent = max(float(differences.max()), 0.0) - min(float(differences.min()), 0.0)
    # About three times the square root of the number of prompts: the tails show, and bars hold several prompts.
    step = nice_step(extent if extent > 0 else 1.0, min(_BARS, max(10, round(3 * math.sqrt(len(differences))))))
    first = math.floor(min(float(differences.min()), -step / 2, low) / step + 1e-9)
    last = math.ceil(max(float(differences.max()), step / 2, high) / step - 1e-9)
    # An exact 0 counts as no loss: the bin right of zero.
    where = np.clip(np.floor(differences / step + 1e-9).astype(int), first, last - 1) - first
    return Bins(step, first, tuple(np.bincount(where, minlength=last - first).tolist()))


def nice_step(extent: float, count: int) -> float:
    """The smallest of 1, 2, 2.5, 5 × 10ⁿ that divides ``extent`` into at most ``count`` parts."""
    raw = extent / count
    scale = 10.0 ** math.floor(math.log10(raw))
    return next(scale * factor for factor in (1, 2, 2.5, 5, 10) if scale * factor >= raw * (1 - 1e-9))
