"""Step reduction or cheaper steps at one budget: the best plan found of each arm, and an interval of their difference.

What is asked is the difference between the *best* plan of either arm, not between two plans that happen to be named.
Of each arm a few finalists were scored on prompts that the search never saw. With c and f a finalist of either arm, the
best by all prompts that were scored, and μ true values, for any finalists i of cheaper steps (C) and j of
step reduction (R)

    min over j of (μ_c − μ_j)  ≤  max of μ in C − max of μ in R  ≤  max over i of (μ_i − μ_f),

so the interval runs from the least lower end to the greatest upper end. The lower end against plan j fails only where
c's noise flatters it, and c may have been any finalist of cheaper steps: its quantile is that of the largest of the t
statistics of all of them against j. Likewise the upper end of plan i allows for f having been any finalist of step
reduction. Plans that were not among the finalists may be better still: the surrogate's belief in the best of them
widens the interval (``Unfound``), up to what it holds possible in 1 of 40 cases on either side.

A budget where both arms were not searched decides nothing. A change of the better arm is claimed only between two
budgets that are both decided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from postdiff_calib.scores.objective import Objective
from postdiff_calib.scores.paired import Comparison, compare, largest_t
from postdiff_calib.scores.select import Arm, PlanScores, compare_metrics
from postdiff_calib.search.unfound import Unfound

Array = npt.NDArray[np.float64]
Winner = Literal["step_reduction", "cheaper_steps", "tie", "undecided"]


@dataclass(frozen=True)
class Judged:
    """Finalists within one budget and the baseline, on the same prompts, all of them scored.

    Args:
        baseline: the baseline.
        plans: scored on every prompt that the baseline is; within the budget.
        objective: what is compared.
        standing: mean difference of a plan over all prompts that it was scored on, the search's among them, by plan
            id; plans are chosen by it. The held-out mean where it is not given.
    """

    baseline: PlanScores
    plans: Sequence[PlanScores]
    objective: Objective
    standing: Mapping[str, float] = field(default_factory=dict)

    def of(self, arm: Arm) -> list[PlanScores]:
        """The arm's plans; the baseline itself belongs to neither."""
        steps, stock = self.baseline.knobs.num_inference_steps, self.baseline.plan.plan_id
        return [p for p in self.plans if arm in p.arms(steps) and (arm == "combined" or p.plan.plan_id != stock)]

    def value(self, plan: PlanScores) -> float:
        """What a plan is chosen by."""
        found = self.standing.get(plan.plan.plan_id)
        return float(np.nanmean(self.differences(plan))) if found is None else found

    def differences(self, plan: PlanScores) -> Array:
        """Objective minus the baseline's on the held-out prompts, (N,)."""
        return plan.quality(self.objective) - self.baseline.quality(self.objective)

    def best(self, arm: Arm) -> PlanScores | None:
        """The arm's plan of the highest standing."""
        return max(self.of(arm), key=self.value, default=None)


