from types import SimpleNamespace

import pytest
from synthetic_surface import SMALL, SPACE, limit, price

from postdiff_calib.errors import BudgetError
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.search.space import SearchSpace, candidate, coordinate_matrix, within


def card(**changes):
    values = {
        "num_inference_steps": 20,
        "knobs": {"num_inference_steps", "low_res_fraction", "low_res_scale", "cache_interval", "guidance_fraction"},
        "step_range": (4, 20),
        "low_res_scales": (0.375, 0.5, 0.625, 0.75, 0.875),
        "latent_multiple": 2,
        "pipeline_class": "StableDiffusionPipeline",
    }
    return SimpleNamespace(**{**values, **changes})


def test_plans_are_exactly_the_distinct_plan_ids_of_the_grid():
    grid = [
        Knobs(total, s, beta if s else 1.0, k, m)
        for total in SMALL.grids["num_inference_steps"]
        for s in SMALL.grids["low_res_fraction"]
        for beta in SMALL.grids["low_res_scale"]
        for k in SMALL.grids["cache_interval"]
        for m in SMALL.grids["guidance_fraction"]
    ]
    plan_ids = [plan.plan_id for plan in SMALL.plans]
    assert len(plan_ids) == len(set(plan_ids))
    assert set(plan_ids) == {compile_plan(knobs).plan_id for knobs in grid}
    assert len(plan_ids) < len(grid)


def test_every_plan_names_the_mildest_knobs_that_compile_to_it():
    for plan in SMALL.plans:
        if plan.n_low == 0:
            assert plan.knobs.low_res_fraction == 0
        if plan.gate_step == len(plan):
            assert plan.knobs.guidance_fraction == 1


def test_from_card_leaves_out_knobs_that_do_not_apply():
    lcm = SearchSpace.from_card(card(knobs={"num_inference_steps"}, num_inference_steps=4, step_range=(1, 8)))
    assert [plan.knobs for plan in lcm.plans] == [Knobs(t) for t in range(1, 9)]
    assert lcm.paper == lcm.baseline == Knobs(4)


def test_from_card_adds_the_default_steps_outside_its_range():
    assert SearchSpace.from_card(card(num_inference_steps=50)).grids["num_inference_steps"][-2:] == (20, 50)


def test_scales_that_round_to_one_size_are_tried_once():
    assert SearchSpace.from_card(card(), (16, 16)).grids["low_res_scale"] == (0.375, 0.5, 0.625, 0.75, 0.875)
    assert SearchSpace.from_card(card(latent_multiple=8), (16, 16)).grids["low_res_scale"] == (0.375,)
    only_full = SearchSpace.from_card(card(latent_multiple=16), (16, 16))
    assert only_full.grids["low_res_scale"] == ()
    assert only_full.grids["low_res_fraction"] == (0.0,)


def test_paper_settings():
    assert SPACE.paper == Knobs(20, 0.5, 0.5, 2, 0.75)
    assert SearchSpace.from_card(card(pipeline_class="StableDiffusionXLPipeline")).paper.low_res_scale == 0.75


def test_budget_is_a_hard_limit_on_the_space():
    candidates = SMALL.candidates(price)
    allowed = within(candidates, limit(0.5, SMALL))
    assert 0 < len(allowed) < len(candidates)
    assert max(c.cost.macs for c in allowed) <= limit(0.5, SMALL).value
    assert {c.plan_id for c in candidates if c.cost.macs <= limit(0.5, SMALL).value} == {c.plan_id for c in allowed}
    with pytest.raises(BudgetError, match=r"cheapest reachable plan .* T there is at its lower end of 4"):
        within(candidates, limit(0.001, SMALL))


def test_effective_coordinates_ignore_knobs_that_do_nothing():
    one_refresh = candidate(compile_plan(Knobs(20, 0.0, 0.5, 1, 1.0)), price)
    assert one_refresh.coordinates() == (20, 0, 1, 1, 1)
    assert one_refresh.step_reduction
    all_knobs = candidate(compile_plan(Knobs(10, 0.5, 0.5, 2, 0.75)), price)
    assert all_knobs.coordinates() == (10, 0.5, 0.5, 2, 0.8)  # round(7.5) guided steps
    assert not all_knobs.step_reduction
    assert coordinate_matrix([one_refresh, all_knobs]).shape == (2, 5)
