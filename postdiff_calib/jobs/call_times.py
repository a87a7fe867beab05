"""Whole calls of a pipeline, timed as a deployment would make them: a plan and the baseline in turn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.jobs.in_turn import TIME_LIMIT, in_turn
from postdiff_calib.knobs import Knobs
from postdiff_calib.profile import Profile
from postdiff_calib.progress import Progress
from postdiff_calib.study.record import Study
from postdiff_calib.study.seconds import TimedCalls

if TYPE_CHECKING:
    from postdiff_calib.jobs.workbench import Workbench
    from postdiff_calib.models.load import LoadedModel

#: Timed calls with and without the plan: enough for a 95th percentile, fewer where nothing is judged by them.
ROUNDS, UNJUDGED_ROUNDS = 20, 5


def calls_stage(study: Study, bench: Workbench, profile: Profile, progress: Progress) -> Profile:
    """The profile with whole calls of its plan and of the baseline, timed as they are; those of before are kept.

    Under a budget in seconds alone: plans are chosen by predicted seconds, and these say whether they come true.
    """
    known, latency = study.record.whole_calls, study.record.cost.latency
    if latency is None:
        return profile
    if known is None or (known.plan_id, known.batch_size) != (profile.plan.plan_id, latency.batch_size):
        settings = replace(bench.settings, batch_size=latency.batch_size)
        prompts, seed = bench.held_out.prompts, bench.held_out_seed
        ours, theirs = time_calls(bench.loaded, profile.knobs, settings, prompts, seed, ROUNDS, progress)
        calls = TimedCalls(profile.plan.plan_id, latency.batch_size, tuple(ours), tuple(theirs))
        study = replace(study, record=replace(study.record, whole_calls=calls))
        study.save()
    return study.conclude()


def time_calls(
    loaded: LoadedModel,
    knobs: Knobs,
    settings: GenerationSettings,
    prompts: Sequence[str],
    seed: int,
    rounds: int,
    progress: Progress,
) -> tuple[list[float], list[float]]:
    """Seconds of calls with a plan and of the baseline's, in turn; each warmed up by one call.

    Args:
        loaded: the model, not accelerated.
        knobs: the plan.
        settings: how images are made; a call makes a batch of them.
        prompts: at least one; taken again from the start where the batch is larger.
        seed: of a call's first image.
        rounds: calls of each at most.
        progress: called after each round.
    """
    import torch

    from postdiff_calib.accelerate import accelerated

    pipe, batch = loaded.pipe, settings.batch_size
    chosen = [prompts[i % len(prompts)] for i in range(batch)]
    negative = {} if settings.negative_prompt is None else {"negative_prompt": [settings.negative_prompt] * batch}

    def call(plan: Knobs) -> float:
        generators = [torch.Generator("cpu").manual_seed(seed + i) for i in range(batch)]
        with accelerated(pipe, plan, **settings.attachment, strict=False), torch.inference_mode():
            start = time.perf_counter()
            pipe(prompt=chosen, generator=generators, **settings.call, **negative)
            return time.perf_counter() - start  # finished images on the CPU: no device clock needed

    baseline = Knobs(loaded.card.num_inference_steps)
    progress.stage("timing", rounds)
    ours, theirs = in_turn([lambda: call(knobs), lambda: call(baseline)], rounds, TIME_LIMIT, time.monotonic, progress)
    return ours, theirs
