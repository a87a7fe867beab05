"""What the report says: a study's conclusion, its scored plans and their step plans as plain values and sentences.

Every figure is the profile's own (``Study.conclude``) or is computed from the same scores; nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from postdiff_calib.cost.budget import Budget, Limit
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.profile import Profile, TradeoffRow
from postdiff_calib.quality.metric import Metric
from postdiff_calib.report.plot_data import Point
from postdiff_calib.report.wording import Interval, end, interval, own_row, results, seconds, shown, signed
from postdiff_calib.scores import select
from postdiff_calib.scores.paired import Comparison
from postdiff_calib.scores.select import ARM_NAMES, ARMS, Arm, PlanScores
from postdiff_calib.study.evidence import Scored
from postdiff_calib.study.record import Study
from postdiff_calib.techniques import states


@dataclass(frozen=True)
class PlanRow:
    """One scored plan: a dot of the plot and a row of the table.

    Attributes:
        scores: on the calibration prompts; on the held-out prompts where the search scored none.
        arm: the narrowest arm that it belongs to.
        relative: its cost over the baseline's, by the budget's own measure; ``relative_macs`` by MACs.
        difference: its score minus the baseline's on the calibration prompts, ``prompts`` of them.
        held_out: difference in each metric on the held-out prompts; empty where it was not judged on them.
        thin: scored on too few prompts to be chosen.
    """

    scores: PlanScores
    arm: Arm
    relative: float
    relative_macs: float
    difference: Comparison | None
    prompts: int
    held_out: Mapping[str, Comparison]
    thin: bool

    @property
    def shown(self) -> Comparison | None:
        """The difference of the score that counts: on held-out prompts where there are any."""
        return next(iter(self.held_out.values()), self.difference)

    @property
    def knobs(self) -> Knobs:
        """Its knobs."""
        return self.scores.knobs


@dataclass(frozen=True)
class StepCell:
    """One step of a strip: what runs, its low-resolution side (1 is full) and its cost over a full step's."""

    index: int
    low_res: bool
    side: float
    guided: bool
    refresh: bool
    live: bool
    cost: float
    tip: str


@dataclass(frozen=True)
class Strip:
    """A step plan to draw; ``relative`` is its share of the baseline's MACs."""

    title: str
    knobs: str
    relative: float
    words: str
    cells: tuple[StepCell, ...]


