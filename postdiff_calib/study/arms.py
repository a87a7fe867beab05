"""The paper's question at every budget, from a study's scores alone: step reduction, cheaper steps, or combined?

At each budget that was searched, the best plan found of each arm is named (PostDiff, arXiv 2508.06160, section 3):
*step reduction*, where only T varies; *cheaper steps*, where T stays the model's default; *combined*, where everything
varies.
All differences are paired, plan minus baseline on the same held-out prompts and seeds, with 95 % intervals.
Rows, winners and sentences are those of the profile (``evidence.Evidence.row``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from postdiff_calib.cost.budget import Budget, BudgetKind, Limit, PlanCost
from postdiff_calib.errors import BudgetError
from postdiff_calib.models.deployment import describe_baseline
from postdiff_calib.plan import compile_plan
from postdiff_calib.profile import Comparison, RowTimes, TradeoffRow
from postdiff_calib.scores import select
from postdiff_calib.scores.paired import compare
from postdiff_calib.scores.select import ARMS, Arm
from postdiff_calib.study.answers import overall_answer
from postdiff_calib.study.conclude import comparison_section, tradeoff_row
from postdiff_calib.study.evidence import Evidence
from postdiff_calib.study.record import Study
from postdiff_calib.study.rows import crossover
from postdiff_calib.study.seconds import plan_times, row_times


@dataclass(frozen=True)
class PlanPoint:
    """One plan: relative cost against quality.

    Attributes:
        knobs: as text.
        share: its cost over the baseline's.
        difference: its score minus the baseline's.
        on_frontier: no plan of the same arm and the same prompts is both cheaper and better.
        arms: the arms it belongs to.
        held_out: the difference is of held-out prompts; else of the search's own.
    """

    knobs: str
    share: float
    difference: Comparison
    on_frontier: bool
    arms: tuple[Arm, ...]
    held_out: bool


@dataclass(frozen=True)
class Tradeoff:
    """The three arms of a study at several budgets.

    Attributes:
        model: name of the model.
        height, width: image size in pixels.
        scorer: what scored the images.
        kind: what shares are of: seconds or MACs.
        baseline: cost of the baseline.
        baseline_text: the baseline in one line.
        budget_share: the study's own budget, as a share of it; None where it is of the other kind.
        metrics: names of the quality metrics, the score first.
        delta: the difference of the score that is cared about.
        num_prompts, num_held_out: prompts of the search and of the judgement.
        rows: cheapest budget first.
        points: every plan with enough scores, by arm, cheapest first.
        times: seconds of a call of each row's plans; empty where nothing was timed.
        crossover: the two shares between which the better of step reduction and cheaper steps changes, or None.
        answer: all of it in one sentence.
    """

    model: str
    height: int
    width: int
    scorer: str
    kind: BudgetKind
    baseline: PlanCost
    baseline_text: str
    budget_share: float | None
    metrics: tuple[str, ...]
    delta: float
    num_prompts: int
    num_held_out: int
    rows: tuple[TradeoffRow, ...]
    times: tuple[RowTimes, ...]
    points: dict[Arm, tuple[PlanPoint, ...]]
    crossover: tuple[float, float] | None
    answer: str

    @property
    def unit(self) -> str:
        """What is compared between budgets: ``MACs`` or ``time``."""
        return "MACs" if self.kind == "macs" else "time"

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        apart = ("rows", "times", "points", "baseline", "baseline_text")
        data = {name: value for name, value in vars(self).items() if name not in apart}
        points = {
            arm: [{**vars(p), "arms": list(p.arms), "difference": p.difference.model_dump()} for p in found]
            for arm, found in self.points.items()
        }
        return {
            **data,
            "metrics": list(self.metrics),
            "baseline": self._baseline(),
            "rows": [row.model_dump(mode="json") for row in self.rows],
            "times": [row.model_dump(mode="json") for row in self.times],
            "points": points,
        }

    def _baseline(self) -> dict[str, Any]:
        times, cost = plan_times(self.baseline), self.baseline
        timed = {"batch_size": cost.batch_size, **times.model_dump()} if times is not None else None
        return {"text": self.baseline_text, "macs": cost.macs, "macs_paper": cost.macs_paper, "times": timed}


def compare_arms(study: Study, budgets: Sequence[Budget] = ()) -> Tradeoff:
    """The best plan found of each arm at each budget.

    Args:
        study: a study with scores.
        budgets: all of one kind; by default those that were searched in the terms of the study's own budget. Of one
            that was not searched, nothing is decided.

    Raises:
        StudyError: it holds no scores.
        BudgetError: budgets of different kinds, or seconds where none were measured.
    """
    study.require_scores()
    record = study.record
    baseline_cost = record.cost.price(compile_plan(record.baseline))
    evidence = study.evidence()
    own = record.resolve()
    limits = sorted((record.resolve(budget) for budget in budgets), key=lambda limit: limit.value)
    limits = limits or evidence.rows_beside(own)
    if len({limit.terms for limit in limits}) > 1:
        raise BudgetError(
            f"budgets {', '.join(budget.text for budget in budgets)}",
            "a comparison is in seconds or in MACs, of calls or of images, not in both",
            "give budgets of one kind, such as 20%,40%,80%",
        )
    terms = limits[0]
    rows = [evidence.row(limit) for limit in limits]
    return Tradeoff(
        model=record.model.id,
        height=record.model.height,
        width=record.model.width,
        scorer=record.evidence.scorer,
        kind=terms.kind,
        baseline=baseline_cost,
        baseline_text=describe_baseline(record.num_inference_steps, record.model, record.model.negative_prompt),
        budget_share=own.value / own.baseline if own.kind == terms.kind else None,
        metrics=evidence.objective.metrics,
        delta=evidence.objective.terms[0].delta,
        num_prompts=len(record.calibration),
        num_held_out=len(record.held_out),
        rows=tuple(tradeoff_row(row, evidence) for row in rows),
        times=tuple(map(row_times, rows)) if record.cost.latency is not None else (),
        points=_points(evidence, terms),
        crossover=crossover(rows),
        answer=overall_answer(rows, "MACs" if terms.kind == "macs" else "time"),
    )


def _points(evidence: Evidence, limit: Limit) -> dict[Arm, tuple[PlanPoint, ...]]:
    """Judged plans by their held-out scores, others by the search's; each arm has a frontier of its own."""
    judged = {p.plan.plan_id for p in evidence.held_out.complete}
    points: dict[Arm, list[PlanPoint]] = {arm: [] for arm in ARMS}
    for field, held_out in ((evidence.held_out, True), (evidence.calibration, False)):
        steps = field.baseline.knobs.num_inference_steps
        plans = [p for p in field.plans if held_out or (p.n >= field.least and p.plan.plan_id not in judged)]
        plans = [p for p in plans if select.common(p, field.baseline) >= 2]
        for arm in ARMS:
            members = [p for p in plans if arm in p.arms(steps)]
            best = select.frontier(members, field.baseline, evidence.objective, limit.measure, 1)
            on_frontier = {p.plan.plan_id for p in best}
            points[arm] += [
                PlanPoint(
                    knobs=p.knobs.describe(),
                    share=limit.measure(p.cost) / limit.baseline,
                    difference=comparison_section(compare(p.scores, field.baseline.scores)),
                    on_frontier=p.plan.plan_id in on_frontier,
                    arms=p.arms(steps),
                    held_out=held_out,
                )
                for p in members
            ]
    return {arm: tuple(sorted(found, key=lambda p: p.share)) for arm, found in points.items()}
