"""Scores → profile: reads the answer off a search and its confirmation, and writes it down with its evidence.

Everything here is arithmetic on what was measured; no picture is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from postdiff_calib.budget import Budget, Limit, PlanCost
from postdiff_calib.errors import BudgetError, CheckError, StudyError
from postdiff_calib.plan import plan_facts
from postdiff_calib.profile import SCHEMA_VERSION, ArmResult, Comparison, Profile, TradeoffRow
from postdiff_calib.search import guards as rails
from postdiff_calib.search import select
from postdiff_calib.search.guards import Guard
from postdiff_calib.search.select import PlanScores, Rung

#: δ where none is given: one per cent of the unaccelerated model's mean score, 0.3 points of a CLIP score of 30.
DEFAULT_DELTA_SHARE = 0.01
#: A plan can be chosen, or stand in the trade-off, when at least this many prompts are scored (or all, of fewer).
MIN_PROMPTS = 50
#: Finalists of the joint search that are confirmed on held-out prompts, with the best of the two other families.
FINALISTS = 2
#: A best plan that costs less than this share of the budget says that little was tried near it.
THIN_SHARE = 0.7
#: Unless at least this many dearer plans within the budget were tried and found no better.
THIN_COUNT = 3


@dataclass(frozen=True)
class Scored:
    """Plans and the unaccelerated model on one set of prompts."""

    baseline: PlanScores
    plans: Sequence[PlanScores]


@dataclass(frozen=True)
class Facts:
    """Everything a profile states that is not a score: where it came from and what it applies to.

    ``model``, ``evidence`` and ``environment`` are the profile's sections as plain data; ``evidence`` lacks only
    ``smallest_difference`` and ``notes``; ``notes`` here are those that do not follow from scores.
    """

    model: Mapping[str, Any]
    evidence: Mapping[str, Any]
    environment: Mapping[str, Any]
    batch_size: int
    noise: str
    latent_multiple: int
    metric: str = "clip_score"
    notes: tuple[str, ...] = ()


def chosen_delta(delta: float | None, baseline: PlanScores) -> float:
    """δ as given, else ``DEFAULT_DELTA_SHARE`` of the unaccelerated model's mean score."""
    return delta if delta is not None else DEFAULT_DELTA_SHARE * abs(mean_score(baseline))


def mean_score(plan: PlanScores) -> float:
    """Mean over the scored prompts."""
    return float(plan.scores[plan.scores == plan.scores].mean())


def finalists(scored: Scored, limit: Limit, guards: Sequence[Guard] = ()) -> list[PlanScores]:
    """The plans within a limit that go to the held-out prompts: the best few, and the best of each other family.

    With guards, the best few are those that meet them, with one that meets them by more than the noise: readings on
    other prompts differ a little. The families are compared by score alone, whatever the guards.
    """
    least = min(MIN_PROMPTS, len(scored.baseline.scores))
    options: dict[str, Any] = {"allows": limit.allows, "min_prompts": least}
    found = []
    if guards:
        enough = [plan for plan in scored.plans if plan.n >= least and limit.allows(plan.cost)]
        obeying = rails.obeying(guards, enough, scored.baseline)
        found += select.best(obeying, scored.baseline, count=FINALISTS, **options)
        found += select.best(rails.surely_obeying(guards, obeying, scored.baseline), scored.baseline, **options)
    found += select.best(scored.plans, scored.baseline, count=1 if guards else FINALISTS, **options)
    for arm in select.ARMS[:2]:
        found += select.best(scored.plans, scored.baseline, arm=arm, **options)
    return list({plan.plan.content: plan for plan in found}.values())


def require_obeying(
    guards: Sequence[Guard], budget: Budget, limit: Limit, field: Scored, where: str = "scored"
) -> list[PlanScores]:
    """The plans within the budget that meet every guard.

    Args:
        guards: what they must meet, by the reading on the prompts at hand.
        budget, limit: as asked for, and resolved.
        field: plans and the unaccelerated model.
        where: on which prompts, in words that follow "no plan".

    Raises:
        BudgetError: no plan within the budget is scored on enough prompts.
        CheckError: none of those meets the guards; names the nearest, and by how much it misses.
        StudyError: a guarded metric was not measured in this study.
    """
    least = min(MIN_PROMPTS, len(field.baseline.scores))
    inside = [plan for plan in field.plans if plan.n >= least and limit.allows(plan.cost)]
    if not inside:
        raise BudgetError(
            f"budget {budget.text}",
            f"no plan within it is scored on {least} prompts{_reachable(field, limit, least)}",
            f"search there: postdiff calibrate --budget {budget.text}, on the same study",
        )
    found = rails.obeying(guards, inside, field.baseline)
    if not found:
        told = ", ".join(str(guard) for guard in guards)
        nearest = rails.nearest(guards, inside, field.baseline)
        if nearest is None:
            raise StudyError(
                f"guards ({told})", "this study holds no such measurements", "drop the guard, or start anew (--fresh)"
            )
        raise CheckError(
            f"guards ({told})",
            f"no plan {where} within the budget of {budget.text} meets them, the nearest ({nearest})",
            "loosen a guard, raise the budget, or look at more plans (--trials); the study is kept",
        )
    return found