class Findings:
    """A study and a budget, with everything the page states about them.

    Args:
        study: the study's folder, read.
        budget: the budget to conclude for.

    Raises:
        BudgetError: no scored plan is within the budget, or it needs seconds and none were measured.
    """

    def __init__(self, study: Study, budget: Budget) -> None:
        self.study, self.budget = study, budget
        self.evidence = study.evidence()
        self.profile: Profile = study.conclude(budget, evidence=self.evidence)
        self.limit: Limit = study.record.resolve(budget)
        self.calibration, self.held_out = study.scored()

    @property
    def confirmed(self) -> bool:
        """Whether the winner was judged on held-out prompts."""
        return self.profile.expected.confirmed

    @property
    def judged(self) -> Scored:
        """The scores that the winner was judged on."""
        return self.held_out if self.confirmed else self.calibration

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts that the winner was judged on."""
        record = self.study.record
        return record.held_out if self.confirmed else record.calibration

    @property
    def first_seed(self) -> int:
        """Seed of the first of ``prompts``."""
        record = self.study.record
        return record.held_out_seed if self.confirmed else record.seed

    @cached_property
    def winner(self) -> PlanScores:
        """The profile's plan with the scores it was judged on."""
        return self._judged_plan(self.profile.plan.plan_id)

    @property
    def stock(self) -> bool:
        """Whether the winner is the baseline itself."""
        return self.winner.plan.plan_id == self.judged.baseline.plan.plan_id

    @cached_property
    def step_reduction(self) -> PlanScores | None:
        """The best step-reduction plan within the budget; None where there is none or it is the winner itself."""
        row = self.own_row
        if row is None or row.step_reduction is None or row.step_reduction.plan_id == self.profile.plan.plan_id:
            return None
        return self._judged_plan(row.step_reduction.plan_id)

    @property
    def own_row(self) -> TradeoffRow | None:
        """The trade-off at the budget itself."""
        return own_row(self.profile)

    def _judged_plan(self, plan_id: str) -> PlanScores:
        return next(plan for plan in self.judged.plans if plan.plan.plan_id == plan_id)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the quality metrics, the score first."""
        return self.study.record.objective.metrics

    @property
    def score(self) -> str:
        """Name of the score, the first of the quality metrics."""
        return self.metrics[0]

    @property
    def score_shown(self) -> Metric:
        """The score."""
        return shown(self.score)

    def differences(self, metric: str | None = None) -> npt.NDArray[np.float64]:
        """The winner's metric, the score by default, minus the baseline's, by prompt; NaN where unknown."""
        metric = metric or self.score
        return self.winner.metric(metric) - self.judged.baseline.metric(metric)

    @cached_property
    def rows(self) -> list[PlanRow]:
        """Every scored plan but the baseline, best first; those judged on held-out prompts before the others."""
        steps, stock = self.study.record.num_inference_steps, self.calibration.baseline.plan.plan_id
        searched = {p.plan.plan_id: p for p in self.calibration.plans if p.n}
        judged = {p.plan.plan_id: p for p in self.held_out.plans if p.n}
        rows = []
        for plan_id in dict.fromkeys((*searched, *judged)):
            if plan_id == stock:
                continue
            plan, held_out = searched.get(plan_id), judged.get(plan_id)
            either = plan or judged[plan_id]
            rows.append(
                PlanRow(
                    scores=either,
                    arm=either.arms(steps)[0],
                    relative=self.limit.measure(either.cost) / self.limit.baseline,
                    relative_macs=either.cost.macs / self.calibration.baseline.cost.macs,
                    difference=self._compared(plan, self.calibration.baseline).get(self.score),
                    prompts=0 if plan is None else plan.n,
                    held_out=self._judged(held_out),
                    thin=held_out is None and either.n < self.calibration.least,
                )
            )
        return sorted(rows, key=lambda row: (not row.held_out, -row.shown.mean if row.shown else np.inf))

    def _judged(self, plan: PlanScores | None) -> dict[str, Comparison]:
        """A plan's difference in each metric on the held-out prompts; the winner's intervals are the profile's."""
        found = self._compared(plan, self.held_out.baseline)
        if plan is not None and self.confirmed and plan.plan.plan_id == self.profile.plan.plan_id:
            stated = {r.metric: r.difference for r in results(self.profile)}
            found = {m: replace(c, low=stated[m].low, high=stated[m].high) for m, c in found.items()}
        return found

    def _compared(self, plan: PlanScores | None, baseline: PlanScores) -> dict[str, Comparison]:
        """A plan's difference in each metric that two prompts at least have."""
        if plan is None:
            return {}
        return select.compare_metrics(plan, baseline, [m for m in self.metrics if plan.common(baseline, m) >= 2])

    def point(self, row: PlanRow) -> Point | None:
        """A plan's dot; None where no two prompts can be compared."""
        d = row.shown
        if d is None:
            return None
        knobs, cost = row.knobs.describe(), self.cost_words(row.scores)
        lines = [f"{knobs}\n{ARM_NAMES[row.arm]} · {cost}"]
        lines += [f"{shown(m).label} {interval(c, m)} over {c.n} held-out prompts" for m, c in row.held_out.items()]
        if row.difference is not None:
            c = row.difference
            lines.append(f"{self.score_shown.label} {interval(c, self.score)} over {c.n} calibration prompts")
        return Point(row.relative, d.mean, d.low, d.high, row.arm, "\n".join(lines), row.thin, bool(row.held_out))

    def winner_point(self) -> Point:
        """The winner with the profile's own figures."""
        d, knobs = self.profile.expected.difference, self.profile.knobs.describe()
        where = "held-out" if self.confirmed else "calibration"
        lines = [f"winner: {knobs}", self.cost_words(self.winner)]
        lines += [
            f"{shown(r.metric).label} {interval(r.difference, r.metric)} over {d.num_prompts} {where} prompts"
            for r in results(self.profile)
        ]
        relative = self.limit.measure(self.winner.cost) / self.limit.baseline
        arm = self.winner.arms(self.study.record.num_inference_steps)[0]
        return Point(relative, d.mean, d.low, d.high, arm, "\n".join(lines), held_out=self.confirmed)

    def frontiers(self) -> dict[Arm, list[PlanRow]]:
        """Frontier of each arm (combined: of all plans), cheapest first; of the judged plans where there are any."""
        by_plan_id = {row.scores.plan.plan_id: row for row in self.rows}
        field = self.held_out if any(row.held_out for row in self.rows) else self.calibration
        steps, objective = self.study.record.num_inference_steps, self.study.record.objective
        found: dict[Arm, list[PlanRow]] = {}
        for arm in ARMS:
            members = [p for p in field.plans if p.plan.plan_id in by_plan_id and arm in p.arms(steps)]
            line = select.frontier(members, field.baseline, objective, self.limit.measure, field.least)
            found[arm] = [by_plan_id[plan.plan.plan_id] for plan in line]
        return found

    def cost_words(self, plan: PlanScores) -> str:
        """A plan's cost, e.g. ``51% of the MACs, 41 ms per call``."""
        words = f"{plan.cost.macs / self.judged.baseline.cost.macs:.0%} of the MACs"
        return words if plan.cost.call is None else f"{words}, {seconds(plan.cost.call)} per call"

    @property
    def verdict(self) -> str:
        """The verdict in one sentence."""
        e = self.profile.expected
        if self.stock:
            return "Run the model as it is: no accelerated plan within this budget was found to be better."
        relative = self.profile.times.relative
        share = relative if self.limit.kind == "seconds" and relative else e.relative_macs
        where = f"At {share:.0%} of the {'time' if self.limit.kind == 'seconds' else 'compute'}"
        found = results(self.profile)
        if e.verdict in ("better", "worse"):
            telling = [r for r in found if r.verdict == e.verdict]
            means = " and ".join([_with_unit(r.metric, signed(r.difference.mean, r.metric)) for r in telling])
            who = "this plan" if e.verdict == "better" else "the best plan found"
            return f"{where}, {who} is {e.verdict} than the baseline: {means}."
        if e.verdict == "equivalent":
            ends = " and ".join([_with_unit(r.metric, f"to within {shown(r.metric).show(r.delta)}") for r in found])
            return f"{where}, quality is the baseline's: {ends}."
        ends = " and ".join([_with_unit(r.metric, _range(r.difference, r.metric)) for r in found])
        return f"{where}, it is not decided whether quality changes: {ends}."

    def strips(self) -> list[Strip]:
        """The step plans of the winner, the baseline and the best step-reduction plan."""
        found = [self._strip("Winner", self.profile.knobs)]
        if self.step_reduction is not None:
            found.append(self._strip("Step reduction within the same budget", self.step_reduction.knobs))
        if not self.stock:
            found.append(self._strip("Baseline", self.study.record.baseline))
        return found

    def _strip(self, title: str, knobs: Knobs) -> Strip:
        table = self.study.record.cost
        baseline = compile_plan(self.study.record.baseline)
        full = table.step_macs(table.keys(baseline)[0]).full
        plan = compile_plan(knobs)
        cells = []
        for step, key in zip(plan, table.keys(plan), strict=True):
            cost = table.step_macs(key).full / full
            of_interest = [state for state in states() if table.guides or not state.of_guidance]
            lines = [f"step {step.index + 1} of {len(plan)}: {cost:.0%} of a full step"]
            tip = "\n".join([*lines, *(state.tip(step) for state in of_interest)])
            side = knobs.low_res_scale if step.low_res else 1.0
            cells.append(
                StepCell(
                    step.index, step.low_res, side, step.guided, step.refresh, step.cross_attention_live, cost, tip
                )
            )
        relative = table.price(plan).macs / table.price(baseline).macs
        return Strip(title, knobs.describe(), relative, plan.words(table.guides), tuple(cells))


def _range(c: Interval, metric: str) -> str:
    return f"{end(c.low, metric)} to {end(c.high, metric)}"


def _with_unit(metric: str, amount: str) -> str:
    """A metric with an amount of its difference, e.g. ``CLIP score +0.62 points``."""
    return f"{shown(metric).label} {amount} {shown(metric).difference_unit}".rstrip()
