"""Stable Diffusion 3 against a sampler written out, and against diffusers' own cut-off callback."""

import pipelines as P
import pytest
import torch
from diffusers.callbacks import SD3CFGCutoffCallback
from flow_samplers import CASES, KNOBS, SIZE, WAYS, Noise, calculate_shift, case_name, close, reused

from postdiff_calib.accelerate import accelerated, enable, summary
from postdiff_calib.errors import UnsupportedError, UsageError
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan


class Sd3:
    """The network of a Stable Diffusion 3 pipeline, taken apart: live blocks at the ends, a span between."""

    def __init__(self, pipe):
        self.network = pipe.transformer
        self.kept = None

    def __call__(self, x, t, text, pooled, span, refresh):
        n, size = self.network, x.shape[-2:]
        hidden, encoder = n.pos_embed(x).contiguous(), n.context_embedder(text)
        time = n.time_text_embed(t, pooled)
        for i, block in enumerate(n.transformer_blocks):
            if i == span[0]:
                entry = encoder, hidden
            if i in span and not refresh:
                if i == span[0]:
                    encoder, hidden = (state + kept for state, kept in zip(entry, self.kept, strict=True))
                continue
            encoder, hidden = block(hidden_states=hidden, encoder_hidden_states=encoder, temb=time)
            if i == span[-1] and refresh:
                # the last block of all drops the text
                self.kept = (0 * entry[0] if encoder is None else encoder - entry[0]), hidden - entry[1]
        out = n.proj_out(n.norm_out(hidden, time))
        out = out.reshape(len(x), size[0] // 2, size[1] // 2, 2, 2, n.out_channels)
        return torch.einsum("nhwpqc->nchpwq", out).reshape(len(x), -1, *size)


def sd3_sampler(pipe, knobs, noise, count=2, scale=7.0, mu=None, way="renoise"):
    plan = compile_plan(knobs)
    call = {"negative_prompt": [""] * count, "max_sequence_length": P.LENGTH}
    c, u, pc, pu = pipe.encode_prompt(P.PROMPTS[:count], P.PROMPTS[:count], P.PROMPTS[:count], **call)
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    scheduler.set_timesteps(len(plan), **({} if mu is None else {"mu": mu}))
    made = Noise(count, noise, way)
    x, sigmas = made.start(plan), made.grid(scheduler.sigmas, plan)
    network = Sd3(pipe)
    for i, step in enumerate(plan):
        batch = (torch.cat([x, x]), torch.cat([u, c]), torch.cat([pu, pc])) if step.guided else (x, c, pc)
        if not step.guided and network.kept is not None and len(network.kept[0]) == 2 * count:
            network.kept = tuple(kept[count:] for kept in network.kept)
        sample, text, pooled = batch
        span = reused(plan)
        v = network(sample, 1000 * sigmas[i].expand(len(sample)), text, pooled, span, step.refresh)
        if step.guided:
            v = v[:count] + scale * (v[count:] - v[:count])
        x = made.step(x, v, sigmas, i, plan)
    return x


@pytest.mark.parametrize(("knobs", "noise"), CASES, ids=case_name)
@torch.no_grad()
def test_sd3_equal_to_a_sampler_written_out(knobs, noise):
    pipe = P.sd3()
    reference = sd3_sampler(pipe, knobs, noise)
    with accelerated(pipe, P.suited(pipe, knobs), noise=noise, switch="renoise"):
        close(P.latents(pipe, 2, max_sequence_length=P.LENGTH, **SIZE), reference)


@pytest.mark.parametrize(("way", "noise"), WAYS)
@torch.no_grad()
def test_every_way_to_full_size_is_that_of_a_sampler_written_out(way, noise):
    pipe = P.sd3(scheduler_changes={"shift": 3.0})
    reference = sd3_sampler(pipe, KNOBS[-2], noise, way=way)
    assert not torch.allclose(reference, sd3_sampler(pipe, KNOBS[-2], noise), atol=1e-2)
    with accelerated(pipe, P.suited(pipe, KNOBS[-2]), noise=noise, switch=way):
        for _ in range(2):
            close(P.latents(pipe, 2, max_sequence_length=P.LENGTH, **SIZE), reference)
    left = pipe.scheduler.sigmas, pipe.scheduler.timesteps
    pipe.scheduler.set_timesteps(8)
    assert torch.equal(left[0], pipe.scheduler.sigmas)
    assert torch.equal(left[1], pipe.scheduler.timesteps)


@pytest.mark.parametrize("low", [0.0, 0.5])
@torch.no_grad()
def test_a_shift_by_size_is_that_of_the_full_size(low):
    pipe = P.sd3(scheduler_changes={"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 100})
    knobs = Knobs(6, low_res_fraction=low, low_res_scale=0.5 if low else 1.0)
    of_size = {n: calculate_shift(n, 4, 100, 0.5, 1.15) for n in (16, 64)}
    assert of_size[64] - of_size[16] > 0.3
    with accelerated(pipe, knobs, switch="renoise"):
        ours = P.latents(pipe, 2, max_sequence_length=P.LENGTH, **SIZE)
    close(ours, sd3_sampler(pipe, knobs, "complement", mu=of_size[64]))


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75])
def test_sd3_equal_to_the_cut_off_callback(fraction):
    pipe, call = P.sd3(), {"max_sequence_length": P.LENGTH}
    callback = SD3CFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=int(fraction * 8) - 1)
    reference = P.latents(pipe, 1, num_inference_steps=8, callback_on_step_end=callback, **call)
    with accelerated(pipe, Knobs(8, guidance_fraction=fraction, cross_attention_cache="off")):
        assert torch.equal(P.latents(pipe, 1, **call), reference)
        guided = int(fraction * 8)
        assert [step.batch for step in summary(pipe).steps] == [2] * guided + [1] * (8 - guided)


