import math

import numpy as np
import pytest

from postdiff_calib.search.racing import FIRST_LOOK, Race, threshold


def run_races(draw, n=500, block=10, races=400):
    """Share of races that a challenger loses, and the mean prompts it was given."""
    race = Race(n, block)
    lost, spent = 0, []
    for seed in range(races):
        difference = draw(np.random.default_rng(seed), n)
        challenger = np.full(n, np.nan)
        for end in range(block, n + 1, block):
            challenger[:end] = difference[:end]
            if race.lost(challenger, np.zeros(n)):
                lost += 1
                break
        spent.append(end)
    return lost / races, float(np.mean(spent))


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, n: rng.standard_normal(n),
        lambda rng, n: rng.standard_t(4, n),
        lambda rng, n: rng.choice([-1.0, 0.0, 0.0, 1.0], n),
        lambda rng, n: 1 - rng.exponential(1.0, n),  # skewed: rare large losses, as accelerated pictures show
    ],
    ids=["normal", "heavy tails", "mostly equal", "skewed"],
)
def test_equal_plans_are_rarely_stopped(draw):
    rate, _ = run_races(draw)
    # 400 races estimate a rate of 0.10 with a standard error of 0.015
    assert rate <= 0.10 + 0.015
    assert rate > 0.01


def test_clear_losers_are_stopped_early():
    rate, spent = run_races(lambda rng, n: rng.standard_normal(n) - 0.5, races=100)
    assert rate == 1
    assert spent < 80
    rate, spent = run_races(lambda rng, n: rng.standard_normal(n) - 0.2, races=100)
    assert rate > 0.9
    assert spent < 300


def test_better_plans_are_almost_never_stopped():
    rate, _ = run_races(lambda rng, n: rng.standard_normal(n) + 0.1, races=200)
    assert rate <= 0.05


def test_looks_wait_for_enough_prompts_and_end_with_the_set():
    race = Race(100)
    scores = np.full(100, np.nan)
    scores[: FIRST_LOOK - 1] = -1 - np.arange(FIRST_LOOK - 1)
    assert not race.lost(scores, np.zeros(100))
    scores[FIRST_LOOK - 1] = -50.0
    assert race.lost(scores, np.zeros(100))
    assert not race.lost(np.arange(100) - 1000.0, np.zeros(100))  # complete: nothing left to save
    constant = np.full(100, np.nan)
    constant[:40] = -1.0
    assert race.lost(constant, np.zeros(100))
    assert not race.lost(constant + 1, np.zeros(100))


def test_threshold_grows_with_the_number_of_looks():
    assert threshold(30, 10, 0.1) == math.inf
    assert 1.2 < threshold(50, 10, 0.1) < threshold(100, 10, 0.1) < threshold(500, 10, 0.1) < 3
    assert threshold(500, 10, 0.02) > threshold(500, 10, 0.1)
    for bad in (0, 0.5, -1):
        with pytest.raises(ValueError, match="between 0 and"):
            threshold(100, 10, bad)
