"""Encoder propagation against a loop written out: encoder and decoder of the U-Net called apart."""

from dataclasses import replace

import pipelines as P
import pytest
import torch

from postdiff_calib.accelerate import accelerated, enable, summary
from postdiff_calib.cost import CostTable
from postdiff_calib.cost.macs import flop_counter
from postdiff_calib.cost.meter import Meter
from postdiff_calib.errors import UnsupportedError
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.fingerprint import network_configs
from postdiff_calib.plan import compile_plan
from postdiff_calib.techniques import registered
from postdiff_calib.techniques.encoder_propagation import EncoderPropagation


@pytest.fixture(autouse=True)
def known():
    with registered(EncoderPropagation()):
        yield


def embedded(unet, t, batch):
    return unet.time_embedding(unet.time_proj(t.expand(batch)).to(unet.dtype))


def encode(unet, x, t, hidden):
    emb, x = embedded(unet, t, len(x)), unet.conv_in(x)
    skips = (x,)
    for block in unet.down_blocks:
        own = {"encoder_hidden_states": hidden} if getattr(block, "has_cross_attention", False) else {}
        x, more = block(hidden_states=x, temb=emb, **own)
        skips += more
    return skips, unet.mid_block(x, emb, encoder_hidden_states=hidden)


def decode(unet, skips, x, t, hidden):
    emb = embedded(unet, t, len(x))
    for block in unet.up_blocks:
        count = len(block.resnets)
        own = {"encoder_hidden_states": hidden} if getattr(block, "has_cross_attention", False) else {}
        x = block(hidden_states=x, res_hidden_states_tuple=skips[-count:], temb=emb, **own)
        skips = skips[:-count]
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))


@torch.no_grad()
def by_hand(pipe, steps, interval, guided):
    """DDIM with guidance 7.5 on three prompts; the encoder runs on every ``interval``-th step."""
    unet, scheduler = pipe.unet, pipe.scheduler
    positive, negative = pipe.encode_prompt(P.PROMPTS, "cpu", 1, True)
    x = torch.cat([torch.randn(1, 4, 8, 8, generator=g) for g in P.generators(3)]) * scheduler.init_noise_sigma
    scheduler.set_timesteps(steps)
    for i, t in enumerate(scheduler.timesteps):
        both = i < guided
        hidden = torch.cat([negative, positive]) if both else positive
        sample = scheduler.scale_model_input(torch.cat([x, x]) if both else x, t)
        if i % interval == 0:
            skips, middle = encode(unet, sample, t, hidden)
        elif len(middle) > len(sample):
            skips, middle = tuple(s.chunk(2)[1] for s in skips), middle.chunk(2)[1]
        found = decode(unet, skips, middle, t, hidden)
        if both:
            without, given = found.chunk(2)
            found = without + 7.5 * (given - without)
        x = scheduler.step(found, t, x).prev_sample
    return x


@pytest.mark.parametrize(("interval", "guided"), [(1, 6), (2, 6), (4, 6), (4, 3)])
def test_equal_to_a_loop_written_out(interval, guided):
    pipe = P.sd("ddim")
    # cross-attention stays live, since the loop keeps none of it
    knobs = Knobs(6, guidance_fraction=guided / 6, cross_attention_cache="off", encoder_interval=interval)
    with accelerated(pipe, knobs, strict=False):
        ours = P.latents(pipe)
        ran = [step.layers_skipped for step in summary(pipe).steps]
    assert torch.allclose(ours, by_hand(pipe, 6, interval, guided), atol=1e-5)
    assert [skipped == 0 for skipped in ran] == [i % interval == 0 for i in range(6)]
    stock = P.latents(pipe, num_inference_steps=6)
    assert torch.equal(ours, stock) == (interval == 1)


def test_it_is_neutral_and_leaves_nothing_behind():
    pipe, plain = P.sd("ddim"), compile_plan(Knobs(8, cache_interval=2)).plan_id
    assert plain == compile_plan(Knobs(8, cache_interval=2, encoder_interval=1)).plan_id
    assert compile_plan(Knobs(8, encoder_interval=2)).plan_id != compile_plan(Knobs(8)).plan_id
    before = P.fingerprint(pipe)
    with accelerated(pipe, Knobs(4, encoder_interval=2)):
        P.latents(pipe)
    assert P.fingerprint(pipe) == before


def test_low_resolution_features_are_not_reused_at_full_size():
    plan = compile_plan(Knobs(8, 0.5, 0.5, encoder_interval=3))
    assert [i for i, step in enumerate(plan) if not step.more] == [0, 3, 4, 7]


def test_it_is_refused_where_it_means_nothing():
    with pytest.raises(UnsupportedError, match="only U-Nets have an encoder"):
        enable(P.sd3(), Knobs(4, encoder_interval=2))
    with pytest.raises(UnsupportedError, match="cached steps skip the encoder already"):
        enable(P.sd("ddim"), Knobs(4, cache_interval=2, encoder_interval=2))
    with pytest.raises(UnsupportedError, match="set cross_attention_cache=off"):
        enable(P.sd("ddim"), Knobs(4, guidance_fraction=0.5, encoder_interval=2))


def test_the_price_is_that_of_a_real_run():
    pipe = P.sd("ddim")
    knobs = Knobs(6, guidance_fraction=0.5, cross_attention_cache="off", encoder_interval=3)
    meter = Meter(network_configs(pipe)["unet"], P.LENGTH)
    size = {"height": 64, "width": 64, "latent": (8, 8), "latent_multiple": 8, "guides": True}
    table = CostTable(model="tiny", meter=meter, **size)
    with accelerated(pipe, knobs), flop_counter() as counter:
        P.latents(pipe, 1)
    ran = sum(counter.get_flop_counts()["UNet2DConditionModel"].values()) // 2
    assert table.price(compile_plan(knobs)).macs == ran
    assert ran < table.price(compile_plan(replace(knobs, more=()))).macs
