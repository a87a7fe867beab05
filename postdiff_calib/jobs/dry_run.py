"""What a calibration would do: the plans of its space by arm and budget, its images at most, the time they take.

Everything that a calibration refuses early is refused here too. Seconds come from a few timed steps; no image is scored
and nothing is written but the machine's table of measured steps.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from postdiff_calib.cost.budget import Limit
from postdiff_calib.files import StudyLock
from postdiff_calib.jobs.calibrate import load_stage, price
from postdiff_calib.jobs.given import NOTHING, Given
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.jobs.spread import SPREAD_PROMPTS
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.deployment import describe_baseline
from postdiff_calib.plan import compile_plan
from postdiff_calib.progress import Progress, Silent
from postdiff_calib.quality.scorers import close_scorers
from postdiff_calib.scores.book import ScoreBook
from postdiff_calib.scores.names import BASELINE
from postdiff_calib.scores.select import ARMS, Arm
from postdiff_calib.scores.store import MemoryStore
from postdiff_calib.search.finalists import FURTHER_FINALISTS, OWN_FINALISTS
from postdiff_calib.search.settings import SearchSettings, default_explore_prompts
from postdiff_calib.search.space import Candidate, candidate, within
from postdiff_calib.search.strategies import default_trials, find_strategy
from postdiff_calib.search.strategy import Strategy, enqueued
from postdiff_calib.study.evidence import NoImages
from postdiff_calib.study.searched import further_limits

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
        seconds: expected for making those images, by stage; scoring comes on top.
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
    close_scorers((bench.scorer, *bench.also))
    return plan_of(job, bench, price(bench, progress))


def plan_of(job: CalibrateJob, bench: Workbench, table: CostTable) -> DryRun:
    """What a calibration with this model, these prompts and these prices would do.

    Raises:
        BudgetError: no plan is within the budget.
    """
    reference = candidate(compile_plan(Knobs(bench.loaded.card.num_inference_steps)), table.price)
    limit = job.budget.resolve(reference.cost)
    limits = (limit, *further_limits(limit))
    candidates = bench.space.candidates(table.price)
    allowed = within(candidates, limit, bench.space.restrictions)
    n, held_out, spread = len(bench.calibration), len(bench.held_out), min(SPREAD_PROMPTS, len(bench.calibration))
    settings = SearchSettings(
        n_trials=job.trials if job.trials is not None else default_trials(held_out, job.search),
        strategy=job.search,
        seed=job.seed,
        explore_prompts=default_explore_prompts(held_out),
    )
    book = ScoreBook(NoImages(), n, reference.knobs, MemoryStore())
    strategy = find_strategy(job.search)(candidates, limits, reference, book, settings)
    first = enqueued(strategy, None)
    others = sum(proposal.arm != "step_reduction" for proposal in first)
    trials = len(first) + sum(strategy.planned(budget, others) for budget in range(len(limits)))
    each = min(n, settings.explore_prompts) if strategy.role == "explore" else n
    judged = _finalists(strategy, limits)
    stock, mean = _seconds([reference]), _seconds(allowed)
    return DryRun(
        baseline=describe_baseline(len(reference.plan), bench.loaded.card, bench.settings.negative_prompt),
        restrictions=tuple(one.text for one in bench.space.restrictions),
        values=bench.space.as_dict(),
        plans=len(candidates),
        budgets=tuple(
            BudgetSpace(at.text, at.value / at.baseline, {arm: len(strategy.members(arm, i)) for arm in ARMS})
            for i, at in enumerate(limits)
        ),
        trials=trials,
        images={"spread": 2 * spread, "search": n + each * (trials - 1), "held-out": held_out * (1 + judged)},
        seconds={
            "spread": 2 * spread * stock,
            "search": n * stock + each * (trials - 1) * mean,
            "held-out": held_out * (stock + judged * mean),
        },
    )


def _finalists(strategy: Strategy, limits: Sequence[Limit]) -> int:
    """Plans that are judged on held-out prompts at most."""
    total = 0
    for budget in range(len(limits)) if strategy.by_arm else range(1):
        wanted = OWN_FINALISTS if budget == 0 else FURTHER_FINALISTS
        total += sum(min(count, len(strategy.members(arm, budget))) for arm, count in wanted.items())
    return total


def _seconds(candidates: Sequence[Candidate]) -> float:
    """Mean seconds per image of plans; 0 where nothing was timed."""
    return statistics.fmean(c.cost.seconds or 0.0 for c in candidates)
