"""Plots of an ablation: each metric against cost, a curve for each value of the other knob; traces over the steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from postdiff_calib.knobs import table
from postdiff_calib.quality.metrics import metric
from postdiff_calib.report.study_plots import COLOURS, MARKS, finish, new_figure

if TYPE_CHECKING:
    from postdiff_calib.study.ablation import Ablation, AblationRow

#: Most metrics that are drawn, in the order of the table of metrics.
_PANELS = 4


def _ends(row: AblationRow, name: str) -> tuple[float, float, float]:
    """Mean and both ends of what is drawn: the difference where there is one, else the value."""
    found = row.measures[name]
    shown = found.difference or found
    return shown.mean, shown.low, shown.high


def plot_ablation(result: Ablation, path: Path) -> None:
    """Each metric against cost: seconds where they are stable, else MACs.

    Raises:
        UsageError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    names = result.metrics[:_PANELS]
    figure, panels = new_figure(3.4 * max(len(names), 2), 3.9, max(len(names), 1))
    timed = result.timed and result.stable is not False
    along = next(row for row in table() if row.field == result.along)
    for axes, name in zip(panels, names, strict=False):
        m = metric(name)
        for i, (label, rows) in enumerate(result.curves().items()):
            rows = [row for row in rows if name in row.measures]
            x = [(row.cost.seconds or 0.0) if timed else 100 * row.share for row in rows]
            ends = [_ends(row, name) for row in rows]
            mean = [e[0] for e in ends]
            error = [[e[0] - e[1] for e in ends], [e[2] - e[0] for e in ends]]
            look = {"color": COLOURS[i % len(COLOURS)], "marker": MARKS[i % len(MARKS)], "markersize": 4}
            axes.errorbar(x, mean, yerr=error, label=label or along.symbol, capsize=2, linewidth=1.2, **look)
            for row, at, height in zip(rows, x, mean, strict=True):
                value = row.values[along.field]
                text = f"{value:g}" if isinstance(value, (int, float)) else str(value)
                axes.annotate(text, (at, height), xytext=(3, 3), textcoords="offset points", fontsize=6)
        if m.quality:
            axes.axhline(0, color="#555555", linewidth=0.8)
        axes.set_title(f"{m.label} minus the baseline's" if m.quality else f"{m.label} to the baseline's images")
        axes.title.set_fontsize(8.5)
        axes.set_ylabel(m.difference_unit or m.unit, fontsize=8)
        axes.set_xlabel("seconds per image" if timed else "MACs, % of the baseline's", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.legend(fontsize=7, title=None if len(result.varied) > 1 else f"along {along.symbol}", title_fontsize=7)
    varied = " × ".join(row.symbol for row in table() if row.field in result.varied)
    fixed = " ".join(row.show(result.fixed[row.field]) for row in table() if row.field in result.fixed)
    title = f"{result.model}: {varied}{f', {fixed}' if fixed else ''}, {result.num_prompts} prompts, 95 % intervals"
    finish(figure, title, result.paper, path)


def plot_traces(result: Ablation, path: Path) -> None:
    """CLIP score of the clean estimate over the share of the steps that are done.

    Raises:
        UsageError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    figure, (axes,) = new_figure(7, 4.2, 1)
    for i, trace in enumerate(result.traces):
        steps = len(trace.mean)
        x = [100 * (step + 1) / steps for step in range(steps)]
        look = {"color": COLOURS[i % len(COLOURS)], "marker": MARKS[i % len(MARKS)], "markersize": 3}
        axes.plot(x, trace.mean, label=trace.label, linewidth=1.2, **look)
        axes.fill_between(x, trace.low, trace.high, color=look["color"], alpha=0.12, linewidth=0)
    axes.set(xlabel="% of the steps done", ylabel="CLIP score of the decoded clean estimate")
    axes.legend(fontsize=7)
    title = f"{result.model}: clean estimate step by step, {result.num_prompts} prompts, 95 % intervals"
    finish(figure, title, result.paper, path)
