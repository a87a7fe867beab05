"""Sections of ``gpu_acceptance.py`` that time: efficiency, eager and compiled; predicted and measured seconds."""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from acceptance_bench import Bench, Timed, call_of, difference, settings
from random_models import FURTHER, SIZES, Size

from postdiff_calib.accelerate import disable, enable
from postdiff_calib.errors import PostdiffError
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.load import LoadedModel

REPEATS = 3
#: Entries of one code object that dynamo may compile while we measure; by default it stops at 8 and runs on uncompiled.
RECOMPILE_LIMIT = 64
DEFAULT_RECOMPILE_LIMIT = 8


def efficiency(bench: Bench) -> None:
    """Measured speed-up of the loop over the one by MACs, eager; a batch of one, and larger where that is little work.

    A small batch leaves a GPU waiting for the host, which launches as many kernels at any size.
    """
    for size, batch in [(SIZES[0], 1), (SIZES[2], 1), (SIZES[0], 8), (SIZES[1], 4)]:
        if not bench.tiny and bench.left < 30:
            bench.note(model=size.label, batch=batch, state="not run: time")
        elif batch == 1 or not bench.tiny:
            _efficiency_of(bench, size, batch)


def _efficiency_of(bench: Bench, size: Size, batch: int) -> None:
    loaded, steps = bench.model(size), bench.timed_steps
    plans: dict[str, Knobs | None] = {"stock": None, **settings(steps)}

    def once(name: str) -> Timed:
        return bench.timed(loaded, lambda: bench.latents(loaded, plans[name], steps, batch))

    for name in plans:
        once(name)
    times: dict[str, list[Timed]] = {name: [] for name in plans}
    order = random.Random(0)
    for _ in range(1 if bench.tiny else REPEATS):
        for name in order.sample(list(plans), len(plans)):
            times[name].append(once(name))
    where = {"model": size.label, "mode": "eager", "batch": batch, "steps": steps}
    for name, knobs in settings(steps).items():
        promised = bench.macs(loaded, Knobs(steps)) / bench.macs(loaded, knobs)
        bench.note(**where, plan=name, **_speed(times["stock"], times[name], promised))


def _speed(stock: list[Timed], ours: list[Timed], promised: float) -> dict[str, Any]:
    """Medians, their ratio over the promised one, and the raw seconds."""

    def median(runs: list[Timed], name: str) -> float:
        return statistics.median(getattr(run, name) for run in runs)

    speed = median(stock, "loop") / median(ours, "loop")
    return {
        "speed_up": speed,
        "speed_up_by_macs": promised,
        "efficiency": speed / promised,
        "whole_call_speed_up": median(stock, "whole") / median(ours, "whole"),
        "loop_seconds": [run.loop for run in ours],
        "whole_seconds": [run.whole for run in ours],
        "host_seconds": [run.host for run in ours],
        "stock_loop_seconds": [run.loop for run in stock],
        "stock_whole_seconds": [run.whole for run in stock],
    }


@contextmanager
def dynamo(limit: int) -> Iterator[dict[str, Any]]:
    """Raise dynamo's limit for the block and make reaching it an error; afterwards tells what it did."""
    import torch._dynamo
    from torch._dynamo.utils import counters

    wanted = {"recompile_limit": limit, "cache_size_limit": limit}
    wanted |= {"fail_on_recompile_limit_hit": True, "fail_on_cache_limit_hit": True}
    # Older torch has the older names; newer torch both, of which one is the other's alias.
    names = ("recompile_limit", "fail_on_recompile_limit_hit")
    known = [name for name in names if hasattr(torch._dynamo.config, name)]
    known = known or [name for name in wanted if hasattr(torch._dynamo.config, name)]
    torch._dynamo.reset()
    counters.clear()
    said: dict[str, Any] = {}
    try:
        with torch._dynamo.config.patch({name: wanted[name] for name in known}):
            yield said
    finally:
        said["graphs"] = int(counters["stats"].get("unique_graphs", 0))
        said["graph_breaks"] = {str(why)[:200]: int(times) for why, times in counters["graph_break"].items()}
        said["frames"] = {str(name): int(times) for name, times in counters["frames"].items()}
        torch._dynamo.reset()


