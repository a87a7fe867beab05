"""Does the sampler's speed-up reach what its multiply-accumulates promise, and is it as fast as DeepCache and T-GATE?

A random-weight U-Net of Stable Diffusion 1.5's size (or, with ``--tiny``, a toy that only shows that the script works)
in a stock pipeline, latents only. All settings are timed in one run, after a warm-up, each between two runs of the
stock pipeline; raw seconds go into the JSON file. MACs are counted on the meta device with the same hooks attached,
convention ``full``.

    python benchmarks/sampler_efficiency.py --device cuda --dtype bfloat16 --steps 20 --repeats 5 --out gpu.json
    python benchmarks/sampler_efficiency.py --steps 4 --repeats 4 --out cpu.json

Efficiency = (seconds of the baseline ÷ seconds) ÷ (MACs of the baseline ÷ MACs); wanted: at least 0.9.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import time
import timeit
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from postdiff_calib.accelerate import NetworkAttachment, accelerated
from postdiff_calib.accelerate.network import Run
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import StepPlan, compile_plan, low_res_size
from postdiff_calib.techniques.block_cache import BlockCache

#: Stable Diffusion 1.5's U-Net, from its published configuration.
SD15: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
}
PROMPT, TOKENS = "a red circle", 77


def build(tiny: bool, device: str, dtype: torch.dtype) -> Any:
    import pipelines

    torch.manual_seed(0)
    # The text encoder is small: only the denoising loop is of interest. Its width is what the U-Net attends to.
    pipelines.TEXT, pipelines.LENGTH = 32 if tiny else SD15["cross_attention_dim"], TOKENS
    pipe = pipelines.sd("dpm", **({} if tiny else SD15))
    return pipe.to(device, dtype)


def count_macs(pipe: Any, plan: StepPlan, size: tuple[int, int], multiple: int) -> int:
    """MACs of all network calls of a plan for one image, convention ``full``."""
    from torch.utils.flop_counter import FlopCounterMode

    network = type(pipe.unet).from_config(pipe.unet.config).to("meta").eval()
    hooks = NetworkAttachment(network, plan)
    run = hooks.begin(Run(plan, 1, size))
    low = low_res_size(*size, plan.knobs.low_res_scale, multiple) if plan.n_low else size
    text = torch.empty(2, TOKENS, network.config.cross_attention_dim, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for step in plan:
            sample = torch.empty(2, 4, *(low if step.low_res else size), device="meta")
            network(sample, torch.empty(2, device="meta"), encoder_hidden_states=text)
            run.complete_step()
    hooks.end()
    return int(counter.get_total_flops()) // 2


def deepcache(pipe: Any, call: dict[str, Any], interval: int, branch: int) -> Callable[[], Any]:
    from DeepCache import DeepCacheSDHelper

    def run() -> Any:
        helper = DeepCacheSDHelper(pipe=pipe)
        helper.set_params(cache_interval=interval, cache_branch_id=branch)
        helper.enable()
        try:
            return pipe(PROMPT, **call)
        finally:
            helper.disable()

    return run


def tgate(call: dict[str, Any], copy: Any, gate: int) -> Callable[[], Any]:
    """T-GATE cannot be switched off again, so it has a pipeline and U-Net of its own."""
    from tgate import TgateSDLoader

    loaded = TgateSDLoader(copy, gate_step=gate, num_inference_steps=call["num_inference_steps"])
    options = {"gate_step": gate, "sp_interval": 1, "fi_interval": 1, "warm_up": 0}
    return lambda: loaded.tgate(PROMPT, **options, **call)


def hook_seconds(pipe: Any, knobs: Knobs, size: tuple[int, int]) -> float:
    """Time that the hooks themselves add to one cached step: every skipped module's call, and the outer two."""
    plan = compile_plan(knobs)
    hooks = NetworkAttachment(pipe.unet, plan)
    blocks = hooks.parts["block caching"]
    assert isinstance(blocks, BlockCache)
    hidden = torch.zeros(2, 4, *size)
    blocks.apply()
    calls = [module for module, hook in blocks.hooks]
    inner = min(timeit.repeat(lambda: [module(hidden_states=hidden) for module in calls], number=50, repeat=5)) / 50

    def outer() -> None:
        hooks.begin(Run(plan, 1))
        hooks._before(pipe.unet, (hidden,), {})
        hooks._after(pipe.unet, (), (hidden,))
        hooks.end()

    around = min(timeit.repeat(outer, number=50, repeat=5)) / 50
    hooks.detach()
    return inner + around


