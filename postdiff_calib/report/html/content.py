"""What the report says: a study's conclusion, its scored plans and their step plans as plain values and sentences.

Every figure is the profile's own (``Study.conclude``) or is computed from the same scores; nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from postdiff_calib.budget import Budget, Limit
from postdiff_calib.conclude import MIN_PROMPTS, Scored
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.profile import Profile, TradeoffRow
from postdiff_calib.record import Study
from postdiff_calib.report.html.plots import Point
from postdiff_calib.report.terminal import own_row, seconds, signed
from postdiff_calib.search import select
from postdiff_calib.search.select import ARMS, Arm, PlanScores

ARM_LABELS: dict[Arm, str] = {"fewer": "fewer steps", "cheaper": "cheaper steps", "joint": "both"}
WINNER_LABELS = {
    "fewer": "fewer steps",
    "cheaper": "cheaper steps",
    "tie": "neither shown to be better",
    "undecided": "not compared",
}


@dataclass(frozen=True)
class PlanRow:
    """One scored plan: a dot of the plot and a row of the table. ``relative`` is by the budget's own measure."""

    scores: PlanScores
    arm: Arm
    relative: float
    relative_macs: float
    difference: select.Comparison | None
    held_out: select.Comparison | None
    thin: bool

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
    """A step plan to draw; ``relative`` is its share of the unaccelerated MACs."""

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
        self.profile: Profile = study.conclude(budget)
        self.limit: Limit = budget.resolve(study.record.cost.price(compile_plan(study.record.baseline)))
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
        return self._judged_plan(self.profile.plan.content)

    @property
    def unaccelerated(self) -> bool:
        """Whether the winner is the unaccelerated model itself."""
        return self.winner.plan.content == self.judged.baseline.plan.content

    @cached_property
    def fewer(self) -> PlanScores | None:
        """The best fewer-steps plan within the budget; None where there is none or it is the winner itself."""
        row = self.own_row
        if row is None or row.fewer is None or row.fewer.content == self.profile.plan.content:
            return None
        return self._judged_plan(row.fewer.content)

    @property
    def own_row(self) -> TradeoffRow | None:
        """The trade-off at the budget itself."""
        row: TradeoffRow | None = own_row(self.profile)
        return row

    def _judged_plan(self, content: str) -> PlanScores:
        return next(plan for plan in self.judged.plans if plan.plan.content == content)

    def differences(self, plan: PlanScores | None = None) -> npt.NDArray[np.float64]:
        """Score minus the unaccelerated model's, prompt by prompt, of the winner or another plan; NaN where unknown."""
        return (plan or self.winner).scores - self.judged.baseline.scores

    @cached_property
    def rows(self) -> list[PlanRow]:
        """Every scored plan but the unaccelerated model, best first."""
        baseline, steps = self.calibration.baseline, self.study.record.num_inference_steps
        stock = baseline.plan.content
        least = min(MIN_PROMPTS, len(baseline.scores))
        tested = {p.plan.content: p for p in self.held_out.plans}
        rows = []
        for plan in self.calibration.plans:
            if plan.plan.content == stock:
                continue
            held_out = tested.get(plan.plan.content)
            rows.append(
                PlanRow(
                    scores=plan,
                    arm=plan.arms(steps)[0],
                    relative=self.limit.measure(plan.cost) / self.limit.baseline,
                    relative_macs=plan.cost.macs / baseline.cost.macs,
                    difference=_compare(plan, baseline),
                    held_out=_compare(held_out, self.held_out.baseline) if held_out is not None else None,
                    thin=plan.n < least,
                )
            )
        return sorted(rows, key=lambda row: -row.difference.mean if row.difference else np.inf)

    def point(self, row: PlanRow) -> Point | None:
        """A plan's dot; None where no two prompts can be compared."""
        if row.difference is None:
            return None
        d, knobs, cost = row.difference, row.knobs.describe(), self.cost_words(row.scores)
        tip = f"{knobs}\n{ARM_LABELS[row.arm]} · {cost}\n{spread(d)} over {d.n} calibration prompts"
        return Point(row.relative, d.mean, d.low, d.high, row.arm, tip, row.thin)

    def winner_point(self) -> Point:
        """The winner with the profile's own figures."""
        d = self.profile.expected.difference
        where = "held-out" if self.confirmed else "calibration"
        text = f"{signed(d.mean)} [{signed(d.low)}, {signed(d.high)}] over {d.num_prompts} {where} prompts"
        tip = f"winner: {self.profile.knobs.describe()}\n{self.cost_words(self.winner)}\n{text}"
        relative = self.limit.measure(self.winner.cost) / self.limit.baseline
        arm = self.winner.arms(self.study.record.num_inference_steps)[0]
        return Point(relative, d.mean, d.low, d.high, arm, tip)

    def frontiers(self) -> dict[Arm, list[PlanRow]]:
        """The frontier of each family (joint: of all plans), cheapest first."""
        least = min(MIN_PROMPTS, len(self.calibration.baseline.scores))
        by_content = {row.scores.plan.content: row for row in self.rows}
        steps = self.study.record.num_inference_steps
        found: dict[Arm, list[PlanRow]] = {}
        for arm in ARMS:
            members = [row.scores for row in self.rows if arm in row.scores.arms(steps)]
            line = select.frontier(members, self.calibration.baseline, self.limit.measure, least)
            found[arm] = [by_content[plan.plan.content] for plan in line]
        return found

    def cost_words(self, plan: PlanScores) -> str:
        """A plan's cost, e.g. ``51% of the MACs, 41 ms``."""
        words = f"{plan.cost.macs / self.judged.baseline.cost.macs:.0%} of the MACs"
        return words if plan.cost.seconds is None else f"{words}, {seconds(plan.cost.seconds)}"

    @property
    def verdict(self) -> str:
        """The verdict in one sentence."""
        e = self.profile.expected
        if self.unaccelerated:
            return "Run the model as it is: no accelerated plan within this budget was found to be better."
        share = e.relative_seconds if self.limit.kind == "seconds" and e.relative_seconds else e.relative_macs
        what = f"{share:.0%} of the {'time' if self.limit.kind == 'seconds' else 'compute'}"
        size, points = f"{abs(e.difference.mean):.2f}", "CLIP points"
        if e.verdict == "better":
            return f"At {what}, this plan scores {size} {points} better than the unaccelerated model."
        if e.verdict == "equivalent":
            return f"At {what}, quality is the unaccelerated model's to within {e.delta:.2f} {points}."
        if e.verdict == "worse":
            return f"At {what}, the best plan found loses {size} {points} against the unaccelerated model."
        return (
            f"At {what}, no loss of quality is shown, nor ruled out: the difference is "
            f"{signed(e.difference.low)} to {signed(e.difference.high)} {points}."
        )

    def strips(self) -> list[Strip]:
        """The step plans of the winner, the unaccelerated model and the best fewer-steps plan."""
        found = [self._strip("Winner", self.profile.knobs)]
        if self.fewer is not None:
            found.append(self._strip("Fewer steps within the same budget", self.fewer.knobs))
        if not self.unaccelerated:
            found.append(self._strip("Unaccelerated model", self.study.record.baseline))
        return found

    def _strip(self, title: str, knobs: Knobs) -> Strip:
        table = self.study.record.cost
        baseline = compile_plan(self.study.record.baseline)
        full = table.step_macs(table.keys(baseline)[0]).full
        plan = compile_plan(knobs)
        cells = []
        for step, key in zip(plan, table.keys(plan), strict=True):
            cost = table.step_macs(key).full / full
            guidance = f"{'guided' if step.guided else 'conditional half only'}\n" if table.guides else ""
            tip = (
                f"step {step.index + 1} of {len(plan)}: {cost:.0%} of a full step\n"
                f"{'low' if step.low_res else 'full'} resolution\n{guidance}"
                f"deep blocks {'run' if step.refresh else 'reused'}\n"
                f"cross-attention {'live' if step.cross_attention_live else 'cached'}"
            )
            side = knobs.low_res_scale if step.low_res else 1.0
            cells.append(
                StepCell(
                    step.index, step.low_res, side, step.guided, step.refresh, step.cross_attention_live, cost, tip
                )
            )
        relative = table.price(plan).macs / table.price(baseline).macs
        return Strip(title, knobs.describe(), relative, plan_words(knobs, table.guides), tuple(cells))


