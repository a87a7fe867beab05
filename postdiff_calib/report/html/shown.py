"""The images that the page shows: examples of the winner beside the baseline, and pairs for the budget slider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from postdiff_calib.knobs import Knobs
from postdiff_calib.progress import Progress
from postdiff_calib.report.html.choices import PROMPTS, Choice, plans_of
from postdiff_calib.report.html.findings import Findings
from postdiff_calib.report.html.images import Album, Group, choose
from postdiff_calib.scores.select import PlanScores

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


@dataclass(frozen=True)
class PairImage:
    """One image beside the budget slider."""

    label: str
    uri: str
    width: int
    height: int
    pixelated: bool


@dataclass(frozen=True)
class Pair:
    """Baseline and plan on one prompt."""

    prompt: str
    images: tuple[PairImage, ...]


@dataclass(frozen=True)
class ShownImages:
    """All images of the page: the examples by group's label, and pairs for each place of the slider."""

    examples: dict[str, list[Example]]
    choices: list[list[Pair]]


def shown_images(
    findings: Findings, offered: Sequence[Choice], device: str, progress: Progress, loaded: LoadedModel | None
) -> ShownImages:
    """The images of the page; those that are missing are made.

    The examples show baseline, winner and step reduction on the best, median and worst prompts.
    """
    chosen = choose(findings.differences())
    columns: list[tuple[str, PlanScores]] = [("baseline", findings.judged.baseline)]
    if not findings.stock:
        columns.append(("winner", findings.winner))
    if findings.step_reduction is not None:
        columns.append(("step reduction", findings.step_reduction))
    album = Album(findings.study, findings.confirmed, device, loaded)
    album.make([plan.knobs for _, plan in columns], [example.index for example in chosen], progress)
    first = range(min(PROMPTS, len(findings.prompts)))
    if len(offered) > 1:
        album.make(plans_of(offered, findings.study.record.baseline), first, progress)
    grid: dict[str, list[Example]] = {}
    for example in chosen:
        images = _images(album, columns, example.index)
        seed = findings.first_seed + example.index
        grid.setdefault(GROUP_LABELS[example.group], []).append(Example(findings.prompts[example.index], seed, images))
    pairs = [[_pair(findings, album, choice.knobs, index) for index in first] for choice in offered]
    return ShownImages(grid, pairs if len(offered) > 1 else [])


def _pair(findings: Findings, album: Album, knobs: Knobs, index: int) -> Pair:
    """Baseline and plan on one prompt."""
    images = []
    for label, one in (("baseline", findings.study.record.baseline), ("this plan", knobs)):
        uri, width, height = album.data_uri(one, index)
        images.append(PairImage(label, uri, width, height, max(width, height) <= _PIXELATED))
    return Pair(findings.prompts[index], tuple(images))


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
