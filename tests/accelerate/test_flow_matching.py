"""Rectified-flow transformers against samplers written out: no hooks, no scheduler's step, one loop each."""

from dataclasses import replace

import pipelines as P
import pytest
import torch
from diffusers.callbacks import SD3CFGCutoffCallback
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift
from diffusers.pipelines.z_image.pipeline_z_image import get_default_z_image_sigmas
from diffusers.utils.torch_utils import randn_tensor
from torch.nn import functional as F

from postdiff_calib.accelerate import accelerated, enable, summary
from postdiff_calib.errors import UnsupportedError, UsageError
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan

SIZE = {"height": 128, "width": 128}
FULL, LOW = (16, 16), (8, 8)
KNOBS = [
    Knobs(5),
    Knobs(5, cache_interval=2),
    Knobs(6, cache_interval=3, cache_branch=0),
    Knobs(6, guidance_fraction=0.5),
    # The gate is on a reuse step: what was kept of both halves is used for one.
    Knobs(6, cache_interval=2, guidance_fraction=0.5),
    Knobs(6, low_res_fraction=0.5, low_res_scale=0.5),
    Knobs(6, low_res_fraction=1 / 6, low_res_scale=0.5),
    Knobs(8, low_res_fraction=0.5, low_res_scale=0.5, cache_interval=2, guidance_fraction=0.6),
    Knobs(8, low_res_fraction=0.5, low_res_scale=0.5, cache_interval=3, guidance_fraction=0.3),
]


def low_start(full):
    """Every low pixel is the sum of four, halved: white noise stays white."""
    return F.avg_pool2d(full, 2) * 2


def spread(low):
    """The full-size image of a low band: each value on four pixels, halved."""
    return F.interpolate(low, size=FULL, mode="nearest") / 2


def renoised(x, v, sigma, following, start, generators=None):
    """The full-size sample after the switch; without generators, with the complement of the start."""
    clean = F.interpolate(x - sigma * v, size=FULL, mode="bilinear", align_corners=False)
    if generators is None:
        noise = spread(x + (1 - sigma) * v) + start - spread(low_start(start))
    else:
        noise = randn_tensor(clean.shape, generator=generators)
    return (1 - following) * clean + following * noise


#: Every setting with each kind of noise that makes a difference to it.
CASES = [(k, noise) for k in KNOBS for noise in (("complement", "coupled") if k.low_res_fraction else ("complement",))]


def named(value):
    return value.describe() if isinstance(value, Knobs) else value


def close(ours, reference):
    assert ours.shape == reference.shape
    assert torch.allclose(ours, reference, rtol=1e-4, atol=1e-4 * float(reference.abs().max()))


