"""``postdiff cost``: what a plan costs, before any image is made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from postdiff_calib.cli.knobs import with_knobs

if TYPE_CHECKING:
    from collections.abc import Callable

    from postdiff_calib.accelerate.compiled import CompileMode
    from postdiff_calib.cost import CostTable
    from postdiff_calib.models.card import Card


@with_knobs
def cost_command(
    model: Annotated[str, typer.Option("--model", help="A card's name, a local directory, or a hub id.")] = "shapes",
    height: Annotated[int, typer.Option("--height", min=0, help="Pixels; 0 is the model's own.")] = 0,
    width: Annotated[int, typer.Option("--width", min=0, help="Pixels; 0 is the model's own.")] = 0,
    *,
    knobs: dict[str, Any],
    guidance_scale: Annotated[
        float | None, typer.Option("--guidance-scale", help="1 or less: no guidance.  [default: the model's own]")
    ] = None,
    convention: Annotated[
        str, typer.Option("--convention", help="full, or paper: without attention's own matrix products.")
    ] = "full",
    by_module: Annotated[bool, typer.Option("--by-module", help="A step's MACs by block and kind of layer.")] = False,
    grid: Annotated[bool, typer.Option("--grid", help="The reachable range of costs by T.")] = False,
    budget: Annotated[
        str | None, typer.Option("--budget", help="With --grid: 60%, 1.2s, 4.2GMACs, 2x; per image.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="With --grid: draw it into this file.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Load the model and measure seconds too.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Measure few kinds of step; predict the others.")] = False,
    refresh: Annotated[bool, typer.Option("--refresh", help="Measure again what was measured before.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="With --measure: write the latency table here.")] = None,
    table: Annotated[
        Path | None, typer.Option("--table", help="Price with a table written by --out, of any machine.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images per call when measuring.")] = 1,
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
    from postdiff_calib.accelerate.compiled import parse_compile
    from postdiff_calib.cli.cost_output import CostView
    from postdiff_calib.cli.say import say
    from postdiff_calib.errors import UsageError
    from postdiff_calib.files import refuse_output
    from postdiff_calib.knobs import names, settled

    _check_options(convention, grid, budget, plot, measure, out, table)
    mode = parse_compile(compile_)
    if mode != "off" and not measure:
        raise UsageError(f"--compile {mode}", "it changes seconds, which are measured", "add --measure")
    inputs = [table] if table is not None else []
    for path, what in ((out, "output"), (plot, "plot")):
        if path is not None:
            refuse_output(path, inputs=inputs, what=what)
    card, costs = _table(
        model,
        height,
        width,
        guidance_scale,
        measure,
        quick,
        refresh,
        knobs,
        batch_size,
        device,
        dtype,
        table,
        mode,
        (lambda _: None) if as_json else say,
    )
    chosen = settled(knobs, card.num_inference_steps, names() - card.knobs)
    card.require_acting(chosen)
    view = CostView(card, costs, chosen, convention, as_json)
    if out is not None:
        _write(out, costs)
    if grid:
        view.print_grid(budget, plot)
    elif by_module:
        view.print_modules()
    else:
        view.print_plan()
        if measure and not as_json:
            view.print_latency(out)


def _check_options(
    convention: str,
    grid: bool,
    budget: str | None,
    plot: Path | None,
    measure: bool,
    out: Path | None,
    table: Path | None,
) -> None:
    from postdiff_calib.cost.budget import parse_budget
    from postdiff_calib.errors import UsageError

    if convention not in ("paper", "full"):
        raise UsageError(f"--convention {convention}", "it must be paper or full", "full counts attention's products")
    if (budget is not None or plot is not None) and not grid:
        raise UsageError("--budget or --plot", "they go with --grid", "add --grid")
    if budget is not None:
        parse_budget(budget)
    if out is not None and not measure:
        raise UsageError("--out", "it writes measured seconds", "add --measure")
    if table is not None and measure:
        raise UsageError("--table with --measure", "seconds come from one of them", "leave one out")


def _table(
    model: str,
    height: int,
    width: int,
    guidance_scale: float | None,
    measure: bool,
    quick: bool,
    refresh: bool,
    knobs: dict[str, Any],
    batch_size: int,
    device: str,
    dtype: str,
    table: Path | None,
    mode: CompileMode,
    note: Callable[[str], None],
) -> tuple[Card, CostTable]:
    """The model's card and its prices: from a file, by measuring, or from the card alone."""
    from postdiff_calib.accelerate.compiled import announcement, compiled
    from postdiff_calib.cost import build_cost_table, table_for_card
    from postdiff_calib.cost.latency import MAX_KINDS
    from postdiff_calib.models.cards import CARDS, get_card

    known = any(card.name == model for card in CARDS)
    if known and not measure:
        card = get_card(model)
        if table is not None:
            return card, _read(table, card)
        sizes: dict[str, Any] = {"height": height or None, "width": width or None}
        return card, table_for_card(card, **sizes, guidance_scale=guidance_scale)
    from postdiff_calib.models.load import load_pipeline
    from postdiff_calib.techniques import techniques

    loaded = load_pipeline(model, device=device, dtype=dtype)
    card = loaded.card
    if told := announcement(mode, MAX_KINDS):
        note(told)
    with compiled(loaded.pipe, mode, MAX_KINDS) as compilation:
        costs = build_cost_table(
            loaded,
            height=height or card.height,
            width=width or card.width,
            guidance_scale=card.guidance_scale if guidance_scale is None else guidance_scale,
            batch_size=batch_size,
            measure=measure,
            scales=card.low_res_scales,
            branches=tuple(branch for technique in techniques() for branch in technique.branches(knobs)),
            quick=quick,
            refresh=refresh,
        )
        if told := compilation.describe():
            note(told)
    return card, costs


def _read(path: Path, card: Card) -> CostTable:
    from postdiff_calib.cost.store import read_table
    from postdiff_calib.errors import UsageError

    costs = read_table(path)
    if costs.model != card.name:
        raise UsageError(f"--table {path}", f"it is of {costs.model}, not {card.name}", f"add --model {costs.model}")
    return costs


def _write(out: Path, costs: CostTable) -> None:
    from postdiff_calib.cost.store import write_json

    write_json(out, costs.as_dict())
