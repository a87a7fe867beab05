"""``postdiff calibrate``: the main job, from a model and a budget to a deployment profile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from postdiff_calib.cli.log import with_log
from postdiff_calib.cli.shared import ALSO_HELP, DEFAULT_PROMPTS, SCORER_HELP, PerImage, Switch, with_deployment
from postdiff_calib.quality.metrics import comparisons, examples, quality_metrics
from postdiff_calib.techniques.noise import DEFAULT_NOISE


@with_log
@with_deployment
def calibrate_command(
    model: Annotated[str, typer.Option("--model", help="A card's name, a local directory, or a hub id.")] = "shapes",
    budget: Annotated[
        str, typer.Option("--budget", help="60%, 1.2s (of a call), 850ms, 4.2GMACs, 2x, p95:1.2s.")
    ] = "60%",
    per_image: PerImage = False,
    prompts: Annotated[
        str | None,
        typer.Option("--prompts", help="A shipped set's name or a file; default: the model's own set."),
    ] = None,
    column: Annotated[
        str | None, typer.Option("--column", help="Column of the file's prompts.  [default: prompt, caption or text]")
    ] = None,
    category: Annotated[
        str | None, typer.Option("--category", help="Column of their categories.  [default: category, if there]")
    ] = None,
    num_prompts: Annotated[
        int | None,
        typer.Option(
            "--num-prompts",
            min=10,
            help=f"Prompts that finalists are judged on; half as many more are for the search.  {DEFAULT_PROMPTS}",
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials",
            min=0,
            help="Evaluations at the budget, of 3 to 10 prompts each; other budgets get a sixth each.  "
            "[default: 0.7 of the prompts]",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Fixes prompts, images and search.")] = 0,
    out: Annotated[Path, typer.Option("--out", help="Where the profile goes.")] = Path("profile.yaml"),
    study: Annotated[
        Path | None,
        typer.Option("--study", help="Folder of the study; the same folder resumes.  [default: studies/MODEL]"),
    ] = None,
    noise: Annotated[
        str,
        typer.Option("--noise", help="Of low-resolution steps: complement (draws none), coupled or independent."),
    ] = DEFAULT_NOISE,
    switch: Switch = None,
    search: Annotated[str, typer.Option("--search", help="postdiff, tpe, gp, random or nsga2.")] = "postdiff",
    sampler: Annotated[str | None, typer.Option("--sampler", hidden=True)] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, mps …")] = "auto",
    devices: Annotated[
        str | None,
        typer.Option("--devices", metavar="D,D…", help="Share the work among these, a process each: cuda:0,cuda:1."),
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, float16, bfloat16.")] = "auto",
    compile_: Annotated[
        str, typer.Option("--compile", help="off, default or repeated-blocks: torch.compile the denoiser.")
    ] = "off",
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
    weight: Annotated[
        list[str] | None,
        typer.Option("--weight", metavar="NAME=NUMBER", help="Weight of a metric in what is improved.  [default: 1]"),
    ] = None,
    max_drop: Annotated[
        list[str] | None,
        typer.Option(
            "--max-drop",
            metavar="NAME=NUMBER",
            help="Most that a quality metric may lose; repeatable: "
            + ", ".join(f"{m.bound} ({m.difference_unit})" for m in quality_metrics())
            + ".",
        ),
    ] = None,
    guard: Annotated[
        list[str] | None,
        typer.Option(
            "--guard",
            metavar="NAME=NUMBER",
            help=f"What the plan must keep against the baseline's images; repeatable: {examples(comparisons())}.",
        ),
    ] = None,
    fix: Annotated[
        list[str] | None, typer.Option("--fix", metavar="KNOB=VALUE", help="Hold a knob, such as k=1; repeatable.")
    ] = None,
    ranges: Annotated[
        list[str] | None,
        typer.Option(
            "--range", metavar="KNOB=LOW..HIGH", help="Search a knob between two values: T=8..30; repeatable."
        ),
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option("--values", metavar="KNOB=V,V…", help="Search these values: beta=0.5,0.75; repeatable."),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            help="Database that postdiff worker processes share, e.g. postgresql+psycopg://user@host/postdiff.",
        ),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="With --storage: name of the study there.")] = "postdiff",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the space, images at most and the time they take, and stop.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start the study anew instead of resuming it.")] = False,
    refresh: Annotated[bool, typer.Option("--refresh", help="Measure seconds anew, known or not.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the result.")] = False,
    log: Any,
) -> None:
    """Find the best settings under a budget and write them as a profile.

    Ctrl-C or a kill loses nothing that was scored: the same command goes on.

    Example: postdiff calibrate --model shapes --budget 60% --out profile.yaml
    """
    from postdiff_calib.cost.budget import budget_of
    from postdiff_calib.errors import UsageError
    from postdiff_calib.jobs.calibrate import run_calibrate
    from postdiff_calib.jobs.dry_run import run_dry
    from postdiff_calib.jobs.job import CalibrateJob, parse_devices
    from postdiff_calib.jobs.preflight import inputs_of
    from postdiff_calib.jobs.stopped import stopped_line
    from postdiff_calib.report.dry_run import print_dry_run
    from postdiff_calib.report.progress import console_progress
    from postdiff_calib.report.terminal import print_calibration
    from postdiff_calib.search.restrict import parse_restrictions

    if sampler is not None:
        raise UsageError(f"--sampler {sampler}", "the option has another name now", f"write --search {sampler}")
    if devices is not None and device != "auto":
        raise UsageError("--device with --devices", "the first of the devices is the one", "leave one out")
    job = CalibrateJob(
        model=model,
        budget=budget_of(budget, per_image=per_image),
        prompts=prompts,
        column=column,
        category=category,
        num_prompts=num_prompts,
        trials=trials,
        seed=seed,
        out=out,
        study=study,
        noise=noise,
        switch=switch,
        search=search,
        device=device,
        devices=() if devices is None else parse_devices(devices),
        dtype=dtype,
        compile=compile_,
        deployment=deployment,
        delta=tuple(delta or ()),
        weight=tuple(weight or ()),
        max_drop=tuple(max_drop or ()),
        guards=tuple(guard or ()),
        restrictions=parse_restrictions(fix or (), ranges or (), values or ()),
        scorer=scorer,
        also=tuple(also or ()),
        fresh=fresh,
        refresh=refresh,
        storage=storage,
        study_name=name,
    )
    silent = quiet or as_json
    files = {"inputs": inputs_of(job), "outputs": [job.out], "study": job.folder, "storage": storage}
    with log.of("calibrate", **files, quiet=silent):
        if dry_run:
            with console_progress(quiet=silent) as progress:
                plan = run_dry(job, progress)
            print_dry_run(plan, as_json=as_json)
            return
        try:
            with console_progress(quiet=silent) as progress:
                result = run_calibrate(job, progress)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(stopped_line(job)) from None
        print_calibration(result.profile, result.path, as_json=as_json)
        for line in result.died if silent else ():
            typer.echo(f"note: {line}", err=True)
        if result.interrupted:
            raise KeyboardInterrupt(stopped_line(job, result.path))
