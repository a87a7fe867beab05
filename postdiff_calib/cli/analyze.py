"""``postdiff analyze``: what a model's features do from step to step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from postdiff_calib.cli.log import with_log


@with_log
def redundancy_command(
    model: Annotated[str, typer.Option("--model", help="A card's name, a local directory, or a hub id.")] = "shapes",
    num_prompts: Annotated[int | None, typer.Option("--num-prompts", min=2, help="Prompts.  [default: 50]")] = None,
    prompts: Annotated[
        str | None, typer.Option("--prompts", help="A shipped set's name or a file; default: the model's own set.")
    ] = None,
    steps: Annotated[int, typer.Option("-T", min=0, help="Denoising steps; 0 is the model's own.")] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Fixes prompts and images.")] = 0,
    study: Annotated[
        Path | None,
        typer.Option("--study", help="Folder of the study; the same resumes.  [default: studies/MODEL-redundancy]"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The result, .json, with a .png beside it.  [default: in the study's folder]"),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, mps …")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, float16, bfloat16.")] = "auto",
    batch_size: Annotated[int, typer.Option("--batch-size", min=0, help="Images per batch; 0 chooses.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew instead of resuming.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it would cost, and make no image.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the result.")] = False,
    *,
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
        model=model,
        prompts=prompts,
        num_prompts=num_prompts,
        seed=seed,
        study=study,
        out=out,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        fresh=fresh,
        steps=steps or None,
    )
    if dry_run:
        print_price(price_redundancy(job), as_json=as_json)
        return
    files = {"inputs": [prompts] if prompts else [], "outputs": [job.result(KIND)], "study": job.folder(KIND)}
    with (
        log.of("analyze redundancy", **files, quiet=quiet or as_json),
        console_progress(quiet=quiet or as_json) as progress,
    ):
        result = run_redundancy(job, progress)
    print_redundancy(result, job.result(KIND), as_json=as_json)
