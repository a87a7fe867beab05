"""``postdiff cost``: what a plan costs, before any image is made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from postdiff_calib.cli.knobs import with_knobs
from postdiff_calib.cli.shared import PerImage, with_deployment


@with_knobs
@with_deployment
def cost_command(
    model: Annotated[str, typer.Option("--model", help="A card's name, a local directory, or a hub id.")] = "shapes",
    *,
    knobs: dict[str, Any],
    deployment: Any,
    convention: Annotated[
        str, typer.Option("--convention", help="full, or paper: without attention's own matrix products.")
    ] = "full",
    by_module: Annotated[bool, typer.Option("--by-module", help="A step's MACs by block and kind of layer.")] = False,
    grid: Annotated[bool, typer.Option("--grid", help="The reachable range of costs by T.")] = False,
    budget: Annotated[
        str | None, typer.Option("--budget", help="With --grid: 60%, 1.2s (of a call), 4.2GMACs, 2x.")
    ] = None,
    per_image: PerImage = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="With --grid: draw it into this file.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Load the model and measure seconds too.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Measure few kinds of step; predict the others.")] = False,
    refresh: Annotated[bool, typer.Option("--refresh", help="Measure again what was measured before.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="With --measure: write the latency table here.")] = None,
    table: Annotated[
        Path | None, typer.Option("--table", help="Price with a table written by --out, of any machine.")
    ] = None,
    compile_: Annotated[
        str, typer.Option("--compile", help="With --measure: off, default or repeated-blocks, of torch.compile.")
    ] = "off",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, mps …")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, float16, bfloat16.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Price a plan without weights and offline: MACs exactly, seconds where they were measured.

    Example: postdiff cost --model sd15 --height 768 --width 768 -T 20 -s 0.5 --beta 0.5 -k 2 --convention paper
    """
    from postdiff_calib.cli.cost_output import CostView
    from postdiff_calib.cli.say import say
    from postdiff_calib.cost.budget import budget_of
    from postdiff_calib.cost.store import write_json
    from postdiff_calib.files import refuse_output
    from postdiff_calib.jobs.price import CostJob, run_cost

    job = CostJob(model, knobs, deployment, convention, measure, quick, refresh, table, device, dtype, compile_)
    _check_options(grid, budget, plot, measure, out)
    if budget is not None:
        budget = budget_of(budget, per_image=per_image).text
    inputs = [table] if table is not None else []
    for path, what in ((out, "output"), (plot, "plot")):
        if path is not None:
            refuse_output(path, inputs=inputs, what=what)
    priced = run_cost(job, note=(lambda _: None) if as_json else say)
    view = CostView(priced, as_json, deployment.negative_prompt)
    if out is not None:
        write_json(out, priced.costs.as_dict())
    if grid:
        view.print_grid(budget, plot)
    elif by_module:
        view.print_modules()
    else:
        view.print_plan()
        if measure and not as_json:
            view.print_latency(out)


def _check_options(grid: bool, budget: str | None, plot: Path | None, measure: bool, out: Path | None) -> None:
    from postdiff_calib.cost.budget import parse_budget
    from postdiff_calib.errors import UsageError

    if (budget is not None or plot is not None) and not grid:
        raise UsageError("--budget or --plot", "they go with --grid", "add --grid")
    if budget is not None:
        parse_budget(budget)
    if out is not None and not measure:
        raise UsageError("--out", "it writes measured seconds", "add --measure")
