"""Dropping guidance against diffusers' own cut-off callback, and cross-attention caching against T-GATE."""

import pipelines as P
import pytest
import torch
from diffusers.callbacks import SDCFGCutoffCallback

from postdiff_calib.accelerate import accelerated, enable, summary
from postdiff_calib.errors import UnsupportedError, UsageError
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.techniques.guidance import capture_steps


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75])
def test_without_caching_equal_to_the_cut_off_callback(fraction):
    # The official callback assumes one image; the gate step g runs unguided when the cut-off index is g − 1.
    pipe = P.sd("ddim")
    gate = int(fraction * 8)
    callback = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=gate - 1)
    reference = P.latents(pipe, count=1, num_inference_steps=8, callback_on_step_end=callback)
    with accelerated(pipe, Knobs(8, guidance_fraction=fraction, cross_attention_cache="off")):
        assert torch.equal(P.latents(pipe, count=1), reference)


@pytest.mark.parametrize("name", ["ddim", "dpm"])
@pytest.mark.parametrize("gate", [2, 4])
def test_mean_equal_to_tgate(name, gate):
    from tgate import TgateSDLoader

    pipe = TgateSDLoader(P.sd(name), gate_step=gate, num_inference_steps=6)
    reference = pipe.tgate(
        P.PROMPTS[:2],
        gate_step=gate,
        sp_interval=1,
        fi_interval=1,
        warm_up=0,
        num_inference_steps=6,
        generator=P.generators(2),
        output_type="latent",
    ).images
    pipe = P.sd(name)
    knobs = Knobs(6, guidance_fraction=gate / 6, cross_attention_cache="mean")
    with accelerated(pipe, knobs):
        ours = P.latents(pipe, count=2)
    assert torch.equal(ours, reference)


def test_conditional_output_is_what_is_returned():
    pipe = P.sd("ddim")
    attention = pipe.unet.up_blocks[-1].attentions[-1].transformer_blocks[0].attn2
    with accelerated(pipe, Knobs(4, guidance_fraction=0.5)):
        seen = []
        handle = attention.register_forward_hook(lambda *given: seen.append(given[-1].clone()))
        P.latents(pipe, count=2)
        handle.remove()
    assert [output.shape[0] for output in seen] == [4, 4, 2, 2]
    assert torch.equal(seen[2], seen[1][2:])
    assert torch.equal(seen[3], seen[1][2:])


def test_every_mode_differs_and_halves_the_batch():
    pipe = P.sd("ddim")
    images = {}
    for mode in ("cond", "mean", "off"):
        with accelerated(pipe, Knobs(4, guidance_fraction=0.5, cross_attention_cache=mode)):
            images[mode] = P.latents(pipe)
            assert [step.batch for step in summary(pipe).steps] == [6, 6, 3, 3]
            cached = [step.cross_attention_cached for step in summary(pipe).steps]
            assert cached == ([0, 0, 0, 0] if mode == "off" else [0, 0, 16, 16])
    assert not torch.equal(images["cond"], images["mean"])
    assert not torch.equal(images["cond"], images["off"])


def test_guidance_scale_of_one_caches_cross_attention_alone():
    pipe = P.sd("ddim")
    with accelerated(pipe, Knobs(4, guidance_fraction=0.5)):
        P.latents(pipe, guidance_scale=1.0)
        steps = summary(pipe).steps
        assert [step.batch for step in steps] == [3, 3, 3, 3]
        assert [step.cross_attention_cached for step in steps] == [0, 0, 16, 16]
    enable(pipe, Knobs(4, guidance_fraction=0.5, cross_attention_cache="off"))
    with pytest.raises(UsageError, match="does not guide"):
        P.latents(pipe, guidance_scale=1.0)


def test_guidance_rescale_is_kept():
    pipe = P.sd("ddim")
    callback = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)
    reference = P.latents(pipe, count=1, num_inference_steps=4, guidance_rescale=0.7, callback_on_step_end=callback)
    with accelerated(pipe, Knobs(4, guidance_fraction=0.5, cross_attention_cache="off")):
        # Rescaling an unguided prediction by its own spread is 1 up to rounding.
        assert torch.allclose(P.latents(pipe, count=1, guidance_rescale=0.7), reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cutoff", [0, 2])
def test_a_callback_may_drop_guidance_earlier(cutoff):
    pipe = P.sd("ddim")
    callback = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=cutoff)
    stock = P.latents(pipe, count=1, num_inference_steps=6, callback_on_step_end=callback)
    with accelerated(pipe, Knobs(6, cache_interval=3, guidance_fraction=0.75)):
        images = P.latents(pipe, count=1, callback_on_step_end=callback)
        assert [step.batch for step in summary(pipe).steps] == [2] * (cutoff + 1) + [1] * (5 - cutoff)
    assert images.shape == stock.shape
    assert torch.isfinite(images).all()


def test_three_entries_per_image_are_refused():
    pipe = P.sd("ddim")
    enable(pipe, Knobs(4, guidance_fraction=0.5))
    tripled = pipe.unet.register_forward_pre_hook(
        lambda module, args, kwargs: ((args[0][:1].repeat(9, 1, 1, 1), *args[1:]), kwargs),
        with_kwargs=True,
        prepend=True,
    )
    with pytest.raises(UnsupportedError, match="a network batch of 9 for 3 images"):
        P.latents(pipe)
    tripled.remove()


def test_captures_at_the_gate_and_at_the_refresh_before_it():
    assert capture_steps(compile_plan(Knobs(8, cache_interval=3, guidance_fraction=0.75))) == {3, 5}
    assert capture_steps(compile_plan(Knobs(8, guidance_fraction=0.75))) == {5}
    # Gate at 2, full resolution from 4: captured at low resolution, and again on the first full-resolution step.
    low = Knobs(8, low_res_fraction=0.5, low_res_scale=0.5, guidance_fraction=0.25)
    assert capture_steps(compile_plan(low)) == {1, 4}
    assert capture_steps(compile_plan(Knobs(8))) == frozenset()