@pytest.mark.parametrize("count", [1, 3])
def test_identity_without_guidance(count):
    pipe, call = P.sd3(), {"guidance_scale": 1.0, "max_sequence_length": P.LENGTH}
    stock = P.latents(pipe, count, num_inference_steps=3, **call)
    with accelerated(pipe, Knobs(3)):
        assert torch.equal(P.latents(pipe, count, **call), stock)
    assert torch.equal(P.latents(pipe, count, num_inference_steps=3, **call), stock)


def test_joint_attention_has_nothing_to_keep():
    pipe = P.sd3()
    for mode in ("cond", "mean"):
        with pytest.raises(UnsupportedError, match=r"no cross-attention layers.*cross_attention_cache='off'"):
            enable(pipe, Knobs(4, guidance_fraction=0.5, cross_attention_cache=mode))
    enable(pipe, Knobs(4, guidance_fraction=0.5, cross_attention_cache="off"))
    with pytest.raises(UsageError, match="does not guide"):
        P.latents(pipe, guidance_scale=1.0, max_sequence_length=P.LENGTH)


def test_a_third_kind_of_call_is_refused():
    # Guidance by skipped layers calls the network a second time.
    pipe = P.sd3()
    enable(pipe, Knobs(4, cache_interval=2))
    with pytest.raises(UnsupportedError, match="2 network calls in step 1"):
        P.latents(
            pipe, max_sequence_length=P.LENGTH, skip_guidance_layers=[1], skip_layer_guidance_start=0.0,
            skip_layer_guidance_stop=1.0,
        )  # fmt: skip


def test_steps_and_shift_are_checked_when_the_schedule_is_known():
    pipe = P.sd3()
    enable(pipe, Knobs(4))
    with pytest.raises(UsageError, match=r"accelerated for 4 steps"):
        P.latents(pipe, num_inference_steps=5, max_sequence_length=P.LENGTH)
    with pytest.raises(UsageError, match=r"sigmas with 3 entries"):
        P.latents(pipe, sigmas=[1.0, 0.6, 0.3], max_sequence_length=P.LENGTH)
    images = P.latents(pipe, sigmas=[1.0, 0.7, 0.4, 0.2], max_sequence_length=P.LENGTH)
    assert torch.isfinite(images).all()
