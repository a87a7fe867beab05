"""Differences by category: a loss in one of them is found, and where there is none, hardly ever one is claimed."""

import numpy as np
import pytest
from scipy import stats

from postdiff_calib.scores.categories import LEAST_PROMPTS, OTHER, by_category, holm

NAMES = ("animals", "counting", "people", "scenes", "text")


def test_holm_by_hand():
    # smallest times 4, next times 3, then times 2 (raised to the one before), then times 1
    assert holm([0.04, 0.01, 0.015, 0.9]) == pytest.approx([0.08, 0.04, 0.045, 0.9])
    assert holm([0.03, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_category_has_students_interval_of_its_own_differences():
    values = np.array([float(i % 7) for i in range(40)])
    rows = by_category({"clip": values}, ["a", "b"] * 20)
    assert [row.category for row in rows] == ["a", "b"]
    own = values[::2]
    low, high = stats.t.interval(0.95, 19, own.mean(), own.std(ddof=1) / np.sqrt(20))
    found = rows[0].metrics["clip"]
    assert (rows[0].n, found.mean) == (20, pytest.approx(own.mean()))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    plain = [stats.ttest_1samp(part, 0).pvalue for part in (own, values[1::2])]
    assert [row.adjusted["clip"] for row in rows] == pytest.approx(holm(plain))


def test_small_categories_and_prompts_without_one_are_put_together():
    names = ["big"] * LEAST_PROMPTS + ["small"] * (LEAST_PROMPTS - 1) + [""] * 3
    rows = by_category({"clip": np.arange(len(names), dtype=float)}, names)
    assert [(row.category, row.n) for row in rows] == [("big", LEAST_PROMPTS), (OTHER, LEAST_PROMPTS + 2)]
    # too few even together: one category is no table
    assert by_category({"clip": np.arange(12.0)}, ["big"] * 10 + ["small"] * 2) == []


def test_unknown_differences_do_not_count():
    values = np.ones(30)
    values[:3] = np.nan
    rows = by_category({"clip": values, "scene": np.zeros(30)}, ["a"] * 15 + ["b"] * 15)
    assert [(row.n, row.metrics["scene"].n) for row in rows] == [(12, 12), (15, 15)]


def test_as_many_categories_as_prompts():
    with pytest.raises(ValueError, match="2 categories for 3 prompts"):
        by_category({"clip": np.zeros(3)}, ["a", "b"])


def test_a_loss_in_one_category_is_found_and_no_other():
    random = np.random.default_rng(0)
    names = list(np.repeat(NAMES, 50))
    for _ in range(20):
        values = random.normal(0, 1, 250)
        values[200:] -= 1.0  # all lose 0.2 on average, the texts 1.0
        rows = by_category({"clip": values}, names)
        assert [row.category for row in rows if row.loses("clip", 0.3)] == ["text"]


def test_a_loss_that_is_surely_within_delta_is_none():
    values = np.concatenate([np.full(20, -0.1), np.zeros(20)]) + np.tile([-0.001, 0.001], 20)
    text, other = by_category({"clip": values}, ["text"] * 20 + ["z"] * 20)
    assert text.adjusted["clip"] < 1e-6
    assert (text.loses("clip", 0.05), text.loses("clip", 0.5)) == (True, False)
    assert not other.loses("clip", 0.05)


def test_equal_images_are_no_loss_and_equal_losses_are():
    values = np.concatenate([np.zeros(15), np.linspace(-2.001, -1.999, 15)])
    rows = by_category({"clip": values}, ["same"] * 15 + ["worse"] * 15)
    assert [(round(row.adjusted["clip"], 9), row.loses("clip", 1.0)) for row in rows] == [(1.0, False), (0.0, True)]


@pytest.mark.parametrize("skewed", [False, True])
def test_without_any_loss_a_false_one_is_claimed_in_at_most_a_twentieth_of_the_studies(skewed):
    random = np.random.default_rng(1)
    names = list(np.repeat(NAMES, 40)) + ["counting"] * 20
    false = 0
    for _ in range(200):
        shared = random.normal(0, 1, len(names))
        values = 2.0 - 2 * random.exponential(1, len(names)) if skewed else shared
        rows = by_category({"clip": values, "scene": shared + random.normal(0, 1, len(names))}, names)
        false += any(row.loses(metric, 1e-9) for row in rows for metric in row.metrics)
    assert false <= 10
