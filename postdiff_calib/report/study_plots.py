"""Plots of the paper's own studies; beside each stands what the paper saw."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postdiff_calib.errors import UsageError
from postdiff_calib.files import save_figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from postdiff_calib.jobs.redundancy import RedundancyResult

#: Okabe and Ito's colours, and marks that differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "D", "^", "v", "P", "X")
_GREY = "#555555"
_DPI = 110


def new_figure(width: float, height: float, panels: int) -> tuple[Any, Sequence[Any]]:
    """A figure with panels in a row, drawn without a display.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("the plot", "it needs matplotlib", "install it: pip install 'postdiff[report]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color="#e4e4e4", linewidth=0.6)
        one.set_axisbelow(True)
    return figure, axes


def finish(figure: Any, title: str, saw: Sequence[str], path: Path) -> None:
    """Title, what the paper saw, and the file.

    Raises:
        OutputError: it cannot be written.
    """
    figure.suptitle(title.replace("$", r"\$"), x=0.01, ha="left", fontsize=11, fontweight="bold")
    width = round(16 * figure.get_figwidth())
    lines = [line for text in saw for line in textwrap.wrap(f"The paper (SD1.5), {text}.", width)]
    figure.supxlabel("\n".join(lines) or "The paper did not vary this.", x=0.01, ha="left", fontsize=7.5, color=_GREY)
    save_figure(figure, path, dpi=_DPI)


def plot_redundancy(result: RedundancyResult, path: Path) -> None:
    """Relative L1 distance by block and step as a heat map, L2 distance by type of layer and step as lines.

    Raises:
        UsageError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    found = result.distances
    figure, (left, middle, right) = new_figure(12.5, 3.9, 3)
    steps = range(1, found.heat.shape[1] + 1)
    left.grid(visible=False)
    mesh = left.imshow(
        found.heat,
        aspect="auto",
        cmap="viridis",
        vmin=0,
        extent=(0.5, len(steps) + 0.5, len(found.blocks) - 0.5, -0.5),
    )
    left.set_yticks(range(len(found.blocks)), found.blocks, fontsize=7)
    left.set(xlabel="denoising step", title="(a) relative L1 distance to the step before")
    figure.colorbar(mesh, ax=left, shrink=0.9)
    for axes, values, title in (
        (middle, found.l2, "(b) L2 distance by type of layer"),
        (right, found.relative_l2, "(c) the same, relative"),
    ):
        for i, kind in enumerate(found.kinds):
            look = {"color": COLOURS[i % len(COLOURS)], "marker": MARKS[i % len(MARKS)], "markersize": 3}
            axes.plot(steps, values[:, i].mean(0), label=kind, **look)
        axes.set(xlabel="denoising step", title=title, ylim=(0, None))
        axes.legend(fontsize=7)
    for axes in (left, middle, right):
        axes.title.set_fontsize(9)
        axes.xaxis.get_major_locator().set_params(integer=True)
    saw = str(result.as_dict()["paper"])
    finish(figure, f"{result.model}, T={result.steps}, {found.num_prompts} prompts: change between steps", [saw], path)
