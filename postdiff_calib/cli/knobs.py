"""The knobs as options of a command, made from the table of knobs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from postdiff_calib.knobs import Knob, table


class with_knobs:  # noqa: N801  # a decorator
    """The command with an option for every knob in the place of its parameter ``knobs``.

    ``knobs`` receives the values by field, with None for T where it was left out. The table is read whenever the
    command line asks what options there are.
    """

    def __init__(self, command: Callable[..., None]) -> None:
        self.__name__, self.__doc__, self.__module__ = command.__name__, command.__doc__, command.__module__
        self._command = command

    def __call__(self, **given: Any) -> None:  # noqa: D102
        values = {row.field: given.pop(row.field) for row in table()}
        values |= {row.field: values[row.field] or None for row in table() if row.per_model}
        self._command(knobs=values, **given)

    @property
    def __signature__(self) -> inspect.Signature:
        signature = inspect.signature(self._command, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            parameters += [_option(row) for row in table()] if parameter.name == "knobs" else [parameter]
        return signature.replace(parameters=parameters)

    @property
    def __annotations__(self) -> dict[str, Any]:  # type: ignore[override]
        return {name: parameter.annotation for name, parameter in self.__signature__.parameters.items()}


def _option(row: Knob) -> inspect.Parameter:
    default, text = row.neutral if row.usual is None else row.usual, row.help
    kind: Any = row.kind
    if row.per_model:
        default, text = 0, f"{text[:-1]}; 0 is the model's own."
    if row.needs:
        needed = next(other.flag for other in table() if other.field == row.needs)
        text = f"{text[:-1]}; goes with {needed}."
    annotation = Annotated[kind, typer.Option(row.flag, help=text)]
    return inspect.Parameter(row.field, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
