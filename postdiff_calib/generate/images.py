"""(pipeline, knobs, prompts, seeds) → images: exactly the attached pipeline that a deployment runs.

Identity knobs go through the very same path, so the baseline of a comparison differs from a plan in its knobs alone.
Every image has its own generator, made on the CPU from its own seed, so it does not depend on the batch it is made in
(beyond float rounding of batched matrix products). Text is encoded by the pipeline itself, batch by batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    for batch, numbers in _in_batches(prompts, seeds, settings.batch_size):
        attached = (
            nullcontext()
            if is_enabled_with(pipe, knobs, **settings.attachment)
            else accelerated(pipe, knobs, strict=False, **settings.attachment)
        )
        with attached:
            yield _images(pipe, pipe, batch, numbers, settings)


def generate_stock(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: GenerationSettings,
    *,
    call: Callable[..., Any] | None = None,
    arguments: Mapping[str, Any],
) -> Iterator[torch.Tensor]:
    """Images by a pipeline as it stands, with nothing attached: what ``generate`` makes of it with neutral knobs.

    Args:
        pipe: a pipeline of a supported class, whatever was done to it.
        prompts, seeds, settings: as for ``generate``.
        call: is called in the pipeline's place.
        arguments: further ones of the call, ``num_inference_steps`` among them; they go before the settings' own.

    Yields:
        As ``generate``.
    """
    for batch, numbers in _in_batches(prompts, seeds, settings.batch_size):
        yield _images(pipe, call or pipe, batch, numbers, settings, arguments)


def _in_batches(
    prompts: Sequence[str], seeds: Sequence[int], batch_size: int
) -> Iterator[tuple[list[str], Sequence[int]]]:
    for first in range(0, len(prompts), batch_size):
        yield list(prompts[first : first + batch_size]), seeds[first : first + batch_size]


def _images(
    pipe: Any,
    call: Callable[..., Any],
    prompts: list[str],
    seeds: Sequence[int],
    settings: GenerationSettings,
    more: Mapping[str, Any] | None = None,
) -> torch.Tensor:
    """One call: (b, 3, H, W) float32 on the CPU, in [0, 1]."""
    arguments = call_arguments(pipe, settings.height, settings.width, settings.guidance_scale)
    if settings.negative_prompt is not None:
        arguments["negative_prompt"] = [settings.negative_prompt] * len(prompts)
    generators = [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds]
    given = {**for_each(arguments, len(prompts)), **(more or {})}
    with _quiet(pipe), torch.inference_mode():
        images: torch.Tensor = call(prompt=prompts, generator=generators, output_type="pt", **given).images
    # Cloned out of inference mode, so that the caller may do anything with them.
    return images.float().cpu().clone()


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
