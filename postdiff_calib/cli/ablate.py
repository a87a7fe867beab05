"""``postdiff ablate``: what one knob or two do, everything else held."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from postdiff_calib.cli.log import with_log
from postdiff_calib.cli.shared import DEFAULT_PROMPTS, Switch, with_run
from postdiff_calib.techniques.noise import DEFAULT_NOISE


@with_run
@with_log
def ablate_command(
    *,
    model: Annotated[str, typer.Option("--model", help="A card's name, a local directory, or a hub id.")] = "shapes",
    vary: Annotated[
        list[str] | None,
        typer.Option("--vary", metavar="KNOB=VALUES", help="Such as k=1..5, beta=0.375,0.5 or m=0.3..1; repeatable."),
    ] = None,
    steps: Annotated[str | None, typer.Option("--steps", help="The same as --vary T=…, such as 8,12,16,20.")] = None,
    fix: Annotated[
        list[str] | None,
        typer.Option("--fix", metavar="KNOB=VALUE", help="Held at this value, such as s=0.5; repeatable."),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure seconds of what is compared.")
    ] = True,
    trace: Annotated[
        bool, typer.Option("--trace", help="Also score the decoded clean estimate at every step.")
    ] = False,
    num_prompts: Annotated[
        int | None, typer.Option("--num-prompts", min=2, help=f"Prompts.  {DEFAULT_PROMPTS}")
    ] = None,
    run: Any,
    study: Annotated[
        Path | None,
        typer.Option("--study", help="Folder of the study; the same resumes.  [default: studies/MODEL-ablation]"),
    ] = None,
    noise: Annotated[
        str, typer.Option("--noise", help="Of low-resolution steps: complement, coupled or independent.")
    ] = DEFAULT_NOISE,
    switch: Switch = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it would cost, and make no image.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the result.")] = False,
    log: Any,
) -> None:
    """Vary one knob or two and see what each value costs and loses, in pairs with the baseline.

    The paper's supplementary figures 2, 6 and 7 and its table 1, for your own model.

    Example: postdiff ablate --model shapes --vary beta=.375,.5,.625 --steps 8,12,16,20 --fix s=.5
    """
    from postdiff_calib.jobs.ablate import KIND, AblateJob, price_ablation, run_ablation
    from postdiff_calib.report.progress import console_progress
    from postdiff_calib.report.studies import print_ablation, print_price

    job = AblateJob(
        **run,
        model=model,
        num_prompts=num_prompts,
        study=study,
        noise=noise,
        switch=switch,
        vary=tuple(vary or ()),
        fix=tuple(fix or ()),
        steps=steps,
        measure=measure,
        trace=trace,
    )
    if dry_run:
        print_price(price_ablation(job), as_json=as_json)
        return
    files = {"inputs": [job.prompts] if job.prompts else [], "outputs": [job.result(KIND)], "study": job.folder(KIND)}
    with log.of("ablate", **files, quiet=quiet or as_json), console_progress(quiet=quiet or as_json) as progress:
        result = run_ablation(job, progress)
    print_ablation(result, job.result(KIND), as_json=as_json)
