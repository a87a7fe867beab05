"""A dry run on a terminal: the space, the images and the time; or the same as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from postdiff_calib.knobs import searched
from postdiff_calib.report.console import print_line, print_table
from postdiff_calib.report.json_output import print_json
from postdiff_calib.report.terminal import wide_console
from postdiff_calib.report.wording import duration
from postdiff_calib.scores.select import ARM_NAMES, ARMS

if TYPE_CHECKING:
    from postdiff_calib.jobs.dry_run import DryRun


def print_dry_run(plan: DryRun, *, as_json: bool, console: Console | None = None) -> None:
    """What a calibration would do."""
    if as_json:
        print_json("calibrate-dry-run", plan.as_dict())
        return
    console = console or wide_console()

    def say(text: str) -> None:
        print_line(console, text)

    say(plan.baseline)
    for row in searched():
        say(f"{row.symbol}: {', '.join(f'{value:g}' for value in plan.values[row.field]) or 'not used'}")
    restricted = f", restricted to {', '.join(plan.restrictions)}" if plan.restrictions else ""
    say(f"{plan.plans} distinct plans{restricted}; those within each budget:")
    table = Table(box=None, pad_edge=False)
    table.add_column("budget")
    for arm in ARMS:
        table.add_column(ARM_NAMES[arm], justify="right")
    for budget in plan.budgets:
        table.add_row(f"{budget.budget} ({budget.share:.0%})", *(str(budget.plans[arm]) for arm in ARMS))
    print_table(console, table)
    stages = ", ".join(f"{name} {count}" for name, count in plan.images.items())
    say(f"at most {plan.images_at_most} images in {plan.trials} trials ({stages})")
    parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in plan.seconds.items())
    say(f"this takes about {duration(plan.seconds_expected)} on this device ({parts})")
