"""Every family on a pretended GPU, in both half types: what we add to the stock pipeline's own run there.

A call mixes no devices. Every tensor that a network or the scheduler gets or returns is of the type, and on the device,
that the stock pipeline gives it. Nothing is read or copied in the step loop but what the stock pipeline reads or copies
there, and fresh noise: it is drawn on the host from each image's own generator, once, at the switch to full size.
"""

from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import pipelines as P
import pytest
import torch
from pretended_device import OnDevice, Watch, device, move, watched

from postdiff_calib.accelerate import FAMILIES, enable, family_of, low_res, summary
from postdiff_calib.accelerate.low_res import LowResolution
from postdiff_calib.knobs import Knobs
from postdiff_calib.techniques.guidance import Guidance

FULL = Knobs(6, low_res_fraction=0.5, low_res_scale=0.5, cache_interval=2, guidance_fraction=0.75)
COUNT = 2
HALVES = [torch.bfloat16, torch.float16]
#: Their pipelines hold latents in float32 whatever their networks are.
WIDE = ("sana", "z-image")
FROM_IMAGE = {"sd-img2img": P.sd, "sdxl-img2img": P.sdxl}
HEAVY = ("controlnet", "sdxl-controlnet", *FROM_IMAGE)
#: Noise, way to full size, what is kept of cross-attention; the first is the default.
CASES = [("complement", "renoise", "cond"), ("coupled", "renoise", "mean"), ("independent", "renoise", "off")]
FLOW_CASES = [
    ("complement", "expand", "cond"),
    ("coupled", "renoise", "mean"),
    ("independent", "expand", "off"),
    ("independent", "renoise-own-grid", "cond"),
    ("complement", "expand-own-grid", "mean"),
]


def cases(family):
    if family in FROM_IMAGE:
        return CASES[:1]
    return FLOW_CASES if family in P.FLOW else CASES


def built(family, dtype, images=1):
    """A pipeline on the device, and the arguments of its call for as many ``images`` of each prompt."""
    if family in FROM_IMAGE:
        build, call = (lambda: P.img2img(FROM_IMAGE[family]("ddim"))), {"image": P.condition_image(3, 128, 128)}
    else:
        build, call = P.FAMILIES[family]
        call = {**call, "height": 128, "width": 128}
    call = {**P.of_images(call, COUNT), "num_images_per_prompt": images, "generator": P.generators(COUNT * images)}
    return move(build(), dtype), {**call, **({"image": call["image"][:COUNT]} if "image" in call else {})}


def suited(pipe, cross_attention_cache="cond"):
    """All techniques that the pipeline has."""
    family = family_of(pipe)
    if not family.guides and cross_attention_cache == "off":
        cross_attention_cache = "cond"
    knobs = replace(FULL, cross_attention_cache=cross_attention_cache)
    return P.suited(pipe, replace(knobs, low_res_fraction=0.0) if family.low_res_refusal else knobs)


def run(pipe, call):
    family = family_of(pipe)
    networks = [getattr(pipe, name) for name in (family.denoiser, family.control) if name is not None]
    with watched(pipe.scheduler, networks) as watch:
        latents = P.latents(pipe, COUNT, **call)
    return latents, watch


@cache
def stock_run(family, dtype, images=1):
    """Type of the latents and what was seen without us."""
    pipe, call = built(family, dtype, images)
    latents, watch = run(pipe, {**call, "num_inference_steps": FULL.num_inference_steps})
    network = family_of(pipe).network
    given = f"{type(getattr(pipe, family_of(pipe).denoiser)).__name__}.{network.sample}"
    assert {handed[1:] for handed in watch.handed if handed[0] == given} == {(dtype, "cuda")}
    assert latents.dtype == (torch.float32 if family in WIDE else dtype)
    assert not watch.ours()
    return latents.dtype, watch


def holds(family, dtype, case, images=1):
    """Run with every technique and compare with the stock pipeline."""
    noise, way, cached = case
    pipe, call = built(family, dtype, images)
    enable(pipe, suited(pipe, cached), noise=noise, switch=way)
    latents, watch = run(pipe, call)
    held, stock = stock_run(family, dtype, images)
    steps = summary(pipe).steps
    assert len(steps) == watch.step + 1 == stock.step + 1
    assert isinstance(latents, OnDevice)
    assert latents.dtype == held
    assert torch.isfinite(latents.values).all()
    assert watch.handed == stock.handed
    # Ours: clean latent and noise are mixed in float32 at the switch; a control image shrinks by float32 means, once.
    switch = [step.index for step in steps if step.switched]
    own = {(event.kind, event.step) for event in watch.ours()}
    assert own <= {("upcast", step) for step in (*switch, *([0] if "control" in family else []))}, watch.ours()
    drawn = 1 if switch and noise != "complement" else 0
    assert watch.more(stock) == Counter({("copy", "diffusers/utils/torch_utils.py"): drawn} if drawn else {})


def accelerated(family):
    """The pipeline, and what was seen in a call with every technique."""
    pipe, call = built(family, torch.bfloat16)
    enable(pipe, suited(pipe))
    return pipe, run(pipe, call)[1]


def slow_unless(quick, *values):
    return pytest.param(*values, marks=() if quick else pytest.mark.slow)


def test_every_family_is_run():
    run_here = {family_of(built(name, torch.bfloat16)[0]).pipeline_class for name in (*P.FAMILIES, *FROM_IMAGE)}
    assert run_here == {family.pipeline_class for family in FAMILIES}


