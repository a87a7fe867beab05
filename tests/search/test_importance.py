import numpy as np
import pytest

from postdiff_calib.cost.budget import PlanCost
from postdiff_calib.knobs import Knobs
from postdiff_calib.scores.select import PlanScores
from postdiff_calib.search.importance import importance, severities

N = 200
GRID = [
    Knobs(steps, s, 0.5 if s else 1.0, k, m)
    for steps in (6, 10, 20)
    for s in (0, 0.3, 0.5)
    for k in (1, 2)
    for m in (0.5, 1)
]


def scored(effect, noise=0.0, knobs=GRID):
    rng = np.random.default_rng(0)
    level = 80 + rng.standard_normal(N)

    def plan(k):
        scores = level - effect(k) + noise * rng.standard_normal(N)
        return PlanScores(k, PlanCost(1.0, 1.0), scores)

    return [plan(k) for k in knobs], PlanScores(Knobs(20), PlanCost(1.0, 1.0), level)


def test_a_knob_that_does_everything_has_it_all():
    found = importance(*scored(lambda k: 10 / k.num_inference_steps))
    assert found.shares["T"] > 0.95
    assert all(share < 0.05 for name, share in found.shares.items() if name != "T")
    assert found.rest == pytest.approx(0, abs=0.01)


def test_equal_effects_share_equally_and_order_follows_size():
    # Caching every other step and dropping half the guidance take half of their knob each, in half of the plans.
    equal = importance(*scored(lambda k: (k.cache_interval == 2) + (k.guidance_fraction == 0.5)))
    assert equal.shares["k"] == pytest.approx(0.5, abs=0.05)
    assert equal.shares["m"] == pytest.approx(0.5, abs=0.05)
    uneven = importance(*scored(lambda k: 3 * (k.cache_interval == 2) + (k.guidance_fraction == 0.5)))
    assert uneven.shares["k"] == pytest.approx(0.9, abs=0.05)


def test_noise_explains_nothing_and_is_named():
    found = importance(*scored(lambda k: 0.0, noise=2.0))
    assert sum(found.shares.values()) < 0.15
    assert found.noise > 0.6


def test_too_few_or_equal_plans_have_no_importance():
    plans, baseline = scored(lambda k: 10 / k.num_inference_steps)
    assert importance(plans[:10], baseline) is None
    assert importance(*scored(lambda k: 0.0)) is None
    for plan in plans:
        plan.scores[5:] = np.nan
    assert importance(plans, baseline) is None


def test_a_knob_that_never_varies_is_left_out():
    found = importance(*scored(lambda k: 10 / k.num_inference_steps, knobs=[Knobs(t) for t in range(4, 30)]))
    assert list(found.shares) == ["T"]


def test_severities_are_what_the_knobs_take_away():
    plan = PlanScores(Knobs(10, 0.3, 0.5, 2, 0.8), PlanCost(1.0, 1.0), np.zeros(1))
    assert severities(plan) == pytest.approx((0.1, 0.3, 0.5, 0.5, 0.2))
    assert severities(PlanScores(Knobs(20), PlanCost(1.0, 1.0), np.zeros(1)))[1:] == (0, 0, 0, 0)


def test_one_broken_plan_does_not_decide():
    def effect(k):
        return 10 / k.num_inference_steps + (200 if k == GRID[3] else 0)

    found = importance(*scored(effect))
    assert found.shares["T"] > 0.6
