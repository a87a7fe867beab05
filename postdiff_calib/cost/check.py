"""Is this a cost table? Types and ranges of everything in one that was read from a file, before anything is priced."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from postdiff_calib.cost.meter import StepKey
from postdiff_calib.cost.table import CostTable, Latency, Timing
from postdiff_calib.errors import ModelError

#: Most seconds per image that a measurement may state; a day.
_LONGEST = 86_400.0


def read_data(data: Mapping[str, Any]) -> CostTable:
    """A table from what a file holds.

    Raises:
        ModelError: it is not a table of this version, or a value in it has the wrong type or cannot be true.
    """
    try:
        table = CostTable.from_dict(data)
        check_table(table)
        return table
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ModelError(
            "cost table", f"it is damaged ({type(error).__name__}: {error})", "measure again with --out FILE"
        ) from error


def check_table(table: CostTable) -> None:
    """Refuse a table in which a value has the wrong type or cannot be true.

    Raises:
        ValueError: says which value, what it is and what it must be.
    """
    _require("model", table.model, isinstance(table.model, str), "text")
    sides = {"height": table.height, "width": table.width, "latent_multiple": table.latent_multiple}
    sides |= {"latent height": table.latent[0], "latent width": table.latent[1]}
    for name, value in (*sides.items(), ("text_length", table.meter.text_length)):
        _require(name, value, _whole(value, 1, 1 << 20), "a whole number above 0")
    _require("guides", table.guides, isinstance(table.guides, bool), "true or false")
    for name in ("macs_text_encoder", "macs_vae_decoder"):
        value = getattr(table, name)
        _require(name, value, _whole(value, 0), "a whole number from 0 on")
    kind = table.meter.config.get("_class_name")
    _require("network class", kind, isinstance(kind, str), "a class's name")
    for config in table.meter.control:
        kind = config.get("_class_name")
        _require("control network class", kind, kind == "ControlNetModel", "ControlNetModel")
    kinds = get_type_hints(StepKey)
    for key, macs in table.macs.items():
        for name, found in zip(key._fields, key, strict=True):
            _require(f"step's {name}", found, _of_kind(found, kinds[name]), "of its type")
        _require("step's size", (key.height, key.width), min(key.height, key.width) > 0, "above 0")
        counts = [getattr(macs, f.name) for f in fields(macs)]
        _require("step's MACs", counts, all(_whole(count, 0) for count in counts) and sum(counts) > 0, "counts above 0")
    if table.latency is not None:
        _check_latency(table.latency)


def _of_kind(value: object, kind: object) -> bool:
    """Whether a field of a step is a flag, a whole number, or the pairs (state, value) of further techniques."""
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return _whole(value, -1)
    return isinstance(value, tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value)


def _check_latency(now: Latency) -> None:
    _require("measured steps", len(now.steps), bool(now.steps), "at least 1")
    for name, timing in _timings(now):
        least = 0.0 if name in ("before", "after", "text", "step_overhead") else math.ulp(0.0)
        _require(f"{name} seconds", timing.median, _number(timing.median, least, _LONGEST), "seconds")
        for value in (timing.low, timing.high):
            _require(f"{name} seconds", value, _number(value, -_LONGEST, _LONGEST), "seconds")
        _require(f"{name} count", timing.count, _whole(timing.count, 0), "a whole number from 0 on")
    for name in ("switch", "first", "first_low"):
        value = getattr(now, name)
        _require(name, value, _number(value, -_LONGEST, _LONGEST), "seconds")
    for name in ("scale", "p95_ratio"):
        value = getattr(now, name)
        _require(name, value, _number(value, 1e-3, 1e3), "a factor between 0.001 and 1000")
    _require("disagreement", now.disagreement, _number(now.disagreement, 0.0, 1e6), "a share from 0 on")
    _require("reuse_slope", now.reuse_slope, _number(now.reuse_slope, -1e3, 1e3), "a number between −1000 and 1000")
    _require("batch_size", now.batch_size, _whole(now.batch_size, 1, 1 << 20), "a whole number above 0")
    _require("environment", now.environment, isinstance(now.environment, dict), "a mapping")
    for value in now.memory.values():
        _require("peak memory", value, _number(value, 0.0, 1e18), "bytes")


def _timings(now: Latency) -> Iterator[tuple[str, Timing]]:
    yield from ((name, getattr(now, name)) for name in ("before", "after", "text", "step_overhead"))
    yield from (("step's", timing) for timing in now.steps.values())


def _whole(value: Any, low: int, high: int = 1 << 63) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _require(name: str, value: Any, holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value!r:.60}, not {rule}")
