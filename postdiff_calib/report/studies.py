"""The paper's own studies on a terminal: what each came to, where it was written, and what the paper saw."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from postdiff_calib.errors import UsageError
from postdiff_calib.jobs.paper_study import Price, write_result
from postdiff_calib.report.console import print_line, print_table
from postdiff_calib.report.json_output import print_json, with_schema
from postdiff_calib.report.terminal import wide_console
from postdiff_calib.report.wording import (
    interval,
    prompt_sizes_headings,
    prompt_sizes_rows,
    seconds,
    seconds_and_share,
    shown,
    value,
)
from postdiff_calib.study.paper_saw import FINETUNE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from postdiff_calib.jobs.finetune import Finetuned, FinetunePrice
    from postdiff_calib.jobs.redundancy import RedundancyResult
    from postdiff_calib.quality.fid import Fid
    from postdiff_calib.study.ablation import Ablation, AblationRow
    from postdiff_calib.study.methods import MethodComparison, MethodRow
    from postdiff_calib.study.prompt_sizes import PromptSizes


def print_price(price: Price, *, as_json: bool, console: Console | None = None) -> None:
    """What a study would cost."""
    if as_json:
        print_json("study-price", asdict(price))
        return
    (console or wide_console()).print(f"{price}; nothing was made", highlight=False, markup=False)


def print_finetune_price(price: FinetunePrice, *, as_json: bool, console: Console | None = None) -> None:
    """What a fine-tuning would cost."""
    if as_json:
        print_json("finetune-price", asdict(price))
        return
    (console or wide_console()).print(f"{price}; nothing was trained", highlight=False, markup=False)


def print_fid(result: Fid, *, as_json: bool, console: Console | None = None) -> None:
    """FID, FID∞ and what they are of."""
    if as_json:
        print_json("fid", asdict(result))
        return
    (console or wide_console()).print(str(result), highlight=False, markup=False)


def print_finetuned(result: Finetuned, *, as_json: bool, console: Console | None = None) -> None:
    """Where the weights are, how the loss fell, and what the paper saw."""
    if as_json:
        print_json("finetune", result.as_dict())
        return
    console = console or wide_console()
    told = ""
    if result.losses:
        first, last = result.losses[0], result.losses[-1]
        told = f"; loss {first[1]:.4f} at step {first[0]}, {last[1]:.4f} at step {last[0]}"
    option = "--lora" if result.tuning.lora_rank else "--model"
    sentences = f"{result.model}: {result.steps} steps on {result.data}{told}", f"The paper, {FINETUNE}."
    _close(console, sentences, [f"written to {result.written}; use it with {option} {result.written}"])


def _add(table: Table, *cells: str) -> None:
    """A row of plain texts: none of them steers the table, whoever it is of."""
    table.add_row(*map(Text, cells))


def _close(console: Console, sentences: Iterable[str], files: Iterable[str]) -> None:
    """What stands under the tables: sentences, then lines that name files."""
    for sentence in sentences:
        console.print(sentence, highlight=False, markup=False)
    for line in files:
        print_line(console, line)


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

    data = with_schema("redundancy", result.as_dict())
    lines = keep(data, path, lambda plot: plot_redundancy(result, plot))
    if as_json:
        print_json("redundancy", data)
        return
    console, found = console or wide_console(), result.distances
    title = f"{result.model}, T={result.steps}: change from step to step, {found.num_prompts} prompts, 95 % intervals"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=escape(title), title_justify="left")
    for name in ("block", "relative L1"):
        table.add_column(name, justify="left" if name == "block" else "right")
    for name, mean in found.block_means().items():
        _add(table, name, f"{mean.mean:.3f} [{mean.low:.3f}, {mean.high:.3f}]")
    print_table(console, table)
    layers = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("layers", "number", "L2", "relative L2"):
        layers.add_column(name, justify="left" if name == "layers" else "right")
    for kind, (absolute, relative) in found.kind_means().items():
        _add(layers, kind, str(found.kinds[kind]), f"{absolute.mean:.1f}", f"{relative.mean:.3f}")
    print_table(console, layers)
    _close(console, (*found.summary(), f"The paper, {data['paper']}."), lines)


def print_ablation(result: Ablation, path: Path, *, as_json: bool, console: Console | None = None) -> None:
    """Cost and every metric of each setting, and what the paper saw."""
    from postdiff_calib.report.ablation_plots import plot_ablation, plot_traces

    data = with_schema("ablate", result.as_dict())
    lines = keep(data, path, lambda plot: plot_ablation(result, plot))
    if result.traces and path.with_suffix(".png").exists():
        traced = path.with_name(f"{path.stem}-trace.png")
        plot_traces(result, traced)
        lines.append(f"traces drawn into {traced}")
    if as_json:
        print_json("ablate", data)
        return
    console = console or wide_console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("setting")
    names = result.metrics
    for name in ("MACs", *(["seconds", "time"] if result.timed else []), *(shown(name).label for name in names)):
        table.add_column(name, justify="right")
    for row in (result.baseline, *result.rows):
        timed = seconds_and_share(row.cost.seconds, result.baseline.cost.seconds)
        cells = [f"{row.share:.0%}", *(timed if result.timed else [])]
        _add(table, row.label, *cells, *(["failed"] if row.failed else [_cell(row, name) for name in names]))
    console.print(
        f"{result.model}, {result.num_prompts} prompts; differences to the baseline in pairs, 95 % intervals",
        highlight=False,
        markup=False,
    )
    print_table(console, table)
    for row in result.rows:
        if row.failed:
            console.print(f"{row.label} failed: {row.failed}", highlight=False, markup=False)
    saw = [f"The paper (SD1.5), {text}." for text in result.paper] or ["The paper did not vary this."]
    _close(console, (*result.notes, *saw), lines)


def _cell(row: AblationRow, name: str) -> str:
    if name not in row.measures:
        return "–"
    found = row.measures[name]
    compared = found.difference is not None and row.values
    return interval(found.difference, name) if compared and found.difference else value(found.mean, name)


def print_methods(result: MethodComparison, path: Path, *, as_json: bool, console: Console | None = None) -> None:
    """A table for each budget: every method at its largest setting that fits."""
    from postdiff_calib.report.method_plots import plot_methods

    data = with_schema("methods", result.as_dict())
    lines = keep(data, path, lambda plot: plot_methods(result, plot))
    if as_json:
        print_json("methods", data)
        return
    console, names = console or wide_console(), result.metrics
    console.print(
        f"{result.model}, {result.num_prompts} prompts; differences to the baseline in pairs, 95 % intervals",
        highlight=False,
        markup=False,
    )
    for budget, rows in result.budgets.items():
        title = f"within {budget}"
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=escape(title), title_justify="left")
        for name in ("method", "setting"):
            table.add_column(name)
        measured = [*(shown(name).label for name in names), *(["FID", "FID∞"] if result.baseline.fid else [])]
        for name in ("MACs", "seconds", "time", *measured):
            table.add_column(name, justify="right")
        for row in (result.baseline, *rows):
            share = "–" if row.share is None else f"{row.share:.0%}"
            time = result.time(row)
            _add(
                table,
                row.method,
                row.why or row.label,
                share,
                seconds(row.median),
                "–" if time is None else str(time),
                *(_method_cell(row, name, compared=row is not result.baseline) for name in names),
                *([f"{row.fid.fid:.3f}", f"{row.fid.unbiased:.3f}"] if row.fid else []),
            )
        print_table(console, table, plain=("method", "setting"))
    _close(console, (*result.notes, f"The paper, {result.paper}."), lines)


def _method_cell(row: MethodRow, name: str, *, compared: bool) -> str:
    if name not in row.measures:
        return "–"
    found = row.measures[name]
    if compared and found.difference is not None:
        return interval(found.difference, name)
    return value(found.mean, name)


def print_prompt_sizes(result: PromptSizes, path: Path, *, as_json: bool, console: Console | None = None) -> None:
    """How well sets of each size rank the settings, the recommended size, and what the paper saw."""
    from postdiff_calib.report.study_plots import plot_prompt_sizes

    data = with_schema("prompt-sizes", result.as_dict())
    lines = keep(data, path, lambda plot: plot_prompt_sizes(result, plot))
    if as_json:
        print_json("prompt-sizes", data)
        return
    console, label = console or wide_console(), shown(result.metric).label
    console.print(
        f"{result.source}: {result.settings} settings, {result.num_prompts} prompts, {label}",
        highlight=False,
        markup=False,
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in prompt_sizes_headings(result):
        table.add_column(name, justify="right")
    for row in prompt_sizes_rows(result):
        _add(table, *row)
    print_table(console, table)
    _close(console, (result.answer(), *result.notes, f"The paper (SD1.5), {data['paper']}."), lines)
