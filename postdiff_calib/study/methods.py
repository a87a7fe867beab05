"""Methods side by side at equal budgets: of each the largest setting that fits, on the same prompts and seeds.

Source: PostDiff, arXiv 2508.06160, table 3 and supplementary H. A method is a list of settings; a setting is a plan, or
a set-up of another package at one value. Budgets are those of every command: MACs of the denoising loop, or seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from postdiff_calib.cost.budget import Limit, PlanCost
from postdiff_calib.knobs import Knobs
from postdiff_calib.quality.fid import Fid
from postdiff_calib.study.ablation import Measure
from postdiff_calib.study.paper_saw import METHODS
from postdiff_calib.techniques.noise import DEFAULT_NOISE, DEFAULT_SWITCH, Noise, SwitchWay


@dataclass(frozen=True)
class Setting:
    """One setting of one method.

    Attributes:
        method: its name.
        label: the setting as text.
        cost: per image.
        knobs: its plan; the baseline's where ``value`` is of another package's set-up.
        value: of that set-up; None for a plan.
    """

    method: str
    label: str
    cost: PlanCost
    knobs: Knobs
    value: float | None = None

    @property
    def key(self) -> str:
        """What its scores are kept under where it is no plan."""
        return f"{self.method}-{self.value:g}" if self.value is not None else ""


@dataclass(frozen=True)
class MethodRow:
    """A method at a budget.

    Attributes:
        method: its name.
        label: its largest setting that fits; empty where ``why`` says why there is none.
        cost: of that setting; None where there is none.
        share: MACs over the baseline's.
        measures: by metric.
        seconds: per image, measured call by call in turn with the other methods; empty where not measured.
        fid: of the images against a reference, where one was given.
    """

    method: str
    label: str = ""
    cost: PlanCost | None = None
    share: float | None = None
    measures: Mapping[str, Measure] = field(default_factory=dict)
    seconds: tuple[float, ...] = ()
    why: str = ""
    fid: Fid | None = None

    @property
    def median(self) -> float | None:
        """Median of the measured seconds."""
        ordered = sorted(self.seconds)
        middle = len(ordered) // 2
        if not ordered:
            return None
        return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


@dataclass(frozen=True)
class MethodComparison:
    """A finished comparison.

    Attributes:
        baseline: its row; its differences are 0.
        budgets: the budget's text → a row for each method.
        noise: of low-resolution steps.
        switch: how they got to full size.
    """

    model: str
    num_prompts: int
    baseline: MethodRow
    budgets: Mapping[str, Sequence[MethodRow]]
    noise: Noise = DEFAULT_NOISE
    switch: SwitchWay = DEFAULT_SWITCH

    @property
    def metrics(self) -> list[str]:
        """Names of what was measured, in the order of the table of metrics."""
        return list(self.baseline.measures)

    @property
    def paper(self) -> str:
        """What the paper saw."""
        return METHODS

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "study": "methods",
            "model": self.model,
            "num_prompts": self.num_prompts,
            "noise": self.noise,
            "switch": self.switch,
            "baseline": asdict(self.baseline),
            "budgets": {text: [asdict(row) for row in rows] for text, rows in self.budgets.items()},
            "paper": self.paper,
        }


def largest_within(settings: Sequence[Setting], limit: Limit) -> Setting | None:
    """The costliest setting that fits, the first of equals; None where none does."""
    fitting = [one for one in settings if limit.allows(one.cost)]
    return max(fitting, key=lambda one: limit.measure(one.cost), default=None)


def out_of_reach(settings: Sequence[Setting], limit: Limit) -> str:
    """Why no setting fits, as a line."""
    least = min(limit.measure(one.cost) for one in settings)
    return f"costs {least / limit.baseline:.0%} at least"
