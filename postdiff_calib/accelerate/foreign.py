"""Set-ups of other packages on a stock pipeline, to be compared with plans: ToMe, FirstBlockCache, TaylorSeer.

Each is put on for the length of a block and taken off without a trace. What one keeps between steps is dropped where a
new run begins, which shows in the timestep: it rises.

ToMe: Bolya and Hoffman, arXiv 2303.17604, package tomesd (optional). FirstBlockCache (ParaAttention, after TeaCache,
arXiv 2411.19108) and TaylorSeer (arXiv 2503.06923): diffusers' own hooks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from postdiff_calib.models.families import denoiser_in, denoiser_of

#: Most down-sampling of the layers whose tokens ToMe merges: all layers, for small networks have few at full size.
_TOME_DOWNSAMPLE = 8
#: Order of TaylorSeer's expansion and its full steps at the start (diffusers' defaults), and what it foresees: each
#: block's attention and feed-forward outputs, as its paper does.
_TAYLOR = {
    "max_order": 1,
    "disable_cache_before_step": 3,
    "cache_identifiers": [r"[a-z_]*blocks\.\d+\.(attn\d?|ff|ff_context)"],
}
_CONTEXT = "postdiff"


@dataclass(frozen=True)
class Foreign:
    """One method of another package.

    Attributes:
        name: as its authors call it.
        symbol: of its setting.
        values: of the setting, from what saves least to what saves most.
        of_chains: it is for transformers (chains of equal blocks), not for U-Nets.
        package: that has to be installed; empty for diffusers.
        put_on: (network, value) puts it on the denoiser.
        take_off: takes it off.
    """

    name: str
    symbol: str
    values: tuple[float, ...]
    of_chains: bool
    put_on: Callable[[Any, float], None]
    take_off: Callable[[Any], None]
    package: str = ""

    def why_not(self, pipe: Any) -> str:
        """Why it cannot be used on a pipeline; empty where it can."""
        _, network = denoiser_in(pipe)
        if bool(denoiser_of(network).chains) != self.of_chains:
            return f"it is for {'transformers' if self.of_chains else 'U-Nets'}"
        if self.package and find_spec(self.package) is None:
            return f"the package {self.package} is not installed"
        return ""

    @contextmanager
    def on(self, pipe: Any, value: float) -> Iterator[None]:
        """The pipeline with the method put on."""
        _, network = denoiser_in(pipe)
        self.put_on(network, value)
        with ExitStack() as contexts:
            watch = network.register_forward_pre_hook(_Runs(contexts), with_kwargs=True)
            try:
                yield
            finally:
                watch.remove()
                contexts.close()
                self.take_off(network)


class _Runs:
    """Tells by the timestep when a new run begins, and drops what hooks of diffusers kept of the one before."""

    def __init__(self, contexts: ExitStack) -> None:
        self.contexts, self.last = contexts, -math.inf

    def __call__(self, network: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        from diffusers import CacheMixin

        given: Any = kwargs.get("timestep", args[1] if len(args) > 1 else 0)
        now = float(given.max()) if hasattr(given, "max") else float(given)
        if now > self.last and (registry := getattr(network, "_diffusers_hook", None)) is not None:
            self.contexts.close()
            registry.reset_stateful_hooks(recurse=True)
            # not every network has it as a method; it needs a module with hooks and nothing else
            self.contexts.enter_context(CacheMixin.cache_context(network, _CONTEXT))
        self.last = now


def _tome_on(network: Any, ratio: float) -> None:
    import_module("tomesd").apply_patch(network, ratio=ratio, max_downsample=_TOME_DOWNSAMPLE, use_rand=False)


def _tome_off(network: Any) -> None:
    import_module("tomesd").remove_patch(network)
    for module in network.modules():
        module.__dict__.pop("_tome_info", None)


def _hooked(network: Any) -> None:
    """A registry on the network itself, which hooks of its blocks are reached through."""
    from diffusers.hooks import HookRegistry

    HookRegistry.check_if_exists_or_initialize(network).invalidate_child_registries_cache()


def _first_block_on(network: Any, threshold: float) -> None:
    from diffusers.hooks import FirstBlockCacheConfig, apply_first_block_cache

    apply_first_block_cache(network, FirstBlockCacheConfig(threshold=threshold))
    _hooked(network)


def _taylor_on(network: Any, interval: float) -> None:
    import torch
    from diffusers.hooks import TaylorSeerCacheConfig, apply_taylorseer_cache

    given = {**_TAYLOR, "cache_interval": int(interval), "taylor_factors_dtype": torch.float32}
    apply_taylorseer_cache(network, TaylorSeerCacheConfig(**given))
    _hooked(network)


def _hooks_off(network: Any) -> None:
    """Every hook on the network's modules, and their registries."""
    for module in network.modules():
        registry = getattr(module, "_diffusers_hook", None)
        if registry is None:
            continue
        for name in list(registry._hook_order)[::-1]:
            registry.remove_hook(name, recurse=False)
        forward = module.__dict__.get("forward")
        if getattr(forward, "__func__", None) is type(module).forward:
            del module.__dict__["forward"]
        del module._diffusers_hook


#: Every one there is.
FOREIGN: tuple[Foreign, ...] = (
    Foreign("ToMe", "ratio", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75), False, _tome_on, _tome_off, package="tomesd"),
    Foreign(
        "FirstBlockCache",
        "threshold",
        (0.02, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0),
        True,
        _first_block_on,
        _hooks_off,
    ),
    Foreign("TaylorSeer", "interval", (2, 3, 4, 5, 6, 8), True, _taylor_on, _hooks_off),
)
