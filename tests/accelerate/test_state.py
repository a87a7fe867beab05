"""Nothing leaks between calls, between pipelines, or out of a call that fails; contradictions are refused."""

import pipelines as P
import pytest
import torch

from postdiff_calib.accelerate import accelerated, disable, enable, summary
from postdiff_calib.errors import KnobError, UnsupportedError, UsageError
from postdiff_calib.knobs import Knobs

FULL = Knobs(6, low_res_fraction=0.5, low_res_scale=0.5, cache_interval=2, guidance_fraction=0.75)
SIZE = {"height": 128, "width": 128}


def test_second_call_is_identical_and_independent_of_what_came_between():
    pipe = P.sd("dpm")
    enable(pipe, FULL)
    first = P.latents(pipe, 2, **SIZE)
    P.latents(pipe, 3, height=192, width=128)
    P.latents(pipe, 1, guidance_scale=1.0, **SIZE)
    P.latents(pipe, 2, num_images_per_prompt=2, generator=P.generators(4), **SIZE)
    assert torch.equal(P.latents(pipe, 2, **SIZE), first)


def test_scheduler_may_change_between_calls():
    pipe = P.sd("dpm")
    enable(pipe, FULL)
    first = P.latents(pipe, **SIZE)
    before = pipe.scheduler
    pipe.scheduler = P.scheduler("euler")
    assert not torch.equal(P.latents(pipe, **SIZE), first)
    pipe.scheduler = before
    assert torch.equal(P.latents(pipe, **SIZE), first)
    pipe.scheduler = P.scheduler("pndm")
    with pytest.raises(UnsupportedError, match="PNDMScheduler"):
        P.latents(pipe, **SIZE)


def test_network_may_change_between_calls():
    pipe, other = P.sd("ddim"), P.sd("ddim", seed=1)
    enable(pipe, FULL)
    old = pipe.unet
    pipe.unet = other.unet
    swapped = P.latents(pipe, **SIZE)
    assert not old._forward_hooks
    pipe.text_encoder = other.text_encoder
    with accelerated(other, FULL):
        assert torch.equal(P.latents(pipe, **SIZE), P.latents(other, **SIZE))
    assert not torch.equal(swapped, P.latents(pipe, **SIZE))


@pytest.mark.parametrize("when", [0, 3, 5])
def test_a_call_that_raises_leaks_nothing(when):
    pipe = P.sd("dpm")
    enable(pipe, FULL)
    first = P.latents(pipe, **SIZE)

    def fail(pipe, step, timestep, given):
        if step == when:
            raise RuntimeError("stop")
        return given

    with pytest.raises(RuntimeError, match="stop"):
        P.latents(pipe, callback_on_step_end=fail, **SIZE)
    assert "step" not in pipe.scheduler.__dict__
    networks = pipe.__dict__["_postdiff"].networks
    assert networks.run is None
    assert all(holder.held is None for holder in networks.parts["block caching"].holders)
    with pytest.raises(UsageError, match="has finished no call since"):
        summary(pipe)
    assert torch.equal(P.latents(pipe, **SIZE), first)


def test_interrupting_is_no_error():
    pipe = P.sd("ddim")
    enable(pipe, FULL)

    def interrupt(pipe, step, timestep, given):
        pipe._interrupt = step == 3
        return given

    P.latents(pipe, callback_on_step_end=interrupt, **SIZE)
    assert len(summary(pipe).steps) == 4


def test_two_pipelines_may_share_a_network():
    from diffusers import StableDiffusionPipeline

    one = P.sd("ddim")
    two = P.quiet(StableDiffusionPipeline(**one.components, requires_safety_checker=False))
    two.scheduler = P.scheduler("dpm")
    other = Knobs(6, cache_interval=3, guidance_fraction=0.5, cross_attention_cache="mean")
    stock = P.latents(one, num_inference_steps=6)
    with accelerated(one, FULL):
        alone = P.latents(one, **SIZE)
    with accelerated(two, other):
        other_alone = P.latents(two)
    before = P.fingerprint(one)
    enable(one, FULL)
    enable(two, other)
    assert torch.equal(P.latents(one, **SIZE), alone)
    assert torch.equal(P.latents(two), other_alone)
    disable(one)  # the first to come goes first: the other's hooks must survive
    assert torch.equal(P.latents(one, num_inference_steps=6), stock)
    assert torch.equal(P.latents(two), other_alone)
    enable(one, FULL)
    disable(two)
    assert torch.equal(P.latents(one, **SIZE), alone)
    disable(one)
    assert P.fingerprint(one) == before


