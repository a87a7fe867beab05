"""``postdiff report``: a study and a budget in, one HTML file out.

The page is self-contained: style, script, plots and images are inside, and its content security policy forbids it to
fetch anything or to run any script but its own. All text is escaped by the template; the script reads the page only.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from postdiff_calib.cost.budget import format_macs, parse_budget
from postdiff_calib.errors import UsageError
from postdiff_calib.files import refuse_output, write_atomically
from postdiff_calib.knobs import Knobs
from postdiff_calib.progress import Progress, Silent
from postdiff_calib.report.html.findings import Findings, plan_words
from postdiff_calib.report.html.images import Album, Group, choose
from postdiff_calib.report.html.plots import (
    HISTOGRAM_NARROW,
    HISTOGRAM_WIDE,
    NARROW,
    WIDE,
    FrontierPlot,
    Histogram,
    frontier_plot,
    histogram,
)
from postdiff_calib.report.terminal import seconds
from postdiff_calib.report.wording import (
    arm_difference,
    category_cell,
    category_metrics,
    category_note,
    interval,
    minimum_detectable_difference,
    missing,
    prompts,
    results,
    row_difference,
    shown,
    signed,
    value,
    verdict,
    winner,
)
from postdiff_calib.scores.select import ARM_NAMES, PlanScores
from postdiff_calib.search.importance import importance
from postdiff_calib.study.record import Study

if TYPE_CHECKING:
    from postdiff_calib.models.load import LoadedModel

GROUP_LABELS: dict[Group, str] = {
    "best": "Where the plan gains most",
    "median": "In the middle",
    "worst": "Where it loses most",
}
#: Images smaller than this are shown enlarged with sharp pixels.
_PIXELATED = 128


@dataclass(frozen=True)
class ReportJob:
    """What ``postdiff report`` was asked for; ``budget`` None takes the study's own."""

    study: Path
    out: Path = Path("report.html")
    budget: str | None = None
    images: bool = True
    device: str = "auto"


@dataclass(frozen=True)
class ShownImage:
    """One image of the grid with its score; ``difference`` to the baseline's, None for that one itself."""

    label: str
    uri: str
    width: int
    height: int
    score: float
    difference: float | None
    pixelated: bool


@dataclass(frozen=True)
class Example:
    """A prompt of the grid with its images."""

    prompt: str
    seed: int
    images: tuple[ShownImage, ...]


def write_report(job: ReportJob, progress: Progress | None = None, loaded: LoadedModel | None = None) -> Path:
    """Write the report of a study.

    Args:
        job: what was asked for.
        progress: is told what happens.
        loaded: the study's model, where it is loaded already.

    Raises:
        StudyError: there is no study, it has no scores, or its model is not the scored one any more.
        BudgetError: the budget is nonsense, or no scored plan is within it.
        OutputError: the file cannot be written; found out before any image is made.
    """
    progress = progress or Silent()
    study = Study.load(job.study).require_scores()
    findings = Findings(study, parse_budget(job.budget) if job.budget else study.record.asked.budget)
    refuse_output(job.out, study=job.study)
    examples = _examples(findings, job.device, progress, loaded) if job.images else None
    return write_atomically(job.out, render(findings, examples))