def timed(function: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    with torch.inference_mode():
        function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--side", type=int, default=512, help="image side in pixels")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves the default")
    parser.add_argument("--tiny", action="store_true", help="a toy network: shows that the script works, nothing else")
    parser.add_argument("--out", type=Path, default=None, help="JSON file for raw values")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    pipe = build(options.tiny, options.device, dtype)
    copy = build(options.tiny, options.device, dtype)
    size, multiple, total = (options.side // 8, options.side // 8), 8, options.steps
    call = {
        "num_inference_steps": total,
        "height": options.side,
        "width": options.side,
        "output_type": "latent",
        "generator": torch.Generator("cpu").manual_seed(0),
    }

    low = {"low_res_fraction": 0.5, "low_res_scale": 0.5}
    settings = {
        "identity": Knobs(total),
        "s=.5 β=.5": Knobs(total, **low),
        "k=2": Knobs(total, cache_interval=2),
        "m=.75": Knobs(total, guidance_fraction=0.75),
        "m=.75 mean": Knobs(total, guidance_fraction=0.75, cross_attention_cache="mean"),
        "all": Knobs(total, cache_interval=2, guidance_fraction=0.75, **low),
    }

    def ours(knobs: Knobs) -> Callable[[], Any]:
        def run() -> None:
            with accelerated(pipe, knobs):
                pipe(PROMPT, **call)

        return run

    runs: dict[str, Callable[[], Any]] = {"stock": lambda: pipe(PROMPT, **call)}
    runs |= {name: ours(knobs) for name, knobs in settings.items()}
    runs["DeepCache k=2"] = deepcache(pipe, call, 2, 1)
    runs["T-GATE m=.75"] = tgate(call, copy, compile_plan(settings["m=.75"]).gate_step)

    macs = {name: count_macs(pipe, compile_plan(knobs), size, multiple) for name, knobs in settings.items()}
    macs["stock"] = macs["identity"]
    macs["DeepCache k=2"], macs["T-GATE m=.75"] = macs["k=2"], macs["m=.75 mean"]

    # A GPU warms up kernels of every setting; a CPU only its memory pools.
    for name, function in runs.items():
        if options.device == "cuda" or name == "stock":
            timed(function, options.device)

    def once(name: str) -> float:
        gc.collect()
        elapsed = timed(runs[name], options.device)
        print(f"{name} {elapsed:.3f} s", file=sys.stderr, flush=True)
        return elapsed

    seconds: dict[str, list[float]] = {name: [] for name in runs}
    # Every setting runs between two runs of the stock pipeline and is compared with their mean: the speed of a machine
    # that drifts cancels out. Ours and the package of the same technique share a bracket, in turns first and second.
    brackets = [["k=2", "DeepCache k=2"], ["m=.75 mean", "T-GATE m=.75"]]
    brackets += [[name] for name in settings if not any(name in bracket for bracket in brackets)]
    ratios: dict[str, list[float]] = {name: [] for name in runs if name != "stock"}
    rivals: dict[str, list[float]] = {bracket[0]: [] for bracket in brackets if len(bracket) > 1}
    seconds["stock"].append(once("stock"))
    for turn in range(options.repeats):
        for bracket in brackets:
            found = {name: once(name) for name in (bracket if turn % 2 == 0 else bracket[::-1])}
            seconds["stock"].append(once("stock"))
            around = statistics.fmean(seconds["stock"][-2:])
            for name, elapsed in found.items():
                seconds[name].append(elapsed)
                ratios[name].append(around / elapsed)
            if len(bracket) > 1:
                rivals[bracket[0]].append(found[bracket[1]] / found[bracket[0]])

    median = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [{"setting": "stock", "seconds": seconds["stock"], "macs": macs["stock"]}]
    print(f"{'setting':<16}{'seconds':>10}{'speed-up':>10}{'by MACs':>10}{'efficiency':>12}")
    for name, values in ratios.items():
        speed, promised = statistics.median(values), macs["stock"] / macs[name]
        row = {"setting": name, "seconds": seconds[name], "speedups": values, "macs": macs[name]}
        rows.append({**row, "efficiency": speed / promised})
        print(f"{name:<16}{median[name]:>10.3f}{speed:>10.3f}{promised:>10.3f}{speed / promised:>12.3f}")
    # Two steps, one of each kind, of the network alone would be noisier: take the cached step from the k=2 totals.
    refreshes = len(compile_plan(settings["k=2"]).refresh_steps)
    reuse = (median["k=2"] - median["identity"] * refreshes / total) / max(1, total - refreshes)
    overhead = hook_seconds(pipe, settings["k=2"], size)
    print(f"hooks on a cached step: {1e6 * overhead:.0f} µs of {1e3 * reuse:.2f} ms = {100 * overhead / reuse:.2f} %")
    print(f"k=2 against DeepCache: {statistics.median(rivals['k=2']):.3f} × its speed")
    print(f"m=.75 mean against T-GATE: {statistics.median(rivals['m=.75 mean']):.3f} × its speed")
    if options.out:
        device = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or "cpu"
        record = {
            "options": {key: str(value) for key, value in vars(options).items()},
            "hardware": device,
            "versions": {name: version(name) for name in ("torch", "diffusers", "DeepCache", "tgate")},
            "threads": torch.get_num_threads(),
            "rows": rows,
            "against_packages": rivals,
            "hook_seconds": overhead,
            "reuse_step_seconds": reuse,
        }
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
