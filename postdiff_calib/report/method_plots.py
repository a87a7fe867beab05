"""Plot of methods side by side: each metric's difference to the baseline, a group of bars for each budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from postdiff_calib.quality.metrics import metric
from postdiff_calib.report.study_plots import COLOURS, MARKS, finish, new_figure

if TYPE_CHECKING:
    from postdiff_calib.study.methods import MethodComparison

#: Most metrics that are drawn, in the order of the table of metrics.
_PANELS = 3
#: Width of a budget's group of points, in budgets.
_GROUP = 0.7


def plot_methods(result: MethodComparison, path: Path) -> None:
    """Each metric by budget, a mark for each method.

    Raises:
        UsageError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    names = [name for name in result.metrics if name != "cmmd"][:_PANELS]
    methods = list(dict.fromkeys(row.method for rows in result.budgets.values() for row in rows if row.measures))
    figure, panels = new_figure(4.4 * max(len(names), 1), 4.2, max(len(names), 1))
    for axes, name in zip(panels, names, strict=False):
        m = metric(name)
        for number, method in enumerate(methods):
            points = [
                (place, row.measures[name].difference or row.measures[name])
                for place, rows in enumerate(result.budgets.values())
                for row in rows
                if row.method == method and name in row.measures
            ]
            shift = _GROUP * ((number + 0.5) / len(methods) - 0.5)
            error = [[f.mean - f.low for _, f in points], [f.high - f.mean for _, f in points]]
            axes.errorbar(
                [place + shift for place, _ in points],
                [f.mean for _, f in points],
                yerr=error,
                fmt=MARKS[number % len(MARKS)],
                color=COLOURS[number % len(COLOURS)],
                label=method,
                capsize=2,
                markersize=5,
            )
        if m.quality:
            axes.axhline(0, color="#555555", linewidth=0.8)
        axes.set_title(f"{m.label} minus the baseline's" if m.quality else f"{m.label} to the baseline's images")
        axes.title.set_fontsize(8.5)
        axes.set_ylabel(m.difference_unit or m.unit, fontsize=8)
        axes.set_xticks(range(len(result.budgets)), list(result.budgets), fontsize=8)
        axes.tick_params(axis="y", labelsize=7)
    panels[0].legend(fontsize=6.5)
    title = f"{result.model}: methods within the same budget, {result.num_prompts} prompts, 95 % intervals"
    finish(figure, title, [result.paper], path)
