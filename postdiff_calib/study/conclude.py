"""Scores → profile: reads the answer off a search and its confirmation, and writes it down with its evidence.

Everything here is arithmetic on what was measured; no image is made. A plan is chosen and stated on held-out prompts,
which the search never saw; where there are none, on the search's own, and then nothing is called better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from postdiff_calib.cost.budget import Limit, PlanCost
from postdiff_calib.errors import BudgetError, CheckError, StudyError
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.plan import plan_facts
from postdiff_calib.profile import SCHEMA_VERSION, ArmResult, Comparison, MetricResult, Profile, TradeoffRow
from postdiff_calib.profile.sections import EnvironmentSection, EvidenceSection, ModelSection
from postdiff_calib.quality.metrics import in_words
from postdiff_calib.scores import guards as rails
from postdiff_calib.scores import paired as stats
from postdiff_calib.scores import select
from postdiff_calib.scores.guards import Guard
from postdiff_calib.scores.objective import Objective
from postdiff_calib.scores.paired import Verdict
from postdiff_calib.scores.select import ARMS, Arm, PlanScores
from postdiff_calib.search.adjust import joined, observations
from postdiff_calib.study.answers import crossover_text, row_answer
from postdiff_calib.study.rows import Judged, Row, crossover, make_row
from postdiff_calib.study.searched import SearchedBudget

Array = npt.NDArray[np.float64]

#: A plan can be chosen when at least this many prompts are scored (or all, of fewer).
MIN_PROMPTS = 50
#: Limits that differ by less than this share are one.
_SAME = 1e-6


@dataclass(frozen=True)
class Scored:
    """Plans and the baseline on one set of prompts.

    Args:
        baseline: the baseline.
        plans: every scored plan.
        set_aside: prompts that are scored for no plan, since the baseline's own image is broken.
    """

    baseline: PlanScores
    plans: Sequence[PlanScores]
    set_aside: int = 0

    @property
    def least(self) -> int:
        """Prompts that a plan needs to be chosen."""
        return min(MIN_PROMPTS, len(self.baseline.scores) - self.set_aside)

    @property
    def complete(self) -> list[PlanScores]:
        """The plans that are scored wherever the baseline is."""
        known = np.isfinite(self.baseline.scores)
        return [p for p in self.plans if known.any() and np.isfinite(p.scores[known]).all()]


@dataclass(frozen=True)
class Evidence:
    """All that an answer rests on.

    Args:
        calibration: every plan the search scored.
        held_out: the finalists on held-out prompts; no plan where nothing was confirmed yet.
        searched: the budgets that were searched.
        objective: the metrics with their spreads, weights and δ.
    """

    calibration: Scored
    held_out: Scored
    searched: Sequence[SearchedBudget]
    objective: Objective

    def at(self, limit: Limit) -> SearchedBudget | None:
        """What was searched at a limit; None where it was not."""
        for budget in self.searched:
            same = (budget.limit.kind, budget.limit.quantile) == (limit.kind, limit.quantile)
            if same and abs(budget.limit.value - limit.value) <= _SAME * limit.value:
                return budget
        return None

    def rows_beside(self, limit: Limit) -> list[Limit]:
        """The budgets of a trade-off table: this one, and those searched in the same terms, cheapest first."""
        terms = (limit.kind, limit.quantile)
        others = [b.limit for b in self.searched if (b.limit.kind, b.limit.quantile) == terms]
        others = [other for other in others if abs(other.value - limit.value) > _SAME * limit.value]
        return sorted([limit, *others], key=lambda one: one.value)

    def judged(self, limit: Limit) -> Judged | None:
        """The plans within a limit that were scored on the held-out prompts; None where there are none."""
        plans = [p for p in self.held_out.complete if limit.allows(p.cost)]
        return Judged(self.held_out.baseline, plans, self.objective, self.standing) if plans else None

    @cached_property
    def standing(self) -> Mapping[str, float]:
        """Mean difference of each plan by the objective over all prompts that it was scored on, by plan id.

        What prompts do to all plans alike is taken out (``search.adjust``).
        """

        rows = joined(self.differences(self.calibration), self.differences(self.held_out))
        return {o.plan: o.mean for o in observations(rows)}

    def differences(self, scored: Scored) -> dict[str, Array]:
        """The objective's paired differences to the baseline by plan id, (N,), NaN where unknown."""
        base = scored.baseline.quality(self.objective)
        return {p.plan.plan_id: p.quality(self.objective) - base for p in scored.plans}

    def unjudged(self, limit: Limit) -> int:
        """How many finalists of a searched limit are not scored on the held-out prompts yet."""
        found = self.at(limit)
        done = {p.plan.plan_id for p in self.held_out.complete}
        return 0 if found is None else len(set(found.finalists) - done)

    def row(self, limit: Limit) -> Row:
        """The arms compared at a limit; a budget whose finalists are not all judged counts as not searched."""
        found = None if self.unjudged(limit) else self.at(limit)
        fits: Mapping[Arm, bool | None] = dict.fromkeys(ARMS) if found is None else found.fits
        unfound = None if found is None else found.unfound
        return make_row(self.judged(limit), limit.value / limit.baseline, unfound=unfound, fits=fits)


