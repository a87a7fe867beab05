"""Every plot that matplotlib draws, without a display; ``plot_data`` says what is in it.

Colours are Okabe and Ito's, which people who do not see all colours tell apart; shapes and dashes differ as well.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from postdiff_calib.errors import UsageError
from postdiff_calib.files import save_figure
from postdiff_calib.quality import Metric, metric
from postdiff_calib.report.plot_data import ArmMarks, arm_marks, tradeoff_caption, tradeoff_range
from postdiff_calib.scores.select import ARM_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from postdiff_calib.cost.budget import Limit
    from postdiff_calib.cost.grid import GridRow
    from postdiff_calib.scores.select import Arm
    from postdiff_calib.study.arms import Tradeoff


class Style(NamedTuple):
    """How an arm is drawn: its frontier as a line, its plans as marks."""

    label: str
    colour: str
    marker: str
    line: dict[str, Any]


#: The combined arm lies under the other two, wide and pale, since it follows whichever of them is ahead.
STYLES: dict[Arm, Style] = {
    "step_reduction": Style(
        ARM_NAMES["step_reduction"], "#0072B2", "o", {"linestyle": (0, (5, 2)), "linewidth": 1.7, "zorder": 3}
    ),
    "cheaper_steps": Style(
        ARM_NAMES["cheaper_steps"], "#D55E00", "s", {"linestyle": (0, (1.3, 1.3)), "linewidth": 2.0, "zorder": 3}
    ),
    "combined": Style(
        ARM_NAMES["combined"], "#009E73", "D", {"linestyle": "solid", "linewidth": 6, "alpha": 0.3, "zorder": 2}
    ),
}
_GREY = "#555555"


def plot_tradeoff(tradeoff: Tradeoff, path: Path) -> None:
    """Draw quality against cost for the three arms into an image file.

    Raises:
        UsageError: matplotlib is not installed.
        OutputError: the file cannot be written, or its ending is not an image's.
    """
    try:
        figure = draw_tradeoff(tradeoff)
    except ImportError as error:
        raise UsageError("--plot", "it needs matplotlib", "install it: pip install 'postdiff[report]'") from error
    save_figure(figure, path, dpi=160)


def draw_tradeoff(tradeoff: Tradeoff) -> Any:
    """The image as a matplotlib figure.

    Plans that were judged on held-out prompts are drawn with their intervals; the frontier of an arm is a staircase
    through them: at a budget, the best plan that costs at most that much. Other plans are pale.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    low, high = tradeoff_range(tradeoff)
    band = axes.axhspan(-tradeoff.delta, tradeoff.delta, color="black", alpha=0.06, linewidth=0, zorder=0)
    axes.axhline(0, color=_GREY, linewidth=0.8, zorder=1)
    handles = []
    for arm, style in STYLES.items():
        _draw_arm(axes, arm_marks(tradeoff.points[arm], arm), style)
        look = {**style.line, "marker": style.marker, "markersize": 7, "markeredgecolor": "white"}
        handles.append(Line2D([], [], color=style.colour, label=style.label, **look))
    handles += axes.plot(
        [100], [0], marker="*", markersize=15, color="black", linestyle="none", label="baseline", zorder=6
    )
    handles += _mark_budgets(axes, tradeoff)
    band.set_label(f"within ±{tradeoff.delta:.2g} points")
    axes.legend(handles=[*handles, band], loc="lower right", framealpha=0.92, edgecolor="#cccccc", fontsize=9)
    cheapest = min((p.share for p in tradeoff.points["combined"]), default=0.0)
    axes.set(
        xlabel=f"{tradeoff.unit} per image, in % of the baseline's",
        ylabel=_difference_of(metric(tradeoff.metrics[0])),
        xlim=(max(0.0, 100 * cheapest - 4), 104),
        ylim=(low, high),
    )
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("\n".join(textwrap.wrap(tradeoff.answer, 105)), loc="left", fontsize=9.5, color="#333333")
    figure.suptitle(
        f"Step reduction or cheaper steps?  {_title(tradeoff.model)}, {tradeoff.height}×{tradeoff.width}",
        x=0.01,
        ha="left",
        fontsize=13,
        fontweight="bold",
    )
    caption = "\n".join(textwrap.wrap(tradeoff_caption(tradeoff), 130))
    figure.supxlabel(caption, x=0.01, ha="left", fontsize=7.5, color=_GREY)
    return figure


