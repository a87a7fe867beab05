"""What a calibration would do: the plans of its space by arm and budget, its images at most, the time they take.

Everything that a calibration refuses early is refused here too. Seconds come from a few timed steps; no image is scored
and nothing is written but the machine's table of measured steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from postdiff_calib.files import StudyLock
from postdiff_calib.jobs.calibrate import load_stage, price
from postdiff_calib.jobs.given import NOTHING, Given
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.jobs.outlook import outlook
from postdiff_calib.models.deployment import describe_baseline
from postdiff_calib.progress import Progress, Silent
from postdiff_calib.quality.scorers import close_scorers
from postdiff_calib.scores.names import BASELINE
from postdiff_calib.scores.select import ARMS, Arm
from postdiff_calib.search.settings import TRIAL_SECONDS

if TYPE_CHECKING:
    from postdiff_calib.cost.table import CostTable
    from postdiff_calib.jobs.workbench import Workbench


@dataclass(frozen=True)
class BudgetSpace:
    """One budget's part of the space.

    Attributes:
        budget: as text.
        share: of the baseline's cost.
        plans: how many plans of each arm are within it, the baseline left out.
    """

    budget: str
    share: float
    plans: Mapping[Arm, int]


@dataclass(frozen=True)
class DryRun:
    """What a calibration would do.

    Attributes:
        baseline: in one line.
        restrictions: of the search, as text.
        values: what the search tries, by field.
        plans: distinct plans of the space.
        budgets: that would be searched, the study's own first.
        trials: of the search at most.
        images: at most, by stage; a study that has scores already makes fewer.
        seconds: expected for making those images, by stage, for scoring them, and for the search's own proposals.
    """

    baseline: str
    restrictions: tuple[str, ...]
    values: Mapping[str, Sequence[float]]
    plans: int
    budgets: tuple[BudgetSpace, ...]
    trials: int
    images: Mapping[str, int]
    seconds: Mapping[str, float]

    @property
    def images_at_most(self) -> int:
        """Of all stages."""
        return sum(self.images.values())

    @property
    def seconds_expected(self) -> float:
        """Of all stages."""
        return sum(self.seconds.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        totals = {"images_at_most": self.images_at_most, "seconds_expected": self.seconds_expected}
        return {**asdict(self), **totals}


def run_dry(job: CalibrateJob, progress: Progress | None = None, given: Given = NOTHING) -> DryRun:
    """Say what a calibration would do, and stop.

    Raises:
        PostdiffError: what the calibration itself would refuse before its first image.
    """
    progress = progress or Silent()
    with StudyLock(job.folder, inside=(BASELINE,)) as lock:
        bench, _ = load_stage(job, progress, lock, given)
    try:
        progress.stage("timing the scorers")
        scoring = bench.evaluator(bench.calibration, bench.seed).seconds_to_score()
    finally:
        close_scorers((bench.scorer, *bench.also))
    return plan_of(job, bench, price(bench, progress, refresh=job.refresh), scoring)


def plan_of(job: CalibrateJob, bench: Workbench, table: CostTable, scoring: float = 0.0) -> DryRun:
    """What a calibration with this model, these prompts and these prices would do.

    Args:
        job: what was asked for.
        bench: the model and the prompts.
        table: the prices.
        scoring: seconds that an image takes to be scored.

    Raises:
        BudgetError: no plan is within the budget.
    """
    found = outlook(job, bench, table)
    return DryRun(
        baseline=describe_baseline(len(found.reference.plan), bench.loaded.card, bench.settings.negative_prompt),
        restrictions=tuple(one.text for one in bench.space.restrictions),
        values=bench.space.as_dict(),
        plans=found.plans,
        budgets=tuple(
            BudgetSpace(at.text, at.value / at.baseline, {arm: len(found.strategy.members(arm, i)) for arm in ARMS})
            for i, at in enumerate(found.limits)
        ),
        trials=found.trials,
        images=found.images,
        seconds={
            **found.seconds,
            "scoring": scoring * sum(found.images.values()),
            "proposals": TRIAL_SECONDS * found.trials,
        },
    )
