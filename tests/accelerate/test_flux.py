"""FLUX.1 against a sampler written out: packed latents, one call of the network a step or two."""

import pipelines as P
import pytest
import torch
from flow_samplers import CASES, KNOBS, SIZE, WAYS, case_name, close, two_calls

from postdiff_calib.accelerate import accelerated, enable, summary
from postdiff_calib.errors import UnsupportedError, UsageError
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan


class Flux:
    """The network of a FLUX.1 pipeline, taken apart; both kinds of blocks make one chain of six."""

    def __init__(self, pipe):
        self.network = pipe.transformer
        self.kept = {}

    def __call__(self, x, sigma, text, pooled, size, which, refresh):
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
            if i == self.span[0]:
                entry = encoder, hidden
            if i in self.span and not refresh:
                if i == self.span[0]:
                    encoder, hidden = (state + kept for state, kept in zip(entry, self.kept[which], strict=True))
                continue
            encoder, hidden = block(
                hidden_states=hidden, encoder_hidden_states=encoder, temb=time, image_rotary_emb=rotary
            )
            if i == self.span[-1] and refresh:
                self.kept[which] = encoder - entry[0], hidden - entry[1]
        return n.proj_out(n.norm_out(hidden, time))


def flux_sampler(pipe, knobs, noise, count=2, scale=4.0, way="renoise"):
    call = {"max_sequence_length": P.LENGTH}
    c = pipe.encode_prompt(P.PROMPTS[:count], P.PROMPTS[:count], **call)[:2]
    u = pipe.encode_prompt(["blue"] * count, ["blue"] * count, **call)[:2]
    return two_calls(Flux(pipe), knobs, noise, c, u, scale, lambda v, given: v, way=way)


@pytest.mark.parametrize(("knobs", "noise"), CASES, ids=case_name)
@torch.no_grad()
def test_flux_with_two_calls_equal_to_a_sampler_written_out(knobs, noise):
    pipe = P.flux()
    reference = flux_sampler(pipe, knobs, noise)
    with accelerated(pipe, P.suited(pipe, knobs), noise=noise, switch="renoise"):
        close(P.latents(pipe, 2, **P.FAMILIES["flux"][1], **SIZE), reference)
        steps = summary(pipe).steps
    plan = compile_plan(knobs)
    assert [step.network_calls for step in steps] == [2 if row.guided else 1 for row in plan]


@pytest.mark.parametrize("guidance_embeds", [True, False])
@pytest.mark.parametrize(("knobs", "noise"), [c for c in CASES if c[0].guidance_fraction == 1], ids=case_name)
@torch.no_grad()
def test_flux_with_one_call_equal_to_a_sampler_written_out(knobs, noise, guidance_embeds):
    pipe = P.flux(guidance_embeds=guidance_embeds)
    reference = flux_sampler(pipe, knobs, noise, scale=1.0)
    with accelerated(pipe, knobs, noise=noise, switch="renoise"):
        close(P.latents(pipe, 2, max_sequence_length=P.LENGTH, **SIZE), reference)


@pytest.mark.parametrize(("way", "noise"), WAYS)
@torch.no_grad()
def test_every_way_to_full_size_is_that_of_a_sampler_written_out(way, noise):
    pipe = P.flux()
    reference = flux_sampler(pipe, KNOBS[-2], noise, way=way)
    with accelerated(pipe, P.suited(pipe, KNOBS[-2]), noise=noise, switch=way):
        close(P.latents(pipe, 2, **P.FAMILIES["flux"][1], **SIZE), reference)


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
