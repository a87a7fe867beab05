"""Guidance, m: classifier-free guidance on the first m·T steps; after that the conditional half runs alone.

Two parts. The batch: pipelines stack [unconditional, conditional] and compute u + w·(c − u); running only the
conditional half and handing it back twice makes that collapse to c. The cross-attention (T-GATE, arXiv 2404.02747;
PostDiff, arXiv 2508.06160, section 2.6): once guidance is dropped, each cross-attention layer returns the output it
captured on the last guided step on which it ran: its conditional half (``cond``) or the mean of both (``mean``).
Where a model does not guide (LCM, or a guidance scale of 1) the whole output is captured, under either name.

Symbols: m guidance fraction, w guidance scale, b images in the batch, B = 2b network batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from diffusers.hooks import ModelHook

from postdiff_calib.accelerate.hooks import Flags, add_hook, remove_hook
from postdiff_calib.errors import UnsupportedError
from postdiff_calib.models.families import denoiser_of
from postdiff_calib.plan import StepPlan

#: Inputs whose first dimension is not the batch, whatever its length.
_UNBATCHED = {"ip_adapter_masks"}


def halve_batch(value: Any, batch: int) -> Any:
    """The conditional half of every tensor whose first dimension is ``batch``, in nested containers too.

    Raises:
        UnsupportedError: IP-Adapter embeddings for another batch, of which no half can be told.
    """
    if isinstance(value, torch.Tensor):
        return value.chunk(2)[1] if value.ndim > 0 and value.shape[0] == batch else value
    if isinstance(value, dict):
        adapters = value.get("image_embeds")
        for embeddings in adapters if isinstance(adapters, (list, tuple)) else ():
            if embeddings.shape[0] != batch:
                raise UnsupportedError(
                    f"IP-Adapter embeddings for {embeddings.shape[0]} in a batch of {batch}",
                    "dropping guidance needs one entry per picture and half",
                    "pass embeddings of one negative and one positive picture; the pipeline repeats them",
                )
        return {
            key: item if isinstance(key, str) and key in _UNBATCHED else halve_batch(item, batch)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(halve_batch(item, batch) for item in value)
    return value


def double_output(output: Any) -> Any:
    """A network's output handed back twice: ``(sample,)``, a tensor, or an output class with ``sample``."""
    if isinstance(output, torch.Tensor):
        return torch.cat([output, output])
    if isinstance(output, tuple):
        return (torch.cat([output[0], output[0]]), *output[1:])
    output.sample = torch.cat([output.sample, output.sample])
    return output


def capture_steps(plan: StepPlan) -> frozenset[int]:
    """Steps on which cross-attention outputs are captured.

    The last live step before cached ones, and the last refresh up to it: deep layers do not run on a reuse step, so
    theirs is that of the refresh.
    """
    steps = list(plan)
    captures: set[int] = set()
    for step, following in pairwise(steps):
        if step.cross_attention_live and not following.cross_attention_live:
            captures.add(step.index)
            captures.add(max(s.index for s in steps[: step.index + 1] if s.refresh))
    return frozenset(captures)


class _CrossAttention(ModelHook):  # type: ignore[misc]
    """One cross-attention layer: captures its output, or returns what was captured."""

    def __init__(self, flags: Flags, mean: bool) -> None:
        super().__init__()
        self.flags, self.mean = flags, mean
        self.held: torch.Tensor | None = None
        self.ran = self.returned = False

    def new_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        if self.flags.cached:
            self.returned = True
            return self.held
        output = self.fn_ref.original_forward(*args, **kwargs)
        self.ran = True
        if self.flags.capture:
            if not self.flags.guided:
                self.held = output
            elif self.mean:
                unconditional, conditional = output.chunk(2)
                self.held = (unconditional + conditional) / 2
            else:
                # Copied, so that the unconditional half's memory is free.
                self.held = output.chunk(2)[1].clone()
        return output


@dataclass
class CrossAttentionCache:
    """The cross-attention hooks of one attachment on one network."""

    name: str
    hooks: list[tuple[Any, _CrossAttention]]

    def take_counts(self) -> tuple[int, int]:
        """(ran, returned from the cache) in the last network call; counting starts anew."""
        counts = sum(hook.ran for _, hook in self.hooks), sum(hook.returned for _, hook in self.hooks)
        for _, hook in self.hooks:
            hook.ran = hook.returned = False
        return counts

    def clear(self) -> None:
        """Drop every tensor."""
        for _, hook in self.hooks:
            hook.held = None

    def detach(self) -> None:
        """Take every hook off."""
        self.clear()
        for module, _ in self.hooks:
            remove_hook(module, self.name)


def attach_cross_attention_cache(network: Any, mode: str, flags: Flags, name: str) -> CrossAttentionCache:
    """Hook every cross-attention layer of ``network``.

    Raises:
        UnsupportedError: it has none.
    """
    modules = denoiser_of(network).cross_attention(network)
    if not modules:
        raise UnsupportedError(
            f"cross_attention_cache={mode!r} with {type(network).__name__}",
            "this network has no cross-attention layers",
            "set cross_attention_cache='off', or guidance_fraction=1",
        )
    hooks = [(module, _CrossAttention(flags, mode == "mean")) for module in modules]
    for module, hook in hooks:
        add_hook(module, hook, name)
    return CrossAttentionCache(name, hooks)