def conclude(
    budget: Budget,
    limit: Limit,
    calibration: Scored,
    confirmed: Scored | None,
    ladder: Sequence[Limit],
    facts: Facts,
    delta: float | None = None,
    guards: Sequence[Guard] = (),
) -> Profile:
    """The profile of the best plan within the budget.

    Args:
        budget, limit: as asked for, and resolved.
        calibration: every plan the search scored.
        confirmed: the finalists on held-out prompts; None when the search was stopped before.
        ladder: other budgets of the trade-off table.
        facts: the sections that do not follow from scores.
        delta: δ, the score difference one cares about; one per cent of the baseline's mean score by default.
        guards: what the plan must meet.

    Raises:
        BudgetError: no plan within the budget is scored on enough prompts.
        CheckError: none of those meets the guards.
        StudyError: a guarded metric was not measured.
    """
    if confirmed is not None and guards:
        require_obeying(guards, budget, limit, calibration)
    field, baseline = confirmed or calibration, (confirmed or calibration).baseline
    least = min(MIN_PROMPTS, len(baseline.scores))
    obeying = require_obeying(guards, budget, limit, field, "on the held-out prompts" if confirmed else "scored")
    winner = select.best(obeying, baseline, allows=limit.allows, min_prompts=least)[0]
    bound = _bound(guards, winner, field, limit, least)
    comparison = select.compare(winner.scores, baseline.scores)
    mean_baseline = mean_score(baseline)
    delta = chosen_delta(delta, baseline)
    verdict = select.verdict(comparison, delta)
    rungs = _rungs(calibration, confirmed, limit, ladder)
    content, n_low, gate_step, refresh_steps = plan_facts(winner.plan)
    data = {
        "schema_version": SCHEMA_VERSION,
        "model": dict(facts.model),
        "budget": {
            "text": budget.text,
            "kind": limit.kind,
            "quantile": limit.quantile,
            "limit": limit.value,
            "share": limit.value / limit.baseline,
            "unit": "s per image" if limit.kind == "seconds" else "MACs per image",
            "batch_size": facts.batch_size,
            "guards": [_guard(guard, winner, baseline, guard in bound) for guard in guards],
        },
        "knobs": winner.knobs.as_dict(),
        "plan": {
            "content": content,
            "n_low": n_low,
            "gate_step": gate_step,
            "refresh_steps": list(refresh_steps),
            "noise": facts.noise,
            "latent_multiple": facts.latent_multiple,
        },
        "expected": {
            "cost": _cost(winner.cost),
            "baseline_cost": _cost(baseline.cost),
            "relative_macs": winner.cost.macs / baseline.cost.macs,
            "relative_seconds": _ratio(winner.cost.seconds, baseline.cost.seconds),
            "metric": facts.metric,
            "score": mean_baseline + comparison.mean,
            "baseline_score": mean_baseline,
            "difference": comparison_section(comparison),
            "delta": delta,
            "verdict": verdict.kind,
            "prompts_to_decide": verdict.prompts_needed,
            "confirmed": confirmed is not None,
            **{name: _reading(name, winner, baseline) for name in rails.MEASURES},
        },
        "tradeoff": {
            "rows": [tradeoff_row(rung, scored.baseline, scored is confirmed) for rung, scored in rungs],
            "crossover": _crossover([rung for rung, _ in rungs]),
        },
        "evidence": {
            **facts.evidence,
            "smallest_difference": comparison.resolvable,
            "notes": [*facts.notes, *_notes(winner, limit, calibration, confirmed is not None), *_bound_notes(bound)],
        },
        "environment": dict(facts.environment),
    }
    return Profile.model_validate(data)


def _bound(guards: Sequence[Guard], winner: PlanScores, field: Scored, limit: Limit, least: int) -> list[Guard]:
    """The guards that kept a better plan from being chosen."""
    free = select.best(field.plans, field.baseline, allows=limit.allows, min_prompts=least)[0]
    return [] if free is winner else rails.broken(guards, free, field.baseline)


def _bound_notes(bound: Sequence[Guard]) -> list[str]:
    return [f"A plan of a higher score was passed over: {guard}." for guard in bound]