@dataclass(frozen=True)
class Facts:
    """Everything a profile states that is not a score: where it came from and what it applies to.

    Args:
        model, environment: the profile's sections.
        evidence: the profile's section but for ``minimum_detectable_difference`` and ``notes``, which follow
            from scores.
        settings: how images are made; the batch size is the one at which seconds are meant.
        metric: name of the score.
        notes: those that do not follow from scores.
    """

    model: ModelSection
    evidence: EvidenceSection
    environment: EnvironmentSection
    settings: GenerationSettings
    metric: str = "clip_score"
    notes: tuple[str, ...] = ()


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
    comparisons = tuple(stats.compare(winner.metric(m), baseline.metric(m), low, high) for m in names)
    verdict = stats.overall(comparisons, [term.delta for term in objective.terms])
    if not confirmed and verdict.kind in ("better", "equivalent"):
        verdict = Verdict("undecided")  # chosen and judged on the same prompts
    return Choice(winner, field, confirmed, comparisons, verdict, id(winner) in kept, tuple(bound))


def _inside(field: Scored, limit: Limit) -> list[PlanScores]:
    return [p for p in field.plans if p.n >= field.least and limit.allows(p.cost)]


def _non_inferior(plan: PlanScores, baseline: PlanScores, objective: Objective) -> bool:
    return all(
        stats.non_inferior(stats.compare(plan.metric(t.metric), baseline.metric(t.metric)), t.delta)
        for t in objective.terms
    )


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
            f"search there: postdiff calibrate --budget {limit.text}, on the same study",
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
    data = {
        "schema_version": SCHEMA_VERSION,
        "model": facts.model,
        "budget": {
            "text": limit.text,
            "kind": limit.kind,
            "quantile": limit.quantile,
            "limit": limit.value,
            "share": limit.value / limit.baseline,
            "unit": "s per image" if limit.kind == "seconds" else "MACs per image",
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
            "relative_seconds": _ratio(winner.cost.seconds, baseline.cost.seconds),
            "metric": facts.metric,
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
        "tradeoff": {
            "rows": [tradeoff_row(row, evidence) for row in table],
            "crossover": crossover_text(crossover(table)),
        },
        "evidence": {
            **facts.evidence.model_dump(),
            "minimum_detectable_difference": choice.comparisons[0].detectable,
            "notes": [*facts.notes, *_notes(choice, limit, evidence)],
        },
        "environment": facts.environment,
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


def _reachable(field: Scored, limit: Limit, least: int) -> str:
    """The cheapest plan that could have been chosen under a larger budget, as the end of a sentence."""
    scored = [plan for plan in field.plans if plan.n >= least]
    if not scored:
        return ""
    plan = min(scored, key=lambda plan: limit.measure(plan.cost))
    cost = limit.measure(plan.cost)
    share = 100 * cost / limit.baseline
    return f", the cheapest that is ({plan.knobs.describe()}) costs {limit.show(cost)}, {share:.3g}% of the baseline"


def _notes(choice: Choice, limit: Limit, evidence: Evidence) -> list[str]:
    """What is thin about the evidence, in sentences."""
    notes, winner = [], choice.winner
    if evidence.at(limit) is None:
        share = limit.measure(winner.cost) / limit.value
        notes.append(
            f"The budget of {limit.text} was not searched: this is the best plan that other searches found within it, "
            f"at {share:.0%} of it. To search there: postdiff calibrate --budget {limit.text}, on the same study."
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
        notes.append(_one_score(winner, choice.field.baseline))
    return notes


def _one_score(winner: PlanScores, baseline: PlanScores) -> str:
    """That one score is not enough, with what else is known of the images."""
    shown = in_words({name: _reading(name, winner, baseline) for name in rails.measures()})
    near = f" They are this near to the baseline's: {shown}." if shown else ""
    return (
        "Quality is judged by the CLIP score alone, and one score is not enough. Until a preference metric is at "
        f"hand, look at the images as well.{near}"
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
        answer=row_answer(row, objective),
    )


def _arm(plan: PlanScores | None, baseline: PlanScores, objective: Objective, low: float | None) -> ArmResult | None:
    """A plan as a row names it, with the interval that a profile of the plan would state."""
    if plan is None:
        return None
    names = objective.metrics
    high = stats.largest_t(np.array([baseline.metric(m) - plan.metric(m) for m in names]), skewed=False)
    metrics = {m: comparison_section(stats.compare(plan.metric(m), baseline.metric(m), low, high)) for m in names}
    return ArmResult(
        knobs=plan.knobs.describe(),
        plan_id=plan.plan.plan_id,
        relative_macs=plan.cost.macs / baseline.cost.macs,
        seconds=plan.cost.seconds,
        difference=metrics[objective.metrics[0]],
        metrics=metrics,
        confirmed=True,
    )


def comparison_section(c: stats.Comparison) -> Comparison:
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
