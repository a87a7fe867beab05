"""What the table prices is what a real accelerated run computes, operation by operation."""

import pipelines
import pytest
import torch

from postdiff_calib.accelerate import accelerated
from postdiff_calib.cost import CostTable
from postdiff_calib.cost.macs import Macs, _split, flop_counter
from postdiff_calib.cost.meter import Meter
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.families import denoiser_in
from postdiff_calib.models.fingerprint import network_configs
from postdiff_calib.plan import compile_plan

#: The first is all at once: guidance ends before the switch, so cross-attention runs once more after it.
PLANS = [
    Knobs(5, low_res_fraction=0.4, low_res_scale=0.5, cache_interval=2, guidance_fraction=0.2),
    Knobs(3),
    Knobs(4, low_res_fraction=0.5, low_res_scale=0.5),
    Knobs(5, cache_interval=3),
    Knobs(4, cache_interval=2, cache_branch=0),
    Knobs(4, guidance_fraction=0.5),
    Knobs(4, guidance_fraction=0.5, cross_attention_cache="off"),
    Knobs(4, guidance_fraction=0.5, cross_attention_cache="mean"),
    Knobs(8, low_res_fraction=0.4, low_res_scale=0.5, cache_interval=3, guidance_fraction=0.6),
]


def stable_diffusion():
    return pipelines.sd("dpm"), 8


def lcm():
    from diffusers import LatentConsistencyModelPipeline

    torch.manual_seed(0)
    pipe = LatentConsistencyModelPipeline(
        vae=pipelines.vae(),
        text_encoder=pipelines.text_encoder(),
        tokenizer=pipelines.tokenizer(),
        unet=pipelines.unet(time_cond_proj_dim=8),
        scheduler=pipelines.scheduler("lcm"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe, 8


def stable_diffusion_3():
    return pipelines.sd3(), 2


def sana():
    return pipelines.sana(), 1


def flux():
    return pipelines.flux(), 2


#: What a call needs besides, and the tokens that the denoiser gets.
CALLS = {
    stable_diffusion_3: ({"max_sequence_length": pipelines.LENGTH}, 2 * pipelines.LENGTH),
    sana: (pipelines.FAMILIES["sana"][1], pipelines.LENGTH),
    flux: (pipelines.of_images(pipelines.FAMILIES["flux"][1], 2), pipelines.LENGTH),
}


def run(pipe, multiple: int, knobs: Knobs, call) -> Macs:
    """MACs per image that the denoiser computes in one real call for two images."""
    with accelerated(pipe, knobs, latent_multiple=multiple), flop_counter() as counter:
        pipe(
            ["a red circle", "a blue square"],
            height=128,
            width=128,
            output_type="latent",
            generator=[torch.Generator().manual_seed(i) for i in range(2)],
            **{"guidance_scale": 5.0, **call},
        )
    total = _split(counter.get_flop_counts()[type(denoiser_in(pipe)[1]).__name__])
    assert total.full % 2 == 0
    return Macs(total.conv // 2, total.linear // 2, total.attention // 2)


#: LCM has no guidance to drop: without cross-attention caching, m would do nothing there, and is refused.
CASES = [
    pytest.param(
        family,
        knobs,
        id=f"{family.__name__}-{knobs.describe()}",
        marks=[] if knobs is PLANS[0] else pytest.mark.slow,
    )
    for family in (stable_diffusion, lcm, *CALLS)
    for knobs in PLANS
    if family is not lcm or knobs.cross_attention_cache != "off"
]


@pytest.mark.parametrize(("family", "knobs"), CASES)
def test_price_equals_a_real_run(family, knobs: Knobs) -> None:
    pipe, multiple = family()
    call, text_length = CALLS.get(family, ({}, pipelines.LENGTH))
    knobs = pipelines.suited(pipe, knobs)
    guides = family is not lcm
    table = CostTable(
        model="tiny",
        height=128,
        width=128,
        latent=(16, 16),
        latent_multiple=multiple,
        guides=guides,
        meter=Meter(network_configs(pipe)[denoiser_in(pipe)[0]], text_length),
    )
    price = table.price(compile_plan(knobs))
    ran = run(pipe, multiple, knobs, call)
    assert (price.macs, price.macs_paper) == (ran.full, ran.paper)
