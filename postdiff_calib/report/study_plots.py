"""Plots of the paper's own studies; beside each stands what the paper saw."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postdiff_calib.errors import UsageError, printable
from postdiff_calib.files import save_figure
from postdiff_calib.study.paper_saw import PROMPT_SIZES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from postdiff_calib.jobs.redundancy import RedundancyResult
    from postdiff_calib.study.prompt_sizes import PromptSizes

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
    figure.suptitle(printable(title).replace("$", r"\$"), x=0.01, ha="left", fontsize=11, fontweight="bold")
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


def plot_prompt_sizes(result: PromptSizes, path: Path) -> None:
    """Kendall's τ and the chance of a pick within δ, over the number of prompts.

    Raises:
        UsageError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    figure, (left, right) = new_figure(8, 3.6, 2)
    sizes = [row.size for row in result.rows]
    look = {"color": COLOURS[0], "marker": MARKS[0], "markersize": 4}
    left.plot(sizes, [row.tau for row in result.rows], **look)
    low, high = [row.tau_low for row in result.rows], [row.tau_high for row in result.rows]
    left.fill_between(sizes, low, high, color=COLOURS[0], alpha=0.15, linewidth=0, label="95 % of the draws")
    left.set(title="Kendall's τ to the order by all prompts", ylim=(min(0.0, *low), 1.02))
    right.plot(sizes, [100 * row.chance for row in result.rows], **look)
    right.axhline(100 * result.wanted, color=_GREY, linewidth=0.9, linestyle="--", label=f"{result.wanted:.0%}")
    right.set(title=f"% of draws that pick within {result.delta:g} of the best", ylim=(0, 103))
    for axes in (left, right):
        axes.title.set_fontsize(9)
        axes.set(xlabel="prompts", xscale="log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        if result.notes:
            axes.axvspan(
                result.num_prompts, 1.1 * max(sizes), color=_GREY, alpha=0.15, linewidth=0, label="extrapolated"
            )
        axes.legend(fontsize=7, loc="lower right")
    title = f"{result.settings} settings, {result.num_prompts} prompts: how many prompts are enough?"
    finish(figure, title, [PROMPT_SIZES], path)
