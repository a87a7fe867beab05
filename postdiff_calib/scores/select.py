"""Scored plans: their arms, the best of them within a budget, the frontier. Pure functions.

Arms (PostDiff, arXiv 2508.06160): *step reduction*, only T varies; *cheaper steps*, T stays at the model's
default; *combined*, everything varies. A plan can belong to several.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from postdiff_calib.cost.budget import PlanCost
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import StepPlan, compile_plan
from postdiff_calib.quality.metrics import SCORE
from postdiff_calib.scores.objective import Objective
from postdiff_calib.scores.paired import Comparison, compare

Arm = Literal["step_reduction", "cheaper_steps", "combined"]
ARMS: tuple[Arm, ...] = ("step_reduction", "cheaper_steps", "combined")
#: What an arm is called in text.
ARM_NAMES: dict[Arm, str] = {
    "step_reduction": "step reduction",
    "cheaper_steps": "cheaper steps",
    "combined": "combined",
}
Measure = Callable[[PlanCost], float]


def with_verb(arm: Arm, verb: str) -> str:
    """An arm with a verb, e.g. ``step reduction wins`` and ``cheaper steps win``."""
    return f"{ARM_NAMES[arm]} {verb}{'' if ARM_NAMES[arm].endswith('s') else 's'}"


@dataclass(frozen=True, eq=False)
class PlanScores:
    """One plan with its cost and per-prompt scores: (N,), NaN where a prompt was not scored.

    Beside them, where images were measured: ``measures`` by name (SSIM, PSNR, LPIPS against the baseline
    model's images), each (N,) like the scores, and ``features``, the unit CLIP embeddings, (N, D) with rows of NaN.
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

    def metric(self, name: str) -> npt.NDArray[np.float64]:
        """Per-prompt values of a metric, (N,), NaN where unknown; the score is a metric among others."""
        if name == SCORE:
            return self.scores
        return self.measures.get(name, np.full(len(self.scores), math.nan))

    def quality(self, objective: Objective) -> npt.NDArray[np.float64]:
        """The objective's value on each prompt, (N,), NaN where a metric of it is unknown."""
        return objective.values(self.scores, self.measures)

    def common(self, other: PlanScores, metric: str = SCORE) -> int:
        """Prompts of which this plan and another both have a value of a metric."""
        return int(np.isfinite(self.metric(metric) - other.metric(metric)).sum())

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
        step_reduction = not self.plan.acting
        cheaper_steps = self.knobs.num_inference_steps == default_steps
        return tuple(arm for arm, member in zip(ARMS, (step_reduction, cheaper_steps, True), strict=True) if member)


def compare_metrics(
    plan: PlanScores, other: PlanScores, names: Iterable[str], low: float | None = None, high: float | None = None
) -> dict[str, Comparison]:
    """Plan minus other in each metric; ``low`` and ``high`` as ``paired.compare`` takes them.

    Where none of the metrics differs on any prompt, and one of them has many values, the images are the same.
    """
    pairs = {name: (plan.metric(name), other.metric(name)) for name in names}
    equal = all(np.array_equal(*pair, equal_nan=True) for pair in pairs.values())
    many = any(len(np.unique(values[np.isfinite(values)])) > 2 for values, _ in pairs.values())
    return {name: compare(*pair, low, high, equal=equal and many) for name, pair in pairs.items()}


def merit(plan: PlanScores, baseline: PlanScores, objective: Objective) -> float:
    """Mean difference, less one standard error times √(1 − n/N): few prompts must not win by luck.

    The share of prompts that are missing scales the error, so a plan that lacks one prompt is judged like one that
    lacks none. −∞ where nothing is known.
    """
    difference = plan.quality(objective) - baseline.quality(objective)
    whole = len(difference)
    difference = difference[np.isfinite(difference)]
    n = len(difference)
    if not n:
        return -math.inf
    error = float(difference.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    return float(difference.mean()) - error * math.sqrt(1 - n / whole)


def best(
    plans: Iterable[PlanScores],
    baseline: PlanScores,
    objective: Objective,
    *,
    allows: Callable[[PlanCost], bool] | None = None,
    arm: Arm = "combined",
    min_prompts: int | None = None,
    count: int = 1,
) -> list[PlanScores]:
    """The best plans of an arm within a budget, best first.

    Args:
        plans: what was scored.
        baseline: the baseline.
        objective: what is compared.
        allows: the budget's test (``Limit.allows``); None for no budget.
        arm: which arm.
        min_prompts: plans with fewer scored prompts are left out; None for all of them.
        count: how many at most.
    """
    least = len(baseline.scores) if min_prompts is None else min_prompts
    steps = baseline.knobs.num_inference_steps
    field = [p for p in plans if arm in p.arms(steps) and p.n >= max(1, least) and (allows is None or allows(p.cost))]
    return sorted(field, key=lambda p: merit(p, baseline, objective), reverse=True)[:count]


def frontier(
    plans: Iterable[PlanScores],
    baseline: PlanScores,
    objective: Objective,
    measure: Measure,
    min_prompts: int | None = None,
) -> list[PlanScores]:
    """The plans that no other beats in both cost and mean difference, cheapest first."""
    least = len(baseline.scores) if min_prompts is None else min_prompts
    field = [(measure(p.cost), merit(p, baseline, objective), p) for p in plans if p.n >= max(1, least)]
    result: list[PlanScores] = []
    highest = -math.inf
    for _, value, plan in sorted(field, key=lambda entry: (entry[0], -entry[1])):
        if not result or value > highest:
            result.append(plan)
            highest = value
    return result


def common(first: PlanScores, second: PlanScores) -> int:
    """How many prompts both are scored on."""
    return int(np.isfinite(first.scores - second.scores).sum())
