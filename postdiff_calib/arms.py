"""The paper's question at every budget, from a study's scores alone: fewer steps, cheaper steps, or both?

At each budget the best plan of each arm is picked (PostDiff, arXiv 2508.06160, section 3): *fewer* steps, where only T
varies; *cheaper* steps, where T stays the model's default; *both*, where everything varies. All differences are paired,
plan minus unaccelerated model on the same prompts and seeds, with 95 % intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from postdiff_calib.budget import Budget, BudgetKind, Limit, PlanCost, parse_budget
from postdiff_calib.conclude import MIN_PROMPTS, Scored, chosen_delta, comparison_section, tradeoff_row
from postdiff_calib.errors import BudgetError
from postdiff_calib.plan import compile_plan
from postdiff_calib.profile import Comparison, TradeoffRow
from postdiff_calib.record import Study
from postdiff_calib.search import select
from postdiff_calib.search.select import ARMS, Arm, PlanScores, Rung

#: Budgets of the table where none are given.
NUM_BUDGETS = 10


@dataclass(frozen=True)
class PlanPoint:
    """One scored plan: relative cost against quality.

    Attributes:
        knobs: in words.
        share: its cost over the unaccelerated model's.
        difference: its score minus the unaccelerated model's, on the calibration prompts.
        on_frontier: no plan of the same arm is both cheaper and better.
        arms: the arms it belongs to.
    """

    knobs: str
    share: float
    difference: Comparison
    on_frontier: bool
    arms: tuple[Arm, ...]


@dataclass(frozen=True)
class Tradeoff:
    """The three arms of a study at a ladder of budgets.

    Attributes:
        model: name of the model.
        height, width: picture size in pixels.
        scorer: what scored the pictures.
        kind: what shares are of: seconds or MACs per image.
        baseline: cost of the unaccelerated model.
        budget_share: the study's own budget, as a share of it; None where it is of the other kind.
        delta: the score difference that is cared about.
        num_prompts, num_held_out: prompts that scores are means over.
        rows: cheapest budget first; a result with ``confirmed`` is of held-out prompts, others of calibration prompts.
        points: every plan with enough scores, by arm, cheapest first.
        crossover: the two shares between which the better of fewer and cheaper changes, None where it does not.
        answer: all of it in one sentence.
    """

    model: str
    height: int
    width: int
    scorer: str
    kind: BudgetKind
    baseline: PlanCost
    budget_share: float | None
    delta: float
    num_prompts: int
    num_held_out: int
    rows: tuple[TradeoffRow, ...]
    points: dict[Arm, tuple[PlanPoint, ...]]
    crossover: tuple[float, float] | None
    answer: str

    @property
    def unit(self) -> str:
        """What is compared between budgets: ``MACs`` or ``time``."""
        return "MACs" if self.kind == "macs" else "time"

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        data = {name: value for name, value in vars(self).items() if name not in ("rows", "points", "baseline")}
        points = {
            arm: [{**vars(p), "arms": list(p.arms), "difference": p.difference.model_dump()} for p in found]
            for arm, found in self.points.items()
        }
        return {
            **data,
            "baseline": asdict(self.baseline),
            "rows": [row.model_dump(mode="json") for row in self.rows],
            "points": points,
        }


def compare_arms(study: Study, budgets: Sequence[Budget] = ()) -> Tradeoff:
    """The best plan of each arm at each budget.

    Args:
        study: a study with scores.
        budgets: all of one kind; by default shares from the cheapest scored plan to the unaccelerated model, in the
            terms of the study's own budget.

    Raises:
        StudyError: it holds no scores.
        BudgetError: budgets of different kinds, seconds where none were measured, or no plan within any of them.
    """
    study.require_scores()
    record = study.record
    baseline_cost = record.cost.price(compile_plan(record.baseline))
    calibration, held_out = study.scored()
    least = min(MIN_PROMPTS, len(calibration.baseline.scores))
    scored = [plan for plan in calibration.plans if plan.n >= least and select.common(plan, calibration.baseline) >= 2]
    own = parse_budget(str(record.job["budget"])).resolve(baseline_cost)
    limits = [budget.resolve(baseline_cost) for budget in budgets] or _ladder(own, scored)
    if len({(limit.kind, limit.quantile) for limit in limits}) > 1:
        raise BudgetError(
            f"budgets {', '.join(budget.text for budget in budgets)}",
            "a comparison is in seconds or in MACs, not in both",
            "give budgets of one kind, such as 20%,40%,80%",
        )
    terms = limits[0]
    rungs = [_rung(study, calibration, held_out, limit) for limit in sorted(limits, key=lambda limit: limit.value)]
    if all(rung.joint is None for rung, _, _ in rungs):
        cheapest = min((100 * terms.measure(plan.cost) / terms.baseline for plan in scored), default=math.nan)
        raise BudgetError(
            f"budgets up to {max(100 * limit.value / limit.baseline for limit in limits):.3g}% of the baseline",
            f"the cheapest plan scored on {least} prompts costs {cheapest:.3g}%",
            "give larger budgets",
        )
    rows = tuple(tradeoff_row(rung, baseline, confirmed) for rung, baseline, confirmed in rungs)
    return Tradeoff(
        model=str(record.model["id"]),
        height=int(record.model["height"]),
        width=int(record.model["width"]),
        scorer=str(record.evidence["scorer"]),
        kind=terms.kind,
        baseline=baseline_cost,
        budget_share=own.value / own.baseline if own.kind == terms.kind else None,
        delta=chosen_delta(record.job.get("delta"), calibration.baseline),
        num_prompts=len(record.calibration),
        num_held_out=len(record.held_out),
        rows=rows,
        points=_points(scored, calibration.baseline, terms),
        crossover=select.crossover([rung for rung, _, _ in rungs]),
        answer=answer(rows, "MACs" if terms.kind == "macs" else "time"),
    )


def _ladder(own: Limit, scored: Sequence[PlanScores]) -> list[Limit]:
    """Evenly spaced whole per cents from the cheapest scored plan to 100 %."""
    low = math.ceil(100 * min((own.measure(plan.cost) / own.baseline for plan in scored), default=1.0) - 1e-9)
    shares = {round(low + i * (100 - low) / (NUM_BUDGETS - 1)) / 100 for i in range(NUM_BUDGETS)}
    return [Limit(own.kind, own.quantile, share * own.baseline, own.baseline) for share in sorted(shares)]


def _rung(study: Study, calibration: Scored, held_out: Scored, limit: Limit) -> tuple[Rung, PlanScores, bool]:
    """The rung of one budget, the baseline on the same prompts, and whether those are the held-out ones."""
    confirmed = study.confirmed(calibration, held_out, limit)
    field = confirmed or calibration
    least = min(MIN_PROMPTS, len(field.baseline.scores))
    rung = select.rung(field.plans, field.baseline, limit.measure, limit.value, least)
    return rung, field.baseline, confirmed is not None


def _points(scored: Sequence[PlanScores], baseline: PlanScores, limit: Limit) -> dict[Arm, tuple[PlanPoint, ...]]:
    steps = baseline.knobs.num_inference_steps
    points: dict[Arm, tuple[PlanPoint, ...]] = {}
    for arm in ARMS:
        members = sorted((p for p in scored if arm in p.arms(steps)), key=lambda p: limit.measure(p.cost))
        best = {p.plan.content for p in select.frontier(members, baseline, limit.measure, 1)}
        points[arm] = tuple(
            PlanPoint(
                knobs=p.knobs.describe(),
                share=limit.measure(p.cost) / limit.baseline,
                difference=comparison_section(select.compare(p.scores, baseline.scores)),
                on_frontier=p.plan.content in best,
                arms=p.arms(steps),
            )
            for p in members
        )
    return points


def answer(rows: Sequence[TradeoffRow], unit: str) -> str:
    """Fewer steps or cheaper steps, at which budgets: one sentence over all rows, cheapest first."""
    of = f"of the unaccelerated {unit}"
    clauses, told = [], 0
    for arm in ("fewer", "cheaper"):
        won = [row.winner == arm and row.cheaper_minus_fewer is not None for row in rows]
        alone = [row.winner == arm and row.cheaper_minus_fewer is None for row in rows]
        for places, words in ((won, f"{arm} steps win at"), (alone, f"only {arm} steps fit at")):
            if any(places):
                clauses.append(f"{words} {_where(rows, places)}")
                told += sum(places)
    span = _where(rows, [True] * len(rows))
    if not clauses:
        return f"Neither fewer nor cheaper steps are shown to be better at {span} {of}."
    clauses[0] = f"{clauses[0]} {of}"
    if told < len(rows):
        clauses.append("elsewhere neither is shown to be better")
    sentence = ", ".join(clauses)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _where(rows: Sequence[TradeoffRow], places: Sequence[bool]) -> str:
    """The budgets of some rows, neighbours joined, e.g. ``16% to 35% and 60%``."""
    runs: list[list[float]] = []
    for i, (row, inside) in enumerate(zip(rows, places, strict=True)):
        if inside and i and places[i - 1]:
            runs[-1].append(row.share)
        elif inside:
            runs.append([row.share])
    texts = [f"{run[0]:.0%}" if len(run) == 1 else f"{run[0]:.0%} to {run[-1]:.0%}" for run in runs]
    return " and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else texts[0]
