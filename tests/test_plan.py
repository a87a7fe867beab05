"""The step plan, by hand for small cases and by invariants for all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postdiff_calib.errors import KnobError
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import StepKind, compile_plan, low_res_size

knobs_strategy = st.builds(
    Knobs,
    num_inference_steps=st.integers(1, 50),
    low_res_fraction=st.floats(0, 0.999),
    low_res_scale=st.sampled_from([0.375, 0.5, 0.75]),
    cache_interval=st.integers(1, 7),
    guidance_fraction=st.floats(0.01, 1),
    cross_attention_cache=st.sampled_from(["cond", "mean", "off"]),
)


def flags(plan, name):
    return "".join("x" if getattr(step, name) else "." for step in plan)


def test_baseline_plan_is_identity():
    plan = compile_plan(Knobs(5))
    assert plan.is_identity
    assert plan.kinds() == {StepKind(False, True, True, True): 5}
    assert (plan.n_low, plan.gate_step, plan.refresh_steps) == (0, 5, (0, 1, 2, 3, 4))


def test_the_papers_plan_by_hand():
    plan = compile_plan(Knobs(10, 0.5, 0.5, 2, 0.7))
    assert flags(plan, "low_res") == "xxxxx....."
    assert flags(plan, "guided") == "xxxxxxx..."
    assert flags(plan, "refresh") == "x.x.xx.x.x"
    assert flags(plan, "cross_attention_live") == "xxxxxxx..."
    assert flags(plan, "switch") == "....x....."


def test_guidance_dropped_before_the_switch_runs_cross_attention_once_more():
    plan = compile_plan(Knobs(10, 0.5, 0.5, 1, 0.3))
    assert flags(plan, "guided") == "xxx......."
    assert flags(plan, "cross_attention_live") == "xxx..x...."


def test_cross_attention_cache_off_is_always_live():
    plan = compile_plan(Knobs(4, guidance_fraction=0.5, cross_attention_cache="off"))
    assert flags(plan, "cross_attention_live") == "xxxx"
    assert flags(plan, "guided") == "xx.."


def test_rounding_is_of_the_decimal_value():
    # 0.15 · 10 = 1.5 rounds to even, 2; as binary floats the product is slightly below.
    assert compile_plan(Knobs(10, 0.15, 0.5)).n_low == 2
    assert compile_plan(Knobs(20, 0.3, 0.5)).n_low == 6


def test_one_step_is_always_full_resolution_and_one_guided():
    plan = compile_plan(Knobs(1, 0.9, 0.5, 3, 0.1))
    assert len(plan) == 1
    assert plan.is_identity


@given(knobs_strategy)
def test_invariants(knobs):
    plan = compile_plan(knobs)
    steps = list(plan)
    assert len(steps) == knobs.num_inference_steps
    assert not steps[-1].low_res
    assert steps[0].refresh
    assert steps[0].guided
    assert steps[plan.n_low].refresh
    # low-resolution steps and guided steps are prefixes
    assert flags(plan, "low_res") == "x" * plan.n_low + "." * (len(steps) - plan.n_low)
    assert flags(plan, "guided") == "x" * plan.gate_step + "." * (len(steps) - plan.gate_step)
    assert sum(step.switch for step in steps) == (plan.n_low > 0)
    # a cached cross-attention output was made before, at the same resolution
    for step in steps:
        if not step.cross_attention_live:
            assert any(s.cross_attention_live and s.refresh and s.low_res == step.low_res for s in steps[: step.index])
        # deep features that are reused were made before, at the same resolution
        if not step.refresh:
            assert any(s.refresh and s.low_res == step.low_res for s in steps[: step.index])
    assert sum(plan.kinds().values()) == len(steps)


def test_plan_id_ignores_knobs_that_do_nothing():
    assert compile_plan(Knobs(8)).plan_id == compile_plan(Knobs(8, low_res_scale=0.5, cache_branch=0)).plan_id
    assert compile_plan(Knobs(8, 0.5, 0.5)).plan_id != compile_plan(Knobs(8, 0.5, 0.75)).plan_id
    assert (
        compile_plan(Knobs(8, cache_interval=2)).plan_id
        != compile_plan(Knobs(8, cache_interval=2, cache_branch=0)).plan_id
    )
    assert compile_plan(Knobs(8)).plan_id != compile_plan(Knobs(9)).plan_id
    # 0.45 and 0.5 of four steps both round to two
    assert compile_plan(Knobs(4, 0.45, 0.5)).plan_id == compile_plan(Knobs(4, 0.5, 0.5)).plan_id


def test_plan_prints_a_row_per_step():
    text = str(compile_plan(Knobs(4, 0.5, 0.5, 2, 0.5)))
    assert text.splitlines()[0] == "T=4 s=0.5 β=0.5 k=2 m=0.5"
    assert len(text.splitlines()) == 2 + 4
    assert "→ full resolution" in text.splitlines()[3]


@pytest.mark.parametrize(
    ("full", "scale", "multiple", "low"),
    [
        ((64, 64), 0.5, 8, (32, 32)),
        ((64, 64), 0.375, 8, (24, 24)),
        ((65, 97), 0.5, 8, (32, 48)),
        ((16, 16), 0.375, 2, (6, 6)),
        ((16, 16), 0.875, 2, (14, 14)),
        ((4, 4), 0.25, 2, (2, 2)),
    ],
)
def test_low_resolution_sides_are_multiples(full, scale, multiple, low):
    assert low_res_size(*full, scale, multiple) == low


def test_a_scale_that_rounds_to_full_size_is_refused():
    with pytest.raises(KnobError, match=r"at most 0\.5$"):
        low_res_size(16, 16, 0.875, 8)
    with pytest.raises(KnobError, match="make larger images"):
        low_res_size(8, 8, 0.875, 8)
