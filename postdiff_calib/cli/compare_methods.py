"""``postdiff compare-methods``: what each method keeps of the quality when all may cost the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from postdiff_calib.cli.log import with_log
from postdiff_calib.cli.shared import DEFAULT_PROMPTS, Switch, with_run
from postdiff_calib.techniques.noise import DEFAULT_NOISE


@with_run
@with_log
def compare_methods_command(
    *,
    model: Annotated[str, typer.Option("--model", help="A card's name, a local directory, or a hub id.")] = "shapes",
    budgets: Annotated[
        str, typer.Option("--budgets", help="What all may cost, such as 75%,60%,45% or 1.2s.")
    ] = "75%,60%,45%",
    profile: Annotated[
        list[Path] | None,
        typer.Option("--profile", help="A calibrated plan that takes part where it fits; repeatable."),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure seconds of what is compared.")
    ] = True,
    fid_reference: Annotated[
        str | None,
        typer.Option("--fid-reference", help="FID against a folder of real images, or own; from 2,048 prompts on."),
    ] = None,
    num_prompts: Annotated[
        int | None, typer.Option("--num-prompts", min=2, help=f"Prompts.  {DEFAULT_PROMPTS}")
    ] = None,
    run: Any,
    study: Annotated[
        Path | None,
        typer.Option("--study", help="Folder of the study; the same resumes.  [default: studies/MODEL-methods]"),
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
    """Compare methods at equal budgets: step reduction, DeepCache, T-GATE, Faster Diffusion, ToMe, PostDiff and others.

    Each takes part with its largest setting that fits. The paper's table 3, for your own model.

    Example: postdiff compare-methods --model shapes --budgets 75%,60%,45%
    """
    from postdiff_calib.jobs.method_settings import KIND, MethodsJob
    from postdiff_calib.jobs.methods import price_methods, run_methods
    from postdiff_calib.report.progress import console_progress
    from postdiff_calib.report.studies import print_methods, print_price

    job = MethodsJob(
        **run,
        model=model,
        num_prompts=num_prompts,
        study=study,
        noise=noise,
        switch=switch,
        budgets=budgets,
        profiles=tuple(profile or ()),
        measure=measure,
        fid_reference=fid_reference,
    )
    if dry_run:
        print_price(price_methods(job), as_json=as_json)
        return
    inputs = [*([job.prompts] if job.prompts else []), *job.profiles]
    files = {"inputs": inputs, "outputs": [job.result(KIND)], "study": job.folder(KIND)}
    with (
        log.of("compare-methods", **files, quiet=quiet or as_json),
        console_progress(quiet=quiet or as_json) as progress,
    ):
        result = run_methods(job, progress)
    print_methods(result, job.result(KIND), as_json=as_json)
