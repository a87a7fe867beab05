"""``postdiff judge``: is an acceleration as good as the model as it is, with an interval?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from postdiff_calib.cli.log import with_log
from postdiff_calib.cli.shared import ALSO_HELP, DEFAULT_PROMPTS, SCORER_HELP, with_deployment
from postdiff_calib.quality.metrics import quality_metrics


@with_deployment
@with_log
def judge_command(
    setups: Annotated[
        list[str],
        typer.Option(
            "--with",
            metavar="SETUP",
            help="What is judged: a profile, knobs such as 'T=12 k=2', or module:function of the pipe; repeatable.",
            show_default=False,
        ),
    ],
    model: Annotated[str, typer.Option("--model", help="A card's name, a local directory, or a hub id.")] = "shapes",
    prompts: Annotated[
        str | None,
        typer.Option("--prompts", help="A shipped set's name or a file; default: the model's own set."),
    ] = None,
    column: Annotated[str | None, typer.Option("--column", help="Column of the file's prompts.")] = None,
    category: Annotated[str | None, typer.Option("--category", help="Column of their categories.")] = None,
    num_prompts: Annotated[
        int | None,
        typer.Option("--num-prompts", min=10, help=f"Prompts to judge on.  {DEFAULT_PROMPTS}"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Fixes prompts and images.")] = 0,
    study: Annotated[
        Path | None,
        typer.Option("--study", help="Folder of the scores; the same one resumes.  [default: studies/MODEL-judge]"),
    ] = None,
    grid: Annotated[
        Path | None, typer.Option("--grid", help="Image of the first prompts.  [default: judge.png in the study]")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, mps …")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, float16, bfloat16.")] = "auto",
    *,
    deployment: Any,
    scorer: Annotated[str | None, typer.Option("--scorer", help=SCORER_HELP)] = None,
    also: Annotated[list[str] | None, typer.Option("--also", metavar="SCORER", help=ALSO_HELP)] = None,
    delta: Annotated[
        list[str] | None,
        typer.Option(
            "--delta",
            metavar="NAME=NUMBER",
            help=f"Difference you care about: {', '.join(m.bound for m in quality_metrics())}; repeatable.  "
            "[default: a tenth of what another seed changes]",
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew instead of resuming.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the result.")] = False,
    log: Any,
) -> None:
    """Judge set-ups of a model against the model as it is: seconds, every metric paired, verdict with interval.

    A function is given the loaded pipeline and changes it as it likes; docs/judge.md has examples.

    Example: postdiff judge --model shapes --with "T=12" --with my_setups.py:deepcache
    """
    from postdiff_calib.jobs.job import CalibrateJob
    from postdiff_calib.jobs.judge import JudgeJob, run_judge
    from postdiff_calib.report.judged import print_judgement, write_grid
    from postdiff_calib.report.progress import console_progress

    base = CalibrateJob(
        model=model,
        prompts=prompts,
        column=column,
        category=category,
        num_prompts=num_prompts,
        seed=seed,
        study=study,
        device=device,
        dtype=dtype,
        deployment=deployment,
        scorer=scorer,
        also=tuple(also or ()),
        delta=tuple(delta or ()),
        fresh=fresh,
    )
    job = JudgeJob(base, tuple(setups), grid)
    files = {"inputs": [job.base.prompts] if job.base.prompts else [], "outputs": [grid] if grid else []}
    with (
        log.of("judge", **files, study=job.folder, quiet=quiet or as_json),
        console_progress(quiet=quiet or as_json) as progress,
    ):
        result = run_judge(job, progress)
        where = write_grid(grid or result.folder / "judge.png", result.images, result.prompts)
    print_judgement(result.judgement, where, as_json=as_json)