def _difference_of(score: Metric) -> str:
    """What the vertical axis shows, with its unit where it has one."""
    unit = f", in {score.difference_unit}" if score.difference_unit else ""
    return f"{score.label} minus the baseline's{unit}"


def _title(model: str) -> str:
    """A model in the image's title: the end of a long path, and nothing that matplotlib takes for a formula."""
    return (model if len(model) <= 40 else f"…{model[-39:]}").replace("$", r"\$")


def _draw_arm(axes: Any, marks: ArmMarks, style: Style) -> None:
    """The frontier, the judged plans with their intervals, the others pale."""
    if marks.frontier:
        x, y = [100 * p.share for p in marks.frontier], [p.difference.mean for p in marks.frontier]
        # The best plan stays the best at every larger budget.
        axes.step([*x, 100.0], [*y, y[-1]], where="post", color=style.colour, **style.line)
    mark = {"marker": style.marker, "color": style.colour, "linestyle": "none"}
    pale, judged = marks.pale, marks.judged
    axes.plot(
        [100 * p.share for p in pale], [p.difference.mean for p in pale], markersize=4, alpha=0.3, zorder=2, **mark
    )
    axes.errorbar(
        [100 * p.share for p in judged],
        [p.difference.mean for p in judged],
        yerr=[
            [p.difference.mean - p.difference.low for p in judged],
            [p.difference.high - p.difference.mean for p in judged],
        ],
        markersize=7,
        markeredgecolor="white",
        markeredgewidth=0.8,
        elinewidth=1.2,
        capsize=2.5,
        zorder=4,
        **mark,
    )


def _mark_budgets(axes: Any, tradeoff: Tradeoff) -> list[Any]:
    """The cross-over as a band and the study's own budget as a line; what the legend needs of them."""
    handles = []
    if tradeoff.budget_share is not None:
        x = 100 * tradeoff.budget_share
        label = f"the study's budget ({x:.3g} %)"
        handles.append(axes.axvline(x, color="black", linestyle=(0, (6, 3)), linewidth=1.1, label=label, zorder=1))
    if tradeoff.crossover is not None:
        low, high = (100 * share for share in tradeoff.crossover)
        label = f"cross-over ({low:.3g} to {high:.3g} %)"
        handles.append(axes.axvspan(low, high, color="#F0E442", alpha=0.45, linewidth=0, label=label, zorder=0))
    return handles


def plot_reachable(rows: Sequence[GridRow], path: Path, title: str, limit: Limit | None = None) -> None:
    """Draw the range of costs at each T, and the budget as a line.

    Raises:
        UsageError: matplotlib is not installed.
        OutputError: the file cannot be written, or its ending is not an image's.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("--plot", "it needs matplotlib", "install it: pip install 'postdiff[report]'") from error
    seconds = limit is not None and limit.kind == "seconds"
    top = max(row.most_expensive for row in rows)
    unit, scale = ("s", 1.0) if seconds else _unit(top)
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = [row.num_inference_steps for row in rows]
    low, high = [row.cheapest / scale for row in rows], [row.most_expensive / scale for row in rows]
    axes.fill_between(steps, low, high, alpha=0.25, label="all plans")
    axes.plot(steps, high, marker="o", markersize=3, label="step reduction alone")
    axes.plot(steps, low, marker="o", markersize=3, label="cheapest plan")
    if limit is not None:
        axes.axhline(limit.value / scale, color="black", linestyle="--", linewidth=1, label="budget")
    axes.set(xlabel="denoising steps T", ylabel=f"cost per image ({unit})", title=title, ylim=(0, None))
    axes.legend()
    save_figure(figure, path, dpi=150)


def _unit(macs: float) -> tuple[str, float]:
    for prefix, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if macs >= scale:
            return f"{prefix}MACs, attention counted", scale
    return "MACs, attention counted", 1.0
