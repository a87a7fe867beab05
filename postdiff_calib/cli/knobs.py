"""The knobs as options of a command, made from the table of knobs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from postdiff_calib.cli.shared import Shared, option
from postdiff_calib.knobs import Knob, table


def with_knobs(command: Callable[..., None]) -> Shared:
    """The command with an option for every knob in the place of its parameter ``knobs``.

    ``knobs`` receives the values by field, with None where T, or a knob that some models lack, was left out. The table
    is read whenever the command line asks what options there are.
    """
    return Shared(command, "knobs", lambda: [_option(row) for row in table()], _values)


def _values(given: Mapping[str, Any]) -> dict[str, Any]:
    return {row.field: given[row.field] or None if row.per_model else given[row.field] for row in table()}


def _option(row: Knob) -> inspect.Parameter:
    kind: Any = row.kind
    default, text = row.neutral if row.usual is None else row.usual, row.help
    if row.per_model:
        default, text = 0, f"{text[:-1]}; 0 is the model's own."
    if row.needs:
        needed = next(other.flag for other in table() if other.field == row.needs)
        text = f"{text[:-1]}; goes with {needed}."
    if row.idle is not None:
        text = f"{text}  [default: {default}; {row.idle} for a model that lacks it]"
        default, kind = None, kind | None
    return option(row.field, kind, default, row.flag, text)
