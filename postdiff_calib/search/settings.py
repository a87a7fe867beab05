"""How a search is run: its settings, their defaults, and the order in which plans see the prompts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from postdiff_calib.scores.guards import Guard

#: Images of the search's evaluations for each prompt that finalists are judged on: about as many go into either.
IMAGES_A_PROMPT = 7
#: Evaluations where nobody asks for another number, at least and at most: beyond that the search itself takes long.
LEAST_TRIALS, MOST_TRIALS = 36, 1200
#: Prompts of one evaluation.
_LEAST_EXPLORED, _MOST_EXPLORED = 3, 10
#: Seconds that a trial takes beside its images: the surrogate's proposal, scoring, what is stored. Of 360 trials of the
#: embedded model on a CPU the first took 0.1 s and the last 0.3 s; the pace of the work corrects it.
TRIAL_SECONDS = 0.2


@dataclass(frozen=True)
class SearchSettings:
    """How a search is run; none of it changes what a score means.

    Args:
        n_trials: evaluations at the study's own budget, the enqueued ones included but for the step-reduction arm's.
        strategy: its name (``search.strategies``).
        seed: of the proposals.
        block: prompts that are scored and stored at once.
        explore_prompts: prompts of one evaluation.
        further_trials: evaluations at each further budget; a sixth of ``n_trials`` where None.
        guards: what a chosen plan must meet.
    """

    n_trials: int = 100
    strategy: str = "postdiff"
    seed: int = 0
    block: int = 10
    explore_prompts: int = 10
    further_trials: int | None = None
    guards: tuple[Guard, ...] = ()

    @property
    def at_further_budgets(self) -> int:
        """Evaluations at each further budget."""
        return max(2, self.n_trials // 6) if self.further_trials is None else self.further_trials


def default_explore_prompts(num_prompts: int) -> int:
    """Prompts of one evaluation, for so many prompts that finalists are judged on.

    As few as there may be: for the same images, many plans that are seen on few prompts find better ones than few plans
    on many (``benchmarks/README.md``). More only where there would be too many evaluations.
    """
    return min(_MOST_EXPLORED, max(_LEAST_EXPLORED, math.ceil(IMAGES_A_PROMPT * num_prompts / MOST_TRIALS)))


def prompt_order(num_prompts: int, seed: int) -> list[int]:
    """The order in which every plan of a search sees the prompts."""
    return [int(i) for i in np.random.default_rng([seed, num_prompts]).permutation(num_prompts)]
