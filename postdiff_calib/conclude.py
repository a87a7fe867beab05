"""Scores → profile: reads the answer off a search and its confirmation, and writes it down with its evidence.

Everything here is arithmetic on what was measured; no picture is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from postdiff_calib.budget import Budget, Limit, PlanCost
from postdiff_calib.plan import compile_plan, plan_facts
from postdiff_calib.profile import SCHEMA_VERSION, Profile
from postdiff_calib.search import select
from postdiff_calib.search.select import PlanScores, Rung

#: δ where none is given: one per cent of the unaccelerated model's mean score, 0.3 points of a CLIP score of 30.
DEFAULT_DELTA_SHARE = 0.01
#: A plan's place in the trade-off at another budget needs at least this many of its prompts scored.
MIN_PROMPTS = 50


@dataclass(frozen=True)
class Scored:
    """Plans and the unaccelerated model on one set of prompts."""

    baseline: PlanScores
    plans: Sequence[PlanScores]


@dataclass(frozen=True)
class Facts:
    """Everything a profile states that is not a score: where it came from and what it applies to.

    ``model``, ``evidence`` and ``environment`` are the profile's sections as plain data; ``evidence`` lacks only
    ``smallest_difference``.
    """

    model: Mapping[str, Any]
    evidence: Mapping[str, Any]
    environment: Mapping[str, Any]
    batch_size: int
    noise: str
    latent_multiple: int
    metric: str = "clip_score"


def conclude(
    budget: Budget,
    limit: Limit,
    calibration: Scored,
    confirmed: Scored | None,
    ladder: Sequence[Limit],
    facts: Facts,
    delta: float | None = None,
) -> Profile:
    """The profile of the best plan within the budget.

    Args:
        budget, limit: as asked for, and resolved.
        calibration: every plan the search scored.
        confirmed: the finalists on held-out prompts; None when the search was stopped before.
        ladder: other budgets of the trade-off table.
        facts: the sections that do not follow from scores.
        delta: δ, the score difference one cares about; one per cent of the baseline's mean score by default.

    Raises:
        ValueError: no plan within the budget is completely scored.
    """
    field = confirmed or calibration
    found = select.best(field.plans, field.baseline, allows=limit.allows)
    if not found:
        raise ValueError("no plan within the budget has all its prompts scored")
    winner, baseline = found[0], field.baseline
    comparison = select.compare(winner.scores, baseline.scores)
    mean_baseline = float(baseline.scores[baseline.scores == baseline.scores].mean())
    delta = delta if delta is not None else DEFAULT_DELTA_SHARE * abs(mean_baseline)
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
            "difference": _comparison(comparison),
            "delta": delta,
            "verdict": verdict.kind,
            "prompts_to_decide": verdict.prompts_needed,
            "confirmed": confirmed is not None,
        },
        "tradeoff": {
            "rows": [_row(rung, scored, scored is confirmed) for rung, scored in rungs],
            "crossover": _crossover([rung for rung, _ in rungs]),
        },
        "evidence": {**facts.evidence, "smallest_difference": comparison.resolvable},
        "environment": dict(facts.environment),
    }
    return Profile.model_validate(data)


def _rungs(
    calibration: Scored, confirmed: Scored | None, limit: Limit, ladder: Sequence[Limit]
) -> list[tuple[Rung, Scored]]:
    """A rung per budget, cheapest first, with the scores it rests on: held-out ones for the profile's own budget."""
    rungs = []
    for other in ladder:
        if abs(other.value - limit.value) > 1e-9 * limit.value:
            at = select.rung(calibration.plans, calibration.baseline, other.measure, other.value, MIN_PROMPTS)
            rungs.append((at, calibration))
    own = confirmed or calibration
    rungs.append((select.rung(own.plans, own.baseline, limit.measure, limit.value), own))
    return sorted(rungs, key=lambda pair: pair[0].share)


def _row(rung: Rung, scored: Scored, confirmed: bool) -> dict[str, Any]:
    arms: dict[str, Any] = {arm: _arm(getattr(rung, arm), scored.baseline, confirmed) for arm in select.ARMS}
    difference = rung.difference
    return {
        "share": rung.share,
        **arms,
        "cheaper_minus_fewer": None if difference is None else _comparison(difference),
        "winner": rung.winner or "undecided",
        "answer": select.answer(rung),
    }


def _arm(plan: PlanScores | None, baseline: PlanScores, confirmed: bool) -> dict[str, Any] | None:
    if plan is None:
        return None
    return {
        "knobs": plan.knobs.describe(),
        "content": compile_plan(plan.knobs).content,
        "relative_macs": plan.cost.macs / baseline.cost.macs,
        "seconds": plan.cost.seconds,
        "difference": _comparison(select.compare(plan.scores, baseline.scores)),
        "confirmed": confirmed,
    }


def _crossover(rungs: Sequence[Rung]) -> str | None:
    found = select.crossover(rungs)
    if found is None:
        return None
    low, high = found
    return f"The better family changes between {100 * low:.3g}% and {100 * high:.3g}% of the unaccelerated cost."


def _comparison(c: select.Comparison) -> dict[str, Any]:
    return {"mean": c.mean, "low": c.low, "high": c.high, "num_prompts": c.n}


def _cost(cost: PlanCost) -> dict[str, Any]:
    return {
        "macs": cost.macs,
        "macs_paper": cost.macs_paper,
        "seconds": cost.seconds,
        "seconds_p95": cost.seconds_p95,
    }


def _ratio(value: float | None, reference: float | None) -> float | None:
    return None if value is None or not reference else value / reference
