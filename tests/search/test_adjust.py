"""Adjusted means: effects that prompts have on all plans are taken out."""

import numpy as np
import pytest

from postdiff_calib.search.adjust import observations

PLANS, PROMPTS = 12, 200
TRUE = np.linspace(-3, 1, PLANS)


def scores(seed):
    rng = np.random.default_rng(seed)
    effect = rng.normal(0, 5, PROMPTS)
    return TRUE[:, None] + effect + rng.normal(0, 1.5, (PLANS, PROMPTS))


def seen(rows, counts, seed):
    """Each plan's own prompts, NaN elsewhere."""
    rng = np.random.default_rng(seed)
    result = np.full_like(rows, np.nan)
    for i, count in enumerate(counts):
        chosen = rng.choice(PROMPTS, count, replace=False)
        result[i, chosen] = rows[i, chosen]
    return {f"plan{i}": row for i, row in enumerate(result)}


def test_plans_that_saw_different_prompts_compare_better_than_by_their_raw_means():
    raw_error, error = [], []
    for seed in range(20):
        rows = scores(seed)
        given = seen(rows, [40] * PLANS, seed)
        found = np.array([o.mean for o in observations(given)])
        raw = np.array([np.nanmean(row) for row in given.values()])
        target = rows.mean(1)
        error.append(np.std(found - target))
        raw_error.append(np.std(raw - target))
    assert np.mean(error) < 0.6 * np.mean(raw_error)


def test_all_prompts_give_the_mean_and_what_noise_is_a_plans_own():
    rows = scores(0)
    found = observations({f"plan{i}": row for i, row in enumerate(rows)})
    assert [o.mean for o in found] == pytest.approx(rows.mean(1), abs=0.2)
    # the noise of a plan is 1.5, once the prompts' own effects are out; the prompts are a sample themselves, so that
    # having seen all of the set leaves as much of it as their number says
    assert np.mean([o.variance for o in found]) == pytest.approx(1.5**2, rel=0.15)


def test_plans_with_fewer_than_two_prompts_are_left_out():
    rows = scores(0)
    found = observations(seen(rows, [1, 0, *[30] * (PLANS - 2)], 0))
    assert [o.plan for o in found] == [f"plan{i}" for i in range(2, PLANS)]
    assert [o.n for o in found] == [30] * (PLANS - 2)
    assert observations({}) == []