@pytest.mark.parametrize(
    ("family", "dtype", "case"),
    [
        slow_unless(case is cases(family)[0] and dtype is HALVES[0] and family not in HEAVY, family, dtype, case)
        for family in (*P.FAMILIES, *FROM_IMAGE)
        for dtype in HALVES
        for case in cases(family)
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else str(value),
)
def test_a_whole_call_stays_on_the_device(family, dtype, case):
    holds(family, dtype, case)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["flux", "qwen-image"])
def test_guidance_of_two_calls_for_several_images_of_each_prompt(family):
    for case in FLOW_CASES[2:4]:
        holds(family, torch.bfloat16, case, images=2)


def mutant(source: str, **names: Any) -> Any:
    """A function that says it is from our package."""
    exec(compile(source, "postdiff_calib/mutant.py", "exec"), names)
    return names["mutant"]


@pytest.mark.parametrize("family", ["sd", "sana", "qwen-image", "z-image"])
def test_a_matrix_left_on_the_host_is_caught(family, monkeypatch):
    source = "def mutant(*args):\n    clean = stock(*args)\n    return torch.eye(clean.shape[-1]) @ clean"
    monkeypatch.setattr(low_res, "upsample", mutant(source, stock=low_res.upsample, torch=torch))
    with pytest.raises(RuntimeError, match=r"mixes devices: a CPU tensor \(.*16, 16\) at postdiff_calib/mutant\.py:3"):
        accelerated(family)


@pytest.mark.parametrize("family", ["sd", "sana"])
def test_a_matrix_that_is_moved_in_the_loop_is_caught(family, monkeypatch):
    name, at = ("expanded", 3) if family in P.FLOW else ("renoised", 5)
    source = f"def mutant(*args):\n    return stock(*args[:{at}], remade(args[{at}]), *args[{at + 1}:])"
    remade = mutant("def mutant(pool):\n    return type(pool)(*(matrix.cpu().to('cuda:0') for matrix in pool))")
    monkeypatch.setattr(low_res, name, mutant(source, stock=getattr(low_res, name), remade=remade))
    _, watch = accelerated(family)
    assert {event.kind for event in watch.ours()} == {"copy", *(() if family in WIDE else ["upcast"])}
    assert sum(times for event, times in watch.ours().items() if event.kind == "copy") == 4


@pytest.mark.parametrize(
    ("code", "kind"),
    [("latents.mean().item()", "read"), ("latents.cpu()", "copy"), ("latents.float()", "upcast")],
)
@pytest.mark.parametrize("family", ["sd", "sana", "qwen-image", "z-image"])
def test_what_happens_at_every_call_is_caught(family, code, kind, monkeypatch):
    source = f"def mutant(self, call):\n    latents = call.sample[0]\n    {code}\n    return stock(self, call)"
    monkeypatch.setattr(Guidance, "begin", mutant(source, stock=Guidance.begin))
    pipe, watch = accelerated(family)
    found = {e: times for e, times in watch.ours().items() if e.who == "postdiff_calib/mutant.py:3"}
    assert {event.kind for event in found} == {kind}
    assert {event.step for event in found} == set(range(FULL.num_inference_steps))
    assert sum(found.values()) == summary(pipe).network_calls


@pytest.mark.parametrize("family", ["controlnet", slow_unless(False, "sdxl-controlnet")])
def test_a_read_before_every_call_of_a_control_network_is_caught(family, monkeypatch):
    source = "def mutant(self, call):\n    call.sample.mean().item()\n    return stock(self, call)"
    monkeypatch.setattr(Guidance, "begin_control", mutant(source, stock=Guidance.begin_control))
    _, watch = accelerated(family)
    found = {event.step: times for event, times in watch.ours().items() if event.kind == "read"}
    assert found == dict.fromkeys(range(FULL.num_inference_steps), 1)


def test_latents_made_narrower_than_the_pipelines_are_caught(monkeypatch):
    source = "def mutant(*args):\n    result, full, clean = stock(*args)\n    return result, full.bfloat16(), clean"
    monkeypatch.setattr(LowResolution, "switched", mutant(source, stock=LowResolution.switched))
    _, watch = accelerated("sana")
    assert ("step.sample", torch.bfloat16, "cuda") in watch.handed - stock_run("sana", torch.bfloat16)[1].handed


@contextmanager
def on_device():
    """A tensor on the device, watched as in the loop."""
    with device(), Watch() as watch:
        watch.step = 0
        yield OnDevice(torch.ones(3)), watch


@pytest.mark.parametrize(
    ("code", "kinds"),
    [
        ("x[torch.tensor([0, 2])]", ["copy"]),
        ("x[x > 0]", ["read"]),
        ("torch.tensor([1.0, 2.0], device=x.device)", ["copy"]),
        ("x * torch.tensor(2.0)", []),
        ("x.half() * x", ["upcast"]),
        ("x.half().double().float()", ["upcast"]),
        ("bool(x.sum() > 0)", ["read"]),
        ("torch.arange(3, device=x.device) + x", []),
        ("x[1:].clone().fill_(torch.tensor(2.0))", []),
    ],
)
def test_what_the_device_notes(code, kinds):
    with on_device() as (x, watch):
        exec(compile(code, "test", "eval"), {"x": x, "torch": torch})
    assert [event.kind for event in watch.seen.elements()] == kinds


@pytest.mark.parametrize(
    "code",
    [
        "x + torch.ones(3)",
        "torch.stack([x.sum(), torch.tensor(1.0)])",
        "torch.ones(3)[torch.arange(2, device=x.device)]",
        "torch.ones(3).add_(x)",
    ],
)
def test_what_the_device_refuses(code):
    with on_device() as (x, _), pytest.raises(RuntimeError, match="mixes devices"):
        exec(compile(code, "test", "eval"), {"x": x, "torch": torch})
