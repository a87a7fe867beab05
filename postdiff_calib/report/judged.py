"""A judgement of set-ups: a table with intervals and verdicts on a terminal, or as JSON, and a grid of images."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from postdiff_calib.cost.budget import format_macs, format_seconds
from postdiff_calib.files.pixels import to_array
from postdiff_calib.quality.metrics import in_words
from postdiff_calib.report.console import print_line, print_table
from postdiff_calib.report.json_output import print_json
from postdiff_calib.report.sheet import draw_sheet, save_sheet
from postdiff_calib.report.terminal import wide_console
from postdiff_calib.report.wording import interval, shown, value

if TYPE_CHECKING:
    import torch

    from postdiff_calib.study.judged import Cost, Judged, Judgement


def print_judgement(
    judgement: Judgement, grid: Path | None = None, *, as_json: bool, console: Console | None = None
) -> None:
    """Every set-up against the baseline: cost, each metric's paired difference with its interval, the verdict."""
    if as_json:
        print_json("judge", {**judgement.as_dict(), "grid": None if grid is None else str(grid)})
        return
    console = console or wide_console()
    print_line(console, judgement.baseline)
    print_table(console, _table(judgement))
    for one in judgement.setups:
        print_line(console, verdict_line(one, judgement.num_prompts))
    for note in judgement.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    if grid is not None:
        print_line(console, f"\nimages written to {grid}")


def _table(judgement: Judgement) -> Table:
    names = list(dict.fromkeys(m.metric for one in judgement.setups for m in one.metrics))
    table = Table(
        title=f"{escape(judgement.model)}: difference to the baseline, {judgement.num_prompts} prompts, 95 % interval",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("set-up", overflow="fold")
    for name in ("per image", "speed-up", "MACs"):
        table.add_column(name, justify="right")
    for name in names:
        table.add_column(escape(shown(name).label), justify="right")
    table.add_column("verdict")
    first = next((one for one in judgement.setups if one.metrics), None)
    base = {} if first is None else {m.metric: value(m.baseline_score, m.metric) for m in first.metrics}
    table.add_row("baseline", "", "", "", *(Text(base.get(name, "–")) for name in names), "")
    for one in judgement.setups:
        own = {m.metric: interval(m.difference, m.metric) for m in one.metrics}
        said = "not judged" if one.verdict is None else one.verdict.kind
        cells = [one.setup, *_cost_cells(one.cost), *(own.get(name, "–") for name in names), said]
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _cost_cells(cost: Cost | None) -> tuple[str, str, str]:
    if cost is None:
        return "–", "–", "–"
    here, there = statistics.median(cost.seconds), statistics.median(cost.baseline_seconds)
    macs = "–" if cost.macs is None or not cost.baseline_macs else f"{cost.macs / cost.baseline_macs:.0%}"
    return f"{format_seconds(here)} of {format_seconds(there)}", f"{cost.speed_up:.2f}×", macs


def verdict_line(one: Judged, num_prompts: int) -> str:
    """What is said of a set-up, in one line."""
    if one.verdict is None:
        return f"{one.setup}: not judged: {one.broken}"
    kind = one.verdict.kind
    within = ", ".join(f"{shown(m.metric).label} within {shown(m.metric).show(m.delta)}" for m in one.metrics)
    said = f"{one.setup}: {kind} on {num_prompts} prompts"
    if kind == "equivalent":
        said += f": {within}"
    elif kind == "undecided":
        needed = one.verdict.prompts_needed
        said += f"; equivalent would be {within}" + (f"; {needed} prompts would decide" if needed else "")
    elif kind == "worse":
        worse = [m for m in one.metrics if m.verdict == "worse"]
        said += f": {', '.join(f'{shown(m.metric).label} {interval(m.difference, m.metric)}' for m in worse)}"
    near = in_words(one.fidelity or {})
    said += f"; {near} against the baseline's images" if near else ""
    if one.cost is not None and one.cost.macs is not None and one.cost.baseline_macs is not None:
        said += f"; {format_macs(one.cost.macs)} of {format_macs(one.cost.baseline_macs)}"
    return said


def write_grid(
    path: Path, rows: Sequence[tuple[str, Sequence[torch.Tensor | None]]], prompts: Sequence[str]
) -> Path | None:
    """One image: a row for the baseline and each set-up, a column for each of the first prompts, same seeds.

    Args:
        path: of the file; its ending names the format.
        rows: (label, images (3, H, W) in [0, 1]; None leaves a cell empty).
        prompts: of the columns.

    Returns:
        The path; None where there is no image at all.

    Raises:
        OutputError: it cannot be written.
    """
    from PIL import Image

    if all(image is None for _, images in rows for image in images):
        return None
    # the end of a path says enough
    labels = [label.rpartition("/")[2] for label, _ in rows]
    cells = [[None if image is None else Image.fromarray(to_array(image)) for image in images] for _, images in rows]
    save_sheet(draw_sheet(labels, cells, prompts), path, "output")
    return path
