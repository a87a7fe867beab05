"""The project's own search, replayed on a world's scores. The only file here that knows how that search is driven."""

from __future__ import annotations

import numpy as np
from worlds import Scores, World

from postdiff_calib.knobs import Knobs
from postdiff_calib.search.evaluate import MemoryStore, ScoreBook
from postdiff_calib.search.strategy import (
    Proposal,
    SearchSettings,
    Strategy,
    default_trials,
    enqueued,
    prompt_order,
)

#: The row it would choose from so many images on.
Curve = list[tuple[int, int]]


class Lookup:
    """The evaluator: scores are looked up."""

    def __init__(self, world: World, scores: Scores) -> None:
        self._rows = {c.knobs: i for i, c in enumerate(world.candidates)}
        self._scores = scores

    def scores(self, knobs: Knobs, indices: list[int]) -> list[float]:
        """As ``evaluate.Evaluator``."""
        found: list[float] = self._scores[self._rows[knobs], list(indices)].tolist()
        return found


def run_postdiff(
    world: World, scores: Scores, share: float, num_prompts: int, images: int | None, seed: int
) -> tuple[int, Curve, int]:
    """One search.

    Args:
        world: its candidates and baseline.
        scores: of the calibration prompts, (plans, num_prompts).
        share: the budget.
        num_prompts: N.
        images: at most so many; None for as many as the search takes by itself.
        seed: of the search.

    Returns:
        The row it chooses, the rows it would have chosen on the way, and the images it made.
    """
    reference = world.reference
    book = ScoreBook(Lookup(world, scores), num_prompts, reference.knobs, MemoryStore())
    n_trials = default_trials(num_prompts)
    settings = SearchSettings(n_trials=n_trials, seed=seed)
    strategy = Strategy(world.candidates, world.allowed(share), reference, book, settings)
    order = prompt_order(num_prompts, seed)

    def run(proposal: Proposal) -> None:
        c = proposal.candidate
        known = np.isfinite(book.known(c.content))
        missing = [i for i in order if not known[i]]
        if proposal.role != "final":
            missing = missing[: settings.explore_prompts]
        for start in range(0, len(missing), settings.block):
            block = missing[start : start + settings.block]
            if images is not None and book.images_made + 2 * len(block) > images:
                return
            book.scores(reference.knobs, block)
            book.scores(c.knobs, block)
            if proposal.role == "final" and proposal.arm != "fewer" and strategy.race_lost(c.content, proposal.arm):
                return

    first = enqueued(strategy, None)
    history: list = []
    curve: Curve = []
    for number in range(n_trials):
        if number < len(first):
            proposal = first[number]
        else:
            proposal = strategy.propose(number, history, n_trials - len(first))
            history.append(proposal.role)
        run(proposal)
        chosen = strategy.incumbent("joint") or strategy.choice("joint")
        if chosen is not None:
            curve.append((book.images_made, world.rows[chosen]))
    return curve[-1][1], curve, book.images_made
