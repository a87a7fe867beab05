"""What a calibration will do, told before it does it: trials and images at most by stage, and the seconds they take.

Seconds are those of each plan as priced, from a few timed steps. ``postdiff calibrate --dry-run`` shows them, and the
time left of a running calibration rests on them.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from postdiff_calib.cost.budget import Limit
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.jobs.spread import SPREAD_PROMPTS
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.scores.book import ScoreBook
from postdiff_calib.scores.store import MemoryStore
from postdiff_calib.search.finalists import FURTHER_FINALISTS, OWN_FINALISTS
from postdiff_calib.search.settings import TRIAL_SECONDS, SearchSettings, default_explore_prompts
from postdiff_calib.search.space import Candidate, candidate, within
from postdiff_calib.search.strategies import default_trials, find_strategy
from postdiff_calib.search.strategy import Strategy, enqueued
from postdiff_calib.study.evidence import NoImages
from postdiff_calib.study.searched import further_limits

if TYPE_CHECKING:
    from postdiff_calib.cost.table import CostTable
    from postdiff_calib.jobs.workbench import Workbench


@dataclass(frozen=True)
class Outlook:
    """What a calibration will do.

    Attributes:
        reference: the baseline.
        plans: distinct plans of the space.
        limits: budgets that are searched, the study's own first.
        strategy: what proposes plans.
        trials: of the search at most.
        images: at most, by stage: ``spread``, ``search``, ``held-out``.
        seconds: expected for making those images, by stage.
    """

    reference: Candidate
    plans: int
    limits: tuple[Limit, ...]
    strategy: Strategy
    trials: int
    images: Mapping[str, int]
    seconds: Mapping[str, float]

    @property
    def after_search(self) -> float:
        """Seconds expected of the stages after the search."""
        return self.seconds["held-out"]

    @property
    def after_spread(self) -> float:
        """Seconds expected of the stages after the baseline's spread, the trials' own included."""
        return self.seconds["search"] + TRIAL_SECONDS * self.trials + self.after_search


def outlook(job: CalibrateJob, bench: Workbench, table: CostTable) -> Outlook:
    """What a calibration with this model, these prompts and these prices will do.

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
    return Outlook(
        reference=reference,
        plans=len(candidates),
        limits=limits,
        strategy=strategy,
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
