"""Restrictions of a search: which values of a knob are tried at all.

Three forms, with the knob named by its symbol, its field or its flag: ``k=1`` (one value), ``T=8..30`` (a range, both
ends included) and ``beta=0.5,0.75`` (these values, whether or not the table's grid has them).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from postdiff_calib.errors import KnobError
from postdiff_calib.knobs import Knob, Knobs, knob_named, searched, table

_SLACK = 1e-9


@dataclass(frozen=True)
class Restriction:
    """One knob held to some values.

    Args:
        field: of the knob.
        values: those that are tried; empty for a range.
        low, high: ends of a range, both included.
    """

    field: str
    values: tuple[float, ...] = ()
    low: float = -math.inf
    high: float = math.inf

    @property
    def row(self) -> Knob:
        """The knob."""
        return next(row for row in table() if row.field == self.field)

    @property
    def text(self) -> str:
        """As it is recorded, e.g. ``T=8..30``; ``parse_restriction`` reads it."""
        values = ",".join(f"{v:g}" for v in self.values) if self.values else f"{self.low:g}..{self.high:g}"
        return f"{self.row.symbol}={values}"

    @property
    def option(self) -> str:
        """As it is written on the command line."""
        name = "--range" if not self.values else "--fix" if len(self.values) == 1 else "--values"
        return f"{name} {self.text}"

    def allows(self, value: float) -> bool:
        """Whether the knob may have this value."""
        if not self.values:
            return self.low - _SLACK <= value <= self.high + _SLACK
        return any(abs(value - own) <= _SLACK for own in self.values)

    def of(self, grid: Sequence[float]) -> tuple[float, ...]:
        """The values to try where the search would try ``grid``; the neutral value stands first where it is one."""
        kept = self.values or tuple(value for value in grid if self.allows(value))
        row = self.row
        if row.needs:  # its neutral value is that of the knob it needs, turned off
            return tuple(sorted(value for value in kept if value != row.neutral))
        return (
            kept if not self.values else tuple(sorted(kept, key=lambda v: (not row.per_model and v != row.neutral, v)))
        )


def parse_restriction(text: str, option: str = "restriction") -> Restriction:
    """Read one of the three forms.

    Args:
        text: such as ``k=1``, ``T=8..30`` or ``beta=0.5,0.75``.
        option: what stands for it in messages.

    Raises:
        KnobError: no such form, no such knob, one that a search does not vary, or a value out of the knob's range.
    """
    name, equals, given = (part.strip() for part in text.partition("="))
    shown = f"{option} {text}"
    if not equals or not given:
        raise KnobError(shown, "it is a knob, '=' and its values", "write such as k=1, T=8..30 or beta=0.5,0.75")
    row = _find(shown, name)
    low, dots, high = given.partition("..")
    if dots:
        ends = _value(shown, row, low), _value(shown, row, high)
        if ends[0] > ends[1]:
            raise KnobError(shown, "its lower end is above its upper end", f"write {row.symbol}={high}..{low}")
        return Restriction(row.field, (), *ends)
    return Restriction(row.field, tuple(dict.fromkeys(_value(shown, row, part) for part in given.split(","))))


def parse_restrictions(
    fix: Sequence[str] = (), ranges: Sequence[str] = (), values: Sequence[str] = ()
) -> tuple[Restriction, ...]:
    """Read the options ``--fix``, ``--range`` and ``--values``.

    Raises:
        KnobError: as ``parse_restriction``; another form than the option's; or a knob that is restricted twice.
    """
    found: dict[str, Restriction] = {}
    for option, texts, example in (
        ("--fix", fix, "k=1"),
        ("--range", ranges, "T=8..30"),
        ("--values", values, "beta=0.5,0.75"),
    ):
        for text in texts:
            one = parse_restriction(text, option)
            if (option == "--range") == bool(one.values) or (option == "--fix" and len(one.values) != 1):
                raise KnobError(f"{option} {text}", f"it is written {example}", "or take --fix, --range or --values")
            if one.field in found:
                raise KnobError(
                    f"{option} {text}", f"{found[one.field].option} restricts that knob too", "leave one out"
                )
            found[one.field] = one
    return tuple(found.values())


def allowed(restrictions: Sequence[Restriction], knobs: Knobs) -> bool:
    """Whether knobs keep all restrictions; a knob that does nothing, since the one it needs is neutral, keeps any."""
    rows = {row.field: row for row in table()}
    for one in restrictions:
        needs = one.row.needs
        if needs and getattr(knobs, needs) == rows[needs].neutral:
            continue
        if not one.allows(getattr(knobs, one.field)):
            return False
    return True


def restrict(
    grids: dict[str, tuple[float, ...]], restrictions: Sequence[Restriction], model: str
) -> dict[str, tuple[float, ...]]:
    """The values that a search tries by field, restricted.

    Args:
        grids: those without restrictions; a knob that the model lacks has none, or its neutral value alone.
        restrictions: at most one for each knob.
        model: its name, for messages.

    Raises:
        KnobError: a restriction leaves no value, or is of a knob that does nothing for the model.
    """
    found = dict(grids)
    for one in restrictions:
        row, before = one.row, grids[one.field]
        lacking = not before if row.needs else len(before) == 1 and not row.per_model
        if lacking and not one.allows(row.neutral):
            raise KnobError(one.option, f"{row.symbol} does nothing for {model}", "leave it out")
        if lacking:
            continue
        found[one.field] = one.of(before)
        if not found[one.field] and not (row.needs and one.allows(row.neutral)):
            ends = f"{min(before):g} to {max(before):g}"
            raise KnobError(
                one.option, f"it leaves nothing to search: the values of {row.symbol} are {ends}", "widen it"
            )
    return found


def require_use(
    grids: dict[str, tuple[float, ...]], row: Knob, restrictions: Sequence[Restriction]
) -> tuple[float, ...]:
    """What is left of the knob that ``row`` needs where ``row`` has no value left: its neutral value.

    Raises:
        KnobError: a restriction forbids that value, so that no plan is left.
    """
    needed = next(other for other in table() if other.field == row.needs)
    if needed.neutral in grids[needed.field]:
        return (needed.neutral,)
    blamed = [one.option for one in restrictions if one.field in (row.field, needed.field)]
    raise KnobError(
        " with ".join(blamed),
        f"it leaves nothing to search: {needed.symbol} needs a value of {row.symbol}, and none is left at this size",
        f"allow {needed.symbol}={needed.neutral:g}, or other values of {row.symbol}",
    )


def _find(shown: str, name: str) -> Knob:
    found = knob_named(name)
    if found is not None and found.searched:
        return found
    names = ", ".join(f"{row.symbol} ({row.field}, {row.flag})" for row in searched())
    rule = f"a search does not vary {found.field}" if found is not None else f"there is no knob {name!r}"
    raise KnobError(shown, rule, f"knobs are {names}")


def _value(shown: str, row: Knob, text: str) -> float:
    number: Any
    try:
        number = int(text) if row.kind is int else float(text)
    except ValueError:
        what = "whole number" if row.kind is int else "number"
        raise KnobError(shown, f"{text.strip()!r} is not a {what}", f"{row.symbol}: {row.range}") from None
    try:
        return row.check(number)  # type: ignore[no-any-return]
    except KnobError as error:
        raise KnobError(shown, error.rule, error.remedy) from None
