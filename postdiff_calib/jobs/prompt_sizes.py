"""Study D: how large a calibration set must be (supplementary, figure 3), from the scores of a finished study.

No image is made. The scores are those of a calibration's folder (the plans within its budget on whichever of its prompt
sets has more of them scored) or of an ablation's.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postdiff_calib.errors import StudyError, UsageError, reason_of
from postdiff_calib.files import parse_json, refuse_result
from postdiff_calib.jobs.ablate import KIND as ABLATION
from postdiff_calib.jobs.paper_study import ABOUT
from postdiff_calib.knobs import Knobs
from postdiff_calib.quality.metrics import SCORE, metric, quality_metrics
from postdiff_calib.scores.names import SCORES

if TYPE_CHECKING:
    from postdiff_calib.scores.select import PlanScores
    from postdiff_calib.study.prompt_sizes import PromptSizes

#: Fewer settings than this have no order worth the name.
LEAST_SETTINGS = 3


@dataclass(frozen=True)
class PromptSizesJob:
    """What ``postdiff prompts study`` was asked for.

    Attributes:
        study: folder of a finished calibration or ablation.
        sizes: n, numbers of prompts.
        metric: name of a quality metric.
        delta: loss that is not cared about; None is the study's own, or the metric's example.
        chance: with which a set must pick a setting within δ of the best.
        seed: of the draws.
        out: where the result goes; None is inside the folder.
    """

    study: Path
    sizes: tuple[int, ...]
    metric: str = SCORE
    delta: float | None = None
    chance: float = 0.95
    seed: int = 0
    out: Path | None = None

    @property
    def result(self) -> Path:
        """Where the result goes."""
        return self.out or self.study / "prompt_sizes.json"


def parse_sizes(text: str) -> tuple[int, ...]:
    """Sizes from ``50,100,200``, in order.

    Raises:
        UsageError: one is no whole number from 2 to 100,000.
    """
    found = []
    for part in text.split(","):
        # a longer one is above the largest, and Python refuses to read thousands of digits
        if not part.strip().isdecimal() or len(part.strip()) > 6 or not 2 <= int(part) <= 100_000:
            rule = f"{part.strip()[:20]!r} is no whole number from 2 to 100000"
            raise UsageError(f"--sizes {text}", rule, "write 50,100")
        found.append(int(part))
    return tuple(sorted(set(found)))


def run_prompt_sizes(job: PromptSizesJob) -> PromptSizes:
    """Rank the settings of a study by sets of prompts of each size.

    Raises:
        UsageError: the metric is unknown, δ or the chance out of range.
        StudyError: no study, or fewer than three settings that are scored on every prompt.
    """
    import numpy as np

    from postdiff_calib.study.prompt_sizes import PromptSizes, sizes_study

    names = _metrics(job.study)
    if job.metric not in names:
        raise UsageError(f"--metric {job.metric}", f"metrics are {', '.join(names)}", "take one of these")
    if job.delta is not None and not 0 < job.delta < 1e6:
        raise UsageError(f"--delta {job.delta:g}", "it must be above 0", f"such as {metric(job.metric).example:g}")
    if not 0 < job.chance < 1:
        raise UsageError(f"--chance {job.chance:g}", "it must be between 0 and 1", "take 0.95")
    refuse_result(job.result, study=job.study)
    plans, delta, source = _settings(job)
    rows = np.array([plan.metric(job.metric) for plan in plans])
    rows = rows[:, np.isfinite(rows).all(0)] if len(plans) else np.empty((0, 0))
    if len(rows) < LEAST_SETTINGS or rows.shape[1] < 2:
        raise StudyError(
            f"study {job.study}",
            f"{len(rows)} settings are scored on every prompt by {job.metric}, and {LEAST_SETTINGS} have an order",
            "finish it, or take one with more settings, such as an ablation",
        )
    sized = sizes_study(rows, delta, job.sizes, seed=job.seed)
    return PromptSizes(source, job.metric, len(rows), rows.shape[1], delta, job.chance, sized)


def _metrics(study: Path) -> list[str]:
    """The quality metrics that a study may have; a calibration says which ones it has."""
    from postdiff_calib.study.record import Study

    with suppress(StudyError):
        if not (study / ABOUT).exists():
            return list(Study.load(study).record.objective.metrics)
    return [m.name for m in quality_metrics()]


def _settings(job: PromptSizesJob) -> tuple[Sequence[PlanScores], float, str]:
    """The settings that are scored on every prompt, δ, and what they are."""
    if (job.study / ABOUT).exists():
        return _of_ablation(job)
    from postdiff_calib.study.record import Study

    study = Study.load(job.study).require_scores()
    limit = study.record.resolve()
    calibration, held_out = study.scored()
    sets = []
    for scored, what in ((held_out, "held-out"), (calibration, "calibration")):
        within = [plan for plan in scored.complete if limit.allows(plan.cost)]
        plans = within if len(within) >= LEAST_SETTINGS else scored.complete
        where = " within its budget" if plans is within else ""
        sets.append((plans, f"{job.study}: plans{where} on its {what} prompts"))
    plans, source = max(sets, key=lambda part: (len(part[0]) >= LEAST_SETTINGS, sum(plan.n for plan in part[0])))
    own = {term.metric: term.delta for term in study.record.objective.terms}
    return plans, job.delta or own.get(job.metric, metric(job.metric).example), source


def _of_ablation(job: PromptSizesJob) -> tuple[Sequence[PlanScores], float, str]:
    from postdiff_calib.cost.budget import PlanCost
    from postdiff_calib.scores.book import ScoreBook
    from postdiff_calib.scores.store import FileStore

    path = job.study / ABOUT
    try:
        about: Any = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StudyError(f"study {path}", f"it cannot be read ({reason_of(error)})", "make it again") from error
    if not isinstance(about, dict) or about.get("study") != ABLATION:
        raise StudyError(f"study {job.study}", "it holds no scores of settings", "give an ablation or a calibration")
    blocks = list(FileStore(job.study / SCORES).read())
    if not blocks:
        raise StudyError(f"study {job.study}", "it holds no scores yet", "run its postdiff ablate command (again)")
    count = 1 + max((i for block in blocks for i in block["prompts"]), default=0)
    book = ScoreBook(_NoImages(), count, Knobs.from_dict(blocks[0]["knobs"]), FileStore(job.study / SCORES))
    whole = max(book.count(plan) for plan in book.plans)
    free = PlanCost(0.0, 0.0)
    plans = [book.plan_scores(knobs, free) for plan, knobs in book.plans.items() if book.count(plan) == whole]
    return plans, job.delta or metric(job.metric).example, f"{job.study}: settings of an ablation"


class _NoImages:
    """An evaluator for reading scores only."""

    def scores(self, knobs: Knobs, indices: Sequence[int]) -> list[float]:
        raise AssertionError("a study that is read back makes no image")
