"""Families on a pretended GPU: no mixed devices, types kept, nothing read or copied by us at every step.

Sana, Qwen-Image and Z-Image are not among them: on the way the stock pipelines themselves do what the pretended device
has no answer for (they ask the driver, or hold their latents in float32).
"""

from typing import Any

import pipelines as P
import pytest
import torch
from pretended_device import OnDevice, move, watched

from postdiff_calib.accelerate import enable, low_res, summary
from postdiff_calib.knobs import Knobs
from postdiff_calib.techniques.guidance import Guidance
from postdiff_calib.techniques.noise import NOISES

FULL = Knobs(6, low_res_fraction=0.5, low_res_scale=0.5, cache_interval=2, guidance_fraction=0.75)
TYPES = [torch.bfloat16, torch.float16]
COUNT = 2


def run(pipe, dtype, knobs=FULL, noise=None, **call):
    network = getattr(pipe, "unet", None) or pipe.transformer
    move(pipe, dtype)
    if knobs is None:
        call["num_inference_steps"] = FULL.num_inference_steps
    else:
        enable(pipe, P.suited(pipe, knobs), noise=noise)
    with watched(pipe, network) as watch:
        latents = P.latents(pipe, COUNT, height=128, width=128, **call)
    return latents, watch


@pytest.mark.slow
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("family", ["sd", "sdxl", "lcm", "pixart-alpha", "pixart-sigma", "sd3", "flux"])
def test_a_whole_call_stays_on_the_device(family, dtype, noise):
    build, call = P.FAMILIES[family]
    pipe = build()
    latents, watch = run(pipe, dtype, noise=noise, **call)
    assert isinstance(latents, OnDevice)
    assert latents.dtype == dtype
    assert len(summary(pipe).steps) == FULL.num_inference_steps
    # LCM's noise levels hang on the timestep, which is on the device: two are read, once a call, at the switch.
    allowed = 2 if family == "lcm" else 0
    assert sum(watch.ours().values()) <= allowed, watch.ours()
    # Also by way of diffusers: the switch's fresh noise, drawn on the host from each image's own generator.
    drawn = 0 if noise == "complement" else COUNT
    _, stock = run(build(), dtype, None, **call)
    assert watch.times("copy") <= stock.times("copy") + drawn
    assert watch.times("read") <= stock.times("read") + allowed


def mutant(source: str, **names: Any) -> Any:
    """A function that says it is from our package."""
    exec(compile(source, "postdiff_calib/mutant.py", "exec"), names)
    return names["mutant"]


def test_a_matrix_left_on_the_host_is_caught(monkeypatch):
    source = "def mutant(*args):\n    clean = stock(*args)\n    return torch.eye(clean.shape[-1]) @ clean"
    monkeypatch.setattr(low_res, "upsample", mutant(source, stock=low_res.upsample, torch=torch))
    with pytest.raises(RuntimeError, match=r"mixes devices: a CPU tensor \(.*16, 16\) at postdiff_calib/mutant\.py:3"):
        run(P.sd("dpm"), torch.bfloat16)


def test_a_matrix_that_is_moved_in_the_loop_is_caught(monkeypatch):
    source = "def mutant(*args):\n    return stock(*args[:5], remade(args[5]))"
    remade = mutant("def mutant(pool):\n    return type(pool)(*(matrix.cpu().to('cuda:0') for matrix in pool))")
    monkeypatch.setattr(low_res, "renoised", mutant(source, stock=low_res.renoised, remade=remade))
    _, watch = run(P.sd("dpm"), torch.bfloat16, noise="complement")
    assert sum(watch.ours().values()) == 4


@pytest.mark.parametrize(("code", "kind"), [("call.sample.mean().item()", "read"), ("call.sample.cpu()", "copy")])
def test_a_read_or_a_copy_in_every_step_is_caught(monkeypatch, code, kind):
    source = f"def mutant(self, call):\n    {code}\n    return stock(self, call)"
    monkeypatch.setattr(Guidance, "begin", mutant(source, stock=Guidance.begin))
    _, watch = run(P.sd("dpm"), torch.bfloat16)
    assert sum(watch.ours().values()) == FULL.num_inference_steps
    assert {(event[0], event[2]) for event in watch.ours()} == {(kind, "postdiff_calib/mutant.py:2")}
