import math

import numpy as np
import pytest

from postdiff_calib.budget import PlanCost
from postdiff_calib.knobs import Knobs
from postdiff_calib.search import select
from postdiff_calib.search.select import PlanScores, compare, verdict


def plan(knobs, cost, scores):
    return PlanScores(knobs, PlanCost(cost, cost), np.asarray(scores, dtype=float))


def macs(cost):
    return cost.macs


LEVEL = np.array([10.0, 20.0, 30.0, 40.0])
WOBBLE = np.array([-0.1, 0.1, -0.1, 0.1])
BASE = plan(Knobs(20), 20, LEVEL)
FEWER = plan(Knobs(8), 8, LEVEL - 1 + WOBBLE)
CHEAPER = plan(Knobs(20, cache_interval=3), 8, LEVEL - 0.5 - WOBBLE)
JOINT = plan(Knobs(12, cache_interval=2), 7, LEVEL - 0.25)
PARTIAL = plan(Knobs(14, cache_interval=3), 7, [10.5, math.nan, 29.9, math.nan])
PLANS = [BASE, FEWER, CHEAPER, JOINT, PARTIAL]


def test_compare_is_students_paired_interval():
    # differences 1, 2, 3: mean 2, sd 1, t(0.975, 2) = 4.303
    result = compare(np.array([2.0, 4.0, 6.0, 9.0]), np.array([1.0, 2.0, 3.0, math.nan]))
    assert (result.n, result.mean, result.sd) == (3, 2.0, 1.0)
    assert result.low == pytest.approx(2 - 4.3027 / math.sqrt(3), abs=1e-3)
    assert result.high == pytest.approx(2 + 4.3027 / math.sqrt(3), abs=1e-3)
    assert result.standard_error == pytest.approx(1 / math.sqrt(3))
    with pytest.raises(ValueError, match="1 common"):
        compare(np.array([1.0, math.nan]), np.array([1.0, 1.0]))


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = [c.low <= 0.3 <= c.high for c in (compare(rng.normal(0.3, 1, 30), np.zeros(30)) for _ in range(1000))]
    assert 0.93 <= np.mean(hits) <= 0.97


def test_resolvable_difference_inverts_the_number_of_prompts():
    assert select.smallest_resolvable(1.0, 500) == pytest.approx(0.125, abs=1e-3)
    assert select.smallest_resolvable(1.0, 1000) == pytest.approx(0.0886, abs=1e-3)
    assert select.prompts_to_resolve(1.0, select.smallest_resolvable(1.0, 500)) in (500, 501)
    assert select.smallest_resolvable(1.0, 0) == math.inf


@pytest.mark.parametrize(
    ("mean", "sd", "kind"),
    [
        (0.5, 1.0, "better"),
        (-0.5, 1.0, "worse"),
        (0.0, 1.0, "equivalent"),
        (-0.15, 0.5, "equivalent"),  # measurably worse, but by less than δ
        (-0.1, 4.0, "undecided"),
        (-0.25, 2.0, "worse"),
    ],
)
def test_verdict(mean, sd, kind):
    noise = np.tile([-1.0, 1.0], 200) * sd * math.sqrt(399 / 400)
    assert verdict(compare(mean + noise, np.zeros(400)), delta=0.3).kind == kind


