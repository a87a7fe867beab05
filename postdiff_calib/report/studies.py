"""The paper's own studies on a terminal: what each came to, where it was written, and what the paper saw."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from postdiff_calib.errors import UsageError
from postdiff_calib.jobs.paper_study import Price, write_result
from postdiff_calib.report.terminal import print_json, wide_console

if TYPE_CHECKING:
    from collections.abc import Callable

    from postdiff_calib.jobs.redundancy import RedundancyResult


def print_price(price: Price, *, as_json: bool, console: Console | None = None) -> None:
    """What a study would cost."""
    if as_json:
        print_json(asdict(price))
        return
    (console or wide_console()).print(f"{price}; nothing was made", highlight=False, markup=False)


def keep(data: dict[str, Any], path: Path, draw: Callable[[Path], None]) -> list[str]:
    """Write the result and its plot; returns the lines that say so.

    Args:
        data: the result, plain.
        path: of the JSON file; the plot has the same name and ends in ``.png``.
        draw: draws into a file.
    """
    written = write_result(path, data)
    plot = path.with_suffix(".png")
    try:
        draw(plot)
    except UsageError as error:
        return [f"written to {written}", f"not drawn: {error.rule}; {error.remedy}"]
    return [f"written to {written}, drawn into {plot}"]


def print_redundancy(result: RedundancyResult, path: Path, *, as_json: bool, console: Console | None = None) -> None:
    """Mean distances of blocks and layers, which are the cheapest to reuse, and what the paper saw."""
    from postdiff_calib.report.study_plots import plot_redundancy

    data = result.as_dict()
    lines = keep(data, path, lambda plot: plot_redundancy(result, plot))
    if as_json:
        print_json(data)
        return
    console, found = console or wide_console(), result.distances
    title = f"{result.model}, T={result.steps}: change from step to step, {found.num_prompts} prompts, 95 % intervals"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for name in ("block", "relative L1"):
        table.add_column(name, justify="left" if name == "block" else "right")
    for name, mean in found.block_means().items():
        table.add_row(name, f"{mean.mean:.3f} [{mean.low:.3f}, {mean.high:.3f}]")
    console.print(table, highlight=False)
    layers = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("layers", "number", "L2", "relative L2"):
        layers.add_column(name, justify="left" if name == "layers" else "right")
    for kind, (absolute, relative) in found.kind_means().items():
        layers.add_row(kind, str(found.kinds[kind]), f"{absolute.mean:.1f}", f"{relative.mean:.3f}")
    console.print(layers, highlight=False)
    for line in (*found.summary(), f"The paper, {data['paper']}.", *lines):
        console.print(line, highlight=False, markup=False)
