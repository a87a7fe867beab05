"""Whole searches in a world whose truth is known: what needs many of them to be seen."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from replayed_search import Replay, default_settings
from worlds import make_world

from postdiff_calib.search.postdiff import PostDiff
from postdiff_calib.search.strategy import enqueued

OWN, FIRST = 0.3, 0.6
SEEDS = range(28)


def explore(replay, strategy):
    first = enqueued(strategy, None)
    for proposal in first:
        replay.evaluate(proposal)
    for number in range(strategy.planned(0, sum(p.arm != "step_reduction" for p in first))):
        replay.evaluate(strategy.propose(0, number))


def regret(shares, seed):
    """The least regret among the finalists of the last budget, after searching each on one study."""
    world, settings = make_world("table"), default_settings(120, seed)
    replay = Replay(world, world.draw(np.random.default_rng([9, seed]), 180), 120, [OWN], settings)
    for share in shares:
        strategy = PostDiff(world.candidates, [world.limit(share)], world.reference, replay.book, settings)
        explore(replay, strategy)
    found = [world.truth[world.rows[f.candidate.plan_id]] for f in strategy.finalists()]
    return world.truth[world.best(OWN)] - max(found)


@pytest.mark.slow  # a mean of eight seeds, as it was before, has a standard error of 0.09
def test_the_second_budget_of_a_study_ends_as_well_as_a_fresh_search():
    fresh = np.array([regret([OWN], seed) for seed in SEEDS])
    second = np.array([regret([FIRST, OWN], seed) for seed in SEEDS])
    assert second.mean() <= fresh.mean() + 0.05
    assert second.mean() < 0.2
