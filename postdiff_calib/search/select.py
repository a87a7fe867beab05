"""Reading the answer off paired scores: frontier, arms, intervals, verdicts, cross-over. Pure functions.

Every comparison is between two plans on the same prompts with the same seeds, by the mean paired difference and
Student's interval. Symbols: n prompts, σ_d standard deviation of the paired differences, δ the difference one cares
about.

Arms (PostDiff, arXiv 2508.06160): *fewer* steps, only T varies; *cheaper* steps, T stays at the model's default;
*joint*, everything varies. A plan can belong to several.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from postdiff_calib.budget import PlanCost
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import StepPlan, compile_plan

Arm = Literal["fewer", "cheaper", "joint"]
ARMS: tuple[Arm, ...] = ("fewer", "cheaper", "joint")
Measure = Callable[[PlanCost], float]

#: (z at 97.5 % + z at 80 %)²: prompts for 80 % power at the 5 % level, per (σ_d/δ)².
POWER_FACTOR = 7.85


@dataclass(frozen=True, eq=False)
class PlanScores:
    """One plan with its cost and per-prompt scores: (N,), NaN where a prompt was not scored.

    Beside them, where pictures were measured: ``measures`` by name (SSIM, PSNR, LPIPS against the unaccelerated
    model's pictures), each (N,) like the scores, and ``features``, the unit CLIP embeddings, (N, D) with rows of NaN.
    """

    knobs: Knobs
    cost: PlanCost
    scores: npt.NDArray[np.float64]
    measures: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    features: npt.NDArray[np.float16] | None = None

    @cached_property
    def plan(self) -> StepPlan:
        """The compiled plan."""
        return compile_plan(self.knobs)

    @property
    def n(self) -> int:
        """Scored prompts."""
        return int(np.isfinite(self.scores).sum())

    @property
    def complete(self) -> bool:
        """Whether every prompt is scored."""
        return self.n == len(self.scores)

    def arms(self, default_steps: int) -> tuple[Arm, ...]:
        """The arms it belongs to."""
        fewer = all(
            not kind.low_res and kind.guided and kind.refresh and kind.cross_attention_live
            for kind in self.plan.kinds()
        )
        cheaper = self.knobs.num_inference_steps == default_steps
        return tuple(arm for arm, member in zip(ARMS, (fewer, cheaper, True), strict=True) if member)


@dataclass(frozen=True)
class Comparison:
    """A paired comparison: mean difference (first minus second) over n prompts, its interval, and σ_d."""

    n: int
    mean: float
    low: float
    high: float
    sd: float
    confidence: float = 0.95

    @property
    def standard_error(self) -> float:
        """σ_d / √n."""
        return self.sd / math.sqrt(self.n) if self.n else math.inf

    @property
    def resolvable(self) -> float:
        """The smallest difference that n prompts would detect (80 % power, 5 % level), in score units."""
        return smallest_resolvable(self.sd, self.n)

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}], {self.n} prompts"


def compare(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], confidence: float = 0.95) -> Comparison:
    """Mean paired difference first − second on the prompts both have scores of, with Student's interval.

    Raises:
        ValueError: fewer than two common prompts.
    """
    difference = first - second
    difference = difference[np.isfinite(difference)]
    n = len(difference)
    if n < 2:
        raise ValueError(f"{n} common prompts: a paired comparison needs at least two")
    mean, sd = float(difference.mean()), float(difference.std(ddof=1))
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * sd / math.sqrt(n)
    return Comparison(n, mean, mean - half, mean + half, sd, confidence)


def smallest_resolvable(sd: float, n: int) -> float:
    """The smallest paired difference that n prompts detect with 80 % power at the 5 % level: σ_d·√(7.85/n)."""
    return sd * math.sqrt(POWER_FACTOR / n) if n else math.inf


def prompts_to_resolve(sd: float, delta: float) -> int:
    """How many prompts detect a difference of ``delta`` > 0 with 80 % power at the 5 % level."""
    return max(2, math.ceil(POWER_FACTOR * (sd / delta) ** 2))


VerdictKind = Literal["better", "equivalent", "worse", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """What a comparison says about the first plan.

    ``prompts_needed`` is set when it is undecided: about how many prompts would decide, if the mean stayed as it is.
    """

    kind: VerdictKind
    delta: float
    prompts_needed: int | None = None

    def __str__(self) -> str:
        if self.kind == "equivalent":
            return f"equivalent within {self.delta:g}"
        if self.kind == "undecided":
            return f"undecided, about {self.prompts_needed} prompts would decide"
        return self.kind


def verdict(comparison: Comparison, delta: float) -> Verdict:
    """Judge a comparison by its interval: better above 0, equivalent inside ±δ, worse below 0, else undecided.

    A plan that is measurably worse but by less than δ is equivalent: that is what δ is for.

    Args:
        comparison: first plan against second.
        delta: δ > 0, the difference one cares about, in score units.
    """
    if delta <= 0:
        raise ValueError(f"delta={delta}: it must be above 0")
    if comparison.low > 0:
        return Verdict("better", delta)
    if -delta < comparison.low and comparison.high < delta:
        return Verdict("equivalent", delta)
    if comparison.high < 0:
        return Verdict("worse", delta)
    # The interval must shrink until it leaves 0 out, or until it fits inside ±δ, whichever is sooner.
    margins = [abs(comparison.mean), delta - abs(comparison.mean)]
    z = float(stats.norm.ppf(0.5 + comparison.confidence / 2))
    needed = min(math.ceil((z * comparison.sd / margin) ** 2) for margin in margins if margin > 0)
    return Verdict("undecided", delta, max(needed, comparison.n + 1))


def mean_difference(plan: PlanScores, baseline: PlanScores) -> float:
    """Mean paired difference to the baseline on the common prompts; −∞ when there are none."""
    difference = plan.scores - baseline.scores
    difference = difference[np.isfinite(difference)]
    return float(difference.mean()) if len(difference) else -math.inf


def _merit(plan: PlanScores, baseline: PlanScores) -> float:
    """Mean difference, less one standard error where prompts are missing: few prompts must not win by luck."""
    difference = plan.scores - baseline.scores
    difference = difference[np.isfinite(difference)]
    if not len(difference):
        return -math.inf
    penalty = 0.0 if plan.complete or len(difference) < 2 else difference.std(ddof=1) / math.sqrt(len(difference))
    return float(difference.mean() - penalty)


def best(
    plans: Iterable[PlanScores],
    baseline: PlanScores,
    *,
    allows: Callable[[PlanCost], bool] | None = None,
    arm: Arm = "joint",
    min_prompts: int | None = None,
    count: int = 1,
) -> list[PlanScores]:
    """The best plans of an arm within a budget, best first.

    Args:
        plans: what was scored.
        baseline: the unaccelerated model.
        allows: the budget's test (``Limit.allows``); None for no budget.
        arm: which arm.
        min_prompts: plans with fewer scored prompts are left out; None for all of them.
        count: how many at most.
    """
    least = len(baseline.scores) if min_prompts is None else min_prompts
    steps = baseline.knobs.num_inference_steps
    field = [p for p in plans if arm in p.arms(steps) and p.n >= max(1, least) and (allows is None or allows(p.cost))]
    return sorted(field, key=lambda p: _merit(p, baseline), reverse=True)[:count]


def frontier(
    plans: Iterable[PlanScores], baseline: PlanScores, measure: Measure, min_prompts: int | None = None
) -> list[PlanScores]:
    """The plans that no other beats in both cost and mean difference, cheapest first."""
    least = len(baseline.scores) if min_prompts is None else min_prompts
    field = sorted((p for p in plans if p.n >= max(1, least)), key=lambda p: (measure(p.cost), -_merit(p, baseline)))
    result: list[PlanScores] = []
    for plan in field:
        if not result or _merit(plan, baseline) > _merit(result[-1], baseline):
            result.append(plan)
    return result


@dataclass(frozen=True)
class Rung:
    """One budget of a ladder: the best plan of each arm there (None where the arm has none), fewer against cheaper.

    ``share`` is the budget over the baseline's cost. ``difference`` is cheaper minus fewer, None without both arms.
    """

    share: float
    fewer: PlanScores | None
    cheaper: PlanScores | None
    joint: PlanScores | None
    difference: Comparison | None

    @property
    def winner(self) -> Literal["fewer", "cheaper", "tie"] | None:
        """Which of the two arms wins; a tie when the interval holds 0; None when that cannot be said."""
        if self.difference is None:
            if (self.fewer is None) == (self.cheaper is None):
                return None
            return "fewer" if self.cheaper is None else "cheaper"
        if self.difference.low > 0:
            return "cheaper"
        return "fewer" if self.difference.high < 0 else "tie"


def rung(
    plans: Sequence[PlanScores], baseline: PlanScores, measure: Measure, limit: float, min_prompts: int | None = None
) -> Rung:
    """The best of each arm among plans that cost at most ``limit`` by ``measure``."""

    def allows(cost: PlanCost) -> bool:
        return measure(cost) <= limit * (1 + 1e-9)

    def pick(arm: Arm) -> PlanScores | None:
        found = best(plans, baseline, allows=allows, arm=arm, min_prompts=min_prompts)
        return found[0] if found else None

    fewer, cheaper, joint = (pick(arm) for arm in ARMS)
    difference = None
    if fewer is not None and cheaper is not None and common(fewer, cheaper) >= 2:
        difference = compare(cheaper.scores, fewer.scores)
    return Rung(limit / measure(baseline.cost), fewer, cheaper, joint, difference)


def common(first: PlanScores, second: PlanScores) -> int:
    """How many prompts both are scored on."""
    return int(np.isfinite(first.scores - second.scores).sum())


def crossover(rungs: Sequence[Rung]) -> tuple[float, float] | None:
    """The two neighbouring budget shares between which the better arm changes from cheaper to fewer (or back).

    Ties do not count as a change, nor do budgets that only one arm can meet. None when the same arm is ahead wherever
    one is.
    """
    compared = (r for r in sorted(rungs, key=lambda r: r.share) if r.difference is not None)
    decided = [r for r in compared if r.winner in ("fewer", "cheaper")]
    for low, high in pairwise(decided):
        if low.winner != high.winner:
            return low.share, high.share
    return None


def answer(at: Rung, unit: str = "points") -> str:
    """One sentence: fewer steps or cheaper steps, at this budget?"""
    where = f"At {100 * at.share:.3g}% of the unaccelerated cost"
    if at.winner is None:
        return f"{where}, the two kinds of plan were not scored on common prompts."
    if at.difference is None:
        known, missing = ("fewer", "cheaper") if at.cheaper is None else ("cheaper", "fewer")
        plan = at.fewer if known == "fewer" else at.cheaper
        assert plan is not None
        return f"{where}, {known} steps ({plan.knobs.describe()}): no plan with {missing} steps fits the budget."
    assert at.fewer is not None
    assert at.cheaper is not None
    pair = f"{at.cheaper.knobs.describe()} against {at.fewer.knobs.describe()}"
    d = at.difference
    if at.winner == "tie":
        return (
            f"{where}, neither is shown to be better: cheaper minus fewer steps is {d.mean:+.3f} {unit} "
            f"[{d.low:+.3f}, {d.high:+.3f}] ({pair})."
        )
    low, high = sorted((abs(d.low), abs(d.high)))
    return f"{where}, {at.winner} steps win by {abs(d.mean):.3f} {unit} [{low:.3f}, {high:.3f}] ({pair})."
