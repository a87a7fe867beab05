"""Putting hooks on modules and taking them off without a trace.

A hook is a plain object whose ``forward(original, *args, **kwargs)`` decides whether the module runs; diffusers'
``HookRegistry`` calls it. Removing one through the registry leaves the registry and an instance attribute ``forward``
behind; ``remove_hook`` here clears both, so that a module is as it was.

Hooks read plain booleans and nothing else to decide: they are what a compiled network is specialised on, so a run
compiles once per kind of step.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

from postdiff_calib.techniques.uncopied import Uncopied


class Hook(Protocol):
    """Stands before a module."""

    def forward(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        """What the module's call returns; ``original`` runs it."""


@lru_cache(maxsize=1)
def _model_hook() -> Any:
    from diffusers.hooks import ModelHook

    class Delegate(Uncopied, ModelHook):  # type: ignore[misc]
        def __init__(self, hook: Hook) -> None:
            super().__init__()
            self.hook = hook

        def new_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
            return self.hook.forward(self.fn_ref.original_forward, *args, **kwargs)

    return Delegate


def add_hook(module: Any, hook: Hook, name: str) -> None:
    """Register ``hook`` on ``module`` under a name that must be new there."""
    from diffusers.hooks import HookRegistry

    delegate = _model_hook()(hook)
    ours = not hasattr(module, "_diffusers_hook")
    registry = HookRegistry.check_if_exists_or_initialize(module)
    if ours:  # some pipelines put a registry on their network themselves
        registry.made_by_postdiff = True
    registry.register_hook(delegate, name)
    delegate.installed = module.forward


def remove_hook(module: Any, name: str) -> None:
    """Take the hook off again; other hooks stay, and nothing of ours is left."""
    registry = getattr(module, "_diffusers_hook", None)
    if registry is None or name not in registry.hooks:
        return
    # accelerate's offloading may have wrapped the module since; it calls what it found as ``_old_forward``.
    wrapper = module.forward if getattr(module, "_old_forward", None) is registry.hooks[name].installed else None
    index = registry._hook_order.index(name)
    above = registry._fn_refs[index + 1] if index + 1 < len(registry._fn_refs) else None
    above_forward = above.forward if above is not None else None
    registry.remove_hook(name, recurse=False)
    if above is not None and above.original_forward is not None:
        # The registry has overwritten the ``new_forward`` of the hook above where it meant the original below it.
        above.original_forward, above.forward = above.forward, above_forward
    if wrapper is not None:
        module._old_forward, module.forward = module.forward, wrapper
    forward = module.__dict__.get("forward")
    if getattr(forward, "__func__", None) is type(module).forward and getattr(forward, "__self__", None) is module:
        del module.__dict__["forward"]
    if not registry.hooks and getattr(registry, "made_by_postdiff", False):
        del module._diffusers_hook


def conditional_half(value: Any, half: int = 1) -> Any:
    """One half of every tensor in a (nested) module output, copied so that the other half can be freed."""
    if isinstance(value, (tuple, list)):
        return type(value)(conditional_half(item, half) for item in value)
    return value.chunk(2)[half].clone()
