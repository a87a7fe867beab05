"""A profile of an earlier version → the same profile in today's words; plain data in, plain data out.

Version 3 renamed the arms, the plan id, the search and the minimum detectable difference. Version 2 added single
metrics, and whether a row of the trade-off was searched. What is no profile at all passes through, so that reading it
says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from postdiff_calib.quality.metrics import SCORE

#: The version that is written; earlier ones are translated.
SCHEMA_VERSION = 3

#: Version 1 and 2 → version 3: the keys of one row of the trade-off, of an arm's plan or the plan, of the evidence.
_ROW = {
    "fewer": "step_reduction",
    "cheaper": "cheaper_steps",
    "joint": "combined",
    "cheaper_minus_fewer": "cheaper_steps_minus_step_reduction",
}
_PLAN = {"content": "plan_id"}
_EVIDENCE = {"sampler": "search", "smallest_difference": "minimum_detectable_difference"}
_EARLIER = {new: old for names in (_ROW, _PLAN, _EVIDENCE) for old, new in names.items()}


def current(data: Mapping[str, Any]) -> dict[str, Any]:
    """A profile's data as version 3 states it; that of a newer version, or of none, as it is."""
    version = data.get("schema_version")
    found = dict(data)
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version < SCHEMA_VERSION:
        return found
    for section, change in (
        ("plan", lambda plan: _renamed(plan, _PLAN)),
        ("expected", _expected if version < 2 else dict),
        ("tradeoff", lambda tradeoff: _with_rows(tradeoff, version)),
        ("evidence", lambda evidence: _renamed(evidence, _EVIDENCE)),
    ):
        found = _changed(found, section, change)
    return {**found, "schema_version": SCHEMA_VERSION}


def written_key(key: Any, version: Any) -> Any:
    """A key of today as a file of that version has it, so that a message names what stands in the file."""
    return key if version == SCHEMA_VERSION else _EARLIER.get(key, key)


def _with_rows(tradeoff: Mapping[str, Any], version: int) -> dict[str, Any]:
    rows = tradeoff.get("rows")
    if not isinstance(rows, list):
        return dict(tradeoff)
    return {**tradeoff, "rows": [_row(row, version) if isinstance(row, Mapping) else row for row in rows]}


def _row(row: Mapping[str, Any], version: int) -> dict[str, Any]:
    found = _renamed(row, _ROW)
    for arm in ("step_reduction", "cheaper_steps", "combined"):
        found = _changed(found, arm, lambda plan: _renamed(plan, _PLAN))
    winner = found.get("winner")
    if winner in ("fewer", "cheaper"):
        found["winner"] = _ROW[winner]
    if version < 2:  # a row that names a winner was searched
        found.setdefault("searched", winner != "undecided")
    return found


def _expected(expected: Mapping[str, Any]) -> dict[str, Any]:
    """Version 1 states its score alone, and no spread."""
    needed = ("score", "baseline_score", "difference", "delta", "verdict")
    if expected.get("metrics") or any(name not in expected for name in needed):
        return dict(expected)
    metric = {name: expected[name] for name in needed}
    return {**expected, "metrics": [{"metric": SCORE, "spread": expected["delta"], "weight": 1.0, **metric}]}


def _changed(data: dict[str, Any], key: str, change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    part = data.get(key)
    return {**data, key: change(part)} if isinstance(part, Mapping) else data


def _renamed(part: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """In the same order; a key that both an old and a new name would claim stays, and reading refuses it."""
    return {names.get(key, key) if names.get(key) not in part else key: value for key, value in part.items()}