def render(findings: Findings, examples: dict[str, list[Example]] | None = None) -> str:
    """The page's text.

    Args:
        findings: what it says.
        examples: the image grid by group's label; None leaves it out.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise UsageError("postdiff report", "it needs Jinja2", "install it: pip install 'postdiff[report]'") from error

    environment = Environment(
        loader=PackageLoader("postdiff_calib.report", "html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        signed=signed,
        interval=interval,
        value=value,
        label=lambda name: shown(name).label,
        macs=format_macs,
        seconds=seconds,
        percent=_percent,
    )
    environment.globals.update(
        arm_difference=arm_difference,
        category_cell=category_cell,
        category_metrics=category_metrics,
        category_note=category_note,
        missing=missing,
        row_difference=row_difference,
        winner=winner,
    )
    script = _own_file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text: str = environment.get_template("page.html").render(
        style=_own_file("page.css"),
        script=script,
        script_hash=f"sha256-{digest}",
        examples=examples,
        **_context(findings),
    )
    return text


def _own_file(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _percent(value: float) -> str:
    return f"{value:.0%}"


def _context(findings: Findings) -> dict[str, Any]:
    study, profile = findings.study, findings.profile
    differences = findings.differences()
    known = differences[np.isfinite(differences)]
    delta = profile.expected.delta
    return {
        "f": findings,
        "profile": profile,
        "record": study.record,
        "knobs": profile.knobs.describe(),
        "words": plan_words(profile.knobs, study.record.cost.guides),
        "verdict": findings.verdict,
        "verdict_short": verdict(profile),
        "judged_on": prompts(profile),
        "minimum_detectable_difference": minimum_detectable_difference(profile),
        "results": results(profile),
        "moved": _moved(findings),
        "limit": findings.limit.show(findings.limit.value),
        "measure": "MACs" if findings.limit.kind == "macs" else f"seconds ({findings.limit.quantile})",
        "frontiers": _frontiers(findings),
        "histograms": _histograms(findings),
        "within": float(np.mean(np.abs(known) <= delta)),
        "lost": float(np.mean(known < -delta)),
        "gained": float(np.mean(known > delta)),
        "importance": importance(findings.calibration.plans, findings.calibration.baseline),
        "strips": findings.strips(),
        "arms": ARM_NAMES,
        "crossover": _crossover(findings),
    }


def _frontiers(findings: Findings) -> list[FrontierPlot]:
    points = [point for row in findings.rows if (point := findings.point(row)) is not None]
    lines = {
        arm: [point for row in found if (point := findings.point(row)) is not None]
        for arm, found in findings.frontiers().items()
    }
    share = findings.limit.value / findings.limit.baseline
    winner, delta = findings.winner_point(), findings.profile.expected.delta
    return [frontier_plot(size, points, lines, winner, share, delta) for size in (WIDE, NARROW)]


def _histograms(findings: Findings) -> list[Histogram]:
    values = findings.differences()
    values = values[np.isfinite(values)]
    d = findings.profile.expected.difference
    return [histogram(size, values, d.mean, d.low, d.high) for size in (HISTOGRAM_WIDE, HISTOGRAM_NARROW)]


def _crossover(findings: Findings) -> str:
    rows = findings.profile.tradeoff.rows
    if findings.profile.tradeoff.crossover is not None:
        return findings.profile.tradeoff.crossover
    ahead = {
        winner(row)
        for row in rows
        if row.cheaper_steps_minus_step_reduction is not None and row.winner in ("step_reduction", "cheaper_steps")
    }
    if not ahead:
        return "No cross-over can be stated: at none of these budgets is one of the two arms shown to be better."
    return f"No cross-over was found: wherever one of the two arms is ahead at these budgets, it is {ahead.pop()}."


def _moved(findings: Findings) -> dict[str, tuple[float, float]]:
    """Share of the prompts on which each further metric rises, and on which it falls."""
    found = {}
    for metric in findings.metrics[1:]:
        differences = findings.differences(metric)
        known = differences[np.isfinite(differences)]
        found[metric] = (float(np.mean(known > 0)), float(np.mean(known < 0)))
    return found


def _examples(
    findings: Findings, device: str, progress: Progress, loaded: LoadedModel | None
) -> dict[str, list[Example]]:
    """The grid of images: baseline, winner, step reduction, on the best, median and worst prompts."""
    chosen = choose(findings.differences())
    columns: list[tuple[str, PlanScores]] = [("baseline", findings.judged.baseline)]
    if not findings.stock:
        columns.append(("winner", findings.winner))
    if findings.step_reduction is not None:
        columns.append(("step reduction", findings.step_reduction))
    album = Album(findings.study, findings.confirmed, device, loaded)
    album.make([plan.knobs for _, plan in columns], [example.index for example in chosen], progress)
    grid: dict[str, list[Example]] = {}
    for example in chosen:
        images = _images(album, columns, example.index)
        seed = findings.first_seed + example.index
        grid.setdefault(GROUP_LABELS[example.group], []).append(Example(findings.prompts[example.index], seed, images))
    return grid


def _images(album: Album, columns: Sequence[tuple[str, PlanScores]], index: int) -> tuple[ShownImage, ...]:
    baseline = columns[0][1]
    images = []
    for label, plan in columns:
        uri, width, height = album.data_uri(plan.knobs, index)
        score = float(plan.scores[index])
        difference = None if plan is baseline else score - float(baseline.scores[index])
        name = f"{label} {_short(plan.knobs)}" if label == "step reduction" else label
        images.append(ShownImage(name, uri, width, height, score, difference, max(width, height) <= _PIXELATED))
    return tuple(images)


def _short(knobs: Knobs) -> str:
    return f"T={knobs.num_inference_steps}"
