"""(pipeline, knobs, prompts, seeds) → images: exactly the attached pipeline that a deployment runs.

Identity knobs go through the very same path, so the baseline of a comparison differs from a plan in its knobs alone.
Every image has its own generator, made on the CPU from its own seed, so it does not depend on the batch it is made in
(beyond float rounding of batched matrix products). Text is encoded by the pipeline itself, batch by batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from postdiff_calib.accelerate.attach import accelerated, is_enabled_with
from postdiff_calib.errors import UsageError
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.models.families import call_arguments, for_each


def generate(
    pipe: Any,
    knobs: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: GenerationSettings,
    *,
    negative_prompt: str | None = None,
) -> Iterator[torch.Tensor]:
    """Images for prompts, a batch at a time.

    The pipeline is accelerated for each batch and restored after it, so runs with different knobs may be interleaved;
    one that is enabled with the same settings already (a compiled network, say) is used as it is.

    Args:
        pipe: a supported pipeline, accelerated or not.
        knobs: ``Knobs``, or an object with ``knobs`` (a profile). Knobs that round to nothing are allowed here.
        prompts: N prompts.
        seeds: N seeds, one per prompt.
        settings: how images are made, whatever the plan; of a profile, its ``generation``.
        negative_prompt: one for all prompts in the place of the settings' own.

    Yields:
        float32 CPU tensors (b, 3, H, W) in [0, 1], b ≤ batch_size, in the order of the prompts.

    Raises:
        UsageError: prompts and seeds differ in number.
    """
    if len(prompts) != len(seeds):
        raise UsageError(
            f"{len(prompts)} prompts and {len(seeds)} seeds", "every prompt has its own seed", "pass as many of each"
        )
    if negative_prompt is not None:
        settings = replace(settings, negative_prompt=negative_prompt)
    return _batches(pipe, knobs, prompts, seeds, settings)


def _batches(
    pipe: Any,
    knobs: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: GenerationSettings,
) -> Iterator[torch.Tensor]:
    arguments = call_arguments(pipe, settings.height, settings.width, settings.guidance_scale)
    batch_size = settings.batch_size
    for first in range(0, len(prompts), batch_size):
        batch = list(prompts[first : first + batch_size])
        if settings.negative_prompt is not None:
            arguments["negative_prompt"] = [settings.negative_prompt] * len(batch)
        generators = [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds[first : first + batch_size]]
        attached = (
            nullcontext()
            if is_enabled_with(pipe, knobs, **settings.attachment)
            else accelerated(pipe, knobs, strict=False, **settings.attachment)
        )
        with attached, _quiet(pipe), torch.inference_mode():
            images = pipe(
                prompt=batch, generator=generators, output_type="pt", **for_each(arguments, len(batch))
            ).images
        # Cloned out of inference mode, so that the caller may do anything with them.
        yield images.float().cpu().clone()


@contextmanager
def _quiet(pipe: Any) -> Iterator[None]:
    """No progress bar for the length of the block."""
    had, before = hasattr(pipe, "_progress_bar_config"), getattr(pipe, "_progress_bar_config", None)
    pipe.set_progress_bar_config(**{**(before or {}), "disable": True})
    try:
        yield
    finally:
        if had:
            pipe._progress_bar_config = before
        else:
            del pipe._progress_bar_config
