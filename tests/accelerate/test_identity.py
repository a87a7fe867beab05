"""Knobs that ask for nothing give the stock pipeline bit for bit, and ``disable`` leaves nothing behind."""

import gc

import pipelines as P
import pytest
import torch

from postdiff_calib.accelerate import accelerated, disable, enable, summary
from postdiff_calib.knobs import Knobs

FULL = Knobs(4, low_res_fraction=0.5, low_res_scale=0.5, cache_interval=2, guidance_fraction=0.75)
SIZE = {"height": 128, "width": 128}


@pytest.mark.parametrize("name", P.SCHEDULERS)
@pytest.mark.parametrize("count", [1, 3])
def test_identity_is_bit_exact(name, count):
    pipe = P.sd(name)
    stock = P.latents(pipe, count, num_inference_steps=4)
    enable(pipe, Knobs(4))
    assert torch.equal(P.latents(pipe, count), stock)
    assert torch.equal(P.latents(pipe, count, num_inference_steps=4), stock)
    assert len(summary(pipe).steps) == summary(pipe).network_calls == 4
    disable(pipe)
    assert torch.equal(P.latents(pipe, count, num_inference_steps=4), stock)


@pytest.mark.parametrize("name", P.SCHEDULERS)
def test_disable_restores_every_attribute(name):
    pipe = P.sd(name)
    stock = P.latents(pipe, num_inference_steps=4, **SIZE)
    before = P.fingerprint(pipe)
    with accelerated(pipe, FULL):
        assert P.fingerprint(pipe) != before
        assert not torch.equal(P.latents(pipe, **SIZE), stock)
    assert P.fingerprint(pipe) == before
    assert torch.equal(P.latents(pipe, num_inference_steps=4, **SIZE), stock)


def tensors_alive():
    gc.collect()
    return sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())


def test_no_tensor_is_held_after_a_call():
    pipe = P.sd("ddim")
    enable(pipe, FULL)
    P.latents(pipe, **SIZE)
    alive = tensors_alive()
    P.latents(pipe, **SIZE)
    assert tensors_alive() <= alive
    parts = pipe.__dict__["_postdiff"].networks.parts
    held = [holder.held for holder in parts["block caching"].holders]
    held += [hook.held for _, hook in parts["guidance"].hooks]
    assert held == [None] * len(held)


def test_same_name_signature_and_class():
    import inspect

    pipe = P.sd("ddim")
    stock = type(pipe)
    signature = inspect.signature(pipe.__call__)
    enable(pipe, FULL)
    assert isinstance(pipe, stock)
    assert (type(pipe).__name__, type(pipe).__module__) == (stock.__name__, stock.__module__)
    assert inspect.signature(pipe.__call__) == signature
    disable(pipe)
    assert type(pipe) is stock
    disable(pipe)  # twice is harmless


def test_saving_an_accelerated_pipeline_saves_the_stock_one(tmp_path):
    from diffusers import StableDiffusionPipeline

    pipe = P.sd("ddim")
    stock = P.latents(pipe, num_inference_steps=4)
    enable(pipe, FULL)
    pipe.save_pretrained(tmp_path)
    loaded = P.latents(P.quiet(StableDiffusionPipeline.from_pretrained(tmp_path)), num_inference_steps=4)
    # Loaded weights lie elsewhere in memory, which moves the stock pipeline's last bits too.
    assert torch.allclose(loaded, stock, rtol=1e-4, atol=1e-4)
