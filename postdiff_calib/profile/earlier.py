"""A profile of an earlier version → the same profile in today's words; plain data in, plain data out.

Version 4 put all that varies between two runs of one command into the section of times, where seconds are of a call;
before, they were of an image, and so was a budget in seconds. Version 3 renamed the arms, the plan id, the search and
the minimum detectable difference. Version 2 added single metrics, and whether a row of the trade-off was searched. What
is no profile at all passes through, so that reading it says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from postdiff_calib.cost.budget import of_image
from postdiff_calib.quality.metrics import SCORE

#: The version that is written; earlier ones are translated.
SCHEMA_VERSION = 4

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
_ARMS = ("step_reduction", "cheaper_steps", "combined")
#: Versions 1 to 3 → version 4: where stood what is in the section of times now.
_TIMES = {
    ("times", "device"): ("environment", "latency_device"),
    ("times", "disagreement"): ("environment", "latency_disagreement"),
    ("times", "relative"): ("expected", "relative_seconds"),
    ("times", "plan", "call"): ("expected", "cost", "seconds"),
    ("times", "plan", "call_p95"): ("expected", "cost", "seconds_p95"),
    ("times", "baseline", "call"): ("expected", "baseline_cost", "seconds"),
    ("times", "baseline", "call_p95"): ("expected", "baseline_cost", "seconds_p95"),
}


def current(data: Mapping[str, Any]) -> dict[str, Any]:
    """A profile's data as version 4 states it; that of a newer version, or of none, as it is."""
    version = data.get("schema_version")
    found = dict(data)
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version < SCHEMA_VERSION:
        return found
    if version < 3:
        for section, change in (
            ("plan", lambda plan: _renamed(plan, _PLAN)),
            ("expected", _expected if version < 2 else dict),
            ("tradeoff", lambda tradeoff: _with_rows(tradeoff, version)),
            ("evidence", lambda evidence: _renamed(evidence, _EVIDENCE)),
        ):
            found = _changed(found, section, change)
    return {**_with_times(found), "schema_version": SCHEMA_VERSION}


def written_at(location: tuple[Any, ...], version: Any) -> tuple[Any, ...]:
    """The place of today's key in a file of that version, so that a message names what stands in the file."""
    known = isinstance(version, int) and not isinstance(version, bool)
    if known and version < 4:
        if location[:2] == ("times", "rows"):
            location = ("tradeoff", *location[1:], "seconds")
        location = next((old for new, old in _TIMES.items() if location[: len(new)] == new), location)
    return tuple(_EARLIER.get(part, part) if known and version < 3 else part for part in location)


def _with_times(data: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds per image, wherever they stood, as seconds per call in the section of times."""
    found = _deep(data)
    budget, moved = found.get("budget"), {new: _taken(found, old) for new, old in _TIMES.items()}
    size = budget.get("batch_size") if isinstance(budget, dict) else None
    batch = size if isinstance(size, int) and size > 0 else 1
    times = {name: moved["times", name] for name in ("device", "disagreement", "relative")}
    for plan in ("plan", "baseline"):
        median, high = moved["times", plan, "call"], moved["times", plan, "call_p95"]
        times[plan] = None if median is None and high is None else _calls(median, high, batch)
    tradeoff = found.get("tradeoff")
    rows = tradeoff.get("rows") if isinstance(tradeoff, dict) else None
    told = [_row_times(row, batch) for row in rows] if isinstance(rows, list) else []
    if times["plan"] is not None:
        times["rows"] = told
    if isinstance(budget, dict) and budget.get("kind") == "seconds" and isinstance(budget.get("text"), str):
        budget["text"] = of_image(budget["text"])
    return {**found, "times": times}


def _calls(median: Any, high: Any, batch: int) -> dict[str, Any]:
    return {"call": _times(median, batch), "call_p95": _times(high, batch), "per_image": median, "per_image_p95": high}


def _row_times(row: Any, batch: int) -> Any:
    if not isinstance(row, dict):
        return row
    seconds = {arm: _times(_taken(row, (arm, "seconds")), batch) for arm in _ARMS}
    return {"share": row.get("share"), **seconds}


def _times(value: Any, batch: int) -> Any:
    """What is no number is left alone, so that reading refuses it."""
    return value * batch if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _taken(data: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """What stood at a place, which is removed from there; None where nothing did."""
    part: Any = data
    for name in path[:-1]:
        part = part.get(name) if isinstance(part, dict) else None
    return part.pop(path[-1], None) if isinstance(part, dict) else None


def _deep(data: Any) -> Any:
    """A copy whose mappings and lists may be changed."""
    if isinstance(data, Mapping):
        return {key: _deep(value) for key, value in data.items()}
    return [_deep(value) for value in data] if isinstance(data, list) else data


def _with_rows(tradeoff: Mapping[str, Any], version: int) -> dict[str, Any]:
    rows = tradeoff.get("rows")
    if not isinstance(rows, list):
        return dict(tradeoff)
    return {**tradeoff, "rows": [_row(row, version) if isinstance(row, Mapping) else row for row in rows]}


def _row(row: Mapping[str, Any], version: int) -> dict[str, Any]:
    found = _renamed(row, _ROW)
    for arm in _ARMS:
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
