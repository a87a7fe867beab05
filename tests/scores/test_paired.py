"""Paired comparisons: intervals that hold after choosing, verdicts over metrics, and how many prompts would decide."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from postdiff_calib.scores.paired import Comparison, Verdict, compare, largest_t, non_inferior, overall, verdict

#: Student's 97.5 % quantile for 2 degrees of freedom.
T2 = 4.30265


def wobble(n, sd=1.0):
    """n values whose mean is 0 and whose standard deviation is ``sd``."""
    return np.tile([-1.0, 1.0], n // 2) * sd * math.sqrt((n - 1) / n)


def between(mean, low, high, n=100):
    return Comparison(n, mean, low, high, 1.0)


# --- intervals -----------------------------------------------------------------------------------------------------


def test_compare_is_students_paired_interval():
    # differences 1, 2, 3: mean 2, sd 1
    result = compare(np.array([2.0, 4.0, 6.0, 9.0]), np.array([1.0, 2.0, 3.0, math.nan]))
    assert (result.n, result.mean, result.sd) == (3, 2.0, 1.0)
    assert result.low == pytest.approx(2 - T2 / math.sqrt(3), abs=1e-4)
    assert result.high == pytest.approx(2 + T2 / math.sqrt(3), abs=1e-4)
    assert result.standard_error == pytest.approx(1 / math.sqrt(3))
    with pytest.raises(ValueError, match="1 common"):
        compare(np.array([1.0, math.nan]), np.array([1.0, 1.0]))


def test_an_end_can_be_moved_alone():
    # four differences of 1 ± 2: a standard error of 1
    values = 1 + wobble(4, 2.0)
    moved = compare(values, np.zeros(4), low=3.0)
    assert moved.low == pytest.approx(-2.0)
    assert moved.high == pytest.approx(1 + stats.t.ppf(0.975, 3))
    assert compare(values, np.zeros(4), low=3.0, high=5.0).high == pytest.approx(6.0)


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = [c.low <= 0.3 <= c.high for c in (compare(rng.normal(0.3, 1, 30), np.zeros(30)) for _ in range(1000))]
    assert 0.93 <= np.mean(hits) <= 0.97


@pytest.mark.parametrize(("n", "loses", "gains"), [(50, 0.02, 0.0), (50, 0.1, 0.0), (80, 0.04, 0.0), (120, 0.06, 0.03)])
def test_yes_or_no_is_covered_where_hardly_a_prompt_differs(n, loses, gains):
    rng, truth = np.random.default_rng(0), 100 * (gains - loses)
    hits = 0
    for _ in range(1000):
        draw = rng.random(n)
        baseline = np.where(draw < gains, 0.0, 100.0)
        plan = np.where((draw >= gains) & (draw < gains + loses), 0.0, 100.0)
        found = compare(plan, baseline)
        # the same from differences alone, unless none is seen
        assert not found.mean or compare(plan - baseline, np.zeros(n)) == found
        hits += found.low <= truth <= found.high
    assert hits >= 940


def test_no_difference_seen_is_not_no_difference():
    same = np.tile([100.0, 0.0], 25)
    assert verdict(compare(same, same), 3.0) == "undecided"
    assert verdict(compare(np.full(50, 100.0), np.full(50, 100.0)), 3.0) == "undecided"
    # a plan that draws the baseline's own images has no difference in a metric of many values
    scores = np.arange(50.0)
    assert compare(scores, scores).sd == 0


# --- the largest of several ----------------------------------------------------------------------------------------


def test_the_largest_of_one_is_students():
    row = np.array([[1.0, 2.0, 3.0]])
    assert largest_t(row) == pytest.approx(T2, abs=1e-4)
    assert largest_t(np.array([[1.0, 2.0, 3.0, math.nan]])) == pytest.approx(T2, abs=1e-4)
    assert largest_t(row, share=0.95) == pytest.approx(stats.t.ppf(0.95, 2))


def test_a_row_given_twice_is_no_second_choice():
    row = np.random.default_rng(0).normal(size=200)
    # the sample's own skewness makes it a little more than Student's
    assert largest_t(np.array([row, row])) == pytest.approx(stats.t.ppf(0.975, 199), rel=0.03)
    assert largest_t(np.array([row] * 5)) == pytest.approx(largest_t(np.array([row, row])), rel=0.02)


def test_rows_that_do_not_vary_are_no_choice_at_all():
    row = np.random.default_rng(0).normal(size=50)
    assert largest_t(np.array([row, np.zeros(50), np.ones(50)])) == largest_t(row[None])


def test_independent_rows_need_a_larger_quantile():
    rows = np.random.default_rng(0).normal(size=(5, 2000))
    # all five stay below c at once with probability (1 − p)⁵ = 0.975, p = 0.51 % each: c = 2.57
    assert largest_t(rows) == pytest.approx(2.57, abs=0.04)
    assert largest_t(rows[:1]) == pytest.approx(1.96, abs=0.01)
    opposite = np.array([rows[0], -rows[0]])
    # of two opposite rows one is always positive: a two-sided test at 2.5 %
    assert largest_t(opposite) == pytest.approx(stats.t.ppf(1 - 0.0125, 1999), abs=0.03)


@pytest.mark.parametrize("shared", [0.0, 0.7])
def test_the_best_of_five_equal_plans_is_called_better_in_one_of_forty_cases(shared):
    rng, found, student = np.random.default_rng(0), 0, 0
    runs, n = 2000, 40
    for _ in range(runs):
        rows = math.sqrt(1 - shared) * rng.normal(size=(5, n)) + math.sqrt(shared) * rng.normal(size=n)
        best = rows[rows.mean(1).argmax()]
        # as every run draws from the same law, its quantile is worked out for the law, not anew
        found += compare(best, np.zeros(n), low=QUANTILES[shared]).low > 0
        student += compare(best, np.zeros(n)).low > 0
    error = 2 * math.sqrt(0.025 * 0.975 / runs)
    assert found / runs <= 0.025 + error
    assert student / runs > 0.04


def _quantile(shared):
    rng = np.random.default_rng(1)
    rows = math.sqrt(1 - shared) * rng.normal(size=(5, 4000)) + math.sqrt(shared) * rng.normal(size=4000)
    long = largest_t(rows)  # as if for 4000 prompts; the runs have 40
    return long * stats.t.ppf(0.995, 39) / stats.t.ppf(0.995, 3999)


QUANTILES = {shared: _quantile(shared) for shared in (0.0, 0.7)}


def test_a_skewed_loss_needs_a_larger_quantile_at_its_lower_end():
    """A few prompts lose a lot: the mean is too high as long as they are missed, and its error looks small then."""
    rng = np.random.default_rng(0)
    losses = -(rng.exponential(size=(4, 60)) ** 2)
    assert largest_t(losses) > 1.2 * largest_t(-losses)
    # of four such plans as good as the baseline, the best is called better in no more than one of forty cases
    found = normal = 0
    for _ in range(400):
        rows = 2.0 - rng.exponential(size=(4, 60)) ** 2
        best = rows[rows.mean(1).argmax()]
        found += compare(best, np.zeros(60), low=largest_t(rows)).low > 0
        normal += compare(best, np.zeros(60), low=2.5).low > 0
    assert found / 400 <= 0.025 + 2 * math.sqrt(0.025 * 0.975 / 400)
    assert normal / 400 > 0.08


@pytest.mark.parametrize("changed", [1, 2, 5])
def test_a_metric_that_few_prompts_change_has_a_sane_quantile(changed):
    rows = np.zeros((3, 120))
    rows[0, :changed] = 100.0
    rows[1, 50 : 50 + changed] = -100.0
    rows[2] = np.random.default_rng(0).normal(size=120)
    for sign in (1, -1):
        assert 1.9 < largest_t(sign * rows) < 4.5


# --- verdicts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "sd", "kind"),
    [
        (0.5, 1.0, "better"),
        (-0.5, 1.0, "worse"),
        (0.0, 1.0, "equivalent"),
        (-0.15, 0.5, "equivalent"),  # measurably worse, but by less than δ
        (0.15, 0.5, "better"),
        (-0.1, 4.0, "undecided"),
        (-0.25, 2.0, "worse"),
    ],
)
def test_verdict_of_one_metric(mean, sd, kind):
    comparison = compare(mean + wobble(400, sd), np.zeros(400))
    assert verdict(comparison, delta=0.3) == kind
    assert overall([comparison], [0.3]).kind == kind


def test_the_ends_of_the_interval_decide_and_nothing_else():
    assert verdict(between(0.5, 0.0, 1.0), 2.0) == "equivalent"
    assert verdict(between(0.5, 1e-9, 1.0), 2.0) == "better"
    assert verdict(between(-0.5, -1.0, 0.0), 1.0) == "undecided"
    assert verdict(between(-0.5, -1.0, -1e-9), 1.0) == "worse"
    assert verdict(between(-0.5, -0.999, 0.0), 1.0) == "equivalent"
    for delta in (0.0, -1.0):
        with pytest.raises(ValueError, match="above 0"):
            verdict(between(0, -1, 1), delta)


BETTER, WORSE = between(0.5, 0.2, 0.8), between(-0.5, -0.8, -0.2)
SAME, OPEN = between(0.0, -0.05, 0.05), between(0.1, -0.3, 0.5)
SLIGHTLY_WORSE = between(-0.05, -0.08, -0.02)


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        (BETTER, BETTER, "better"),
        (BETTER, SAME, "better"),
        (BETTER, OPEN, "better"),
        (BETTER, WORSE, "worse"),
        (BETTER, SLIGHTLY_WORSE, "undecided"),  # a loss within δ is a loss all the same
        (SAME, SAME, "equivalent"),
        (SAME, SLIGHTLY_WORSE, "equivalent"),
        (SAME, OPEN, "undecided"),
        (SAME, WORSE, "worse"),
        (OPEN, WORSE, "worse"),
    ],
)
def test_better_needs_one_metric_better_and_none_worse(first, second, kind):
    assert overall([first, second], [0.1, 0.1]).kind == kind
    assert overall([second, first], [0.1, 0.1]).kind == kind


def test_only_an_undecided_verdict_asks_for_prompts():
    assert overall([BETTER, SAME], [0.1, 0.1]) == Verdict("better")
    assert overall([WORSE], [0.1]) == Verdict("worse")
    assert overall([SAME], [0.1]) == Verdict("equivalent")


@pytest.mark.parametrize(
    ("comparison", "delta", "needed"),
    [
        # the ends are 4 away and must come within 2 to leave 0: twice as near, four times the prompts
        (between(2.0, -2.0, 6.0), 0.1, 400),
        (between(-2.0, -6.0, 2.0), 0.1, 400),
        # the ends are 4 away and must come within 1 of the mean of 0 to fit in ±1: sixteen times
        (between(0.0, -4.0, 4.0), 1.0, 1600),
        # to leave 0 takes (4 / 0.5)² = 64 times, to fit in ±2.5 takes (4 / 2)² = 4 times
        (between(0.5, -3.5, 4.5), 2.5, 400),
        # ends at unequal distances: the lower one is what must pass 0
        (between(1.0, -1.0, 1.5), 0.1, 400),
        # nearly there: one prompt more at least
        (between(1.0, 0.0, 2.0), 0.1, 101),
        # a mean of exactly 0 never leaves 0, and it fits
        (between(0.0, -0.2, 0.2), 0.1, 400),
    ],
)
def test_undecided_says_how_many_prompts_would_decide(comparison, delta, needed):
    assert overall([comparison], [delta]) == Verdict("undecided", needed)


def test_prompts_needed_by_two_metrics():
    wide, narrow = between(0.0, -2.0, 2.0), between(0.0, -0.5, 0.5)
    # both must fit in ±1; the wide one takes four times the prompts, the narrow one fits already
    assert overall([wide, narrow], [1.0, 1.0]) == Verdict("undecided", 400)
    # one metric is better, the other a little worse for sure: no number of prompts makes that one thing or the other
    assert overall([BETTER, SLIGHTLY_WORSE], [0.1, 0.1]) == Verdict("undecided", None)


def test_the_number_that_is_told_decides():
    def at(n):
        return overall([compare(wobble(n, 4.0) - 0.1, np.zeros(n))], [0.3])

    # the half-width must fall to 0.3 − 0.1 = 0.2: (1.96 · 4 / 0.2)² = 1537
    assert at(400).prompts_needed == 1546  # Student's quantile for 400 prompts is a little above 1.96
    assert at(1600).kind == "equivalent"
    assert at(1400).kind == "undecided"


# --- what could have been seen, and what is not lost ---------------------------------------------------------------


def test_detectable_is_the_half_width_and_a_fifth_of_the_cases():
    # 400 prompts, σ_d = 2: a standard error of 0.1
    found = compare(wobble(400, 2.0), np.zeros(400), low=2.0, high=2.0)
    assert found.detectable == pytest.approx(0.2 + 0.08416, abs=1e-4)
    wider = compare(wobble(400, 2.0), np.zeros(400), low=3.0, high=2.0)
    assert wider.detectable == pytest.approx(0.3 + 0.08416, abs=1e-4)


def test_four_of_five_true_differences_of_the_detectable_size_are_seen():
    rng, n = np.random.default_rng(0), 100
    size = compare(wobble(n), np.zeros(n)).detectable
    seen = [compare(rng.normal(size, 1, n), np.zeros(n)).low > 0 for _ in range(2000)]
    assert np.mean(seen) == pytest.approx(0.8, abs=0.03)


@given(
    mean=st.floats(-5, 5),
    sd=st.floats(0.01, 5),
    n=st.integers(2, 400),
    low=st.floats(1.5, 4),
    high=st.floats(1.5, 4),
    delta=st.floats(0.01, 5),
)
def test_a_difference_above_the_detectable_one_is_never_undecided(mean, sd, n, low, high, delta):
    error = sd / math.sqrt(n)
    comparison = Comparison(n, mean, mean - low * error, mean + high * error, sd)
    found = overall([comparison], [delta])
    if abs(mean) > comparison.detectable:
        assert found.kind in (("better",) if mean > 0 else ("worse", "equivalent"))
    if found.kind == "undecided":
        assert abs(mean) <= comparison.detectable
        assert found.prompts_needed is None or found.prompts_needed > n


def test_non_inferior_at_both_sides_of_the_boundary():
    # 25 prompts, σ_d = 5: a standard error of 1; Student's 95 % quantile for 24 is 1.7109
    level = float(stats.t.ppf(0.95, 24))
    comparison = Comparison(25, -1.0, -9.0, 9.0, 5.0)
    assert non_inferior(comparison, 1.0 + level + 1e-6)
    assert not non_inferior(comparison, 1.0 + level - 1e-6)
    assert not non_inferior(comparison, 1.0 + level)
    exact = Comparison(25, 0.0, 0.0, 0.0, 0.0)
    assert non_inferior(exact, 1e-9)