@dataclass(frozen=True)
class Row:
    """One budget: the best plan found of each arm, and what cheaper steps minus step reduction comes to.

    Attributes:
        share: the budget over the baseline's cost.
        step_reduction, cheaper_steps, combined: the best judged plan of each arm; None where none was judged.
        searched: both arms were searched at this budget.
        fits: whether any plan of the arm fits the budget at all, judged or not; None where that is not known.
        difference: the best of cheaper steps minus the best of step reduction, by the objective; None where one is
            missing or the budget was not searched.
        metrics: the named pair's difference, cheaper steps − step reduction, in each metric.
        reach: standard errors from a named plan's mean to its lower end, allowing for the choice among all judged plans
            within the budget; None where none was judged.
    """

    share: float
    step_reduction: PlanScores | None
    cheaper_steps: PlanScores | None
    combined: PlanScores | None
    searched: bool
    fits: Mapping[Arm, bool | None]
    difference: Comparison | None = None
    metrics: Mapping[str, Comparison] = field(default_factory=dict)
    reach: float | None = None

    @property
    def winner(self) -> Winner:
        """Which arm wins: its interval leaves 0 and no metric is significantly on the other side.

        An arm without any plan that fits has lost; *tie* where both were compared and neither wins; *undecided* where
        nothing was compared.
        """
        if self.difference is None:
            if self.searched and self.fits.get("cheaper_steps") is False and self.step_reduction is not None:
                return "step_reduction"
            if self.searched and self.fits.get("step_reduction") is False and self.cheaper_steps is not None:
                return "cheaper_steps"
            return "undecided"
        if self.difference.low > 0 and all(c.high >= 0 for c in self.metrics.values()):
            return "cheaper_steps"
        if self.difference.high < 0 and all(c.low <= 0 for c in self.metrics.values()):
            return "step_reduction"
        return "tie"

    def in_points(self, objective: Objective) -> Comparison:
        """``difference`` in the unit that the objective is shown in."""
        assert self.difference is not None
        d, factor = self.difference, objective.shown
        return Comparison(d.n, factor * d.mean, factor * d.low, factor * d.high, factor * d.sd)

    @property
    def decided(self) -> bool:
        """Whether two arms were compared and one of them wins."""
        return self.difference is not None and self.winner in ("step_reduction", "cheaper_steps")


def make_row(judged: Judged | None, share: float, *, unfound: Unfound | None, fits: Mapping[Arm, bool | None]) -> Row:
    """The row of one budget.

    Args:
        judged: the finalists within it; None where there are none.
        share: the budget over the baseline's cost.
        unfound: what better plans may not have been found; None where the budget was not searched.
        fits: as ``Row.fits``.
    """
    if judged is None:
        return Row(share, None, None, None, unfound is not None, fits)
    step_reduction, cheaper_steps, combined = (
        judged.best(arm) for arm in ("step_reduction", "cheaper_steps", "combined")
    )
    names, base = judged.objective.metrics, judged.baseline
    low = largest_t(np.array([p.metric(m) - base.metric(m) for p in judged.plans for m in names]))
    if unfound is None or step_reduction is None or cheaper_steps is None:
        return Row(share, step_reduction, cheaper_steps, combined, unfound is not None, fits, reach=low)
    difference = _difference(judged, step_reduction, cheaper_steps, unfound)
    terms = judged.objective.terms
    rows = np.array([cheaper_steps.metric(t.metric) - step_reduction.metric(t.metric) for t in terms])
    below, above = largest_t(rows), largest_t(-rows)
    metrics = compare_metrics(cheaper_steps, step_reduction, [t.metric for t in terms], below, above)
    return Row(share, step_reduction, cheaper_steps, combined, True, fits, difference, metrics, low)


def _difference(judged: Judged, step_reduction: PlanScores, cheaper_steps: PlanScores, unfound: Unfound) -> Comparison:
    """Best plan of cheaper steps minus best of step reduction; see the module for its interval."""

    def values(plan: PlanScores) -> Array:
        return plan.quality(judged.objective)

    cheap, few = (
        [values(plan) for plan in judged.of("cheaper_steps")],
        [values(plan) for plan in judged.of("step_reduction")],
    )
    named = compare(values(cheaper_steps), values(step_reduction))
    low = min(compare(values(cheaper_steps), f, low=largest_t(np.array(cheap) - f)).low for f in few)
    high = max(compare(c, values(step_reduction), high=largest_t(np.array(few) - c)).high for c in cheap)
    return Comparison(named.n, named.mean, min(low, unfound.step_reduction), max(high, unfound.cheaper_steps), named.sd)


def crossover(rows: Sequence[Row]) -> tuple[float, float] | None:
    """The two neighbouring budget shares between which the better arm changes.

    Only rows that decide count; where a row between them does not decide, the change is somewhere between the two.
    None when the same arm is ahead wherever one is.
    """
    decided = [row for row in sorted(rows, key=lambda row: row.share) if row.decided]
    for low, high in pairwise(decided):
        if low.winner != high.winner:
            return low.share, high.share
    return None
