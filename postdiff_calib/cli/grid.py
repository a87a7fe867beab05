"""``postdiff grid``: baseline and the best plan of each budget as one image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def grid_command(
    study: Annotated[Path, typer.Argument(help="Folder of a calibrated study.", show_default=False)],
    budgets: Annotated[str, typer.Option("--budgets", help="A row each, with commas between them.")] = "25%,40%,60%",
    out: Annotated[Path, typer.Option("--out", help="The image, .png, .jpg or .webp.")] = Path("grid.png"),
    num_prompts: Annotated[int, typer.Option("--num-prompts", help="Columns: the first held-out prompts.")] = 8,
    device: Annotated[str, typer.Option("--device", help="Where images are made: auto, cpu, cuda, mps …")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the result.")] = False,
) -> None:
    """Draw one image: the baseline and the best plan of each budget, on held-out prompts that nobody picked.

    Example: postdiff grid studies/shapes --budgets 25%,40%,60% --out grid.png
    """
    from postdiff_calib.cli.say import say
    from postdiff_calib.report.grid import GridJob, run_grid
    from postdiff_calib.report.progress import console_progress

    with console_progress(quiet=quiet) as progress:
        grid = run_grid(GridJob(study, budgets, out, num_prompts, device), progress)
    say(grid.baseline)
    say(f"drawn into {grid.path}")
