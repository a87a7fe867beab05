"""Scores → profile: writes the answer of a search and its confirmation down, with its evidence.

Everything here is arithmetic on what was measured; no image is made. ``choose`` says which plan it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from postdiff_calib.cost.budget import Limit, PlanCost
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.plan import plan_facts
from postdiff_calib.profile import SCHEMA_VERSION, ArmResult, Comparison, MetricResult, Profile, TradeoffRow
from postdiff_calib.profile.sections import EnvironmentSection, EvidenceSection, ModelSection
from postdiff_calib.quality import metric as find_metric
from postdiff_calib.quality.metrics import SCORE, in_words
from postdiff_calib.scores import guards as rails
from postdiff_calib.scores import paired as stats
from postdiff_calib.scores.guards import Guard
from postdiff_calib.scores.objective import Objective
from postdiff_calib.scores.select import PlanScores, compare_metrics
from postdiff_calib.study.answers import crossover_text, row_answer
from postdiff_calib.study.by_category import categories_section
from postdiff_calib.study.choose import Choice, choose, mean_score
from postdiff_calib.study.evidence import Evidence
from postdiff_calib.study.rows import Row, crossover
from postdiff_calib.study.seconds import Seconds, times_section


@dataclass(frozen=True)
class Facts:
    """Everything a profile states that is not a score: where it came from and what it applies to.

    Args:
        model, environment: the profile's sections.
        evidence: the profile's section but for ``minimum_detectable_difference`` and ``notes``, which follow
            from scores.
        settings: how images are made; the batch size is the one at which seconds are meant.
        categories: of the held-out prompts; empty where the prompt set has none.
        notes: those that do not follow from scores.
        seconds: what was timed.
    """

    model: ModelSection
    evidence: EvidenceSection
    environment: EnvironmentSection
    settings: GenerationSettings
    categories: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: Seconds = field(default_factory=Seconds)


def conclude(
    limit: Limit, evidence: Evidence, rows: Sequence[Limit], facts: Facts, guards: Sequence[Guard] = ()
) -> Profile:
    """The profile of the best plan within the budget.

    Args:
        limit: the budget.
        evidence: the scores.
        rows: the budgets of the trade-off table, cheapest first.
        facts: the sections that do not follow from scores.
        guards: what the plan must meet.

    Raises:
        BudgetError, CheckError, StudyError: as ``choose``.
    """
    choice = choose(limit, evidence, guards)
    winner, baseline, objective = choice.winner, choice.field.baseline, evidence.objective
    plan_id, n_low, gate_step, refresh_steps = plan_facts(winner.plan)
    table = [evidence.row(row) for row in rows]
    metrics = [
        _metric_result(term.metric, comparison, winner, baseline, objective, choice.confirmed)
        for term, comparison in zip(objective.terms, choice.comparisons, strict=True)
    ]
    first = metrics[0]
    categories, warnings = categories_section(choice, objective, facts.categories)
    data = {
        "schema_version": SCHEMA_VERSION,
        "model": facts.model,
        "budget": {
            "text": limit.text,
            "kind": limit.kind,
            "quantile": limit.quantile,
            "limit": limit.value,
            "share": limit.value / limit.baseline,
            "unit": limit.unit,
            "batch_size": facts.settings.batch_size,
            "guards": [_guard(guard, winner, baseline, guard in choice.bound) for guard in guards],
        },
        "knobs": winner.knobs.as_dict(),
        "plan": {
            "plan_id": plan_id,
            "n_low": n_low,
            "gate_step": gate_step,
            "refresh_steps": list(refresh_steps),
            **facts.settings.attachment,
        },
        "expected": {
            "cost": _cost(winner.cost),
            "baseline_cost": _cost(baseline.cost),
            "relative_macs": winner.cost.macs / baseline.cost.macs,
            "metric": "clip_score" if first.metric == SCORE else first.metric,
            "score": first.score,
            "baseline_score": first.baseline_score,
            "difference": first.difference,
            "delta": first.delta,
            "verdict": choice.verdict.kind,
            "prompts_to_decide": _prompts_to_ask_for(choice, facts),
            "confirmed": choice.confirmed,
            **{name: _reading(name, winner, baseline) for name in rails.measures()},
            "metrics": metrics,
        },
        "categories": categories,
        "tradeoff": {
            "rows": [tradeoff_row(row, evidence) for row in table],
            "crossover": crossover_text(crossover(table)),
        },
        "evidence": {
            **facts.evidence.model_dump(),
            "minimum_detectable_difference": choice.comparisons[0].detectable,
            "notes": [*warnings, *facts.notes, *_notes(choice, limit, evidence)],
        },
        "environment": facts.environment,
        "times": times_section(facts.seconds, plan_id, winner.cost, baseline.cost, limit, table),
    }
    return Profile.model_validate(data)


def _metric_result(
    metric: str,
    comparison: stats.Comparison,
    winner: PlanScores,
    baseline: PlanScores,
    objective: Objective,
    confirmed: bool,
) -> MetricResult:
    term = next(t for t in objective.terms if t.metric == metric)
    base = mean_score(baseline, metric)
    kind = stats.verdict(comparison, term.delta)
    return MetricResult(
        metric=metric,
        score=base + comparison.mean,
        baseline_score=base,
        difference=comparison_section(comparison),
        spread=term.spread,
        weight=term.weight,
        delta=term.delta,
        verdict=kind if confirmed or kind == "worse" else "undecided",
    )


def _prompts_to_ask_for(choice: Choice, facts: Facts) -> int | None:
    """The number of prompts that would decide, in the unit of ``--num-prompts``."""
    needed, n = choice.verdict.prompts_needed, choice.comparisons[0].n
    asked = facts.evidence.num_held_out
    return None if needed is None or not asked else max(asked + 1, -(-needed * asked // n))


def _guard(guard: Guard, winner: PlanScores, baseline: PlanScores, bound: bool) -> dict[str, Any]:
    value = _reading(guard.metric, winner, baseline)
    return {"metric": guard.metric, "rule": guard.rule, "limit": guard.bound, "value": value, "bound": bound}


def _reading(metric: str, plan: PlanScores, baseline: PlanScores) -> float | None:
    reading = rails.read(metric, plan, baseline)
    return None if reading is None else reading.value


def _notes(choice: Choice, limit: Limit, evidence: Evidence) -> list[str]:
    """What is thin about the evidence, in sentences."""
    notes, winner = [], choice.winner
    if evidence.at(limit) is None:
        share = limit.measure(winner.cost) / limit.value
        notes.append(
            f"The budget of {limit.text} was not searched: this is the best plan that other searches found within it, "
            f"at {share:.0%} of it. To search there, run the study's own command with --budget {limit.text}."
        )
    if missing := evidence.unjudged(limit):
        plans = "1 finalist is" if missing == 1 else f"{missing} finalists are"
        notes.append(f"{plans} not judged yet: run the same calibrate command again.")
    if not choice.confirmed:
        notes.append("The plan was chosen and judged on the same prompts of the search, which flatters it.")
        sound = len(winner.scores) - choice.field.set_aside
        if winner.n < sound:
            notes.append(f"It is scored on {winner.n} of the {sound} calibration prompts.")
    elif not choice.kept:
        lost = "every metric" if len(evidence.objective.terms) > 1 else "the score"
        notes.append(f"No plan within the budget that may be chosen is shown to keep {lost} within delta.")
    notes += [f"A plan of a higher score was passed over: {guard}." for guard in choice.bound]
    if len(evidence.objective.terms) == 1 and not winner.plan.is_identity:
        score = find_metric(evidence.objective.terms[0].metric)
        label = f"the {score.label}" if score.name == SCORE else score.label
        notes.append(_one_score(label, winner, choice.field.baseline))
    return notes


def _one_score(label: str, winner: PlanScores, baseline: PlanScores) -> str:
    """That one score is not enough, with what else is known of the images."""
    shown = in_words({name: _reading(name, winner, baseline) for name in rails.measures()})
    near = f" They are this near to the baseline's: {shown}." if shown else ""
    return (
        f"Quality is judged by {label} alone, and one score is not enough. Let another scorer judge beside it "
        f"(--also), or look at the images as well.{near}"
    )


def tradeoff_row(row: Row, evidence: Evidence) -> TradeoffRow:
    """A row as a profile states it."""
    baseline, objective = evidence.held_out.baseline, evidence.objective
    return TradeoffRow(
        share=row.share,
        searched=row.searched,
        step_reduction=_arm(row.step_reduction, baseline, objective, row.reach),
        cheaper_steps=_arm(row.cheaper_steps, baseline, objective, row.reach),
        combined=_arm(row.combined, baseline, objective, row.reach),
        cheaper_steps_minus_step_reduction=None
        if row.difference is None
        else comparison_section(row.in_points(objective)),
        unit=objective.unit,
        metrics={name: comparison_section(c) for name, c in row.metrics.items()},
        winner=row.winner,
        answer=row_answer(row, objective, evidence.guides),
    )


def _arm(plan: PlanScores | None, baseline: PlanScores, objective: Objective, low: float | None) -> ArmResult | None:
    """A plan as a row names it, with the interval that a profile of the plan would state."""
    if plan is None:
        return None
    names = objective.metrics
    high = stats.largest_t(np.array([baseline.metric(m) - plan.metric(m) for m in names]), skewed=False)
    found = compare_metrics(plan, baseline, names, low, high)
    metrics = {name: comparison_section(comparison) for name, comparison in found.items()}
    return ArmResult(
        knobs=plan.knobs.describe(),
        plan_id=plan.plan.plan_id,
        relative_macs=plan.cost.macs / baseline.cost.macs,
        difference=metrics[objective.metrics[0]],
        metrics=metrics,
        confirmed=True,
    )


def comparison_section(c: stats.Comparison) -> Comparison:
    """A paired comparison as a profile states it."""
    return Comparison(mean=c.mean, low=c.low, high=c.high, num_prompts=c.n)


def _cost(cost: PlanCost) -> dict[str, Any]:
    return {"macs": cost.macs, "macs_paper": cost.macs_paper}
