"""``postdiff export``: a study's scores as a profile or script for another budget or machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from postdiff_calib.cli.shared import PerImage


def export_command(
    study: Annotated[Path, typer.Argument(help="A study's folder, as calibrate made it.", show_default=False)],
    budget: Annotated[
        str | None, typer.Option("--budget", help="60%, 1.2s, 850ms, 4.2GMACs, 2x, p95:1.2s.  [default: the study's]")
    ] = None,
    budgets: Annotated[
        str | None, typer.Option("--budgets", help="Several, with commas between them; one file each.")
    ] = None,
    per_image: PerImage = False,
    out: Annotated[Path | None, typer.Option("--out", help="The file.  [default: profile.yaml, .json or .py]")] = None,
    file_format: Annotated[
        str,
        typer.Option("--format", help="yaml, json, python (a script), diffusers (a script of plain diffusers)."),
    ] = "yaml",
    latency_table: Annotated[
        Path | None,
        typer.Option("--latency-table", help="Seconds of another machine: a file of cost --measure --out."),
    ] = None,
    delta: Annotated[
        list[str] | None,
        typer.Option("--delta", metavar="NAME=NUMBER", help="Difference you care about.  [default: the study's]"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that no export of this study wrote.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write the profile of another budget or machine from a study's scores; no image is made.

    Example: postdiff export studies/shapes --budget 40% --out fast.yaml
    """
    from postdiff_calib.cost.budget import budget_of, budgets_of
    from postdiff_calib.jobs.export import ExportJob, run_export
    from postdiff_calib.report.comparison import print_exported

    job = ExportJob(
        study=study,
        budget=None if budget is None else budget_of(budget, per_image=per_image).text,
        budgets=None if budgets is None else ",".join(b.text for b in budgets_of(budgets, per_image=per_image)),
        out=out,
        format=file_format,
        latency_table=latency_table,
        delta=tuple(delta or ()),
        force=force,
    )
    print_exported(run_export(job), as_json=as_json)
