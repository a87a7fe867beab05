"""What goes into a search and what comes out: plain values, without Optuna.

A *problem* is the grid of knobs, the price of a plan, the budget and the evaluator; a *result* is everything scored.
"""

from __future__ import annotations

from dataclasses import dataclass

from postdiff_calib.budget import Limit
from postdiff_calib.search.evaluate import Evaluator
from postdiff_calib.search.select import PlanScores
from postdiff_calib.search.space import Candidate, Price, SearchSpace
from postdiff_calib.search.strategy import Role, SearchSettings


@dataclass(frozen=True)
class Problem:
    """What is searched.

    Args:
        space: the grid of knobs.
        price: cost of a plan, e.g. ``CostTable.price``.
        limit: the budget; plans above it are never run (except the unaccelerated model, for reference).
        evaluator: makes and scores pictures of the calibration prompts.
        num_prompts: N of them.
        ladder: further budgets at which the best plan of each arm is scored on some prompts, for the trade-off.
    """

    space: SearchSpace
    price: Price
    limit: Limit
    evaluator: Evaluator
    num_prompts: int
    ladder: tuple[Limit, ...] = ()


@dataclass(frozen=True)
class Progress:
    """Where a search stands; ``best`` is the best plan within the budget so far: of the complete
    ones where there are any, else the one believed best.

    ``images_at_most`` bounds the pictures of the whole search; races usually end well below it.
    """

    stage: Role
    trials_done: int
    trials_total: int
    images_made: int
    images_at_most: int
    trying: Candidate
    best: Candidate | None
    best_difference: float | None


@dataclass(frozen=True)
class SearchResult:
    """Everything that was scored; ``select`` reads the answer off it.

    Attributes:
        baseline: the unaccelerated model.
        plans: every scored plan of the space with its cost, the baseline included, by content hash.
        images_made: pictures this call made; earlier calls' and other workers' are remembered.
        trials: finished trials of the study.
        failed: knobs and reason of the trials that failed.
        interrupted: stopped by Ctrl-C; the same call resumes.
        own_trials: trials that this call finished, which are fewer than ``trials`` beside other workers.
    """

    baseline: PlanScores
    plans: dict[str, PlanScores]
    images_made: int
    trials: int
    failed: tuple[tuple[str, str], ...] = ()
    interrupted: bool = False
    own_trials: int = 0


def images_at_most(problem: Problem, settings: SearchSettings) -> int:
    """Pictures of a whole search at most: all finalists complete, nothing remembered."""
    n = problem.num_prompts
    ladder = 3 * len(problem.ladder) * min(n, settings.ladder_prompts)
    if settings.sampler != "postdiff":
        return n * (1 + settings.n_trials) + ladder
    full = 2 + settings.n_finalists
    return n * full + max(0, settings.n_trials - full) * min(n, settings.explore_prompts) + ladder
