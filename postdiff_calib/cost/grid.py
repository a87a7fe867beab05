"""What is reachable: the range of costs at each number of steps, and how much of it a budget allows.

Works on any collection of priced knobs; the search space supplies them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from postdiff_calib.cost.budget import Limit, PlanCost, format_macs, format_seconds
from postdiff_calib.knobs import Knobs


@dataclass(frozen=True)
class GridRow:
    """The plans of one number of steps.

    Attributes:
        num_inference_steps: T.
        plans: how many distinct plans have it.
        cheapest, most_expensive: lowest and highest cost, in seconds or MACs.
        cheapest_knobs: the plan that costs least.
        within: how many the budget allows; None without one.
    """

    num_inference_steps: int
    plans: int
    cheapest: float
    most_expensive: float
    cheapest_knobs: Knobs
    within: int | None


def reachable(priced: Iterable[tuple[Knobs, PlanCost]], limit: Limit | None = None) -> list[GridRow]:
    """One row per T, in ascending order.

    Args:
        priced: plans and their costs.
        limit: a resolved budget; its kind decides whether costs are seconds or MACs (MACs without one).

    Raises:
        BudgetError: the limit is about seconds, and none were measured.
    """
    by_steps: dict[int, list[tuple[float, Knobs, bool]]] = defaultdict(list)
    for knobs, cost in priced:
        figure = cost.macs if limit is None else limit.measure(cost)
        by_steps[knobs.num_inference_steps].append((figure, knobs, limit is None or limit.allows(cost)))
    rows = []
    for steps, plans in sorted(by_steps.items()):
        figure, knobs, _ = min(plans, key=lambda plan: plan[0])
        within = None if limit is None else sum(plan[2] for plan in plans)
        rows.append(GridRow(steps, len(plans), figure, max(plan[0] for plan in plans), knobs, within))
    return rows


def binding_knob(rows: Sequence[GridRow]) -> tuple[Knobs, str]:
    """The cheapest plan of all and the knob whose range keeps it from being cheaper, as text."""
    cheapest = min(rows, key=lambda row: row.cheapest)
    lowest = min(row.num_inference_steps for row in rows)
    return cheapest.cheapest_knobs, f"T cannot go below {lowest} in this model's search space"


def show(figure: float, limit: Limit | None) -> str:
    """A cost as text, in the limit's kind."""
    return format_seconds(figure) if limit is not None and limit.kind == "seconds" else format_macs(figure)
