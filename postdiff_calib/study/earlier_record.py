"""A study's record of an earlier version → the same record as it is written today; plain data in, plain data out.

Before version 5, seconds were of an image, and so was a budget in seconds; the hardware of the seconds stood with that
of the scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from postdiff_calib.cost.budget import of_image


def current(data: Any) -> Any:
    """A record of version 4 as one of version 5; anything else passes through."""
    if not isinstance(data, Mapping) or data.get("record_version") != 4:
        return data
    found = {**data, "record_version": 5}
    asked, environment, searched = (data.get(name) for name in ("asked", "environment", "searched"))
    if isinstance(asked, Mapping) and isinstance(asked.get("budget"), str):
        found["asked"] = {**asked, "budget": of_image(asked["budget"])}
    if isinstance(environment, Mapping):
        moved = ("latency_device", "latency_disagreement")
        found["environment"] = {name: value for name, value in environment.items() if name not in moved}
    if isinstance(searched, list):
        found["searched"] = [_searched(budget) for budget in searched]
    return found


def _searched(budget: Any) -> Any:
    limit = budget.get("limit") if isinstance(budget, Mapping) else None
    if not isinstance(limit, list) or len(limit) != 5 or not isinstance(limit[4], str):
        return budget
    return {**budget, "limit": [*limit[:4], of_image(limit[4]), "image"]}
