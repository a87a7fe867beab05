"""Sana against a sampler written out, cross-attention that is kept included."""

from dataclasses import replace

import pipelines as P
import pytest
import torch
from flow_samplers import CASES, SIZE, WAYS, Noise, case_name, close, reused

from postdiff_calib.accelerate import accelerated
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan


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


def sana_sampler(pipe, knobs, noise, count=2, scale=4.5, way="renoise"):
    plan = compile_plan(knobs)
    call = {"complex_human_instruction": None, "max_sequence_length": P.LENGTH}
    c, mask, u, no_mask = pipe.encode_prompt(P.PROMPTS[:count], True, negative_prompt="", device="cpu", **call)
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    scheduler.set_timesteps(len(plan))
    made = Noise(count, noise, way)
    x, sigmas = made.start(plan), made.grid(scheduler.sigmas, plan)
    network = Sana(pipe)
    for i, step in enumerate(plan):
        sample, text, masks = (
            (torch.cat([x, x]), torch.cat([u, c]), torch.cat([no_mask, mask])) if step.guided else (x, c, mask)
        )
        t = 1000 * sigmas[i].expand(len(sample))
        v = network(sample, t, text, masks, reused(plan), step.refresh, step.cross_attention_live)
        if step.guided:
            v = v[:count] + scale * (v[count:] - v[:count])
        x = made.step(x, v, sigmas, i, plan)
    return x


@pytest.mark.parametrize("mode", ["cond", "off"])
@pytest.mark.parametrize(("knobs", "noise"), CASES, ids=case_name)
@torch.no_grad()
def test_sana_equal_to_a_sampler_written_out(knobs, noise, mode):
    if knobs.guidance_fraction == 1 and mode == "off":
        return
    pipe, knobs = P.sana(euler=True), replace(knobs, cross_attention_cache=mode)
    call = {"complex_human_instruction": None, "max_sequence_length": P.LENGTH, "use_resolution_binning": False}
    reference = sana_sampler(pipe, knobs, noise)
    with accelerated(pipe, knobs, noise=noise, switch="renoise"):
        close(P.latents(pipe, 2, **call, **SIZE), reference)


@pytest.mark.parametrize(("way", "noise"), [("renoise", "complement"), ("renoise", "coupled"), *WAYS])
@torch.no_grad()
def test_sana_with_its_own_solver_goes_on_without_history_after_the_switch(way, noise):
    pipe, total, n_low, count = P.sana(), 6, 3, 2
    call = {"complex_human_instruction": None, "max_sequence_length": P.LENGTH}
    c, mask, _, _ = pipe.encode_prompt(P.PROMPTS[:count], False, device="cpu", **call)
    knobs = Knobs(total, low_res_fraction=0.5, low_res_scale=0.5)
    made, plan = Noise(count, noise, way), compile_plan(knobs)

    def solver(sigmas=None):
        """With these levels; its timesteps are their thousandths."""
        scheduler = P.flow_dpm()
        scheduler.set_timesteps(total)
        changed = scheduler.sigmas if sigmas is None else sigmas
        times = torch.where(changed == scheduler.sigmas, scheduler.timesteps.new_tensor(-1), (1000 * changed).long())
        scheduler.timesteps = torch.where(times[:-1] < 0, scheduler.timesteps, times[:-1])
        scheduler.sigmas = changed
        return scheduler

    x, sigmas = made.start(plan), made.grid(solver().sigmas, plan)
    scheduler = solver(sigmas)
    for i in range(total):
        t = scheduler.timesteps[i]
        v = pipe.transformer(x, encoder_hidden_states=c, encoder_attention_mask=mask, timestep=t.expand(count)).sample
        if i == n_low - 1 and "expand" not in way:
            x = made.switched(x, v, sigmas[i], made.schedule[i + 1])
            sigmas[i + 1 :] = made.schedule[i + 1 :]
        else:
            x = scheduler.step(v, t, x).prev_sample
        if i == n_low - 1:
            x = made.expanded(x, sigmas, i + 1) if "expand" in way else x
            scheduler = solver(sigmas)
            scheduler.set_begin_index(i + 1)
    with accelerated(pipe, knobs, noise=noise, switch=way):
        ours = P.latents(pipe, count, guidance_scale=1.0, use_resolution_binning=False, **call, **SIZE)
    close(ours, x)
