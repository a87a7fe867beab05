"""Measuring the kinds of step on the real accelerated pipeline, at the settings of the deployment.

A few *probe* plans together contain the kinds of step that matter: every combination of guided or conditional, refresh
or reuse, live or cached at full resolution and at each β. Each probe is run once to warm up, then all are run in
rounds, in an order shuffled anew each round so that a slow minute of the machine falls on every kind alike. Rounds go
on while they disagree (``rounds.py``), and only those that agree count. A kind's seconds are the median of its steps
but the first of a run, which is compared with later ones of its kind instead. Kinds outside the probes are predicted by
the table from their MACs; at most ``MAX_KINDS`` are measured, and then the full resolution, the middle and the outer β
come first.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from postdiff_calib.cost.rounds import MIN_ROUNDS, SECONDS_HOLD, agreement, goes_on, paces
from postdiff_calib.cost.setting import Setting
from postdiff_calib.cost.store import environment_of, latency_path, load_latency, save_latency
from postdiff_calib.cost.table import CostTable, Latency, Timing, reuse_share
from postdiff_calib.cost.timeline import Timeline, timed_call
from postdiff_calib.errors import KnobError, UnsupportedError
from postdiff_calib.knobs import Knobs, names, settled
from postdiff_calib.models.families import call_arguments, family_of, for_each
from postdiff_calib.plan import StepPlan, compile_plan
from postdiff_calib.progress import Progress
from postdiff_calib.techniques import techniques
from postdiff_calib.techniques.technique import Probing

if TYPE_CHECKING:
    from postdiff_calib.models.load import LoadedModel

MAX_KINDS = 40
#: Seconds after which no further round is begun: the whole and the quick measurement.
FULL_LIMIT, QUICK_LIMIT = 60.0, 9.0
#: The calls that tell whether seconds of before still hold; the same steps as those of a probe.
_CHECKED_STEPS, _CHECKED_CALLS = 6, 3


def measured_latency(
    loaded: LoadedModel,
    table: CostTable,
    setting: Setting,
    *,
    refresh: bool = False,
    limit: float | None = None,
    progress: Progress | None = None,
) -> Latency:
    """Seconds of the kinds of step on this machine: from the cache on disk, else measured now and kept there.

    What the cache has is used where it was stable and a short call still takes what it says.

    Args:
        loaded: the model.
        table: its prices in MACs; says which kinds a plan has.
        setting: how it is called.
        refresh: measure even if the cache has it.
        limit: seconds after which no further round is begun; by default ``QUICK_LIMIT`` or ``FULL_LIMIT``.
        progress: is given the stage and its rounds.
    """
    environment = environment_of(loaded, setting.batch_size)
    path = latency_path(loaded, setting, environment)
    known = None if refresh else load_latency(path)
    if known is not None and not known.stable:
        if progress:
            progress.note(f"seconds measured before on this machine were {known.stability}: they are measured anew")
    elif known is not None:
        off = drift(loaded, table, setting, known)
        if abs(off) <= SECONDS_HOLD:
            if progress:
                progress.note(f"seconds of {len(known.steps)} kinds of step: measured before on this machine")
            return known
        if progress:
            than = "longer" if off > 0 else "shorter"
            progress.note(
                f"a call takes {abs(off):.0%} {than} than the seconds measured before on this machine say: it was busy "
                "then, or is now; they are measured anew"
            )
    limit = limit if limit is not None else (QUICK_LIMIT if setting.quick else FULL_LIMIT)
    latency = measure(loaded, table, setting, environment, limit, progress)
    save_latency(path, table, latency)
    return latency


def measure(
    loaded: LoadedModel,
    table: CostTable,
    setting: Setting,
    environment: dict[str, Any],
    limit: float,
    progress: Progress | None = None,
) -> Latency:
    """Measure now; see the module."""
    plans = probes(loaded.card.knobs, table, setting)
    deadline = time.perf_counter() + limit
    peak: dict[Any, float] = {}
    if progress:
        progress.stage("measuring kinds of step", None)
    for plan in plans:
        warm = run_plan(loaded, table, setting, plan, with_memory=True)
        for key, used in zip(table.keys(plan), warm.peak_memory, strict=False):
            peak[key] = max(peak.get(key, 0.0), used / setting.batch_size)
    runs: list[list[tuple[StepPlan, Timeline]]] = []
    seconds: list[dict[str, float]] = []
    order, added = random.Random(0), 0
    while goes_on(seconds, added, over := time.perf_counter() > deadline):
        added += over and len(runs) >= MIN_ROUNDS
        runs.append([(plan, run_plan(loaded, table, setting, plan)) for plan in order.sample(plans, len(plans))])
        seconds.append({plan.plan_id: times.total for plan, times in runs[-1]})
        if progress:
            progress.advance(len(plans))
    found = agreement(paces(seconds))
    kept = [run for runs_of_round in runs[found.first :] for run in runs_of_round]
    latency = summarise(table, kept, setting.batch_size, peak, environment)
    latency = replace(latency, disagreement=found.disagreement)
    if progress and not latency.stable:
        progress.note(f"seconds are {latency.stability}: measure again on a machine that does nothing else")
    return latency


def drift(loaded: LoadedModel, table: CostTable, setting: Setting, known: Latency) -> float:
    """By which share a short call of the baseline takes longer now than seconds that were measured before say.

    The fastest of a few warm calls counts, so that a passing disturbance does not.
    """
    plan = compile_plan(Knobs(_CHECKED_STEPS))
    said, before = None, table.latency
    table.latency = known
    try:
        said = table.price(plan).call
    finally:
        table.latency = before
    run_plan(loaded, table, setting, plan)
    now = min(run_plan(loaded, table, setting, plan).total for _ in range(_CHECKED_CALLS))
    return now / said - 1 if said else math.inf


def probes(applicable: frozenset[str], table: CostTable, setting: Setting) -> list[StepPlan]:
    """The plans to run, most telling first; together at most ``MAX_KINDS`` kinds of step.

    Args:
        applicable: the knobs that do something for the model.
        table: prices in MACs; a plan that it refuses (no such branch, no smaller size) is left out.
        setting: which β and branches.
    """
    # Quickly: the middle and the smallest, so that all others lie between measured sizes.
    scales = _middle_first(setting.scales)[: 2 if setting.quick else None]
    probing = Probing(applicable, scales, setting.branches, setting.quick)
    mixed = Knobs(8, **{name: value for technique in techniques() for name, value in technique.mixed(probing).items()})
    wanted = [mixed, Knobs(_CHECKED_STEPS)]
    wanted += [knobs for technique in techniques() for knobs in technique.probes(mixed, probing)]
    plans: list[StepPlan] = []
    kinds: set[Any] = set()
    for knobs in wanted:
        plan = compile_plan(settled(knobs.chosen(), knobs.num_inference_steps, names() - applicable))
        try:
            own = set(table.keys(plan))
            table.price(plan)
        except (KnobError, UnsupportedError):
            continue
        if len(kinds | own) <= MAX_KINDS:
            kinds |= own
            plans.append(plan)
    return plans


def _middle_first(scales: Sequence[float]) -> list[float]:
    """The middle, the outer two, then the rest: what a prediction between them needs most."""
    rest = sorted(scales)
    picked = [rest.pop(len(rest) // 2)] if rest else []
    picked += [rest.pop(0)] if rest else []
    picked += [rest.pop()] if rest else []
    return picked + rest


def run_plan(
    loaded: LoadedModel, table: CostTable, setting: Setting, plan: StepPlan, *, with_memory: bool = False
) -> Timeline:
    """One timed call of the accelerated pipeline, as a deployment would make it.

    Args:
        loaded, table, setting: the model, its prices in MACs, and how it is called.
        plan: what it runs.
        with_memory: read the peak memory of each step too, which makes it a little slower.
    """
    import torch

    from postdiff_calib.accelerate import accelerated

    pipe, card, images = loaded.pipe, loaded.card, setting.batch_size
    arguments = call_arguments(pipe, setting.height, setting.width, setting.guidance_scale)
    generators = [torch.Generator("cpu").manual_seed(i) for i in range(setting.batch_size)]
    with accelerated(pipe, plan.knobs, latent_multiple=table.latent_multiple, strict=False), torch.inference_mode():
        return timed_call(
            pipe,
            getattr(pipe, card.denoiser_role),
            loaded.device,
            lambda: pipe(
                prompt=["an image"] * images,
                generator=generators,
                **for_each(arguments, images),
            ),
            calls=2 if table.guides and family_of(pipe).guidance == "two calls" else 1,
            with_memory=with_memory,
        )


def summarise(
    table: CostTable,
    runs: Sequence[tuple[StepPlan, Timeline]],
    batch_size: int,
    peak: dict[Any, float] | None = None,
    environment: dict[str, Any] | None = None,
) -> Latency:
    """Medians by kind of step from timed runs.

    Args:
        table: says which kinds the steps of a plan are.
        runs: (plan, timeline) of each measured run.
        batch_size: images per run; results are per image.
        peak: peak memory per image by kind, in bytes.
        environment: what it was measured on.
    """
    samples: dict[Any, list[float]] = defaultdict(list)
    beginnings: dict[Any, list[float]] = defaultdict(list)
    switches: list[tuple[Any, float]] = []
    for plan, times in runs:
        for step, key, seconds in zip(plan, table.keys(plan), times.steps, strict=True):
            if step.switch:
                switches.append((key, seconds / batch_size))
            else:
                (beginnings if step.index == 0 else samples)[key].append(seconds / batch_size)
    # A kind that runs begin with and nothing else is: its beginning is all that is known of it.
    steps = {key: timing(values) for key, values in (beginnings | samples).items()}
    extra = [seconds - steps[key].median for key, seconds in switches if key in steps]
    first, first_low = _first(table, runs, batch_size)
    overhead = [max(0.0, s - n) / batch_size for _, t in runs for s, n in zip(t.steps, t.network, strict=True)]
    latency = Latency(
        steps=steps,
        before=timing([times.before / batch_size for _, times in runs]),
        after=timing([times.after / batch_size for _, times in runs]),
        text=timing([times.text / batch_size for _, times in runs]),
        step_overhead=timing(overhead),
        switch=statistics.median(extra) if extra else 0.0,
        scale=1.0,
        reuse_slope=0.0,
        p95_ratio=1.0,
        batch_size=batch_size,
        first=first,
        first_low=first_low,
        memory=peak or {},
        environment=environment or {},
    )
    scale, slope = _factor_line(table, latency, runs, batch_size)
    fitted = replace(latency, scale=scale, reuse_slope=slope)
    expected = [_loop(table, fitted, plan) * fitted.step_factor(plan) for plan, _ in runs]
    fixed = fitted.before.median + fitted.after.median
    ratios = sorted(t.total / batch_size / (fixed + loop) for (_, t), loop in zip(runs, expected, strict=True))
    return replace(fitted, p95_ratio=max(1.0, ratios[min(len(ratios) - 1, int(0.95 * len(ratios)))]))


def _first(table: CostTable, runs: Sequence[tuple[StepPlan, Timeline]], batch_size: int) -> tuple[float, float]:
    """Medians of step 0 less the later steps of its kind in the same run, at full and at low resolution.

    Where runs of one resolution have no such step, the other's stands for both.
    """
    found: dict[bool, list[float]] = {False: [], True: []}
    for plan, times in runs:
        keys = table.keys(plan)
        later = [t for step, key, t in zip(plan, keys, times.steps, strict=True) if key == keys[0] and not step.switch]
        if len(later) > 1 and not plan[0].switch:
            found[plan[0].low_res].append((later[0] - statistics.median(later[1:])) / batch_size)
    full, low = (statistics.median(found[kind] or found[not kind] or [0.0]) for kind in (False, True))
    return full, low


def _factor_line(
    table: CostTable, latency: Latency, runs: Sequence[tuple[StepPlan, Timeline]], batch_size: int
) -> tuple[float, float]:
    """(start, slope) of measured over summed seconds of the steps against the share of cached steps."""
    ratios: dict[str, list[float]] = defaultdict(list)
    shares = {plan.plan_id: reuse_share(plan) for plan, _ in runs}
    for plan, times in runs:
        ratios[plan.plan_id].append(sum(times.steps) / batch_size / _loop(table, latency, plan))
    x = [shares[plan_id] for plan_id in ratios]
    y = [statistics.median(values) for values in ratios.values()]
    if len(set(x)) < 2:
        return statistics.fmean(y), 0.0
    slope, start = statistics.linear_regression(x, y)
    return start, slope


def _loop(table: CostTable, latency: Latency, plan: StepPlan) -> float:
    """The unscaled sum that the table predicts for the steps of a plan of measured kinds."""
    steps = sum(latency.steps[key].median for key in table.keys(plan) if key in latency.steps)
    return steps + latency.once(plan)


def timing(values: Sequence[float]) -> Timing:
    """Median and quartiles."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return Timing(statistics.median(ordered), ordered[last // 4], ordered[last - last // 4], len(ordered))
