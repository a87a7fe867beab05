import math

import numpy as np
import pytest

from postdiff_calib.cost.budget import PlanCost
from postdiff_calib.knobs import Knobs
from postdiff_calib.scores import select
from postdiff_calib.scores.objective import Objective, Term
from postdiff_calib.scores.select import PlanScores

CLIP = Objective()
BOTH = Objective((Term("clip", 1.0), Term("scene", 1.0)))


def plan(knobs, cost, scores):
    return PlanScores(knobs, PlanCost(cost, cost), np.asarray(scores, dtype=float))


def macs(cost):
    return cost.macs


LEVEL = np.array([10.0, 20.0, 30.0, 40.0])
WOBBLE = np.array([-0.1, 0.1, -0.1, 0.1])
BASE = plan(Knobs(20), 20, LEVEL)
STEP_REDUCTION = plan(Knobs(8), 8, LEVEL - 1 + WOBBLE)
CHEAPER_STEPS = plan(Knobs(20, cache_interval=3), 8, LEVEL - 0.5 - WOBBLE)
COMBINED = plan(Knobs(12, cache_interval=2), 7, LEVEL - 0.25)
PARTIAL = plan(Knobs(14, cache_interval=3), 7, [10.5, math.nan, 29.9, math.nan])
PLANS = [BASE, STEP_REDUCTION, CHEAPER_STEPS, COMBINED, PARTIAL]


def test_arms():
    assert BASE.arms(20) == ("step_reduction", "cheaper_steps", "combined")
    assert STEP_REDUCTION.arms(20) == ("step_reduction", "combined")
    assert CHEAPER_STEPS.arms(20) == ("cheaper_steps", "combined")
    assert COMBINED.arms(20) == ("combined",)
    assert plan(Knobs(8, low_res_scale=0.5), 8, LEVEL).arms(20) == (
        "step_reduction",
        "combined",
    )  # β alone does nothing


def test_best_of_each_arm_within_a_budget():
    def allows(cost):
        return cost.macs <= 8

    assert select.best(PLANS, BASE, CLIP, allows=allows) == [COMBINED]
    assert select.best(PLANS, BASE, CLIP, allows=allows, arm="step_reduction") == [STEP_REDUCTION]
    assert select.best(PLANS, BASE, CLIP, allows=allows, arm="cheaper_steps") == [CHEAPER_STEPS]
    assert select.best(PLANS, BASE, CLIP, allows=allows, count=3) == [COMBINED, CHEAPER_STEPS, STEP_REDUCTION]
    assert select.best(PLANS, BASE, CLIP, allows=lambda cost: False) == []


def test_best_is_by_the_objective():
    first = PlanScores(Knobs(8), PlanCost(8, 8), LEVEL + 1, {"scene": LEVEL - 3})
    second = PlanScores(Knobs(9), PlanCost(8, 8), LEVEL, {"scene": LEVEL})
    base = PlanScores(Knobs(20), PlanCost(20, 20), LEVEL, {"scene": LEVEL})
    assert select.best([first, second], base, CLIP) == [first]
    assert select.best([first, second], base, BOTH) == [second]


def test_partly_scored_plans_need_asking_for_and_pay_their_uncertainty():
    assert PARTIAL not in select.best(PLANS, BASE, CLIP, count=5)
    with_partial = select.best(PLANS, BASE, CLIP, min_prompts=2, count=5)
    # differences 0.5 and −0.1: a mean of 0.2 less √½ of its standard error of 0.3 is below the baseline's 0
    assert select.merit(PARTIAL, BASE, CLIP) == pytest.approx(0.2 - 0.3 * math.sqrt(0.5))
    assert with_partial == [BASE, PARTIAL, COMBINED, CHEAPER_STEPS, STEP_REDUCTION]


def merit(differences):
    base = plan(Knobs(20), 20, np.zeros(len(differences)))
    return select.merit(plan(Knobs(8), 8, differences), base, CLIP)


def test_merit_charges_for_missing_prompts_only():
    # 0 and 2, repeated: a mean of 1
    whole = np.tile([0.0, 2.0], 50)
    assert merit(whole) == 1.0
    lacks_one = whole.copy()
    lacks_one[0] = math.nan
    # 99 of 100 prompts: a tenth of the standard error of 0.1, against a mean that rose by 0.01
    assert merit(lacks_one) == pytest.approx(1.0101 - 0.1 * 0.101, abs=2e-4)
    assert abs(merit(lacks_one) - merit(whole)) < 0.001
    quarter = whole.copy()
    quarter[25:] = math.nan
    quarter[24] = math.nan
    # 24 of 100: √0.76 of a standard error of 1.0215 / √24
    assert merit(quarter) == pytest.approx(1 - math.sqrt(0.76) * 1.0215 / math.sqrt(24), abs=1e-4)
    assert merit(np.full(4, math.nan)) == -math.inf
    # one prompt has no spread to pay for
    assert merit(np.array([3.0, math.nan])) == 3.0


def test_metrics_by_name():
    known = PlanScores(Knobs(8), PlanCost(8, 8), LEVEL, {"scene": LEVEL + 1})
    assert known.metric("clip") is known.scores
    assert known.metric("scene").tolist() == [11.0, 21.0, 31.0, 41.0]
    assert np.isnan(known.metric("ssim")).all()
    assert known.quality(BOTH).tolist() == [10.5, 20.5, 30.5, 40.5]
    assert np.isnan(STEP_REDUCTION.quality(BOTH)).all()
    assert (PARTIAL.n, PARTIAL.complete, STEP_REDUCTION.complete) == (2, False, True)
    assert select.common(PARTIAL, BASE) == 2


def test_frontier_is_what_nothing_beats():
    assert select.frontier(PLANS, BASE, CLIP, macs) == [COMBINED, BASE]
    worse_but_cheap = plan(Knobs(4), 4, LEVEL - 3)
    assert select.frontier([*PLANS, worse_but_cheap], BASE, CLIP, macs) == [worse_but_cheap, COMBINED, BASE]