def _compare(plan: PlanScores, baseline: PlanScores) -> select.Comparison | None:
    return select.compare(plan.scores, baseline.scores) if select.common(plan, baseline) >= 2 else None


def spread(c: select.Comparison) -> str:
    """Mean and 95 % interval, e.g. ``−0.12 [−0.30, +0.06]``."""
    return f"{signed(c.mean)} [{signed(c.low)}, {signed(c.high)}]"


def plan_words(knobs: Knobs, guides: bool = True) -> str:
    """What a plan does, in one sentence.

    Args:
        knobs: the plan's knobs.
        guides: the model uses classifier-free guidance at all.
    """
    plan = compile_plan(knobs)
    total = len(plan)
    if plan.is_identity:
        return f"{total} full steps."
    parts = []
    if plan.n_low:
        first = "the first" if plan.n_low == 1 else f"the first {plan.n_low}"
        parts.append(f"{first} at {knobs.low_res_scale:g} of the side")
    if len(plan.refresh_steps) < total:
        parts.append(f"deep blocks run on {len(plan.refresh_steps)} of them and are reused on the others")
    if plan.gate_step < total and guides:
        parts.append(f"guidance on the first {plan.gate_step}")
    return f"{total} steps: {_and(parts)}." if parts else f"{total} steps."


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])}, and {parts[-1]}"
