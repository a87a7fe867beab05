"""Which plan a study's answer is: the best within the budget that keeps the guards, and what is said of it.

A plan is chosen and stated on held-out prompts, which the search never saw; where there are none, on the search's own,
and then nothing is called better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from postdiff_calib.cost.budget import Limit
from postdiff_calib.errors import BudgetError, CheckError, StudyError
from postdiff_calib.scores import guards as rails
from postdiff_calib.scores import paired as stats
from postdiff_calib.scores import select
from postdiff_calib.scores.guards import Guard
from postdiff_calib.scores.objective import Objective
from postdiff_calib.scores.paired import Verdict
from postdiff_calib.scores.select import PlanScores
from postdiff_calib.study.evidence import Evidence, Scored


@dataclass(frozen=True)
class Choice:
    """The plan of a profile with what is said of it.

    Attributes:
        winner: the plan.
        field: the scores it was chosen and is stated on.
        confirmed: those are of held-out prompts.
        comparisons: plan against baseline in each metric of the objective, in order.
        verdict: over all metrics.
        kept: every metric is shown not to lose more than δ.
        bound: the guards that kept a better plan from being chosen.
    """

    winner: PlanScores
    field: Scored
    confirmed: bool
    comparisons: tuple[stats.Comparison, ...]
    verdict: Verdict
    kept: bool
    bound: tuple[Guard, ...]


def mean_score(plan: PlanScores, metric: str) -> float:
    """Mean of a metric over the scored prompts."""
    return float(np.nanmean(plan.metric(metric)))


def choose(limit: Limit, evidence: Evidence, guards: Sequence[Guard] = ()) -> Choice:
    """The best plan within the budget that meets the guards.

    Plans that are shown to lose no more than δ in every metric (one-sided 95 %) come before others; among them the
    objective's highest mean wins. The lower ends of the intervals allow for the choice among all of them, in all
    metrics; the upper ends for the number of metrics.

    Raises:
        BudgetError: no plan within the budget is scored on enough prompts.
        CheckError: none of those meets the guards.
        StudyError: a guarded metric was not measured.
    """
    judged = evidence.judged(limit)
    confirmed = judged is not None
    field = evidence.calibration if judged is None else replace(evidence.held_out, plans=judged.plans)
    where = "on the held-out prompts" if confirmed else "scored"
    allowed = require_obeying(guards, limit, field, where)
    objective, baseline = evidence.objective, field.baseline
    inside = _inside(field, limit)
    kept = {id(p) for p in inside if _non_inferior(p, baseline, objective)}

    def rank(plan: PlanScores) -> tuple[bool, float]:
        value = select.merit(plan, baseline, objective) if judged is None else judged.value(plan)
        return id(plan) in kept, value

    winner = max(allowed, key=rank)
    free = max(inside, key=rank)
    bound = [] if free is winner else rails.broken(guards, free, baseline)
    names = objective.metrics
    low = stats.largest_t(np.array([p.metric(m) - baseline.metric(m) for p in inside for m in names]))
    high = stats.largest_t(np.array([baseline.metric(m) - winner.metric(m) for m in names]), skewed=False)
    comparisons = tuple(select.compare_metrics(winner, baseline, names, low, high).values())
    verdict = stats.overall(comparisons, [term.delta for term in objective.terms])
    if not confirmed and verdict.kind in ("better", "equivalent"):
        verdict = Verdict("undecided")  # chosen and judged on the same prompts
    return Choice(winner, field, confirmed, comparisons, verdict, id(winner) in kept, tuple(bound))


def _inside(field: Scored, limit: Limit) -> list[PlanScores]:
    return [p for p in field.plans if p.n >= field.least and limit.allows(p.cost)]


def _non_inferior(plan: PlanScores, baseline: PlanScores, objective: Objective) -> bool:
    found = select.compare_metrics(plan, baseline, objective.metrics)
    return all(stats.non_inferior(found[term.metric], term.delta) for term in objective.terms)


def require_obeying(guards: Sequence[Guard], limit: Limit, field: Scored, where: str = "scored") -> list[PlanScores]:
    """The plans within the budget that meet every guard.

    Args:
        guards: what they must meet, by the reading on the prompts at hand.
        limit: the budget.
        field: plans and the baseline.
        where: on which prompts, as words that follow "no plan".

    Raises:
        BudgetError: no plan within the budget is scored on enough prompts.
        CheckError: none of those meets the guards; names the nearest, and by how much it misses.
        StudyError: a guarded metric was not measured in this study.
    """
    least, inside = field.least, _inside(field, limit)
    if not inside:
        raise BudgetError(
            f"budget {limit.text}",
            f"no plan within it is scored on {least} prompts{_reachable(field, limit, least)}",
            f"search there: run the study's own command with --budget {limit.text}",
        )
    found = rails.obeying(guards, inside, field.baseline)
    if not found:
        told = ", ".join(str(guard) for guard in guards)
        nearest = rails.nearest(guards, inside, field.baseline)
        if nearest is None:
            raise StudyError(
                f"guards ({told})",
                "this study did not measure every one of them",
                "measure them: postdiff calibrate with the same options and --fresh",
            )
        raise CheckError(
            f"guards ({told})",
            f"no plan {where} within the budget of {limit.text} meets them, the nearest ({nearest})",
            "loosen a guard, raise the budget, or evaluate more plans (--trials); the study is kept",
        )
    return found


def _reachable(field: Scored, limit: Limit, least: int) -> str:
    """The cheapest plan that could have been chosen under a larger budget, as the end of a sentence."""
    scored = [plan for plan in field.plans if plan.n >= least]
    if not scored:
        return ""
    plan = min(scored, key=lambda plan: limit.measure(plan.cost))
    cost = limit.measure(plan.cost)
    share = 100 * cost / limit.baseline
    return f", the cheapest that is ({plan.knobs.describe()}) costs {limit.show(cost)}, {share:.3g}% of the baseline"
