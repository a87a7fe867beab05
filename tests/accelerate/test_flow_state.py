"""Rectified-flow transformers leave nothing behind: between calls, between pipelines, or out of a call that fails."""

import gc

import pipelines as P
import pytest
import torch

from postdiff_calib.accelerate import accelerated, disable, enable, summary
from postdiff_calib.errors import UsageError
from postdiff_calib.knobs import Knobs

FULL = Knobs(6, low_res_fraction=0.5, low_res_scale=0.5, cache_interval=2, guidance_fraction=0.75)
SIZE = {"height": 128, "width": 128}
NAMES = P.FLOW


@pytest.fixture(params=NAMES)
def pipe_and_call(request):
    build, call = P.FAMILIES[request.param]
    pipe = build()
    call = {**SIZE, **call}
    P.latents(pipe, 1, num_inference_steps=1, **call)  # some pipelines put a registry of hooks on their network
    return pipe, call


def tensors_alive():
    gc.collect()
    return sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())


def test_second_call_is_identical_and_independent_of_what_came_between(pipe_and_call):
    pipe, call = pipe_and_call
    enable(pipe, P.suited(pipe, FULL))
    first = P.latents(pipe, 2, **call)
    P.latents(pipe, 3, **{**call, "height": 192})
    P.latents(pipe, 2, num_images_per_prompt=2, generator=P.generators(4), **call)
    assert torch.equal(P.latents(pipe, 2, **call), first)


def test_disabling_restores_every_attribute_and_no_tensor_is_held(pipe_and_call):
    pipe, call = pipe_and_call
    stock = P.latents(pipe, num_inference_steps=6, **call)
    before = P.fingerprint(pipe)
    with accelerated(pipe, P.suited(pipe, FULL)):
        assert P.fingerprint(pipe) != before
        assert not torch.equal(P.latents(pipe, **call), stock)
        alive = tensors_alive()  # after a call: networks keep the positions of sizes that they have seen
        P.latents(pipe, **call)
        assert tensors_alive() == alive
        parts = pipe.__dict__["_postdiff"].networks.parts
        held = [holder.held for holder in parts["block caching"].holders]
        held += [hook.held for _, hook in parts["guidance"].hooks]
        assert held == [None] * len(held)
    assert P.fingerprint(pipe) == before
    assert torch.equal(P.latents(pipe, num_inference_steps=6, **call), stock)


@pytest.mark.parametrize("when", [0, 3, 5])
def test_a_call_that_raises_leaks_nothing(pipe_and_call, when):
    pipe, call = pipe_and_call
    enable(pipe, P.suited(pipe, FULL))
    first = P.latents(pipe, **call)

    def fail(pipe, step, timestep, given):
        if step == when:
            raise RuntimeError("stop")
        return given

    with pytest.raises(RuntimeError, match="stop"):
        P.latents(pipe, callback_on_step_end=fail, **call)
    assert "step" not in pipe.scheduler.__dict__
    networks = pipe.__dict__["_postdiff"].networks
    assert networks.run is None
    assert all(holder.held is None for holder in networks.parts["block caching"].holders)
    with pytest.raises(UsageError, match="has finished no call since"):
        summary(pipe)
    assert torch.equal(P.latents(pipe, **call), first)


def test_two_pipelines_may_share_a_network(pipe_and_call):
    one, call = pipe_and_call
    two = P.quiet(type(one)(**one.components))
    two.scheduler = type(one.scheduler).from_config(one.scheduler.config)
    other = P.suited(one, Knobs(6, cache_interval=3, guidance_fraction=0.5))
    stock = P.latents(one, num_inference_steps=6, **call)
    before = P.fingerprint(one)
    with accelerated(one, P.suited(one, FULL)):
        alone = P.latents(one, **call)
    with accelerated(two, other):
        other_alone = P.latents(two, **call)
    enable(one, P.suited(one, FULL))
    enable(two, other)
    assert torch.equal(P.latents(one, **call), alone)
    assert torch.equal(P.latents(two, **call), other_alone)
    disable(one)  # the first to come goes first: the other's hooks must survive
    assert torch.equal(P.latents(one, num_inference_steps=6, **call), stock)
    assert torch.equal(P.latents(two, **call), other_alone)
    disable(two)
    assert P.fingerprint(one) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept(pipe_and_call, dtype):
    pipe, call = pipe_and_call
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module) and part is not pipe.vae:
            part.to(dtype)
    stock = P.latents(pipe, num_inference_steps=6, **call)
    enable(pipe, P.suited(pipe, FULL))
    images = P.latents(pipe, **call)
    assert images.dtype == stock.dtype
    assert torch.isfinite(images).all()


def test_images_are_decoded(pipe_and_call):
    pipe, call = pipe_and_call
    enable(pipe, P.suited(pipe, FULL))
    call = P.of_images(call, 1)
    images = pipe(P.PROMPTS[:1], generator=P.generators(1), output_type="np", **call).images
    assert images.shape == (1, 128, 128, 3)
    assert len(pipe(P.PROMPTS[:1], return_dict=False, **call)[0]) == 1


def test_given_latents_are_pooled_to_the_low_resolution(pipe_and_call):
    pipe, call = pipe_and_call
    enable(pipe, P.suited(pipe, FULL))
    by_seed = P.latents(pipe, 2, **call)
    noise = P.noise_of(pipe, 2)
    # The generator is used at the switch alone then, so only the low-resolution start is the same.
    starts = []
    for more in ({}, {"latents": noise}):
        seen = []
        handle = pipe.transformer.register_forward_pre_hook(
            lambda _, args, kwargs, seen=seen: seen.append(P.sample_of(args, kwargs)), with_kwargs=True
        )
        P.latents(pipe, 2, **{**call, **more})
        handle.remove()
        starts.append(seen[0])
    assert torch.equal(starts[0], starts[1])
    assert by_seed.shape == noise.shape
