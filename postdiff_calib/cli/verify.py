"""``postdiff verify``: does a profile hold on this machine? Made for a CI gate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from postdiff_calib.cli.log import with_log
from postdiff_calib.cli.shared import with_deployment
from postdiff_calib.progress import log_event


@with_log
@with_deployment
def verify_command(
    profile: Annotated[Path, typer.Argument(help="A profile.", show_default=False)],
    num_prompts: Annotated[
        int, typer.Option("--prompts", min=10, help="Fresh prompts to judge quality on; two images each.")
    ] = 100,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Check this directory, card or hub id in place of the profile's own model."),
    ] = None,
    prompt_set: Annotated[
        str | None,
        typer.Option("--prompt-set", help="The set that the calibration drew from, where its file has moved."),
    ] = None,
    column: Annotated[str | None, typer.Option("--column", help="With --prompt-set: its column of prompts.")] = None,
    category: Annotated[str | None, typer.Option("--category", help="With --prompt-set: of categories.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, mps …")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="auto (the profile's), float32, float16, bfloat16.")] = "auto",
    compile_: Annotated[
        str, typer.Option("--compile", help="auto (the profile's), off, default or repeated-blocks.")
    ] = "auto",
    *,
    deployment: Any,
    scorer: Annotated[
        str | None,
        typer.Option("--scorer", help="The profile's scorer again, where it is code or lies elsewhere here."),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", metavar="SCORER", help="The same of one that judged beside it; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the checks.")] = False,
    log: Any,
) -> None:
    """Check on this machine that a profile's model, cost and quality are what it says.

    Exit code 0 when they are, 3 when a check failed, 2 when it could not be checked.

    Example: postdiff verify profile.yaml --prompts 200
    """
    from postdiff_calib.jobs.verify import VerifyJob, run_verify
    from postdiff_calib.prompts import Columns
    from postdiff_calib.report.progress import console_progress
    from postdiff_calib.report.verification import print_verification

    job = VerifyJob(
        profile=profile,
        num_prompts=num_prompts,
        model=model,
        prompt_set=prompt_set,
        columns=Columns(column, category) if column or category else None,
        device=device,
        dtype=dtype,
        compile=compile_,
        deployment=deployment,
        scorer=scorer,
        also=tuple(also or ()),
    )
    inputs = [profile, *([prompt_set] if prompt_set else [])]
    with log.of("verify", inputs=inputs, quiet=quiet or as_json):
        with console_progress(quiet=quiet or as_json) as progress:
            result = run_verify(job, progress)
        for check in result.checks:
            log_event("check", name=check.name, outcome=check.outcome, found=check.found, reason=check.reason)
        print_verification(result, as_json=as_json)
        result.require()
