"""(pipeline, knobs, prompts, seeds) → images: exactly the attached pipeline that a deployment runs.

Identity knobs go through the very same path, so the baseline of a comparison differs from a plan in its knobs alone.
Every image has its own generator, made on the CPU from its own seed, so it does not depend on the batch it is made in
(beyond float rounding of batched matrix products). Text is encoded by the pipeline itself, batch by batch; a
``TextCache`` remembers the pipeline's own result for a batch that comes again, so pictures are the same bit for bit
with and without it, and the same as a later call of the pipeline makes.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from postdiff_calib.accelerate.attach import accelerated, is_enabled_with
from postdiff_calib.errors import UsageError
from postdiff_calib.settings import GenerationSettings


class TextCache:
    """Remembers what a pipeline's ``encode_prompt`` gave for the same arguments; for one pipeline and its weights.

    Args:
        limit: batches remembered; the one unused longest goes first. One batch of 10 prompts of Stable Diffusion 1.5
            takes 5 MB in float32.
    """

    def __init__(self, limit: int = 64) -> None:
        self.limit = limit
        self._known: OrderedDict[str, Any] = OrderedDict()

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[None]:
        """The pipeline asks this cache first, for the length of the block."""
        stock = pipe.encode_prompt
        signature = inspect.signature(stock)

        def encode_prompt(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            if any(isinstance(value, torch.Tensor) for value in given.values()):
                return stock(*args, **kwargs)
            key = repr(sorted(given.items()))
            if key not in self._known:
                self._known[key] = stock(*args, **kwargs)
                if len(self._known) > self.limit:
                    self._known.popitem(last=False)
            self._known.move_to_end(key)
            return self._known[key]

        pipe.encode_prompt = encode_prompt
        try:
            yield
        finally:
            del pipe.encode_prompt


def generate(
    pipe: Any,
    knobs: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: GenerationSettings,
    *,
    negative_prompt: str | None = None,
    text_cache: TextCache | None = None,
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
        negative_prompt: one for all prompts, or None for the pipeline's default.
        text_cache: where encoded batches are remembered between calls, or None. It pays where the same batches of
            prompts are run under many knobs.

    Yields:
        float32 CPU tensors (b, 3, H, W) in [0, 1], b ≤ batch_size, in the order of the prompts.

    Raises:
        UsageError: prompts and seeds differ in number.
    """
    if len(prompts) != len(seeds):
        raise UsageError(
            f"{len(prompts)} prompts and {len(seeds)} seeds", "every prompt has its own seed", "pass as many of each"
        )
    return _batches(pipe, knobs, prompts, seeds, settings, negative_prompt, text_cache)


def _batches(
    pipe: Any,
    knobs: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: GenerationSettings,
    negative_prompt: str | None,
    text_cache: TextCache | None,
) -> Iterator[torch.Tensor]:
    arguments, batch_size = settings.call, settings.batch_size
    for first in range(0, len(prompts), batch_size):
        batch = list(prompts[first : first + batch_size])
        if negative_prompt is not None:
            arguments["negative_prompt"] = [negative_prompt] * len(batch)
        generators = [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds[first : first + batch_size]]
        attached = (
            nullcontext()
            if is_enabled_with(pipe, knobs, **settings.attachment)
            else accelerated(pipe, knobs, strict=False, **settings.attachment)
        )
        remembered = text_cache.attached(pipe) if text_cache is not None else nullcontext()
        with attached, remembered, _quiet(pipe), torch.inference_mode():
            images = pipe(prompt=batch, generator=generators, output_type="pt", **arguments).images
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
