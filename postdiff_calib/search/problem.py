"""What goes into a search and what comes out: plain values, without Optuna.

A *problem* is the grid of knobs, the price of a plan, the budget and the evaluator; a *result* is everything scored.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from postdiff_calib.cost.budget import Limit
from postdiff_calib.scores.book import Evaluator
from postdiff_calib.scores.objective import Objective
from postdiff_calib.scores.select import PlanScores
from postdiff_calib.search.proposals import Role, Searched
from postdiff_calib.search.space import Candidate, Price, SearchSpace
from postdiff_calib.search.strategy import Strategy


@dataclass(frozen=True)
class Problem:
    """What is searched.

    Args:
        space: the grid of knobs.
        price: cost of a plan, e.g. ``CostTable.price``.
        limit: the budget.
        evaluator: makes and scores images of the calibration prompts.
        num_prompts: N of them.
        further: further budgets at which both arms are searched, for the trade-off; plans up to the largest of all
            budgets are run.
        objective: what is to be improved.
    """

    space: SearchSpace
    price: Price
    limit: Limit
    evaluator: Evaluator
    num_prompts: int
    further: tuple[Limit, ...] = ()
    objective: Objective = field(default_factory=Objective)


@dataclass(frozen=True)
class Progress:
    """Where a search stands; ``best`` is the best plan within the budget so far: of the complete
    ones where there are any, else the one believed best.

    ``images_made`` counts images since this call began, other workers' included; ``images_at_most`` bounds them when
    the search ends, and falls with every race that ends early. ``seconds_made`` and ``seconds_left`` are what these
    images and their trials were expected to take, and what is left is; 0 where no plan was timed.
    """

    stage: Role
    trials_done: int
    trials_total: int
    images_made: int
    images_at_most: int
    trying: Candidate
    best: Candidate | None
    best_difference: float | None
    seconds_made: float = 0.0
    seconds_left: float = 0.0


@dataclass(frozen=True)
class SearchResult:
    """Everything that was scored; ``select`` reads the answer off it.

    Attributes:
        baseline: the baseline.
        plans: every scored plan of the space with its cost, the baseline included, by plan id.
        images_made: images this call made; earlier calls' and other workers' are remembered.
        trials: finished trials of the study.
        failed: knobs and reason of the trials that failed.
        interrupted: stopped by Ctrl-C; the same call resumes.
        own_trials: trials that this call finished, which are fewer than ``trials`` beside other workers.
        searched: what each budget's search came to, the study's own first; empty after Ctrl-C and for a worker.
        strategy: what proposed the trials.
    """

    baseline: PlanScores
    plans: dict[str, PlanScores]
    images_made: int
    trials: int
    failed: tuple[tuple[str, str], ...] = ()
    interrupted: bool = False
    own_trials: int = 0
    searched: tuple[Searched, ...] = ()
    strategy: Strategy | None = field(default=None, compare=False, repr=False)

    def after_judging(self, held_out: Mapping[str, npt.NDArray[np.float64]]) -> tuple[Searched, ...]:
        """``searched``, with what may not have been found as held-out differences (by plan id) tell it as well."""
        return self.searched if self.strategy is None else self.strategy.after_judging(self.searched, held_out)

    def without(self, broken: Collection[str]) -> SearchResult:
        """The same with the next best plans in the place of finalists (plan ids) that broke on held-out prompts."""
        if self.strategy is None:
            kept = [
                replace(s, finalists=tuple(f for f in s.finalists if f.candidate.plan_id not in broken))
                for s in self.searched
            ]
            return replace(self, searched=tuple(kept))
        names = {knobs for knobs, _ in self.failed}
        failed = {c.plan_id for c in self.strategy.candidates if c.knobs.describe() in names}
        return replace(self, searched=self.strategy.searched({*failed, *broken}))
