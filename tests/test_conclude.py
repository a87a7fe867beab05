"""Scores → profile, on scores whose answer is known."""

import numpy as np
import pytest
from profiles import profile_data

from postdiff_calib.budget import Limit, PlanCost, parse_budget
from postdiff_calib.conclude import Facts, Scored, conclude
from postdiff_calib.knobs import Knobs
from postdiff_calib.profile import parse_profile
from postdiff_calib.search.select import PlanScores

N = 400
BASE = 80 + np.random.default_rng(0).normal(0, 5, N)


def plan(knobs, macs, loss, noise=1.0, n=N, seed=1):
    scores = BASE - loss + np.random.default_rng(seed).normal(0, noise, N)
    scores[n:] = np.nan
    return PlanScores(knobs, PlanCost(macs=macs, macs_paper=0.9 * macs, seconds=macs / 1e9), scores)


BASELINE = PlanScores(Knobs(20), PlanCost(macs=100.0, macs_paper=90.0, seconds=1e-7), BASE)
FEWER = plan(Knobs(12), 60.0, 0.5, seed=2)
CHEAPER = plan(Knobs(20, cache_interval=2), 55.0, 0.05, seed=3)
JOINT = plan(Knobs(16, 0.3, 0.5), 58.0, 1.0, seed=4)
TOO_DEAR = plan(Knobs(19), 95.0, 0.0, seed=5)
LADDER = (Limit("macs", "median", 25.0, 100.0), Limit("macs", "median", 80.0, 100.0))


def facts():
    data = profile_data()
    evidence = {k: v for k, v in data["evidence"].items() if k != "smallest_difference"}
    return Facts(data["model"], evidence, data["environment"], batch_size=10, noise="coupled", latent_multiple=2)


def run(plans, confirmed=None, delta=None):
    budget = parse_budget("60%")
    limit = budget.resolve(BASELINE.cost)
    return conclude(budget, limit, Scored(BASELINE, plans), confirmed, LADDER, facts(), delta)


def test_the_best_plan_within_the_budget_wins_and_the_profile_is_valid():
    profile = run([FEWER, CHEAPER, JOINT, TOO_DEAR])
    assert profile.knobs == CHEAPER.knobs
    assert profile.expected.relative_macs == 0.55
    assert profile.expected.verdict == "equivalent"
    assert profile.expected.delta == pytest.approx(BASE.mean() / 100)
    assert not profile.expected.confirmed
    assert parse_profile(profile.to_yaml()) == profile


def test_the_difference_is_the_mean_of_paired_differences():
    difference = run([CHEAPER]).expected.difference
    expected = CHEAPER.scores - BASE
    assert difference.mean == pytest.approx(expected.mean())
    half = 1.96 * expected.std(ddof=1) / np.sqrt(N)
    assert difference.high - difference.low == pytest.approx(2 * half, rel=0.01)


def test_held_out_scores_decide_where_there_are_any():
    confirmed = Scored(BASELINE, [plan(CHEAPER.knobs, 55.0, 2.0, seed=6), plan(FEWER.knobs, 60.0, 0.1, seed=7)])
    profile = run([FEWER, CHEAPER], confirmed)
    assert profile.knobs == FEWER.knobs
    assert profile.expected.confirmed
    own = next(row for row in profile.tradeoff.rows if row.share == pytest.approx(0.6))
    assert own.winner == "fewer"
    assert own.fewer.confirmed


def test_the_ladder_compares_the_families_at_other_budgets():
    profile = run([FEWER, CHEAPER, JOINT, TOO_DEAR])
    assert [row.share for row in profile.tradeoff.rows] == pytest.approx([0.25, 0.6, 0.8])
    assert profile.tradeoff.rows[0].fewer is None
    assert profile.tradeoff.rows[0].winner == "undecided"
    assert profile.tradeoff.rows[1].winner == "cheaper"
    assert "cheaper steps win" in profile.tradeoff.rows[1].answer


def test_a_loss_is_called_worse_and_a_small_delta_undecided():
    assert run([JOINT], delta=0.2).expected.verdict == "worse"
    noisy = plan(Knobs(20, cache_interval=2), 55.0, 0.0, noise=8.0, seed=8)
    expected = run([noisy], delta=0.1).expected
    assert expected.verdict == "undecided"
    assert expected.prompts_to_decide > N


def test_plans_that_are_not_completely_scored_do_not_win():
    with pytest.raises(ValueError, match="all its prompts"):
        run([plan(Knobs(12), 60.0, 0.0, n=50)])
