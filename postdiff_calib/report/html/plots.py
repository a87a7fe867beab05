"""Plots as SVG: what ``plot_data`` has in, positions in SVG units out; ``page.html`` draws them.

A plot is laid out for a width in pixels, so that its text has one size; the page holds a wide and a narrow layout of
each and shows the one that fits. Pure functions, nothing is drawn or escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from postdiff_calib.report.plot_data import Point, bins, frontier_range, nice_step
from postdiff_calib.scores.select import Arm

#: Plot widths and heights in pixels: wide screens and paper, then phones.
WIDE, NARROW = (880, 440), (340, 330)
HISTOGRAM_WIDE, HISTOGRAM_NARROW = (880, 250), (340, 210)
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 30, 44


@dataclass(frozen=True)
class Axis:
    """A linear map from values [low, high] to pixels [start, stop]."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """Position of a value, to a tenth of a pixel."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 1)

    def clamp(self, value: float) -> float:
        """Position of the nearest value that is on the axis."""
        return self(min(max(value, self.low), self.high))


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Frame:
    """Size of a plot, the box its data lie in, and its ticks, all in pixels."""

    width: int
    height: int
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class Dot:
    """A plan's place in the plot; ``below`` when it lies under the plot's lower edge and is drawn on it."""

    x: float
    y: float
    y_low: float | None
    y_high: float | None
    point: Point
    below: bool


@dataclass(frozen=True)
class FrontierPlot:
    """Quality difference against relative cost; see the fields' names. ``lines`` are SVG point lists by arm."""

    frame: Frame
    dots: tuple[Dot, ...]
    lines: dict[Arm, str]
    winner: Dot
    reference_x: float
    zero_y: float
    band: tuple[float, float]
    budget_x: float | None
    below: int


def frontier_plot(
    size: tuple[int, int],
    points: Sequence[Point],
    lines: Mapping[Arm, Sequence[Point]],
    winner: Point,
    budget_share: float,
    delta: float,
) -> FrontierPlot:
    """Lay the frontier plot out.

    Plans below the lower edge (``plot_data.frontier_range``) are put on it as arrows.

    Args:
        size: (width, height) in pixels.
        points: every scored plan but the baseline.
        lines: the frontier of each arm, cheapest first.
        winner: the winner with the figures the report states.
        budget_share: the budget over the baseline's cost.
        delta: δ, drawn as a band around 0.
    """
    frame, x, y = _frame(size, *frontier_range(points, lines, winner, delta), percent=True)

    def dot(point: Point) -> Dot:
        low, high = (None if value is None else y.clamp(value) for value in (point.low, point.high))
        return Dot(x(point.cost), y.clamp(point.mean), low, high, point, point.mean < y.low)

    drawn = {arm: " ".join(f"{x(p.cost)},{y.clamp(p.mean)}" for p in line) for arm, line in lines.items() if line}
    # Judged dots are drawn last, on top, and among them the best ones.
    dots = tuple(dot(point) for point in sorted(points, key=lambda p: (p.held_out, not p.thin, p.mean)))
    return FrontierPlot(
        frame=frame,
        dots=dots,
        lines=drawn,
        winner=dot(winner),
        reference_x=x(1.0),
        zero_y=y(0.0),
        band=(y(delta), y(-delta)),
        budget_x=x(budget_share) if budget_share <= x.high else None,
        below=sum(d.below for d in dots),
    )


@dataclass(frozen=True)
class Bar:
    """One bar of the histogram: ``worse`` when its prompts lost."""

    x: float
    y: float
    width: float
    height: float
    worse: bool
    tip: str


@dataclass(frozen=True)
class Histogram:
    """Per-prompt differences: bars, zero, the mean and its interval."""

    frame: Frame
    bars: tuple[Bar, ...]
    zero_x: float
    mean_x: float
    interval: tuple[float, float]


def histogram(
    size: tuple[int, int], differences: npt.NDArray[np.float64], mean: float, low: float, high: float
) -> Histogram:
    """Lay the histogram of per-prompt differences out; 0 is the border of two bars.

    Args:
        size: (width, height) in pixels.
        differences: (n,) finite, score minus the baseline's.
        mean, low, high: their mean and its interval.
    """
    found = bins(differences, low, high)
    (start, _), (_, stop) = found.edges(0), found.edges(len(found.counts) - 1)
    frame, x, y = _frame(size, (start, stop), (0.0, 1.05 * max(1, *found.counts)), counts=True)
    bars = []
    for number, count in enumerate(found.counts):
        left, right = found.edges(number)
        if count:
            tip = f"{count} {'prompt' if count == 1 else 'prompts'}\n{_number(left)} to {_number(right)} points"
            bars.append(
                Bar(x(left) + 0.5, y(count), round(x(right) - x(left) - 1, 1), y(0) - y(count), right <= 1e-9, tip)
            )
    return Histogram(frame, tuple(bars), x(0.0), x(mean), (x(low), x(high)))


def _frame(
    size: tuple[int, int],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    *,
    percent: bool = False,
    counts: bool = False,
) -> tuple[Frame, Axis, Axis]:
    width, height = size
    x = Axis(*x_range, _LEFT, width - _RIGHT)
    y = Axis(*y_range, height - _BOTTOM, _TOP)
    many = width > 500
    x_ticks = [Tick(x(v), f"{v:.0%}" if percent else _number(v)) for v in ticks(*x_range, 10 if many else 5)]
    y_values = [v for v in ticks(*y_range, 6 if height > 300 else 4) if not counts or v == round(v)]
    y_ticks = [Tick(y(v), f"{v:.0f}" if counts else _number(v)) for v in y_values]
    frame = Frame(width, height, x.start, x.stop, y.stop, y.start, tuple(x_ticks), tuple(y_ticks))
    return frame, x, y


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round values within [low, high], at most ``count`` + 1 of them."""
    step = nice_step(high - low, count)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _number(value: float) -> str:
    """A tick's label, with a true minus sign and a sign on both sides of zero."""
    return f"{value:+.4g}".replace("-", "−") if value else "0"
