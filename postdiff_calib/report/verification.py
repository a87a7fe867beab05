"""A verification on a terminal: a line per check, the reasons under them, the outcome; or the same as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from postdiff_calib.report.console import print_line, print_table
from postdiff_calib.report.json_output import print_json
from postdiff_calib.report.terminal import wide_console

if TYPE_CHECKING:
    from postdiff_calib.jobs.verify import VerifyResult

#: Signs and colours: never a colour alone.
SIGNS = {"passed": ("✓", "green"), "failed": ("✗", "red"), "warning": ("!", "yellow"), "not judged": ("–", "dim")}


def print_verification(result: VerifyResult, *, as_json: bool, console: Console | None = None) -> None:
    """Every check with what was wanted and found, then reasons and notes, then one sentence."""
    if as_json:
        print_json("verify", result.as_dict())
        return
    console = console or wide_console()
    if result.baseline:
        print_line(console, result.baseline)
    table = Table(box=None, pad_edge=False)
    for name in ("check", "wanted", "found", "outcome"):
        table.add_column(name)
    for check in result.checks:
        sign, colour = SIGNS[check.outcome]
        cells = [Text(text) for text in (check.name, check.wanted, check.found)]
        table.add_row(*cells, Text(f"{sign} {check.outcome}", style=colour))
    print_table(console, table)
    reasons = [f"{check.name}: {check.reason}" for check in result.checks if check.reason]
    if reasons or result.notes:
        console.print()
    for line in (*reasons, *(f"note: {note}" for note in result.notes)):
        console.print(line, highlight=False, markup=False)
    warnings = sum(check.outcome == "warning" for check in result.checks)
    said = f", with {warnings} warning{'s' * (warnings > 1)}" if warnings else ""
    open_ones = [check.name for check in result.checks if check.outcome == "not judged"]
    said += f"; not judged: {', '.join(open_ones)}" if open_ones else ""
    outcome = f"failed: {', '.join(result.failed)}" if result.failed else "holds on this machine"
    print_line(console, f"\nprofile {result.profile} {outcome}{said}")
