"""Methods side by side at equal budgets: of each the largest setting that fits, on the same prompts and seeds.

Source: PostDiff, arXiv 2508.06160, table 3 and supplementary H. A method is a list of settings; a setting is a plan, or
a set-up of another package at one value. Budgets are those of every command: MACs of the denoising loop, or seconds.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from postdiff_calib.cost.budget import Limit, PlanCost
from postdiff_calib.cost.rounds import TOLERANCE, Agreement, agreement, notes_of_rounds, paces
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
class RelativeTime:
    """Seconds over the baseline's, in pairs: both of the same round, so that a slow minute divides out.

    Attributes:
        share: median over the rounds.
        low, high: the smallest and the largest of a round.
        agreement: how far the rounds agree, by the rule of the cost table (``cost/rounds.py``).
    """

    share: float
    low: float
    high: float
    agreement: Agreement

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        found = self.agreement
        return {
            "share": self.share,
            "low": self.low,
            "high": self.high,
            "stable": found.stable,
            "disagreement": found.disagreement,
        }

    def __str__(self) -> str:
        return f"{self.share:.0%}" if self.agreement.stable else f"{self.share:.0%}, unstable"


def relative_time(seconds: Sequence[float], baseline: Sequence[float]) -> RelativeTime | None:
    """Seconds of each round beside the baseline's of the same round; None where nothing was measured.

    Raises:
        ValueError: not as many rounds of one as of the other.
    """
    ratios = [own / whole for own, whole in zip(seconds, baseline, strict=True)] if seconds else []
    if not ratios:
        return None
    return RelativeTime(statistics.median(ratios), min(ratios), max(ratios), agreement(ratios))


def pace_of_rounds(seconds: Mapping[tuple[str, str], Sequence[float]]) -> Agreement | None:
    """How far the machine kept its speed from round to round; None where nothing was measured.

    Args:
        seconds: by round, of each setting (method, label); those that are empty do not count.
    """
    timed = {" ".join(setting): own for setting, own in seconds.items() if own}
    rounds = [dict(zip(timed, own, strict=True)) for own in zip(*timed.values(), strict=True)]
    return agreement(paces(rounds)) if rounds else None


def time_notes(pace: Agreement | None, times: Sequence[RelativeTime | None]) -> list[str]:
    """What a reader must know of the times of a comparison, in sentences.

    Args:
        pace: of the rounds.
        times: of the settings.
    """
    notes = notes_of_rounds(None if pace is None else pace.disagreement)
    if any(time is not None and not time.agreement.stable for time in times):
        notes.append(
            f"A time is unstable where its rounds disagree by more than {TOLERANCE:.0%}: measure again "
            "on a machine that does nothing else."
        )
    return notes


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
        return statistics.median(self.seconds) if self.seconds else None


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

    @property
    def pace(self) -> Agreement | None:
        """How far the machine kept its speed while all were timed; None where they were not."""
        return pace_of_rounds({(row.method, row.label): row.seconds for row in self._rows()})

    @property
    def notes(self) -> list[str]:
        """What a reader must know of the times."""
        return time_notes(self.pace, [self.time(row) for row in self._rows()])

    def _rows(self) -> list[MethodRow]:
        return [self.baseline, *(row for rows in self.budgets.values() for row in rows)]

    def time(self, row: MethodRow) -> RelativeTime | None:
        """A row's seconds over the baseline's; None where they were not measured."""
        return relative_time(row.seconds, self.baseline.seconds)

    def _plain(self, row: MethodRow) -> dict[str, Any]:
        time = self.time(row)
        return {**asdict(row), "time": None if time is None else time.as_dict()}

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "study": "methods",
            "model": self.model,
            "num_prompts": self.num_prompts,
            "noise": self.noise,
            "switch": self.switch,
            "baseline": self._plain(self.baseline),
            "budgets": {text: [self._plain(row) for row in rows] for text, rows in self.budgets.items()},
            "stable": None if self.pace is None else self.pace.stable,
            "disagreement": None if self.pace is None else self.pace.disagreement,
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
