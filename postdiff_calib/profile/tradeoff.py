"""The section of the paper's question: step reduction, cheaper steps or both, at every budget."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from postdiff_calib.profile.sections import Comparison, Section


class ArmResult(Section):
    """The best plan found of one arm under a budget; ``difference`` repeats the first of ``metrics``."""

    knobs: str
    plan_id: str
    relative_macs: float
    difference: Comparison
    confirmed: bool
    metrics: dict[str, Comparison] = Field(default_factory=dict)


class TradeoffRow(Section):
    """The paper's question at one budget: step reduction, cheaper steps, or combined?

    ``searched``: both arms were searched at this budget and their finalists judged on held-out prompts; else nothing is
    decided. ``cheaper_steps_minus_step_reduction`` is the best of one arm minus the best of the other, in ``unit``:
    points of the one metric, or spreads of the baseline over all ``metrics``, whose own differences are of the two
    named plans.
    """

    share: Annotated[float, Field(gt=0)]
    step_reduction: ArmResult | None
    cheaper_steps: ArmResult | None
    combined: ArmResult | None
    cheaper_steps_minus_step_reduction: Comparison | None
    searched: bool = False
    unit: Literal["points", "spreads"] = "points"
    metrics: dict[str, Comparison] = Field(default_factory=dict)
    winner: Literal["step_reduction", "cheaper_steps", "tie", "undecided"]
    answer: str


class TradeoffSection(Section):
    """The three arms compared at several budgets, and where the better one changes."""

    rows: list[TradeoffRow]
    crossover: str | None