def _guard(guard: Guard, winner: PlanScores, baseline: PlanScores, bound: bool) -> dict[str, Any]:
    value = _reading(guard.metric, winner, baseline)
    return {"metric": guard.metric, "rule": guard.rule, "limit": guard.bound, "value": value, "bound": bound}


def _reading(metric: str, plan: PlanScores, baseline: PlanScores) -> float | None:
    reading = rails.read(metric, plan, baseline)
    return None if reading is None else reading.value


def _reachable(field: Scored, limit: Limit, least: int) -> str:
    """The cheapest plan that could have been chosen under a larger budget, as the end of a sentence."""
    scored = [plan for plan in field.plans if plan.n >= least]
    if not scored:
        return ""
    plan = min(scored, key=lambda plan: limit.measure(plan.cost))
    cost = limit.measure(plan.cost)
    share = 100 * cost / limit.baseline
    return f", the cheapest that is ({plan.knobs.describe()}) costs {limit.show(cost)}, {share:.3g}% of the baseline"


def _notes(winner: PlanScores, limit: Limit, calibration: Scored, confirmed: bool) -> list[str]:
    """What is thin about the evidence, in sentences."""
    notes = []
    if not confirmed:
        notes.append("The winner was chosen and judged on the same calibration prompts, which flatters it.")
        if not winner.complete:
            notes.append(f"It is scored on {winner.n} of the {len(winner.scores)} calibration prompts.")
    share = limit.measure(winner.cost) / limit.value
    least = min(MIN_PROMPTS, len(calibration.baseline.scores))
    dearer = [limit.measure(p.cost) for p in calibration.plans if p.n >= least and limit.allows(p.cost)]
    near = sum(cost > limit.measure(winner.cost) for cost in dearer)
    if share < THIN_SHARE and near < THIN_COUNT:
        plans = "plan" if near == 1 else "plans"
        notes.append(
            f"It costs {share:.0%} of the budget, and only {near} dearer {plans} within the budget were tried."
        )
    return notes


def _rungs(
    calibration: Scored, confirmed: Scored | None, limit: Limit, ladder: Sequence[Limit]
) -> list[tuple[Rung, Scored]]:
    """A rung per budget, cheapest first, with the scores it rests on: held-out ones for the profile's own budget."""
    rungs = []
    least = min(MIN_PROMPTS, len(calibration.baseline.scores))
    for other in ladder:
        if abs(other.value - limit.value) > 1e-9 * limit.value:
            at = select.rung(calibration.plans, calibration.baseline, other.measure, other.value, least)
            rungs.append((at, calibration))
    own = confirmed or calibration
    least = min(MIN_PROMPTS, len(own.baseline.scores))
    rungs.append((select.rung(own.plans, own.baseline, limit.measure, limit.value, least), own))
    return sorted(rungs, key=lambda pair: pair[0].share)


def tradeoff_row(rung: Rung, baseline: PlanScores, confirmed: bool) -> TradeoffRow:
    """A rung as a profile states it; ``confirmed`` when its scores are of held-out prompts."""
    difference = rung.difference
    return TradeoffRow(
        share=rung.share,
        fewer=_arm(rung.fewer, baseline, confirmed),
        cheaper=_arm(rung.cheaper, baseline, confirmed),
        joint=_arm(rung.joint, baseline, confirmed),
        cheaper_minus_fewer=None if difference is None else comparison_section(difference),
        winner=rung.winner or "undecided",
        answer=select.answer(rung),
    )


def _arm(plan: PlanScores | None, baseline: PlanScores, confirmed: bool) -> ArmResult | None:
    if plan is None:
        return None
    return ArmResult(
        knobs=plan.knobs.describe(),
        content=plan.plan.content,
        relative_macs=plan.cost.macs / baseline.cost.macs,
        seconds=plan.cost.seconds,
        difference=comparison_section(select.compare(plan.scores, baseline.scores)),
        confirmed=confirmed,
    )


def _crossover(rungs: Sequence[Rung]) -> str | None:
    found = select.crossover(rungs)
    if found is None:
        return None
    low, high = found
    return f"The better family changes between {100 * low:.3g}% and {100 * high:.3g}% of the unaccelerated cost."


def comparison_section(c: select.Comparison) -> Comparison:
    """A paired comparison as a profile states it."""
    return Comparison(mean=c.mean, low=c.low, high=c.high, num_prompts=c.n)


def _cost(cost: PlanCost) -> dict[str, Any]:
    return {
        "macs": cost.macs,
        "macs_paper": cost.macs_paper,
        "seconds": cost.seconds,
        "seconds_p95": cost.seconds_p95,
    }


def _ratio(value: float | None, reference: float | None) -> float | None:
    return None if value is None or not reference else value / reference
