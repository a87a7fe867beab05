"""Sections of ``gpu_acceptance.py`` that compare: identity, equality with other packages, host reads, memory."""

from __future__ import annotations

import importlib
import statistics
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from acceptance_bench import PROMPTS, Bench, call_of, difference, settings
from random_models import SIZES, Size

from postdiff_calib.accelerate import disable, enable
from postdiff_calib.cost.timeline import timed_call
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.load import LoadedModel
from postdiff_calib.plan import compile_plan

#: Names of operations and runtime calls, by what they mean for the host.
EVENTS = {
    "scalar reads": ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal"),
    "waits": ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize"),
    "copies to host": ("Memcpy DtoH",),
    "copies to device": ("Memcpy HtoD",),
}


def identity(bench: Bench) -> None:
    """Neutral knobs, and a disabled pipeline, against the stock pipeline; which is first compared with itself."""
    cases = [(size, "bfloat16") for size in SIZES]
    cases.insert(1, (SIZES[0], "float16"))
    for size, dtype in cases:
        _identity_of(bench, size, dtype)
        if dtype == "float16":
            bench.models.pop((size, dtype))  # nothing else uses it


def _identity_of(bench: Bench, size: Size, dtype: str) -> None:
    loaded, steps = bench.model(size, dtype), bench.steps
    stock = bench.latents(loaded, None, steps)
    again = bench.latents(loaded, None, steps)
    enable(loaded.pipe, Knobs(steps))
    with torch.inference_mode():
        neutral = loaded.pipe(**call_of(loaded)).images
        enable(loaded.pipe, settings(steps)["all"])
        everything = loaded.pipe(**call_of(loaded)).images
    disable(loaded.pipe)
    after = bench.latents(loaded, None, steps)
    bench.note(
        model=size.label,
        dtype=dtype,
        stock_repeats=torch.equal(again, stock),
        neutral=difference(neutral, stock),
        disabled=difference(after, stock),
        accelerated_finite=bool(torch.isfinite(everything).all()),
        accelerated_differs=not torch.equal(everything, stock),
    )


def equality(bench: Bench) -> None:
    """Block caching against the DeepCache package; dropped guidance with the mean cache against the T-GATE package."""
    for size in (SIZES[0], SIZES[2]):
        loaded = bench.model(size)
        for interval in (2, 3):
            knobs = Knobs(bench.steps, cache_interval=interval)
            _equality_of(bench, size, f"DeepCache k={interval}", knobs, deepcache(loaded, interval))
        mean = Knobs(bench.steps, guidance_fraction=0.5, cross_attention_cache="mean")
        _equality_of(bench, size, "T-GATE m=.5", mean, tgate(loaded, mean))


def _equality_of(
    bench: Bench, size: Size, name: str, knobs: Knobs, theirs: Callable[[dict[str, Any]], Any], repeats: int = 3
) -> None:
    loaded, steps = bench.model(size), bench.steps
    more = _same_pooled_text(loaded)

    def ours() -> Any:
        return bench.latents(loaded, knobs, steps, 2, **more)

    def reference() -> Any:
        with torch.inference_mode():
            return theirs(call_of(loaded, 2) | more | {"num_inference_steps": steps})

    found, expected = ours(), reference()
    stock = bench.latents(loaded, None, steps, 2, **more)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(repeats):
        seconds["ours"].append(bench.timed(loaded, ours).loop)
        seconds["theirs"].append(bench.timed(loaded, reference).loop)
    bench.note(
        model=size.label,
        dtype=loaded.dtype,
        against=name,
        **difference(found, expected),
        differs_from_stock=not torch.equal(found, stock),
        loop_seconds=seconds,
        speed_against_theirs=statistics.median(seconds["theirs"]) / statistics.median(seconds["ours"]),
    )


def _same_pooled_text(loaded: LoadedModel) -> dict[str, Any]:
    """Past its gate T-GATE conditions SDXL on the negative pooled text, ours on the positive: one text for both."""
    if loaded.card.pipeline_class != "StableDiffusionXLPipeline":
        return {}
    with torch.inference_mode():
        text, negative, pooled, _ = loaded.pipe.encode_prompt(list(PROMPTS[:2]), device=loaded.device)
    given = {"prompt": None, "prompt_embeds": text, "negative_prompt_embeds": negative}
    return given | {"pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": pooled}


def deepcache(loaded: LoadedModel, interval: int) -> Callable[[dict[str, Any]], Any]:
    """A call under DeepCache 0.1.1, branch 1; the network is as it was afterwards."""
    helper_class = importlib.import_module("DeepCache").DeepCacheSDHelper

    def run(call: dict[str, Any]) -> Any:
        helper = helper_class(pipe=loaded.pipe)
        helper.set_params(cache_interval=interval, cache_branch_id=1)
        helper.enable()
        try:
            return loaded.pipe(**call).images
        finally:
            helper.disable()
            restore(loaded)

    return run