def test_a_network_inside_a_call_is_refused_to_another():
    from diffusers import StableDiffusionPipeline

    one = P.sd("ddim")
    two = P.quiet(StableDiffusionPipeline(**one.components, requires_safety_checker=False))
    enable(one, FULL)
    enable(two, FULL)

    def nested(pipe, step, timestep, given):
        P.latents(two, **SIZE)
        return given

    with pytest.raises(UsageError, match="inside another accelerated call"):
        P.latents(one, callback_on_step_end=nested, **SIZE)

    def again(pipe, step, timestep, given):
        P.latents(one, **SIZE)
        return given

    with pytest.raises(UsageError, match="serves one call at a time"):
        P.latents(one, callback_on_step_end=again, **SIZE)
    assert P.latents(two, **SIZE).shape == (3, 4, 16, 16)


def test_enabling_again_replaces_the_knobs():
    pipe = P.sd("ddim")
    before = P.fingerprint(pipe)
    enable(pipe, FULL)
    first = P.latents(pipe, **SIZE)
    enable(pipe, Knobs(4, cache_interval=2))
    P.latents(pipe)
    assert len(summary(pipe).steps) == 4
    with accelerated(pipe, Knobs(3)):
        P.latents(pipe)
    P.latents(pipe)
    assert len(summary(pipe).steps) == 4  # what was enabled before the block is so again
    enable(pipe, FULL)
    assert torch.equal(P.latents(pipe, **SIZE), first)
    disable(pipe)
    assert P.fingerprint(pipe) == before


def test_contradicting_arguments_are_refused_before_anything_runs():
    pipe = P.sd("ddim")
    enable(pipe, Knobs(6))
    pipe.encode_prompt = None  # nothing gets as far as the text encoder
    with pytest.raises(UsageError, match="num_inference_steps=7: this pipeline is accelerated for 6 steps"):
        pipe("a", num_inference_steps=7)
    with pytest.raises(UsageError, match="accelerated for 6 steps"):
        pipe("a", 64, 64, 50)
    with pytest.raises(UsageError, match="timesteps with 2 entries"):
        pipe("a", timesteps=[900, 100])


def test_knobs_that_round_to_nothing_are_refused_unless_allowed():
    pipe = P.sd("ddim")
    for inert in (
        {"low_res_fraction": 0.05, "low_res_scale": 0.5},
        {"guidance_fraction": 0.95},
    ):
        with pytest.raises(KnobError, match="rounds to no step at all"):
            enable(pipe, Knobs(4, **inert))
        enable(pipe, Knobs(4, **inert), strict=False)
    with pytest.raises(KnobError, match="cache_interval=2 of 1 steps"):
        enable(pipe, Knobs(1, cache_interval=2))


def test_a_profile_brings_its_own_options():
    class Profile:
        knobs, noise, latent_multiple = FULL, "independent", 2

    pipe = P.sd("ddim")
    enable(pipe, Profile())
    ours = P.latents(pipe)  # 8 × 8 latents: only possible with the profile's multiple of 2
    assert summary(pipe).steps[0].latent_size == (4, 4)
    enable(pipe, FULL, latent_multiple=2, noise="independent")
    assert torch.equal(P.latents(pipe), ours)
    enable(pipe, FULL, latent_multiple=2)
    assert not torch.equal(P.latents(pipe), ours)


def test_unknown_pipelines_are_refused_by_name():
    from diffusers import DDPMPipeline

    pipe = DDPMPipeline(unet=P.unet(), scheduler=P.scheduler("ddim"))
    with pytest.raises(UnsupportedError, match="pipeline DDPMPipeline"):
        enable(pipe, Knobs(4))


def test_summary_is_refused_where_there_is_none_and_prints_a_table():
    pipe = P.sd("ddim")
    with pytest.raises(UsageError, match="not accelerated"):
        summary(pipe)
    enable(pipe, FULL)
    P.latents(pipe, **SIZE)
    text = str(summary(pipe))
    assert text.splitlines()[0] == "T=6 s=0.5 β=0.5 k=2 m=0.75"
    assert "8×8" in text
    assert text.count("→ full resolution") == 1
