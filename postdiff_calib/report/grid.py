"""``postdiff grid``: one image of a study, the baseline and the best plan of each budget on the same prompts and seeds.

The prompts are the first held-out ones of the study's own draw; none is picked. Images are made by the accelerated
pipeline as they were scored, and kept in the study's folder as those of the report are (``html/images.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from postdiff_calib.cost.budget import parse_budgets
from postdiff_calib.errors import UsageError
from postdiff_calib.files import refuse_image
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.deployment import describe_baseline
from postdiff_calib.progress import Progress, Silent
from postdiff_calib.report.html.images import Album
from postdiff_calib.report.sheet import draw_sheet, save_sheet
from postdiff_calib.report.wording import factor
from postdiff_calib.study.record import Study

if TYPE_CHECKING:
    from postdiff_calib.models.load import LoadedModel


@dataclass(frozen=True)
class GridJob:
    """What ``postdiff grid`` was asked for.

    Args:
        study: the study's folder.
        budgets: with commas between them.
        out: the image file.
        num_prompts: columns.
        device: where images are made.
    """

    study: Path
    budgets: str = "25%,40%,60%"
    out: Path = Path("grid.png")
    num_prompts: int = 8
    device: str = "auto"


@dataclass(frozen=True)
class Row:
    """One row of the image: what stands on its left, and its plan."""

    label: str
    knobs: Knobs


@dataclass(frozen=True)
class Grid:
    """The image that was drawn.

    Args:
        path: its file.
        baseline: the study's baseline in one line.
    """

    path: Path
    baseline: str


def run_grid(job: GridJob, progress: Progress | None = None, loaded: LoadedModel | None = None) -> Grid:
    """Draw the image.

    Args:
        job: what was asked for.
        progress: called with each stage and each image.
        loaded: the study's model, where it is loaded already.

    Raises:
        StudyError: there is no study, it has no scores, or its model is not the scored one any more.
        BudgetError: a budget is nonsense, or no scored plan is within it.
        UsageError: more prompts than the study has.
        OutputError: the file cannot be written; found out before any image is made.
    """
    study = Study.load(job.study).require_scores()
    refuse_image(job.out, study=job.study, what="plot")
    held_out = study.record.held_out
    if not 1 <= job.num_prompts <= len(held_out):
        rule = f"the study has {len(held_out)} held-out prompts"
        raise UsageError(f"--num-prompts {job.num_prompts}", rule, "take from 1 to as many")
    rows = grid_rows(study, job.budgets)
    album = Album(study, held_out=True, device=job.device, loaded=loaded)
    indices = range(job.num_prompts)
    album.make(list(dict.fromkeys(row.knobs for row in rows)), indices, progress or Silent())
    images = [[album.image(row.knobs, index) for index in indices] for row in rows]
    sheet = draw_sheet([row.label for row in rows], images, [held_out[index] for index in indices])
    save_sheet(sheet, job.out, "plot")
    record = study.record
    return Grid(job.out, describe_baseline(record.num_inference_steps, record.model, record.model.negative_prompt))


def grid_rows(study: Study, budgets: str) -> list[Row]:
    """The baseline, then the best plan within each budget, cheapest budget first."""
    baseline, evidence = study.record.baseline, study.evidence()
    rows = []
    for budget in parse_budgets(budgets):
        profile = study.conclude(budget, evidence=evidence)
        e = profile.expected
        label = f"{budget.text}: {factor(e.relative_macs)} in compute\n{profile.words}"
        rows.append((profile.budget.share, Row(label, profile.knobs)))
    rows.sort(key=lambda row: row[0])
    return [Row(f"baseline\n{baseline.num_inference_steps} full steps", baseline), *(row for _, row in rows)]
