"""Sections of ``gpu_acceptance.py`` that time: efficiency, eager and compiled; predicted and measured seconds."""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from acceptance_bench import Bench, Timed, call_of, difference, settings, suited
from random_models import FURTHER, SIZES, Size, card_of, require_room

from postdiff_calib.accelerate import accelerated, disable, enable
from postdiff_calib.cost import build_cost_table
from postdiff_calib.cost.setting import Setting
from postdiff_calib.cost.timeline import timed_call
from postdiff_calib.errors import PostdiffError
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.load import LoadedModel
from postdiff_calib.plan import compile_plan

REPEATS, FEW = 3, 2
#: Seconds that compiling leaves to the sections behind it.
RESERVE = 25
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
    for _ in range(1 if bench.tiny else FEW):
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


def compiled(bench: Bench, names: Sequence[str] = ("k=2", "m=.75", "s=.5 β=.5", "all", "neutral")) -> None:
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
        if not bench.tiny and bench.left < RESERVE + 1.2 * slowest:
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
    _prediction_of(bench, SIZES[0], 4 if bench.tiny else 40, 1 if bench.tiny else FEW)


def prediction_sdxl(bench: Bench) -> None:
    """The same for SDXL's size, ten plans, timed once."""
    _prediction_of(bench, SIZES[2], 2 if bench.tiny else 10, 1, marks=2)


def _prediction_of(bench: Bench, size: Size, plans: int, rounds: int, marks: int = 6) -> None:
    """One table before the plans and one after them: where both are off alike, it is not the machine that changed."""
    from latency_prediction import measure

    options = argparse.Namespace(
        side=0, batch_size=1, quick=True, plans=plans, rounds=rounds, interleaved=False, seed=0
    )
    loaded = bench.model(size)
    with recorded() as runs:
        found = measure(loaded, options)
        first, kept = len(runs), list(runs)
        bench.note(**{**found, "model": size.label, "table": "before"}, runs=kept)
        again = _again(loaded, found)
        bench.note(**{**again, "model": size.label, "table": "after"}, runs=runs[first:])
    bench.note(model=size.label, table="marks", **_cost_of_marks(bench, loaded, marks))


def _again(loaded: LoadedModel, found: dict[str, Any]) -> dict[str, Any]:
    """The same plans' seconds predicted by a table that is measured now."""
    from latency_prediction import rank_correlation

    card, begin = loaded.card, time.perf_counter()
    setting = Setting(
        height=card.height,
        width=card.width,
        guidance_scale=card.guidance_scale,
        batch_size=1,
        scales=card.low_res_scales,
        quick=True,
    )
    table = build_cost_table(loaded, setting, measure=True, refresh=True)
    assert table.latency is not None
    measured = [row["measured"] for row in found["plans"]]
    predicted = [table.price(compile_plan(Knobs(**row["settings"]))).seconds or 0.0 for row in found["plans"]]
    errors = sorted(abs(p / m - 1) for p, m in zip(predicted, measured, strict=True))
    return {
        "table_seconds": time.perf_counter() - begin,
        "kinds_measured": len(table.latency.steps),
        "median_error": statistics.median(errors),
        "p95_error": errors[min(len(errors) - 1, int(0.95 * len(errors)))],
        "drift": statistics.median(m / p for p, m in zip(predicted, measured, strict=True)),
        "rank_correlation": rank_correlation(predicted, measured),
        "plans": [{"predicted": p} for p in predicted],
    }


@contextmanager
def recorded() -> Iterator[list[dict[str, Any]]]:
    """Every timed run of the block, with all its parts and Python's garbage collections in seconds, in order."""
    import latency_prediction

    from postdiff_calib.cost import latency

    stock, runs, zero = latency.run_plan, list[dict[str, Any]](), time.monotonic()
    collecting, began = 0.0, 0.0

    def watch(phase: str, _: Any) -> None:
        nonlocal collecting, began
        if phase == "start":
            began = time.perf_counter()
        else:
            collecting += time.perf_counter() - began

    def run(loaded: Any, table: Any, setting: Any, plan: Any, **more: Any) -> Any:
        at, before = time.monotonic() - zero, collecting
        times = stock(loaded, table, setting, plan, **more)
        parts = {"total": times.total, "text": times.text, "before": times.before, "after": times.after}
        parts |= {"steps": [round(x, 6) for x in times.steps], "network": [round(x, 6) for x in times.network]}
        parts["collecting"] = collecting - before
        runs.append({"at": round(at, 3), "knobs": asdict(plan.knobs), **parts})
        return times

    latency.run_plan = latency_prediction.run_plan = run
    gc.callbacks.append(watch)
    try:
        yield runs
    finally:
        gc.callbacks.remove(watch)
        latency.run_plan = latency_prediction.run_plan = stock


def _cost_of_marks(bench: Bench, loaded: LoadedModel, repeats: int) -> dict[str, Any]:
    """Seconds of the baseline's whole call in turn: plain, with marks, and with marks and memory."""
    knobs, card = Knobs(bench.timed_steps), loaded.card
    call = {name: value for name, value in call_of(loaded).items() if name not in ("output_type", "generator")}
    network = getattr(loaded.pipe, card.denoiser_role)
    seconds: dict[str, list[float]] = {"plain": [], "marks": [], "memory": []}

    def run() -> None:
        loaded.pipe(generator=torch.Generator("cpu").manual_seed(0), **call)

    with accelerated(loaded.pipe, knobs), torch.inference_mode():
        for _ in range(1 if bench.tiny else repeats):
            begin = time.perf_counter()
            run()  # ends with an image on the host
            seconds["plain"].append(time.perf_counter() - begin)
            for name in ("marks", "memory"):
                times = timed_call(loaded.pipe, network, loaded.device, run, with_memory=name == "memory")
                seconds[name].append(times.total)
    return {"steps": bench.timed_steps, "seconds": seconds}


def further(bench: Bench) -> None:
    """Rectified-flow transformers where memory allows: identity and the efficiency of what they can do."""
    bench.forget()
    for size in FURTHER:
        _further_of(bench, size)
        bench.forget()


def _further_of(bench: Bench, size: Size) -> None:
    steps = bench.steps
    try:
        require_room(card_of(size), "bfloat16", bench.free)
        loaded = bench.model(size)
    except PostdiffError as error:
        bench.note(model=size.label, state=f"skipped: {error}")
        return
    stock = bench.latents(loaded, None, steps)
    neutral = bench.latents(loaded, Knobs(steps), steps)
    bench.note(model=size.label, dtype=loaded.dtype, neutral=difference(neutral, stock))
    base = _median_loop(bench, loaded, lambda: bench.latents(loaded, None, steps))
    for name, plain in settings(steps).items():
        knobs = suited(loaded, plain)
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
    return statistics.median(bench.timed(loaded, call).loop for _ in range(1 if bench.tiny else FEW))
