"""What knobs do, one or two at a time: settings on the same prompts and seeds, compared with the baseline in pairs.

Source: PostDiff, arXiv 2508.06160, supplementary material B (figure 2), C (table 1) and I (figures 6 and 7). Symbols: N
prompts, T steps. The baseline is the model at its own T with every other knob neutral.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from postdiff_calib.cost.budget import PlanCost
from postdiff_calib.cost.rounds import is_stable, notes_of_rounds
from postdiff_calib.knobs import Knob, table
from postdiff_calib.quality.metrics import metrics
from postdiff_calib.scores.paired import Comparison
from postdiff_calib.scores.select import PlanScores, compare_metrics
from postdiff_calib.search.vary import Setting
from postdiff_calib.study.paper_saw import TRACE, ablation
from postdiff_calib.study.redundancy import mean_of

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measure:
    """One metric of one setting: its mean with a 95 % interval, and the paired difference to the baseline.

    ``difference`` is None for comparisons with the baseline's images, which are differences themselves. A metric of the
    whole set has its standard error for interval.
    """

    mean: float
    low: float
    high: float
    difference: Comparison | None = None


@dataclass(frozen=True)
class AblationRow:
    """One setting.

    Attributes:
        values: those that were set, by field; empty for the baseline.
        label: the values as text.
        plan_id: of the plan that ran.
        cost: per image.
        share: MACs over the baseline's.
        measures: by metric; empty where the plan ``failed``.
        failed: why its images could not be scored.
    """

    values: Mapping[str, Any]
    label: str
    plan_id: str
    cost: PlanCost
    share: float
    measures: Mapping[str, Measure] = field(default_factory=dict)
    failed: str = ""


@dataclass(frozen=True, eq=False)
class Trace:
    """CLIP score of the decoded clean estimate after every step, with 95 % intervals over prompts: T values each."""

    label: str
    mean: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class Ablation:
    """A finished ablation."""

    model: str
    num_prompts: int
    varied: Mapping[str, Sequence[Any]]
    fixed: Mapping[str, Any]
    baseline: AblationRow
    rows: tuple[AblationRow, ...]
    traces: tuple[Trace, ...] = ()
    disagreement: float | None = None

    @property
    def timed(self) -> bool:
        """Whether seconds were measured."""
        return self.baseline.cost.seconds is not None

    @property
    def stable(self) -> bool | None:
        """Whether the machine kept its speed while seconds were measured; None where they were not."""
        return None if self.disagreement is None else is_stable(self.disagreement)

    @property
    def notes(self) -> list[str]:
        """What a reader must know of the seconds."""
        return notes_of_rounds(self.disagreement)

    @property
    def metrics(self) -> list[str]:
        """Names of what was measured, in the order of the table of metrics."""
        found = {name for row in (self.baseline, *self.rows) for name in row.measures}
        return [m.name for m in metrics() if m.name in found]

    @property
    def along(self) -> str:
        """The knob along whose values a curve runs: the first that is varied over numbers and is not T."""
        numbers = [row.field for row in map(_row, self.varied) if not row.choices]
        return next(
            (name for name in numbers if not _row(name).per_model), numbers[0] if numbers else next(iter(self.varied))
        )

    def curves(self) -> dict[str, list[AblationRow]]:
        """Rows that were scored, a list for each combination of the other varied values, by its text."""
        found: dict[str, list[AblationRow]] = {}
        for row in self.rows:
            others = [_row(name).show(row.values[name]) for name in self.varied if name != self.along]
            if not row.failed:
                found.setdefault(" ".join(others), []).append(row)
        return found

    @property
    def paper(self) -> list[str]:
        """What the paper saw of these knobs."""
        return ablation(list(self.varied)) + ([TRACE] if self.traces else [])

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "study": "ablation",
            "model": self.model,
            "num_prompts": self.num_prompts,
            "varied": {name: list(values) for name, values in self.varied.items()},
            "fixed": dict(self.fixed),
            "baseline": asdict(self.baseline),
            "settings": [asdict(row) for row in self.rows],
            "traces": [asdict(trace) for trace in self.traces],
            "stable": self.stable,
            "disagreement": self.disagreement,
            "paper": self.paper,
        }


def _row(name: str) -> Knob:
    return next(row for row in table() if row.field == name)


def label_of(values: Mapping[str, Any]) -> str:
    """Values as text, e.g. ``T=20 β=0.5``."""
    return " ".join(row.show(values[row.field]) for row in table() if row.field in values)


def measures_of(plan: PlanScores, baseline: PlanScores) -> dict[str, Measure]:
    """Every metric that both were measured by."""
    both = [m.name for m in metrics() if m.quality and m.per_prompt and plan.common(baseline, m.name) > 1]
    differences = compare_metrics(plan, baseline, both)
    found = {}
    for m in metrics():
        if m.of_set is not None:
            if plan.features is None or baseline.features is None:
                continue
            pairs = np.isfinite(plan.features).all(1) & np.isfinite(baseline.features).all(1)
            if pairs.sum() < 3:  # the estimate needs three pairs
                continue
            value, error = m.of_set(plan.features[pairs], baseline.features[pairs])
            error = 1.96 * error if math.isfinite(error) else 0.0
            found[m.name] = Measure(value, value - error, value + error)
            continue
        values, known = plan.metric(m.name), np.isfinite(plan.metric(m.name))
        if not known.any():
            continue
        mean = mean_of(values[known])
        found[m.name] = Measure(mean.mean, mean.low, mean.high, differences.get(m.name))
    return found


def row_of(setting: Setting, plan: PlanScores, baseline: PlanScores, failed: str = "") -> AblationRow:
    """One setting from its scores, or from the reason why it has none."""
    share = plan.cost.macs / baseline.cost.macs
    label = label_of(setting.values) or "baseline"
    measures = {} if failed else measures_of(plan, baseline)
    return AblationRow(setting.values, label, setting.plan_id, plan.cost, share, measures, failed)


def trace_of(label: str, scores: Array) -> Trace:
    """A trace from (N, T) scores."""
    means = [mean_of(scores[:, step]) for step in range(scores.shape[1])]
    return Trace(label, [m.mean for m in means], [m.low for m in means], [m.high for m in means])
