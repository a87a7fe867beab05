"""The list of scorers on a terminal, or as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from postdiff_calib.report.console import print_table
from postdiff_calib.report.json_output import print_json
from postdiff_calib.report.terminal import wide_console

if TYPE_CHECKING:
    from postdiff_calib.quality.listed import Listed


def print_scorers(scorers: Sequence[Listed], *, as_json: bool, console: Console | None = None) -> None:
    """How each is written, what it is, and why it is missing where it is."""
    if as_json:
        print_json("scorers", {"scorers": [{**asdict(one), "available": not one.missing} for one in scorers]})
        return
    console = console or wide_console()
    table = Table(box=None, pad_edge=False)
    for name in ("scorer", "what it is", "here"):
        table.add_column(name, overflow="fold")
    for one in scorers:
        table.add_row(*(Text(cell) for cell in (one.name, one.about, one.missing or "✓")))
    print_table(console, table)
