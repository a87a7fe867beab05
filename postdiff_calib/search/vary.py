"""Settings from texts: ``--vary k=1..5``, ``--vary beta=.375,.5``, ``--fix s=.5``, for any knob of the table.

A knob is named by its symbol, its flag or its field: ``β``, ``beta``, ``low_res_scale``. Values are a list, or a range
``low..high``: of a whole number every one, of any other the values of its grid between both ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from postdiff_calib.errors import KnobError, UsageError
from postdiff_calib.knobs import Knob, Knobs, knob_named, table
from postdiff_calib.plan import compile_plan
from postdiff_calib.search.space import SearchSpace

#: A range of a whole number holds at most so many values.
_MOST = 200


def parse_fixed(texts: Sequence[str]) -> dict[str, Any]:
    """Values by field from ``NAME=VALUE``.

    Raises:
        UsageError: nonsense, or a knob that is given twice.
        KnobError: a value that the knob does not take.
    """
    found: dict[str, Any] = {}
    for text in texts:
        option = f"--fix {text}"
        row, values = _split(text, option, "s=0.5")
        if row.field in found:
            raise UsageError(option, f"{row.symbol} is given twice", "give it once")
        found[row.field] = _value(row, values, option)
    return found


def parse_varied(texts: Sequence[str], space: SearchSpace) -> dict[str, tuple[Any, ...]]:
    """Values by field, in the order given, from ``NAME=VALUES``.

    Args:
        texts: as given.
        space: the model's grids, for ranges of other than whole numbers.

    Raises:
        UsageError: nonsense, a knob that is given twice, or an empty range.
        KnobError: a value that the knob does not take.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        option = f"--vary {text}"
        row, values = _split(text, option, "k=1..5 or beta=0.375,0.5")
        if row.field in found:
            raise UsageError(option, f"{row.symbol} is given twice", "give it once")
        if ".." in values:
            found[row.field] = _range(row, values, option, space)
        else:
            found[row.field] = tuple(dict.fromkeys(_value(row, part, option) for part in values.split(",")))
    return found


def _split(text: str, option: str, example: str) -> tuple[Knob, str]:
    name, equals, values = text.partition("=")
    if not equals or not values.strip():
        raise UsageError(option, "it is a knob's name, = and what to set it to", f"write such as {example}")
    row = knob_named(name)
    if row is None:
        known = ", ".join(row.flag.lstrip("-") for row in table())
        raise UsageError(option, f"there is no knob {name.strip()!r}; knobs are {known}", "correct the name")
    return row, values


def _value(row: Knob, text: str, option: str) -> Any:
    text = text.strip()
    if row.choices:
        return row.check(text)
    try:
        number = float(text)
    except ValueError:
        raise UsageError(option, f"{text!r} is no number", f"{row.symbol} is {row.range}") from None
    return row.check(int(number) if row.kind is int and number.is_integer() else number)


def _range(row: Knob, values: str, option: str, space: SearchSpace) -> tuple[Any, ...]:
    first, _, last = values.partition("..")
    if row.choices:
        raise UsageError(option, f"{row.symbol} has no order", f"list its values: {','.join(row.choices)}")
    low, high = _value(row, first, option), _value(row, last, option)
    if row.kind is int:
        if high - low >= _MOST:
            raise UsageError(option, f"it holds more than {_MOST} values", "list some of them")
        found: tuple[float, ...] = tuple(range(low, high + 1))
    else:
        found = tuple(sorted(v for v in (*space.grids.get(row.field, ()), *row.grid) if low <= v <= high))
    if not found:
        raise UsageError(option, "it holds no value", "put the smaller end first, or list the values")
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class Setting:
    """One point of an ablation: the values that were set, by field, and the knobs that they come to."""

    values: Mapping[str, Any]
    knobs: Knobs

    @property
    def plan_id(self) -> str:
        """The plan id."""
        return compile_plan(self.knobs).plan_id


def settings(varied: Mapping[str, Sequence[Any]], fixed: Mapping[str, Any], space: SearchSpace) -> list[Setting]:
    """Every combination of the varied values, the last one running fastest.

    Raises:
        UsageError: a knob is both varied and fixed, or does nothing: for this model, or beside the others.
        KnobError: values that are refused together.
    """
    rows = {row.field: row for row in table()}
    for field in (*varied, *fixed):
        row = rows[field]
        if field in varied and field in fixed:
            raise UsageError(f"--vary and --fix {row.symbol}", "a knob is one or the other", "leave one out")
        if field in space.lacks:
            raise UsageError(f"{row.symbol}", "it does nothing for this model", "leave it out")
        if row.needs and field in varied:
            needed = rows[row.needs]
            tried = varied.get(row.needs, (fixed.get(row.needs, needed.neutral),))
            if all(value == needed.neutral for value in tried):
                remedy = f"set it too, such as --fix {needed.flag.lstrip('-')}={needed.paper or needed.usual}"
                raise UsageError(f"--vary {row.symbol}", f"it does nothing while {needed.show(needed.neutral)}", remedy)
    found = []
    for combination in product(*varied.values()):
        values = {**fixed, **dict(zip(varied, combination, strict=True))}
        knobs = space.settled(values)
        compile_plan(knobs)
        found.append(Setting(values, knobs))
    if not found:
        raise KnobError("no setting", "nothing is varied", "give --vary or --steps")
    return found
