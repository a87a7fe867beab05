"""``postdiff generate``: images from a profile, optionally beside the baseline's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from postdiff_calib.cli.shared import with_deployment


@with_deployment
def generate_command(
    prompts: Annotated[list[str], typer.Argument(help="One or more prompts.", show_default=False)],
    profile: Annotated[Path, typer.Option("--profile", "-p", help="A profile written by calibrate.")] = Path(
        "profile.yaml"
    ),
    baseline: Annotated[bool, typer.Option("--baseline", help="Also the baseline, same seeds.")] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for the images.")] = Path("outputs"),
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of the first prompt; each next one adds 1.")
    ] = 0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, mps …")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, float16, bfloat16.")] = "auto",
    compile_: Annotated[
        str, typer.Option("--compile", help="off, default or repeated-blocks: torch.compile the denoiser.")
    ] = "off",
    override: Annotated[
        bool, typer.Option("--override", help="Run although the profile was made for another pipeline.")
    ] = False,
    *,
    deployment: Any,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Generate images with a deployment profile.

    Example: postdiff generate --profile p.yaml "a large red circle above a small blue square on a green background"
    """
    from postdiff_calib.jobs.generate import GenerateJob, run_generate
    from postdiff_calib.report.terminal import print_generated

    job = GenerateJob(
        prompts=tuple(prompts),
        profile=profile,
        baseline=baseline,
        out=out,
        seed=seed,
        device=device,
        dtype=dtype,
        deployment=deployment,
        override=override,
        compile=compile_,
    )
    print_generated(run_generate(job), as_json=as_json)