def tgate(loaded: LoadedModel, knobs: Knobs) -> Callable[[dict[str, Any]], Any]:
    """A call under T-GATE 1.0.0, which keeps the mean of both halves; the network is as it was afterwards."""
    package = importlib.import_module("tgate")
    loaders = {
        "StableDiffusionPipeline": package.TgateSDLoader,
        "StableDiffusionXLPipeline": package.TgateSDXLLoader,
    }
    gate = compile_plan(knobs).gate_step

    def run(call: dict[str, Any]) -> Any:
        pipe = loaders[loaded.card.pipeline_class](loaded.pipe)
        options = {"gate_step": gate, "sp_interval": 1, "fi_interval": 1, "warm_up": 0}
        try:
            return pipe.tgate(**options, **call).images
        finally:
            del pipe.tgate
            restore(loaded)

    return run


def restore(loaded: LoadedModel) -> None:
    """Take off what both packages leave on the modules of the denoiser."""
    for module in getattr(loaded.pipe, loaded.card.denoiser_role).modules():
        module.__dict__.pop("forward", None)
        if type(module).__name__ == "Attention":
            module.__dict__.pop("cache", None)


def host_reads(bench: Bench) -> None:
    """What makes the host wait or copy inside the loop: the stock pipeline's, each plan's, and what it adds."""
    for size in (SIZES[0], SIZES[2]):
        loaded = bench.model(size)
        stock = reads_of(bench, loaded, None)
        plans = settings(bench.steps)
        for name, knobs in plans.items() if size is SIZES[0] else [("all", plans["all"])]:
            ours = reads_of(bench, loaded, knobs)
            added = {what: ours[what] - stock[what] for what in EVENTS}
            bench.note(model=size.label, plan=name, steps=bench.steps, stock=dict(stock), ours=dict(ours), added=added)


def reads_of(bench: Bench, loaded: LoadedModel, knobs: Knobs | None) -> Counter[str]:
    """Counts by ``EVENTS`` from the denoiser's first call to the end of the call."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.on_gpu else [])]
    bench.latents(loaded, knobs, bench.steps)  # what is done once only is no part of the loop
    profiler, begun = profile(activities=activities), []
    network = getattr(loaded.pipe, loaded.card.denoiser_role)

    def begin(*_: Any) -> None:
        if not begun:
            begun.append(True)
            if bench.on_gpu:
                torch.cuda.synchronize(bench.device)
            profiler.start()

    handle = network.register_forward_pre_hook(begin, prepend=True)
    try:
        bench.latents(loaded, knobs, bench.steps)
    finally:
        handle.remove()
        if begun:
            profiler.stop()
    counts = Counter(dict.fromkeys(EVENTS, 0))
    for name in _event_names(profiler):
        for what, names in EVENTS.items():
            counts[what] += name.startswith(names)
    return counts


def _event_names(profiler: Any) -> list[str]:
    """Names of all events; straight from the recorder where it has them, since building a tree of them takes long."""
    raw = getattr(getattr(profiler, "profiler", None), "kineto_results", None)
    return [event.name() for event in raw.events()] if raw is not None else [e.name for e in profiler.events()]


def memory(bench: Bench) -> None:
    """Highest memory of a call, in bytes, by images per call: stock and with everything on."""
    for size in (SIZES[0], SIZES[2]):
        loaded = bench.model(size)
        for batch in (1, 2) if bench.tiny else (1, 2, 4, 8):
            row: dict[str, Any] = {"model": size.label, "batch": batch}
            for name, knobs in {"stock": None, "all": settings(bench.steps)["all"]}.items():
                bench.empty()
                if bench.on_gpu:
                    torch.cuda.reset_peak_memory_stats(bench.device)
                held = torch.cuda.memory_allocated(bench.device) if bench.on_gpu else None
                bench.latents(loaded, knobs, bench.steps, batch)
                row[name] = {
                    "held_before": held,
                    "peak_allocated": torch.cuda.max_memory_allocated(bench.device) if bench.on_gpu else None,
                    "peak_reserved": torch.cuda.max_memory_reserved(bench.device) if bench.on_gpu else None,
                }
            bench.note(**row)


def second_device(bench: Bench) -> None:
    """A timeline taken on ``cuda:1`` while ``cuda:0`` is the current device; in miniature, on the CPU."""
    device = "cpu" if bench.tiny else "cuda:1"
    if not bench.tiny and torch.cuda.device_count() < 2:
        bench.note(device=device, state="not there")
        return
    bench.forget()
    other = Bench(device, bench.tiny, bench.deadline)
    loaded = other.model(SIZES[0])
    call = {name: value for name, value in call_of(loaded).items() if name != "output_type"}
    network = getattr(loaded.pipe, loaded.card.denoiser_role)
    times = []
    with nullcontext() if bench.tiny else torch.cuda.device(0), torch.inference_mode():
        for _ in range(3):
            run = timed_call(loaded.pipe, network, device, lambda: loaded.pipe(num_inference_steps=bench.steps, **call))
            times.append({"total": run.total, "steps": run.steps, "before": run.before, "after": run.after})
    last = times[-1]
    parts = last["before"] + sum(last["steps"]) + last["after"]
    bench.note(device=device, state="timed", parts_over_total=parts / last["total"], raw=times)