class Sd3:
    """The network of a Stable Diffusion 3 pipeline, taken apart: two live blocks at the ends, a span between."""

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
                self.kept = encoder - entry[0], hidden - entry[1]
        out = n.proj_out(n.norm_out(hidden, time))
        out = out.reshape(len(x), size[0] // 2, size[1] // 2, 2, 2, n.out_channels)
        return torch.einsum("nhwpqc->nchpwq", out).reshape(len(x), -1, *size)


def sd3_sampler(pipe, knobs, noise="complement", count=2, scale=7.0, mu=None):
    plan = compile_plan(knobs)
    call = {"negative_prompt": [""] * count, "max_sequence_length": P.LENGTH}
    c, u, pc, pu = pipe.encode_prompt(P.PROMPTS[:count], P.PROMPTS[:count], P.PROMPTS[:count], **call)
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    scheduler.set_timesteps(len(plan), **({} if mu is None else {"mu": mu}))
    generators = P.generators(count)
    start = randn_tensor((count, 4, *FULL), generator=generators)
    x = low_start(start) if plan.n_low else start
    network = Sd3(pipe)
    for i, step in enumerate(plan):
        sigma, following = scheduler.sigmas[i], scheduler.sigmas[i + 1]
        batch = (torch.cat([x, x]), torch.cat([u, c]), torch.cat([pu, pc])) if step.guided else (x, c, pc)
        if not step.guided and network.kept is not None and len(network.kept[0]) == 2 * count:
            network.kept = tuple(kept[count:] for kept in network.kept)
        sample, text, pooled = batch
        span = range(1, 5)
        v = network(sample, scheduler.timesteps[i].expand(len(sample)), text, pooled, span, step.refresh)
        if step.guided:
            v = v[:count] + scale * (v[count:] - v[:count])
        if step.switch:
            x = renoised(x, v, sigma, following, start, generators if noise == "coupled" else None)
        else:
            x = x + (following - sigma) * v
    return x


@pytest.mark.parametrize(("knobs", "noise"), CASES, ids=named)
@torch.no_grad()
def test_sd3_equal_to_a_sampler_written_out(knobs, noise):
    pipe = P.sd3()
    reference = sd3_sampler(pipe, knobs, noise)
    with accelerated(pipe, P.suited(pipe, knobs), noise=noise):
        close(P.latents(pipe, 2, max_sequence_length=P.LENGTH, **SIZE), reference)


@pytest.mark.parametrize("low", [0.0, 0.5])
@torch.no_grad()
def test_a_shift_by_size_is_that_of_the_full_size(low):
    pipe = P.sd3(scheduler_changes={"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 100})
    knobs = Knobs(6, low_res_fraction=low, low_res_scale=0.5 if low else 1.0)
    of_size = {n: calculate_shift(n, 4, 100, 0.5, 1.15) for n in (16, 64)}
    assert of_size[64] - of_size[16] > 0.3
    with accelerated(pipe, knobs):
        ours = P.latents(pipe, 2, max_sequence_length=P.LENGTH, **SIZE)
    close(ours, sd3_sampler(pipe, knobs, mu=of_size[64]))


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


class Sana:
    """The network of a Sana pipeline, taken apart: a live block at each end, and cross-attention that may be kept."""

    def __init__(self, pipe):
        self.network = pipe.transformer
        self.kept, self.cross = None, {}

    def block(self, i, hidden, text, mask, time, size, live):
        block = self.network.transformer_blocks[i]
        given = block.scale_shift_table[None] + time.reshape(len(hidden), 6, -1)
        shift, scale, gate, shift_ff, scale_ff, gate_ff = given.chunk(6, dim=1)
        hidden = hidden + gate * block.attn1(block.norm1(hidden) * (1 + scale) + shift)
        if live:
            self.cross[i] = block.attn2(hidden, encoder_hidden_states=text, attention_mask=mask)
        hidden = self.cross[i][-len(hidden) :] + hidden
        inner = (block.norm2(hidden) * (1 + scale_ff) + shift_ff).unflatten(1, size).permute(0, 3, 1, 2)
        return hidden + gate_ff * block.ff(inner).flatten(2, 3).permute(0, 2, 1)

    def __call__(self, x, t, text, mask, span, refresh, live):
        n, size = self.network, x.shape[-2:]
        hidden, mask = n.patch_embed(x), ((1 - mask.float()) * -10000.0).unsqueeze(1)
        time, embedded = n.time_embed(t, batch_size=len(x), hidden_dtype=x.dtype)
        text = n.caption_norm(n.caption_projection(text))
        for i in range(len(n.transformer_blocks)):
            if i == span[0]:
                entry = hidden
            if i in span and not refresh:
                hidden = hidden + self.kept[-len(hidden) :] if i == span[0] else hidden
                continue
            hidden = self.block(i, hidden, text, mask, time, size, live)
            if i == span[-1] and refresh:
                self.kept = hidden - entry
        out = n.proj_out(n.norm_out(hidden, embedded, n.scale_shift_table))
        return out.reshape(len(x), *size, -1).permute(0, 3, 1, 2)


def sana_sampler(pipe, knobs, noise, count=2, scale=4.5):
    plan = compile_plan(knobs)
    call = {"complex_human_instruction": None, "max_sequence_length": P.LENGTH}
    c, mask, u, no_mask = pipe.encode_prompt(P.PROMPTS[:count], True, negative_prompt="", device="cpu", **call)
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    scheduler.set_timesteps(len(plan))
    generators = P.generators(count)
    start = randn_tensor((count, 4, *FULL), generator=generators)
    x = low_start(start) if plan.n_low else start
    network = Sana(pipe)
    for i, step in enumerate(plan):
        sigma, following = scheduler.sigmas[i], scheduler.sigmas[i + 1]
        sample, text, masks = (
            (torch.cat([x, x]), torch.cat([u, c]), torch.cat([no_mask, mask])) if step.guided else (x, c, mask)
        )
        t = scheduler.timesteps[i].expand(len(sample))
        v = network(sample, t, text, masks, range(1, 5), step.refresh, step.cross_attention_live)
        if step.guided:
            v = v[:count] + scale * (v[count:] - v[:count])
        if step.switch:
            x = renoised(x, v, sigma, following, start, generators if noise == "coupled" else None)
        else:
            x = x + (following - sigma) * v
    return x


@pytest.mark.parametrize("mode", ["cond", "off"])
@pytest.mark.parametrize(("knobs", "noise"), CASES, ids=named)
@torch.no_grad()
def test_sana_equal_to_a_sampler_written_out(knobs, noise, mode):
    if knobs.guidance_fraction == 1 and mode == "off":
        return
    pipe, knobs = P.sana(euler=True), replace(knobs, cross_attention_cache=mode)
    call = {"complex_human_instruction": None, "max_sequence_length": P.LENGTH, "use_resolution_binning": False}
    reference = sana_sampler(pipe, knobs, noise)
    with accelerated(pipe, knobs, noise=noise):
        close(P.latents(pipe, 2, **call, **SIZE), reference)


@torch.no_grad()
def test_sana_with_its_own_solver_goes_on_without_history_after_the_switch():
    pipe, total, n_low, count = P.sana(), 6, 3, 2
    call = {"complex_human_instruction": None, "max_sequence_length": P.LENGTH}
    c, mask, _, _ = pipe.encode_prompt(P.PROMPTS[:count], False, device="cpu", **call)
    generators = P.generators(count)
    start = randn_tensor((count, 4, *FULL), generator=generators)
    x = low_start(start)
    scheduler = P.flow_dpm()
    scheduler.set_timesteps(total)
    for i, t in enumerate(scheduler.timesteps):
        v = pipe.transformer(x, encoder_hidden_states=c, encoder_attention_mask=mask, timestep=t.expand(count)).sample
        sigmas = scheduler.sigmas
        if i == n_low - 1:
            x = renoised(x, v, sigmas[i], sigmas[i + 1], start)
            scheduler = P.flow_dpm()
            scheduler.set_timesteps(total)
            scheduler.set_begin_index(i + 1)
        else:
            x = scheduler.step(v, t, x).prev_sample
    with accelerated(pipe, Knobs(total, low_res_fraction=0.5, low_res_scale=0.5)):
        ours = P.latents(pipe, count, guidance_scale=1.0, use_resolution_binning=False, **call, **SIZE)
    close(ours, x)


class Flux:
    """The network of a FLUX.1 pipeline, taken apart; both kinds of blocks make one chain of six."""

    def __init__(self, pipe):
        self.network = pipe.transformer
        self.kept = {}

    def __call__(self, x, sigma, text, pooled, size, which, refresh, span=range(1, 5)):
        n, count = self.network, len(x)
        pair = size[0] // 2, size[1] // 2
        rows, columns = torch.meshgrid(torch.arange(pair[0]), torch.arange(pair[1]), indexing="ij")
        ids = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float()
        rotary = n.pos_embed(torch.cat([torch.zeros(text.shape[1], 3), ids]))
        hidden, encoder = n.x_embedder(x), n.context_embedder(text)
        guidance = torch.full((count,), 3500.0) if n.config.guidance_embeds else None
        given = [1000 * sigma.expand(count), *([] if guidance is None else [guidance]), pooled]
        time = n.time_text_embed(*given)
        for i, block in enumerate([*n.transformer_blocks, *n.single_transformer_blocks]):
            if i == span[0]:
                entry = encoder, hidden
            if i in span and not refresh:
                if i == span[0]:
                    encoder, hidden = (state + kept for state, kept in zip(entry, self.kept[which], strict=True))
                continue
            encoder, hidden = block(
                hidden_states=hidden, encoder_hidden_states=encoder, temb=time, image_rotary_emb=rotary
            )
            if i == span[-1] and refresh:
                self.kept[which] = encoder - entry[0], hidden - entry[1]
        return n.proj_out(n.norm_out(hidden, time))


def tokens(x):
    """(B, C, h, w) to a row of 2 × 2 patches."""
    b, c, h, w = x.shape
    return F.unfold(x, 2, stride=2).view(b, c * 4, h // 2 * (w // 2)).transpose(1, 2)


def picture(z, size):
    return F.fold(z.transpose(1, 2), size, 2, stride=2)


def flux_sampler(pipe, knobs, noise, count=2, scale=4.0):
    call = {"max_sequence_length": P.LENGTH}
    c = pipe.encode_prompt(P.PROMPTS[:count], P.PROMPTS[:count], **call)[:2]
    u = pipe.encode_prompt(["blue"] * count, ["blue"] * count, **call)[:2]
    return two_calls(Flux(pipe), knobs, noise, c, u, scale, lambda v, given: v)


def two_calls(network, knobs, noise, c, u, scale, rescaled, count=2):
    """A loop with a network call for each half on packed latents; ``rescaled`` makes of both what the step takes."""
    plan = compile_plan(knobs)
    shift = torch.tensor(calculate_shift(64, 4, 100, 0.5, 1.15)).exp()
    even = torch.linspace(1, 1 / len(plan), len(plan))
    sigmas = torch.cat([shift / (shift + (1 / even - 1)), torch.zeros(1)])
    generators = P.generators(count)
    start = randn_tensor((count, 4, *FULL), generator=generators)
    x = low_start(start) if plan.n_low else start
    for i, step in enumerate(plan):
        size = tuple(x.shape[-2:])
        v = given = network(tokens(x), sigmas[i], *c, size, "conditional", step.refresh)
        if scale > 1 and step.guided:
            without = network(tokens(x), sigmas[i], *u, size, "unconditional", step.refresh)
            v = rescaled(without + scale * (given - without), given)
        v = picture(v, size)
        if step.switch:
            x = renoised(x, v, sigmas[i], sigmas[i + 1], start, generators if noise == "coupled" else None)
        else:
            x = x + (sigmas[i + 1] - sigmas[i]) * v
    return tokens(x)


@pytest.mark.parametrize(("knobs", "noise"), CASES, ids=named)
@torch.no_grad()
def test_flux_with_two_calls_equal_to_a_sampler_written_out(knobs, noise):
    pipe = P.flux()
    reference = flux_sampler(pipe, knobs, noise)
    with accelerated(pipe, P.suited(pipe, knobs), noise=noise):
        close(P.latents(pipe, 2, **P.FAMILIES["flux"][1], **SIZE), reference)
        steps = summary(pipe).steps
    plan = compile_plan(knobs)
    assert [step.network_calls for step in steps] == [2 if row.guided else 1 for row in plan]


@pytest.mark.parametrize("guidance_embeds", [True, False])
@pytest.mark.parametrize(("knobs", "noise"), [c for c in CASES if c[0].guidance_fraction == 1], ids=named)
@torch.no_grad()
def test_flux_with_one_call_equal_to_a_sampler_written_out(knobs, noise, guidance_embeds):
    pipe = P.flux(guidance_embeds=guidance_embeds)
    reference = flux_sampler(pipe, knobs, noise, scale=1.0)
    with accelerated(pipe, knobs, noise=noise):
        close(P.latents(pipe, 2, max_sequence_length=P.LENGTH, **SIZE), reference)


@pytest.mark.parametrize("count", [1, 3])
def test_flux_identity_with_one_call(count):
    for guidance_embeds in (True, False):
        pipe = P.flux(guidance_embeds=guidance_embeds)
        stock = P.latents(pipe, count, num_inference_steps=3, max_sequence_length=P.LENGTH)
        with accelerated(pipe, Knobs(3)):
            assert torch.equal(P.latents(pipe, count, max_sequence_length=P.LENGTH), stock)


@torch.no_grad()
def test_from_the_gate_on_two_calls_are_the_pipeline_without_guidance():
    # The conditional output for both calls: u + w (c − u) is c, to the bit.
    pipe, call = P.flux(), P.FAMILIES["flux"][1]
    seen = []

    def note(pipe, step, timestep, given):
        seen.append(given["latents"])
        return given

    with accelerated(pipe, Knobs(4, guidance_fraction=0.25, cross_attention_cache="off")):
        P.latents(pipe, 2, callback_on_step_end=note, **call, **SIZE)
        # The network's own forward ran twice in the first step, once in the others.
        assert [step.network_calls for step in summary(pipe).steps] == [2, 1, 1, 1]
        assert [step.batch for step in summary(pipe).steps] == [4, 2, 2, 2]
    sigmas = pipe.scheduler.sigmas
    x, (c, pc, ids) = seen[0], pipe.encode_prompt(P.PROMPTS[:2], P.PROMPTS[:2], max_sequence_length=P.LENGTH)
    positions = pipe._prepare_latent_image_ids(2, 8, 8, "cpu", torch.float32)
    for i in range(1, 4):
        v = pipe.transformer(
            x, encoder_hidden_states=c, pooled_projections=pc, timestep=pipe.scheduler.timesteps[i].expand(2) / 1000,
            img_ids=positions, txt_ids=ids, guidance=torch.full((2,), 3.5), return_dict=False,
        )[0]  # fmt: skip
        x = x + (sigmas[i + 1] - sigmas[i]) * v
    assert torch.equal(seen[-1], x)


def test_guidance_that_no_call_asks_for_cannot_end():
    pipe = P.flux()
    enable(pipe, Knobs(4, guidance_fraction=0.5, cross_attention_cache="off"))
    with pytest.raises(UsageError, match="does not guide"):
        P.latents(pipe, max_sequence_length=P.LENGTH)
    with pytest.raises(UnsupportedError, match="no cross-attention layers"):
        enable(pipe, Knobs(4, guidance_fraction=0.5))


def test_a_third_call_in_a_step_is_refused():
    pipe = P.flux()
    enable(pipe, Knobs(4, cache_interval=2))

    def again(module, args, output):
        if not again.inside:
            again.inside = True
            module(**again.given)

    again.inside = False
    first = pipe.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: setattr(again, "given", kwargs), with_kwargs=True
    )
    second = pipe.transformer.register_forward_hook(again)
    with pytest.raises(UnsupportedError, match=r"3 network calls in step 0.*at most two calls"):
        P.latents(pipe, **P.FAMILIES["flux"][1])
    first.remove()
    second.remove()


class QwenImage:
    """The network of a Qwen-Image pipeline, taken apart."""

    def __init__(self, pipe):
        self.network = pipe.transformer
        self.kept = {}

    def __call__(self, x, sigma, text, mask, size, which, refresh, span=range(1, 5)):
        n = self.network
        shapes = [[(1, size[0] // 2, size[1] // 2)]] * len(x)
        rotary = n.pos_embed(shapes, max_txt_seq_len=text.shape[1], device=x.device)
        hidden, encoder = n.img_in(x), n.txt_in(n.txt_norm(text))
        time = n.time_text_embed(sigma.expand(len(x)), hidden)
        mask = None if mask is None else mask.bool()
        for i, block in enumerate(n.transformer_blocks):
            if i == span[0]:
                entry = encoder, hidden
            if i in span and not refresh:
                if i == span[0]:
                    encoder, hidden = (state + kept for state, kept in zip(entry, self.kept[which], strict=True))
                continue
            encoder, hidden = block(
                hidden_states=hidden,
                encoder_hidden_states=encoder,
                encoder_hidden_states_mask=mask,
                temb=time,
                image_rotary_emb=rotary,
            )
            if i == span[-1] and refresh:
                self.kept[which] = encoder - entry[0], hidden - entry[1]
        return n.proj_out(n.norm_out(hidden, time))


def norm_of_conditional(v, given):
    return v * given.norm(dim=-1, keepdim=True) / v.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize(("knobs", "noise"), CASES, ids=named)
@torch.no_grad()
def test_qwen_image_equal_to_a_sampler_written_out(knobs, noise, scale):
    if scale == 1 and knobs.guidance_fraction < 1:
        return
    pipe = P.qwen_image()
    c, u = pipe.encode_prompt(P.PROMPTS[:2]), pipe.encode_prompt(["blue"] * 2)
    reference = two_calls(QwenImage(pipe), knobs, noise, c, u, scale, norm_of_conditional)
    call = P.FAMILIES["qwen-image"][1] if scale > 1 else {}
    with accelerated(pipe, P.suited(pipe, knobs), noise=noise):
        close(P.latents(pipe, 2, **call, **SIZE), reference)


class ZImage:
    """The network of a Z-Image pipeline, taken apart and run on one image and one text at a time: nothing is padded."""

    def __init__(self, pipe):
        self.network = pipe.transformer
        self.kept = {}

    def __call__(self, x, sigma, text, which, refresh, span=range(1, 5)):
        n, t = self.network, (1 - sigma).expand(1)
        time = n.t_embedder(t * n.t_scale)
        found = n.patchify_and_embed([x.unsqueeze(1)], [text], 2, 1)
        (image,), (words,), sizes, image_at, words_at, image_pads, words_pads = found
        image, image_turn, *_ = n._prepare_sequence(
            [n.all_x_embedder["2-1"](image)], image_at, image_pads, n.x_pad_token
        )
        words, words_turn, *_ = n._prepare_sequence([n.cap_embedder(words)], words_at, words_pads, n.cap_pad_token)
        for block in n.noise_refiner:
            image = block(image, None, image_turn, time)
        for block in n.context_refiner:
            words = block(words, None, words_turn)
        both, turn = torch.cat([image, words], dim=1), torch.cat([image_turn, words_turn], dim=1)
        for i, block in enumerate(n.layers):
            if i == span[0]:
                entry = both
            if i in span and not refresh:
                both = both + self.kept[which] if i == span[0] else both
                continue
            both = block(both, None, turn, time)
            if i == span[-1] and refresh:
                self.kept[which] = both - entry
        out = n.all_final_layer["2-1"](both, c=time)
        return -n.unpatchify([out[0]], sizes, 2, 1)[0].squeeze(1)


def z_image_sampler(pipe, knobs, noise, texts, negatives, count=2, scale=5.0):
    plan = compile_plan(knobs)
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    sigmas = [float(s) for s in get_default_z_image_sigmas(len(plan))]
    scheduler.set_timesteps(sigmas=sigmas, mu=calculate_shift(64, 4, 100, 0.5, 1.15))
    generators = P.generators(count)
    start = randn_tensor((count, 4, *FULL), generator=generators)
    x = low_start(start) if plan.n_low else start
    network = ZImage(pipe)
    for i, step in enumerate(plan):
        sigma, following = scheduler.sigmas[i], scheduler.sigmas[i + 1]
        rows = []
        for j in range(count):
            v = network(x[j], sigma, texts[j], (j, "conditional"), step.refresh)
            if scale > 0 and step.guided:
                v = v + scale * (v - network(x[j], sigma, negatives[j], (j, "unconditional"), step.refresh))
            rows.append(v)
        v = torch.stack(rows)
        if step.switch:
            x = renoised(x, v, sigma, following, start, generators if noise == "coupled" else None)
        else:
            x = x + (following - sigma) * v
    return x


@pytest.mark.parametrize("scale", [0.0, 5.0])
@pytest.mark.parametrize(("knobs", "noise"), CASES, ids=named)
@torch.no_grad()
def test_z_image_equal_to_a_sampler_written_out(knobs, noise, scale):
    if scale == 0 and knobs.guidance_fraction < 1:
        return
    # Texts of two lengths: rows of a batch are padded, and by less once the longer half has been dropped.
    pipe, generator = P.z_image(), torch.Generator().manual_seed(5)
    texts, negatives = ([torch.randn(n, P.TEXT, generator=generator) for n in (a, b)] for a, b in ((5, 20), (40, 70)))
    reference = z_image_sampler(pipe, knobs, noise, texts, negatives, scale=scale)
    with accelerated(pipe, P.suited(pipe, knobs), noise=noise):
        ours = pipe(
            prompt_embeds=texts, negative_prompt_embeds=negatives, guidance_scale=scale, generator=P.generators(2),
            output_type="latent", **SIZE,
        ).images  # fmt: skip
        assert [step.guided for step in summary(pipe).steps] == [
            scale > 0 and row.guided for row in compile_plan(knobs)
        ]
    close(ours, reference)


@pytest.mark.parametrize("name", ["qwen-image", "z-image"])
@pytest.mark.parametrize("count", [1, 3])
def test_identity_without_guidance_of_further_families(name, count):
    pipe = P.FAMILIES[name][0]()
    call = {} if name == "qwen-image" else {"guidance_scale": 0.0, "max_sequence_length": P.LENGTH}
    stock = P.latents(pipe, count, num_inference_steps=3, **call, **SIZE)
    with accelerated(pipe, Knobs(3)):
        assert torch.equal(P.latents(pipe, count, **call, **SIZE), stock)
    enable(pipe, Knobs(4, guidance_fraction=0.5, cross_attention_cache="off"))
    with pytest.raises(UsageError, match="does not guide"):
        P.latents(pipe, count, **call, **SIZE)
