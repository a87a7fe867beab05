"""Other caches for diffusion transformers on pipelines of their own, and what their blocks really ran.

diffusers' FirstBlockCache and TaylorSeerCache, and the package cache-dit. Each gets a network of its own on the same
weights, so that what it puts on it does not touch the first.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

RIVALS = (
    "FirstBlockCache",
    "TaylorSeerCache",
    "TaylorSeerCache, lite",
    "cache-dit, ends live",
    "cache-dit, first block live",
)


def blocks_of(network: Any) -> list[Any]:
    """All transformer blocks in their order."""
    return [*network.transformer_blocks, *getattr(network, "single_transformer_blocks", [])]


@contextmanager
def counted(network: Any) -> Iterator[list[int]]:
    """Calls of each block's attention, while the block lasts."""
    blocks = blocks_of(network)
    ran = [0] * len(blocks)

    def note(index: int) -> Callable[..., None]:
        def add(*_: Any) -> None:
            ran[index] += 1

        return add

    handles = [block.attn.to_q.register_forward_pre_hook(note(i)) for i, block in enumerate(blocks)]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


def twin(pipe: Any) -> Any:
    """Another pipeline with a network of its own on the same weights: what is put on it does not touch the first."""
    network = pipe.transformer
    with torch.device("meta"):
        copy = type(network).from_config(network.config)
    copy.load_state_dict(network.state_dict(), assign=True)
    # Tables that are not saved are not on the meta device where they are made on the first call.
    for (name, buffer), other in zip(network.named_buffers(), copy.buffers(), strict=True):
        if other.is_meta:
            owner, _, last = name.rpartition(".")
            copy.get_submodule(owner).register_buffer(last, buffer, persistent=False)
    other = type(pipe)(**{**pipe.components, "transformer": copy.eval()})
    other.set_progress_bar_config(disable=True)
    return other


@dataclass
class Rival:
    """Another cache on a pipeline of its own.

    Attributes:
        prepare: called before each run, untimed: forgets the last one.
    """

    pipe: Any
    prepare: Callable[[], None] = field(default=lambda: None)


def rival(name: str, pipe: Any, steps: int, interval: int, threshold: float = 0.05) -> Rival:
    """A cache that is refreshed every ``interval`` steps, where it can be told so.

    Raises:
        ImportError: the package is not installed.
    """
    from diffusers.hooks import (
        FirstBlockCacheConfig,
        HookRegistry,
        TaylorSeerCacheConfig,
        apply_first_block_cache,
        apply_taylorseer_cache,
    )
    from diffusers.hooks.hooks import CacheContext, _set_cache_context

    own = twin(pipe)
    if name.startswith("cache-dit"):
        cache_dit = importlib.import_module("cache_dit")
        last = 1 if name.endswith("ends live") else 0
        settings = cache_dit.DBCacheConfig(
            Fn_compute_blocks=1,
            Bn_compute_blocks=last,
            num_inference_steps=steps,
            steps_computation_mask=[int(i % interval == 0) for i in range(steps)],
            steps_computation_policy="static",
            enable_separate_cfg=type(pipe).__name__ == "FluxPipeline",
            # The pipeline's conditional call comes first.
            cfg_compute_first=False,
        )
        cache_dit.enable_cache(own, cache_config=settings)
        return Rival(own)
    network = own.transformer
    if name == "FirstBlockCache":
        apply_first_block_cache(network, FirstBlockCacheConfig(threshold=threshold))
    else:
        settings = TaylorSeerCacheConfig(
            cache_interval=interval,
            disable_cache_before_step=interval - 1,
            taylor_factors_dtype=torch.float32,
            use_lite_mode=name.endswith("lite"),
        )
        apply_taylorseer_cache(network, settings)
    registry = HookRegistry.check_if_exists_or_initialize(network)
    registry.invalidate_child_registries_cache()

    def prepare() -> None:
        registry.reset_stateful_hooks(recurse=True)
        if not hasattr(network, "cache_context"):  # its pipeline opens none either
            _set_cache_context(network, CacheContext("one"))

    return Rival(own, prepare)


def threshold_for(make: Callable[[float], Rival], run: Callable[[Rival], torch.Tensor], full: int, steps: int) -> float:
    """FirstBlockCache's threshold with which ``full`` of the steps run every block, found by halving.

    Raises:
        RuntimeError: none was found; some numbers of steps are jumped over.
    """
    low, high = 0.0, 2.0
    for _ in range(14):
        middle = (low + high) / 2
        other = make(middle)
        other.prepare()
        with counted(other.pipe.transformer) as ran:
            run(other)
        found = ran[1] * steps // ran[0]
        if found == full:
            return middle
        low, high = (middle, high) if found > full else (low, middle)
    raise RuntimeError(f"no threshold with {full} full steps of {steps}")