def test_undecided_says_how_many_prompts_would_decide():
    def at(n):
        noise = np.tile([-1.0, 1.0], n // 2) * 4.0 * math.sqrt((n - 1) / n)
        return verdict(compare(noise - 0.1, np.zeros(n)), delta=0.3)

    told = at(400)
    # half-width must fall to 0.3 − 0.1 = 0.2: (1.96 · 4 / 0.2)² = 1537
    assert told.prompts_needed == 1537
    assert "1537" in str(told)
    assert at(1600).kind == "equivalent"
    assert at(1400).kind == "undecided"
    with pytest.raises(ValueError, match="above 0"):
        verdict(compare(LEVEL, LEVEL), delta=0)


def test_arms():
    assert BASE.arms(20) == ("fewer", "cheaper", "joint")
    assert FEWER.arms(20) == ("fewer", "joint")
    assert CHEAPER.arms(20) == ("cheaper", "joint")
    assert JOINT.arms(20) == ("joint",)
    assert plan(Knobs(8, low_res_scale=0.5), 8, LEVEL).arms(20) == ("fewer", "joint")  # β alone does nothing


def test_best_of_each_arm_within_a_budget():
    def allows(cost):
        return cost.macs <= 8

    assert select.best(PLANS, BASE, allows=allows) == [JOINT]
    assert select.best(PLANS, BASE, allows=allows, arm="fewer") == [FEWER]
    assert select.best(PLANS, BASE, allows=allows, arm="cheaper") == [CHEAPER]
    assert select.best(PLANS, BASE, allows=allows, count=3) == [JOINT, CHEAPER, FEWER]
    assert select.best(PLANS, BASE, allows=lambda cost: False) == []


def test_partly_scored_plans_need_asking_for_and_pay_their_uncertainty():
    with_partial = select.best(PLANS, BASE, min_prompts=2, count=5)
    assert PARTIAL in with_partial
    assert select.mean_difference(PARTIAL, BASE) == pytest.approx(0.2)
    # mean 0.2 less its standard error 0.3 is below the baseline's 0
    assert with_partial[0] is BASE


def test_frontier_is_what_nothing_beats():
    assert select.frontier(PLANS, BASE, macs) == [JOINT, BASE]
    worse_but_cheap = plan(Knobs(4), 4, LEVEL - 3)
    assert select.frontier([*PLANS, worse_but_cheap], BASE, macs) == [worse_but_cheap, JOINT, BASE]


def test_rung_compares_cheaper_with_fewer():
    at = select.rung(PLANS, BASE, macs, limit=8)
    assert (at.fewer, at.cheaper, at.joint) == (FEWER, CHEAPER, JOINT)
    assert at.share == pytest.approx(0.4)
    assert at.difference.mean == pytest.approx(0.5)
    assert at.winner == "cheaper"
    sentence = select.answer(at)
    assert sentence.startswith("At 40% of the unaccelerated cost, cheaper steps win by 0.500")
    assert "T=20 k=3 against T=8" in sentence


def test_answer_when_one_arm_has_no_plan_or_nothing_was_scored():
    only_fewer = select.rung([BASE, FEWER], BASE, macs, limit=8)
    assert only_fewer.winner == "fewer"
    assert "no plan with cheaper steps fits" in select.answer(only_fewer)
    assert "no plan with fewer steps fits" in select.answer(select.rung([BASE, CHEAPER], BASE, macs, limit=8))
    nothing = select.rung(PLANS, BASE, macs, limit=1)
    assert nothing.winner is None
    assert "not scored" in select.answer(nothing)


def test_tie_and_crossover():
    noisy = plan(Knobs(20, cache_interval=3), 8, LEVEL - 1 + np.array([3.0, -3.0, 2.0, -2.0]))
    tie = select.rung([BASE, FEWER, noisy], BASE, macs, limit=8)
    assert tie.winner == "tie"
    assert "neither is shown to be better" in select.answer(tie)
    low_fewer = plan(Knobs(4), 4, LEVEL - 1 + WOBBLE)
    low_cheaper = plan(Knobs(20, cache_interval=5), 4, LEVEL - 4)
    ladder = [select.rung([*PLANS, low_fewer, low_cheaper], BASE, macs, limit) for limit in (8, 4, 20)]
    assert [r.winner for r in ladder] == ["cheaper", "fewer", "tie"]
    assert select.crossover(ladder) == (pytest.approx(0.2), pytest.approx(0.4))
    assert select.crossover(ladder[:1]) is None
