"""``postdiff report``: a study as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from postdiff_calib.cli.shared import PerImage


def report_command(
    study: Annotated[Path, typer.Argument(help="Folder of a calibrated study.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Where the page goes.")] = Path("report.html"),
    budget: Annotated[
        str | None, typer.Option("--budget", help="60%, 1.2s (of a call), 4.2GMACs, 2x.  [default: the study's own]")
    ] = None,
    per_image: PerImage = False,
    no_images: Annotated[
        bool, typer.Option("--no-images", help="Leave the images out; no model is loaded then.")
    ] = False,
    device: Annotated[str, typer.Option("--device", help="Where images are made: auto, cpu, cuda, mps …")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the result.")] = False,
) -> None:
    """Write a study's report: one HTML file with verdict, plots, images and evidence, which needs nothing else.

    Example: postdiff report studies/shapes --out report.html
    """
    from postdiff_calib.cli.say import say
    from postdiff_calib.cost.budget import budget_of
    from postdiff_calib.report.html.page import ReportJob, write_report
    from postdiff_calib.report.progress import console_progress

    if budget is not None:
        budget = budget_of(budget, per_image=per_image).text
    job = ReportJob(study=study, out=out, budget=budget, images=not no_images, device=device)
    with console_progress(quiet=quiet) as progress:
        path = write_report(job, progress)
    say(f"report written to {path} ({path.stat().st_size / 1e6:.2f} MB)")
