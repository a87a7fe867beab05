"""``postdiff worker``: one more process, on this or another host, for a study that ``postdiff calibrate`` leads."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from postdiff_calib.cli.log import with_log


@with_log
def worker_command(
    storage: Annotated[
        str, typer.Option("--storage", help="The leader's database, e.g. postgresql+psycopg://user@host/postdiff.")
    ],
    name: Annotated[str, typer.Option("--name", help="The leader's name of the study.")] = "postdiff",
    model: Annotated[
        str | None, typer.Option("--model", help="Where the study's model is on this host, if in another folder.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps …")] = "auto",
    dtype: Annotated[
        str, typer.Option("--dtype", help="float32, float16, bfloat16; auto is the study's own.")
    ] = "auto",
    scorer: Annotated[
        str | None, typer.Option("--scorer", help="The study's scorer again, where it is code or lies elsewhere here.")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", metavar="SCORER", help="The same of one that judges beside it; repeatable."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the leader, where it is not there yet.")] = False,
    wait_seconds: Annotated[
        float, typer.Option("--wait-seconds", min=1, max=7 * 86400, help="With --wait: at most so long.")
    ] = 3600,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the result.")] = False,
    *,
    log: Any,
) -> None:
    """Run trials of a study that postdiff calibrate leads, until none is left.

    The model, prompts, seeds, settings and prices come from the study itself; start the leader first, or --wait
    for it. Ctrl-C gives the
    trial in hand back to the others, with what it has scored.

    Example: postdiff worker --storage postgresql+psycopg://user@host/postdiff --name sdxl --device cuda:1
    """
    from postdiff_calib.jobs.worker import WorkerJob, run_worker
    from postdiff_calib.report.progress import console_progress
    from postdiff_calib.report.terminal import print_worker

    job = WorkerJob(
        storage=storage,
        study_name=name,
        model=model,
        device=device,
        dtype=dtype,
        scorer=scorer,
        also=tuple(also or ()),
        wait=wait_seconds if wait else 0.0,
    )
    with log.of("worker", storage=storage, quiet=quiet or as_json):
        with console_progress(quiet=quiet or as_json) as progress:
            result = run_worker(job, progress)
        print_worker(result, as_json=as_json)
        if result.interrupted:
            raise KeyboardInterrupt("the trial in hand was given back with its scores; the same command joins again")
