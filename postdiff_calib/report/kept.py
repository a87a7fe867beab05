"""The paper's own studies of a study's folder as tables and sentences, for the report and for ``postdiff compare``."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from postdiff_calib.cost.rounds import notes_of_rounds
from postdiff_calib.errors import StudyError
from postdiff_calib.profile import Comparison
from postdiff_calib.quality.metrics import metrics
from postdiff_calib.report.console import print_table
from postdiff_calib.report.wording import (
    interval,
    prompt_sizes_headings,
    prompt_sizes_rows,
    seconds,
    seconds_and_share,
    shown,
    value,
)
from postdiff_calib.study.kept import KeptStudy
from postdiff_calib.study.methods import pace_of_rounds, relative_time, time_notes
from postdiff_calib.study.prompt_sizes import PromptSizes


@dataclass(frozen=True)
class StudyView:
    """One study to show.

    Attributes:
        title: what it is.
        headings, rows: its table; all cells but a row's first are figures.
        sentences: what it came to, and what the paper saw.
        plot: a PNG file, or None.
        path: the study's file.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    sentences: tuple[str, ...]
    plot: Path | None
    path: Path


def view(study: KeptStudy) -> StudyView:
    """A study's table and sentences.

    Raises:
        StudyError: its file is not as the command writes it.
    """
    try:
        title, headings, rows, sentences = _BUILD[study.kind](study.data)
        return StudyView(title, tuple(headings), tuple(map(tuple, rows)), tuple(sentences), study.plot, study.path)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        rule = "it is not as postdiff writes it"
        raise StudyError(f"study {study.path}", rule, "delete it, or make it again") from error


def print_views(views: Sequence[StudyView], console: Console) -> None:
    """Every study's table and sentences on a terminal."""
    for found in views:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=escape(found.title), title_justify="left")
        for number, heading in enumerate(found.headings):
            table.add_column(escape(heading), justify="right" if number else "left")
        for row in found.rows:
            table.add_row(*map(Text, row))
        console.print()
        print_table(console, table)
        for line in (*found.sentences, f"from {found.path}"):
            console.print(line, highlight=False, markup=False)


_Built = tuple[str, Sequence[str], Sequence[Sequence[str]], Sequence[str]]


def _ablation(data: Mapping[str, Any]) -> _Built:
    rows = [data["baseline"], *data["settings"]]
    measured = {name for row in rows for name in row["measures"]}
    names = [m.name for m in metrics() if m.name in measured]
    whole, shown_rows = data["baseline"]["cost"]["seconds"], []
    for row in rows:
        cells = ["failed" if row["failed"] else _cell(row, name, compared=bool(row["values"])) for name in names]
        timed = [] if whole is None else seconds_and_share(row["cost"]["seconds"], whole)
        shown_rows.append([row["label"], f"{row['share']:.0%}", *timed, *cells])
    title = f"ablation of {data['model']}, {data['num_prompts']} prompts: difference to the baseline, 95 % interval"
    sentences = [f"{row['label']} failed: {row['failed']}" for row in rows if row["failed"]]
    saw = [f"The paper (SD1.5), {text}." for text in data["paper"]]
    headings = [
        "setting",
        "MACs",
        *([] if whole is None else ["seconds", "time"]),
        *(shown(name).label for name in names),
    ]
    # files of an earlier version do not say how far their rounds disagree
    return title, headings, shown_rows, [*sentences, *notes_of_rounds(data.get("disagreement")), *saw]


def _cell(row: Mapping[str, Any], name: str, *, compared: bool) -> str:
    if name not in row["measures"]:
        return "–"
    found = row["measures"][name]
    d = found["difference"]
    if d is None or not compared:
        return value(found["mean"], name)
    return interval(Comparison(mean=d["mean"], low=d["low"], high=d["high"], num_prompts=d["n"]), name)


def _redundancy(data: Mapping[str, Any]) -> _Built:
    rows = [
        [name, f"{mean['mean']:.3f} [{mean['low']:.3f}, {mean['high']:.3f}]"] for name, mean in data["blocks"].items()
    ]
    title = (
        f"redundancy of {data['model']}, T={data['num_inference_steps']}: change from step to step, "
        f"{data['num_prompts']} prompts, 95 % intervals"
    )
    return title, ["block", "relative L1"], rows, [*data["summary"], f"The paper, {data['paper']}."]


def _prompt_sizes(data: Mapping[str, Any]) -> _Built:
    # built anew, so that a file of an earlier version recommends no size either that its prompts are too few for
    result = PromptSizes.from_dict(data)
    label = shown(result.metric).label
    title = f"size of a calibration set: {result.settings} settings, {result.num_prompts} prompts, {label}"
    sentences = [result.answer(), *result.notes, f"The paper (SD1.5), {data['paper']}."]
    return title, prompt_sizes_headings(result), prompt_sizes_rows(result), sentences


def _methods(data: Mapping[str, Any]) -> _Built:
    baseline = data["baseline"]
    every = [(budget, row) for budget, rows in data["budgets"].items() for row in rows]
    left_out = [f"{text}: {row['method']}: {row['why']}." for text, row in every if row["why"]]
    fitting = [(f"{text}: {row['method']}, {row['label']}", row) for text, row in every if not row["why"]]
    named = [("baseline", baseline), *fitting]
    names, of_fid = [m.name for m in metrics() if m.name in baseline["measures"]], baseline["fid"] is not None
    times = [relative_time(row["seconds"], baseline["seconds"]) for _, row in named]
    rows = []
    for (name, row), time in zip(named, times, strict=True):
        timed = [seconds(statistics.median(row["seconds"])), str(time)] if time is not None else ["–", "–"]
        measured = [_cell(row, one, compared=row is not baseline) for one in names]
        if of_fid:
            measured += [f"{row['fid'][one]:.3f}" if row["fid"] else "–" for one in ("fid", "unbiased")]
        rows.append([name, f"{row['share']:.0%}", *timed, *measured])
    pace = pace_of_rounds({(row["method"], row["label"]): row["seconds"] for _, row in named})
    title = (
        f"methods within the same budget, {data['model']}, {data['num_prompts']} prompts: difference to the baseline, "
        "95 % interval"
    )
    headings = ["within, method", "MACs", "seconds", "time", *(shown(one).label for one in names)]
    sentences = [*left_out, *time_notes(pace, times), f"The paper, {data['paper']}."]
    return title, [*headings, *(["FID", "FID∞"] if of_fid else [])], rows, sentences


#: By kind of study.
_BUILD: dict[str, Callable[[Mapping[str, Any]], _Built]] = {
    "ablation": _ablation,
    "redundancy": _redundancy,
    "prompt sizes": _prompt_sizes,
    "methods": _methods,
}