def compiled(bench: Bench, names: Sequence[str] = ("k=2", "all", "m=.75", "s=.5 β=.5", "neutral")) -> None:
    """The same with ``torch.compile``: each plan compiled anew, its compile time apart, until time is out.

    Reaching dynamo's limit is an error here, so that compiled and uncompiled steps are never mixed.
    """
    loaded, steps = bench.model(SIZES[0]), bench.timed_steps
    backend = "eager" if bench.tiny else "inductor"
    plans: dict[str, Knobs | None] = {"stock": None}
    plans |= {name: settings(steps)[name] for name in names}
    eager = [bench.timed(loaded, lambda: bench.latents(loaded, None, steps)) for _ in range(1 + REPEATS)][1:]
    stock: list[Timed] = []
    slowest = 0.0
    for name, knobs in plans.items():
        where = {"model": SIZES[0].label, "mode": "compiled", "batch": 1, "steps": steps, "plan": name}
        if not bench.tiny and bench.left < 20 + 1.2 * slowest:
            bench.note(**where, state="not run: time")
            continue
        begun = time.perf_counter()
        try:
            runs, said = _compiled_runs(bench, loaded, knobs, steps, backend)
        except Exception as error:  # one plan that does not compile says nothing of the others
            bench.note(**where, state=f"failed: {type(error).__name__}: {str(error)[:600]}")
            slowest = max(slowest, time.perf_counter() - begun)
            continue
        slowest = max(slowest, time.perf_counter() - begun)
        stock = stock or (runs if knobs is None else [])
        promised = bench.macs(loaded, Knobs(steps)) / bench.macs(loaded, knobs or Knobs(steps))
        row = _speed(stock or eager, runs, promised)
        against = "compiled stock" if stock else "eager stock"
        bench.note(**where, against=against, eager_loop_seconds=[run.loop for run in eager], **row, **said)


def _compiled_runs(
    bench: Bench, loaded: LoadedModel, knobs: Knobs | None, steps: int, backend: str
) -> tuple[list[Timed], dict[str, Any]]:
    pipe, role = loaded.pipe, loaded.card.denoiser_role
    network, more = getattr(pipe, role), {"num_inference_steps": steps}

    def call() -> Any:
        with torch.inference_mode():
            return pipe(**call_of(loaded), **more).images

    reference = bench.latents(loaded, knobs, steps)
    from torch._dynamo.utils import counters

    with dynamo(RECOMPILE_LIMIT) as said:
        setattr(pipe, role, torch.compile(network, dynamic=False, backend=backend))
        try:
            if knobs is not None:
                enable(pipe, knobs, strict=False)
            begin = time.perf_counter()
            output = call()
            if bench.on_gpu:
                torch.cuda.synchronize(bench.device)
            compile_seconds = time.perf_counter() - begin
            call()
            before = int(counters["stats"].get("unique_graphs", 0))
            runs = [bench.timed(loaded, call) for _ in range(REPEATS)]
            added = int(counters["stats"].get("unique_graphs", 0)) - before
        finally:
            disable(pipe)
            setattr(pipe, role, network)
    said["first_call_seconds"] = compile_seconds
    said["graphs_compiled_while_timed"] = added
    said["beyond_the_default_limit"] = said["graphs"] > DEFAULT_RECOMPILE_LIMIT
    said["against_eager"] = difference(output, reference)
    return runs, said


def prediction(bench: Bench) -> None:
    """Seconds predicted by the quick table (what ``calibrate`` measures) against those of 40 random plans."""
    _prediction_of(bench, SIZES[0], 4 if bench.tiny else 40, 1 if bench.tiny else 3)


def prediction_sdxl(bench: Bench) -> None:
    """The same for SDXL's size, ten plans."""
    _prediction_of(bench, SIZES[2], 2 if bench.tiny else 10, 1 if bench.tiny else 2)


def _prediction_of(bench: Bench, size: Size, plans: int, rounds: int) -> None:
    from latency_prediction import measure

    options = argparse.Namespace(
        side=0, batch_size=1, quick=True, plans=plans, rounds=rounds, interleaved=False, seed=0
    )
    bench.note(**{**measure(bench.model(size), options), "model": size.label})


def further(bench: Bench) -> None:
    """Models whose family may not be there yet: identity and the efficiency of what they can do."""
    bench.forget()
    for size in FURTHER:
        _further_of(bench, size)
        bench.forget()


def _further_of(bench: Bench, size: Size) -> None:
    steps = bench.steps
    try:
        loaded = bench.model(size)
    except PostdiffError as error:
        bench.note(model=size.label, state=f"skipped: {error}")
        return
    stock = bench.latents(loaded, None, steps)
    neutral = bench.latents(loaded, Knobs(steps), steps)
    bench.note(model=size.label, dtype=loaded.dtype, neutral=difference(neutral, stock))
    base = _median_loop(bench, loaded, lambda: bench.latents(loaded, None, steps))
    for name, knobs in settings(steps).items():
        try:
            loop = _median_loop(bench, loaded, lambda knobs=knobs: bench.latents(loaded, knobs, steps))
            promised = bench.macs(loaded, Knobs(steps)) / bench.macs(loaded, knobs)
        except PostdiffError as error:
            bench.note(model=size.label, plan=name, state=f"refused: {error}")
            continue
        speed = base / loop
        bench.note(model=size.label, plan=name, speed_up=speed, speed_up_by_macs=promised, efficiency=speed / promised)


def _median_loop(bench: Bench, loaded: LoadedModel, call: Callable[[], Any]) -> float:
    call()
    return statistics.median(bench.timed(loaded, call).loop for _ in range(REPEATS))
