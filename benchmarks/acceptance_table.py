"""The record of ``gpu_acceptance.py`` as short tables in Markdown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
Column = Callable[[Row], Any]


def _same(name: str) -> Column:
    """Whether a comparison was equal bit for bit, else by how much it was not."""

    def cell(row: Row) -> str:
        found = row[name] if name else row
        return "bitwise" if found["bitwise"] else f"≤ {found['max_difference']:.2g} of {found['largest_value']:.2g}"

    return cell


def _number(name: str, digits: int = 3) -> Column:
    return lambda row: f"{row[name]:.{digits}f}"


def _percent(name: str) -> Column:
    return lambda row: f"{100 * row[name]:.1f} %"


def _counts(name: str) -> Column:
    return lambda row: ", ".join(f"{what} {times}" for what, times in row[name].items())


def _gib(plan: str, name: str) -> Column:
    return lambda row: f"{row[plan][name] / 2**30:.2f} GiB"


def _field(name: str) -> Column:
    return lambda row: row[name]


def _middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _median(name: str) -> Column:
    return lambda row: f"{1000 * _middle(row[name]):.1f} ms"


_SPEED: dict[str, Column] = {
    "model": _field("model"),
    "batch": _field("batch"),
    "plan": _field("plan"),
    "loop": _median("loop_seconds"),
    "speed-up": _number("speed_up"),
    "by MACs": _number("speed_up_by_macs"),
    "efficiency": _number("efficiency"),
}
_PREDICTION: dict[str, Column] = {
    "model": _field("model"),
    "table measured": _field("table"),
    "plans": lambda row: len(row["plans"]),
    "kinds measured": _field("kinds_measured"),
    "table": lambda row: f"{row['table_seconds']:.0f} s",
    "median error": _percent("median_error"),
    "95th percentile": _percent("p95_error"),
    "rank correlation": _number("rank_correlation", 4),
    "measured over predicted": _number("drift"),
    "marks over plain": lambda row: f"{_middle(row['seconds']['marks']) / _middle(row['seconds']['plain']):.3f}",
    "memory over plain": lambda row: f"{_middle(row['seconds']['memory']) / _middle(row['seconds']['plain']):.3f}",
}
COLUMNS: dict[str, dict[str, Column]] = {
    "identity": {
        "model": _field("model"),
        "type": _field("dtype"),
        "stock repeats": _field("stock_repeats"),
        "neutral knobs": _same("neutral"),
        "after disable": _same("disabled"),
        "accelerated is finite": _field("accelerated_finite"),
    },
    "equality": {
        "model": _field("model"),
        "type": _field("dtype"),
        "against": _field("against"),
        "equal": _same(""),
        "differs from stock": _field("differs_from_stock"),
        "speed against theirs": _number("speed_against_theirs"),
    },
    "efficiency": _SPEED,
    "compiled": _SPEED
    | {
        "first call": lambda row: f"{row['first_call_seconds']:.0f} s",
        "graphs": _field("graphs"),
        "breaks": lambda row: sum(row["graph_breaks"].values()),
        "compiled while timed": _field("graphs_compiled_while_timed"),
    },
    "prediction": _PREDICTION,
    "prediction-sdxl": _PREDICTION,
    "host-reads": {
        "model": _field("model"),
        "plan": _field("plan"),
        "stock": _counts("stock"),
        "added": _counts("added"),
    },
    "memory": {
        "model": _field("model"),
        "batch": _field("batch"),
        "held": _gib("stock", "held_before"),
        "stock allocated": _gib("stock", "peak_allocated"),
        "all allocated": _gib("all", "peak_allocated"),
        "stock reserved": _gib("stock", "peak_reserved"),
        "all reserved": _gib("all", "peak_reserved"),
    },
    "second-device": {"device": _field("device"), "parts over total": _number("parts_over_total")},
    "further": {
        "model": _field("model"),
        "plan": _field("plan"),
        "neutral knobs": _same("neutral"),
        "speed-up": _number("speed_up"),
        "by MACs": _number("speed_up_by_macs"),
        "efficiency": _number("efficiency"),
    },
}


def markdown(record: dict[str, Any]) -> str:
    """Machine, then a table for each section with its state."""
    where = record["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items() if number)
    lines = [f"# Acceptance on {where['device_name']}", "", f"Python {where['python']}, {versions}.", ""]
    if record["miniature"]:
        lines += ["Miniature networks: times and memory mean nothing.", ""]
    for name, entry in record["sections"].items():
        took = f", {entry['seconds']:.0f} s" if "seconds" in entry else ""
        lines += [f"## {name}: {entry['state']}{took}", ""]
        columns = COLUMNS[name] | ({"state": _field("state")} if any("state" in row for row in entry["rows"]) else {})
        if entry["rows"]:
            lines += [f"| {' | '.join(columns)} |", f"| {' | '.join('---' for _ in columns)} |"]
            lines += [f"| {' | '.join(_cell(column, row) for column in columns.values())} |" for row in entry["rows"]]
            lines.append("")
    return "\n".join(lines)


def _cell(column: Column, row: Row) -> str:
    try:
        return str(column(row)).replace("|", "/").replace("\n", " ")
    except (KeyError, TypeError):  # a row without this value
        return "–"
