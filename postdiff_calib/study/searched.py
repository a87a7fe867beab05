"""The budgets that a study searches: its own and the trade-off's others, and what each search came to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from postdiff_calib.cost.budget import Limit
from postdiff_calib.scores.select import Arm
from postdiff_calib.search.unfound import Unfound

#: Shares of the baseline's cost at which both arms are searched beside the asked-for budget.
FURTHER_SHARES = (0.25, 0.4, 0.8)
_SAME_SHARE = 1e-6


@dataclass(frozen=True)
class SearchedBudget:
    """A budget at which both arms were searched.

    Args:
        limit: the budget.
        finalists: ids of the plans that were to be judged on held-out prompts, but for broken ones.
        unfound: see ``search.unfound``; None where the arms were not searched one by one.
        fits: whether any plan of each arm fits the budget.
    """

    limit: Limit
    finalists: tuple[str, ...]
    unfound: Unfound | None
    fits: Mapping[Arm, bool]


def further_limits(limit: Limit) -> tuple[Limit, ...]:
    """The trade-off's other budgets, in the terms of ``limit``."""
    own = limit.value / limit.baseline
    before = "p95:" if limit.quantile == "p95" else ""
    after = "" if limit.kind == "macs" else " time" if limit.per == "call" else " time per image"
    return tuple(
        Limit(
            limit.kind, limit.quantile, share * limit.baseline, limit.baseline, f"{before}{share:.0%}{after}", limit.per
        )
        for share in FURTHER_SHARES
        if abs(share - own) > _SAME_SHARE
    )


def searched_data(budget: SearchedBudget) -> dict[str, Any]:
    """A searched budget as plain data; the inverse of ``searched_budget``."""
    limit, unfound = budget.limit, budget.unfound
    return {
        "limit": [limit.kind, limit.quantile, limit.value, limit.baseline, limit.text, limit.per],
        "finalists": list(budget.finalists),
        "unfound": None
        if unfound is None
        else [None if math.isinf(v) else v for v in (unfound.cheaper_steps, unfound.step_reduction)],
        "fits": dict(budget.fits),
    }


def searched_budget(data: Mapping[str, Any]) -> SearchedBudget:
    """A searched budget from ``searched_data``'s data."""
    unfound = data["unfound"]
    if unfound is not None:
        cheaper_steps, step_reduction = unfound
        unfound = Unfound(
            -math.inf if cheaper_steps is None else cheaper_steps,
            math.inf if step_reduction is None else step_reduction,
        )
    return SearchedBudget(Limit(*data["limit"]), tuple(data["finalists"]), unfound, data["fits"])
