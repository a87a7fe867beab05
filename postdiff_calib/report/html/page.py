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

from postdiff_calib.cost.budget import parse_budget
from postdiff_calib.errors import OutputError, UsageError
from postdiff_calib.files import refuse_output, write_atomically
from postdiff_calib.progress import Progress, Silent
from postdiff_calib.report.html.choices import Choice, choices
from postdiff_calib.report.html.findings import Findings
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
from postdiff_calib.report.html.prompts import prompt_rows
from postdiff_calib.report.html.shares import parts
from postdiff_calib.report.html.shown import ShownImages, shown_images
from postdiff_calib.report.kept import view
from postdiff_calib.report.wording import (
    arm_difference,
    budget_text,
    call_time,
    category_cell,
    category_metrics,
    category_note,
    end,
    factor,
    interval,
    macs_text,
    minimum_detectable_difference,
    missing,
    prompts,
    results,
    row_difference,
    seconds,
    shown,
    signed,
    value,
    verdict,
    whole_calls,
    winner,
)
from postdiff_calib.scores.select import ARM_NAMES
from postdiff_calib.search.importance import importance
from postdiff_calib.study.kept import kept_studies
from postdiff_calib.study.record import Study

if TYPE_CHECKING:
    from postdiff_calib.models.load import LoadedModel


@dataclass(frozen=True)
class ReportJob:
    """What ``postdiff report`` was asked for; ``budget`` None takes the study's own."""

    study: Path
    out: Path = Path("report.html")
    budget: str | None = None
    images: bool = True
    device: str = "auto"


def write_report(job: ReportJob, progress: Progress | None = None, loaded: LoadedModel | None = None) -> Path:
    """Write the report of a study.

    Args:
        job: what was asked for.
        progress: called with each stage, each image and each note.
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
    if job.out.suffix.lower() not in (".html", ".htm"):
        raise OutputError(f"output {job.out}", "a report is a page of HTML", "name a file that ends in .html")
    offered = choices(findings)
    images = shown_images(findings, offered, job.device, progress, loaded) if job.images else None
    return write_atomically(job.out, render(findings, images, offered))


def render(findings: Findings, images: ShownImages | None = None, offered: Sequence[Choice] | None = None) -> str:
    """The page's text.

    Args:
        findings: what it says.
        images: the images; None leaves them out.
        offered: the plans of the budget slider; those of ``choices`` by default.
    """
    offered = choices(findings) if offered is None else offered
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
        end=end,
        signed=signed,
        interval=interval,
        value=value,
        label=lambda name: shown(name).label,
        factor=factor,
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
        examples=None if images is None else images.examples,
        choice_images=None if images is None else images.choices,
        choices=offered,
        own_choice=[choice.knobs for choice in offered].index(findings.profile.knobs),
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
    found = importance(findings.calibration.plans, findings.calibration.baseline)
    views = [view(kept) for kept in kept_studies(study.folder, study.record.asked.model, profile.model.id)]
    return {
        "f": findings,
        "profile": profile,
        "record": study.record,
        "knobs": profile.knobs.describe(),
        "words": profile.words,
        "verdict": findings.verdict,
        "verdict_short": verdict(profile),
        "judged_on": prompts(profile),
        "minimum_detectable_difference": minimum_detectable_difference(profile),
        "results": results(profile),
        "moved": _moved(findings),
        "budget_text": budget_text(profile),
        "call_time": call_time(profile),
        "whole_calls": whole_calls(profile),
        "measure": "MACs" if findings.limit.kind == "macs" else f"seconds ({findings.limit.quantile})",
        "frontiers": _frontiers(findings),
        "histograms": _histograms(findings),
        "within": float(np.mean(np.abs(known) <= delta)),
        "lost": float(np.mean(known < -delta)),
        "gained": float(np.mean(known > delta)),
        "importance": found,
        "parts": [] if found is None else parts(found),
        "prompt_rows": prompt_rows(findings),
        "prompt_categories": sorted({row.category for row in prompt_rows(findings)} - {""}),
        "macs_text": macs_text(profile),
        "views": views,
        "plots": [None if found.plot is None else _png(found.plot) for found in views],
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


def _png(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
