"""A technique that was asked for and did not fire is an error."""

import pipelines as P
import pytest

from postdiff_calib.accelerate import RunSummary, StepRecord, enable
from postdiff_calib.errors import UnsupportedError, UsageError
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan

FIRED = {"switched": True, "layers_skipped": 3, "cross_attention_cached": 1}


@pytest.mark.parametrize(
    ("knobs", "missing", "name"),
    [
        (Knobs(2, low_res_fraction=0.5, low_res_scale=0.5), "switched", "low-resolution steps"),
        (Knobs(2, cache_interval=2), "layers_skipped", "block caching"),
        (Knobs(2, guidance_fraction=0.5), "cross_attention_cached", "cross-attention caching"),
    ],
)
def test_what_never_fired_is_named(knobs, missing, name):
    plan = compile_plan(knobs)
    complete = StepRecord(1, guided=False, **FIRED)
    RunSummary(plan, [StepRecord(0, guided=True), complete], guides=True).check()
    setattr(complete, missing, type(FIRED[missing])())
    with pytest.raises(UsageError, match=f"{name} of T=2.*never fired"):
        RunSummary(plan, [StepRecord(0, guided=True), complete], guides=True).check()


def test_guidance_that_was_never_dropped_is_named():
    plan = compile_plan(Knobs(2, guidance_fraction=0.5, cross_attention_cache="off"))
    steps = [StepRecord(0, guided=True), StepRecord(1, guided=True)]
    with pytest.raises(UsageError, match="dropping guidance"):
        RunSummary(plan, steps, guides=True).check()
    RunSummary(plan, steps, guides=False).check()


def test_an_attention_layer_that_is_bypassed_does_not_pass_silently():
    # A network whose cross-attention modules are replaced after enabling no longer goes through the hooks.
    pipe = P.sd("ddim")
    enable(pipe, Knobs(4, guidance_fraction=0.5))
    for hook_owner, _ in pipe.__dict__["_postdiff"].networks.parts["guidance"].hooks:
        hook_owner.forward = type(hook_owner).forward.__get__(hook_owner)
    with pytest.raises(UsageError, match="cross-attention caching"):
        P.latents(pipe)


def test_schedulers_with_several_calls_per_step_are_refused():
    pipe = P.sd("ddim")

    class Heun(type(pipe.scheduler)):
        order = 2

    pipe.scheduler = Heun.from_config(pipe.scheduler.config)
    with pytest.raises(UnsupportedError, match="scheduler Heun: it calls the network more than once"):
        enable(pipe, Knobs(4))
