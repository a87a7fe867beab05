"""``postdiff analyze``: what a model's features do from step to step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from postdiff_calib.cli.log import with_log
from postdiff_calib.cli.shared import with_run


@with_run
@with_log
def redundancy_command(
    *,
    model: Annotated[str, typer.Option("--model", help="A card's name, a local directory, or a hub id.")] = "shapes",
    num_prompts: Annotated[int | None, typer.Option("--num-prompts", min=2, help="Prompts.  [default: 50]")] = None,
    run: Any,
    steps: Annotated[int, typer.Option("-T", min=0, help="Denoising steps; 0 is the model's own.")] = 0,
    study: Annotated[
        Path | None,
        typer.Option("--study", help="Folder of the study; the same resumes.  [default: studies/MODEL-redundancy]"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it would cost, and make no image.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the result.")] = False,
    log: Any,
) -> None:
    """Measure how far blocks and layers move between neighbouring steps: which are the cheapest to reuse?

    The paper's supplementary figure 1, for your own model.

    Example: postdiff analyze redundancy --model shapes --num-prompts 50
    """
    from postdiff_calib.jobs.redundancy import KIND, RedundancyJob, price_redundancy, run_redundancy
    from postdiff_calib.report.progress import console_progress
    from postdiff_calib.report.studies import print_price, print_redundancy

    job = RedundancyJob(
        **run,
        model=model,
        num_prompts=num_prompts,
        study=study,
        steps=steps or None,
    )
    if dry_run:
        print_price(price_redundancy(job), as_json=as_json)
        return
    files = {"inputs": [job.prompts] if job.prompts else [], "outputs": [job.result(KIND)], "study": job.folder(KIND)}
    with (
        log.of("analyze redundancy", **files, quiet=quiet or as_json),
        console_progress(quiet=quiet or as_json) as progress,
    ):
        result = run_redundancy(job, progress)
    print_redundancy(result, job.result(KIND), as_json=as_json)
