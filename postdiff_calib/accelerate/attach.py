"""One call accelerates a stock diffusers pipeline, one call restores it.

``enable`` puts hooks on the networks (``network.py``) and gives the pipeline object a subclass of its own class, with
the same name and signature, whose ``__call__`` marks where a run begins and ends and whose ``prepare_latents`` makes
the low-resolution start (``attachment.py``). ``disable`` undoes all of it: no attribute, hook or tensor stays behind.

Compiled networks: wrap the network, ``pipe.unet = torch.compile(pipe.unet)``, before or after ``enable``; the outer
hooks then stay outside and there is one graph, without breaks, per kind of step (about 8 with every technique on).
``pipe.unet.compile()`` in place works too, with a break at the outer hooks. Beyond 8 graphs dynamo goes on uncompiled
without a word: raise ``torch._dynamo.config.recompile_limit``, or see ``compiled.py``, which does so for the commands.
"""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from postdiff_calib.accelerate.attachment import Attachment
from postdiff_calib.accelerate.conditions import Conditions
from postdiff_calib.accelerate.low_res import default_way
from postdiff_calib.accelerate.run_summary import RunSummary
from postdiff_calib.errors import KnobError, UsageError
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import StepPlan, compile_plan
from postdiff_calib.techniques import techniques
from postdiff_calib.techniques.noise import DEFAULT_NOISE
from postdiff_calib.techniques.uncopied import refuse_copy

#: Held while a pipeline is enabled or disabled: hooks are put on and taken off by one thread at a time.
_ENABLING = threading.RLock()
#: The one attribute on an accelerated pipeline; gone after ``disable``.
_ATTRIBUTE = "_postdiff"


@functools.cache
def _accelerated_class(base: Any) -> Any:
    """A subclass of a pipeline class that looks like it and marks where runs begin and end."""

    @functools.wraps(base.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__[_ATTRIBUTE].call(base.__call__, self, args, kwargs)

    stock = base.prepare_latents
    signature = inspect.signature(stock)

    @functools.wraps(stock)
    def prepare_latents(self: Any, *args: Any, **kwargs: Any) -> Any:
        made = stock(self, *args, **kwargs)
        return self.__dict__[_ATTRIBUTE].start(self, made, signature.bind(self, *args, **kwargs).arguments)

    body = {
        "__call__": call,
        "prepare_latents": prepare_latents,
        "__reduce_ex__": refuse_copy,
        "__doc__": base.__doc__,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
    }
    return type(base.__name__, (base,), body)


def _attachment(pipe: Any) -> Attachment | None:
    found: Attachment | None = pipe.__dict__.get(_ATTRIBUTE)
    return found


def is_enabled(pipe: Any) -> bool:
    """Whether a pipeline object is accelerated now."""
    return _attachment(pipe) is not None


def _install(pipe: Any, attachment: Attachment) -> None:
    pipe.__dict__[_ATTRIBUTE] = attachment
    # The hooks tie the networks into circles; without this, a dropped pipeline would keep their memory for a while.
    attachment.finalizer = weakref.finalize(pipe, attachment.release)
    attachment.finalizer.atexit = False
    base: Any = type(pipe)
    pipe.__class__ = _accelerated_class(base)


def _refuse_inert(plan: StepPlan) -> None:
    """A knob that is set but rounds to nothing at this step count is a mistake, not a plan."""
    for technique in techniques():
        name = technique.inert(plan.knobs, plan.steps)
        if name:
            raise KnobError(
                f"{name}={getattr(plan.knobs, name):g} of {len(plan)} steps",
                "it rounds to no step at all, so it would do nothing",
                "leave it at its neutral value, or take more steps",
            )


def _settings(
    pipe: Any, knobs: Any, noise: str | None, switch: str | None, latent_multiple: int | None
) -> tuple[StepPlan, str, str, int | None]:
    """Plan, noise mode, way to full resolution and latent multiple: as given, else the profile's, else the defaults."""
    plan = compile_plan(knobs if isinstance(knobs, Knobs) else knobs.knobs)
    noise = noise if noise is not None else getattr(knobs, "noise", None) or DEFAULT_NOISE
    switch = switch if switch is not None else getattr(knobs, "switch", None) or default_way(pipe.scheduler)
    latent_multiple = latent_multiple if latent_multiple is not None else getattr(knobs, "latent_multiple", None)
    return plan, noise, switch, latent_multiple


def is_enabled_with(
    pipe: Any,
    knobs: Any,
    *,
    noise: str | None = None,
    switch: str | None = None,
    latent_multiple: int | None = None,
) -> bool:
    """True when the pipeline is accelerated already and enabling it with these settings would change nothing."""
    attachment = _attachment(pipe)
    if attachment is None:
        return False
    plan, *others = _settings(pipe, knobs, noise, switch, latent_multiple)
    # A profile asks for more than its knobs: it also has conditions on each call.
    held = attachment.conditions.profile if attachment.conditions is not None else None
    same_conditions = bool(held == knobs) or not hasattr(knobs, "pipeline_mismatches")
    return same_conditions and attachment.settings == (plan.knobs, *others)


def _conditions(knobs: Any, override: bool) -> Conditions | None:
    """A profile says for which pipeline it was made; on another one its figures mean nothing."""
    return Conditions(knobs, override) if hasattr(knobs, "pipeline_mismatches") else None


def enable(
    pipe: Any,
    knobs: Any,
    *,
    noise: str | None = None,
    switch: str | None = None,
    latent_multiple: int | None = None,
    strict: bool = True,
    override: bool = False,
) -> None:
    """Accelerate a stock diffusers pipeline in place; ``pipe(prompt, ...)`` then works as always.

    Enabling again replaces the knobs. ``num_inference_steps`` of a call may be left out; it is the knobs' T. With a
    profile, ``height``, ``width`` and ``guidance_scale`` may be left out too, and are then the profile's.

    Args:
        pipe: a pipeline of one of ``models.families.FAMILIES``.
        knobs: ``Knobs``, or an object with ``knobs`` (a profile), whose ``noise``, ``switch`` and ``latent_multiple``
            count too.
        noise: of low-resolution steps; by default the profile's, else ``complement``: the start is pooled from the
            seed's full-size noise, and the switch to full resolution adds what the pooling left out, so nothing is
            drawn and a caller's ``latents`` fix the image. ``coupled``: the same start, and fresh noise at the switch.
            ``independent``: fresh noise at both, as in the paper; a caller's ``latents`` are refused.
        switch: how low-resolution steps get to full size; by default the profile's, else ``expand`` for a rectified
            flow and ``renoise``, as in the paper, for all others. For rectified flows also ``renoise-own-grid`` and
            ``expand-own-grid`` (``low_res.py``).
        latent_multiple: what low-resolution latent sides are multiples of; default: the network's total
            down-sampling, or its patch size.
        strict: refuse ``Knobs`` of which one rounds to no step at all; a profile's plan is taken as it is.
        override: use a profile although the pipeline or a call differs from what it was made for; the ``notes`` of
            ``summary(pipe)`` then say in what.

    Raises:
        UnsupportedError: the pipeline, its scheduler or network cannot be accelerated in this way, or the profile was
            made for another pipeline.
        KnobError: with ``strict``, a knob would do nothing.

    Warns:
        ProfileWarning: a LoRA or a control network is loaded with which the profile was not calibrated; once.
    """
    plan, noise, switch, latent_multiple = _settings(pipe, knobs, noise, switch, latent_multiple)
    if strict and isinstance(knobs, Knobs):
        _refuse_inert(plan)
    with _ENABLING:
        old = _attachment(pipe)
        if old is not None:
            _refuse_strangers(old, "enable")
        conditions = _conditions(knobs, override)
        if conditions is not None:
            conditions.admit(pipe)
        attachment = Attachment(pipe, plan, noise, switch, latent_multiple, conditions)
        try:
            disable(pipe)
        except UsageError:  # a call has begun meanwhile
            attachment.release()
            raise
        attachment.owner = old.owner if old is not None else None
        _install(pipe, attachment)


def _refuse_strangers(attachment: Attachment, what: str) -> None:
    """A running call, and a ``with accelerated(...)`` block of another thread, keep their plan.

    Raises:
        UsageError: there is one.
    """
    if attachment.active:
        raise UsageError(f"{what} during a call", "the plan of a running call is fixed", "wait until it returns")
    if attachment.owner not in (None, threading.get_ident()):
        raise UsageError(
            f"{what} in another thread than the with block that accelerates this pipeline",
            "the block's plan is fixed until it ends",
            "wait for it, or load one pipeline for each thread",
        )


def disable(pipe: Any) -> None:
    """Restore the stock pipeline, bit for bit; does nothing on one that is not accelerated."""
    with _ENABLING:
        attachment = _attachment(pipe)
        if attachment is None:
            return
        _refuse_strangers(attachment, "disable")
        if not attachment.lock.acquire(blocking=False):
            raise UsageError("disable during a call", "the plan of a running call is fixed", "wait until it returns")
        try:
            attachment.retired = True
            if attachment.finalizer is not None:
                attachment.finalizer.detach()
            attachment.release()
            del pipe.__dict__[_ATTRIBUTE]
            pipe.__class__ = type(pipe).__mro__[1]
        finally:
            attachment.lock.release()


@contextmanager
def accelerated(
    pipe: Any,
    knobs: Any,
    *,
    noise: str | None = None,
    switch: str | None = None,
    latent_multiple: int | None = None,
    strict: bool = True,
    override: bool = False,
) -> Iterator[Any]:
    """``enable`` for the length of a ``with`` block; afterwards the pipeline is as it was before, accelerated or not.

    Args: as for ``enable``.
    """
    with _ENABLING:
        before = _attachment(pipe)
        given = {"noise": noise, "switch": switch, "latent_multiple": latent_multiple}
        enable(pipe, knobs, **given, strict=strict, override=override)  # type: ignore[arg-type]
        pipe.__dict__[_ATTRIBUTE].owner = threading.get_ident()
    try:
        yield pipe
    finally:
        with _ENABLING:
            disable(pipe)
            if before is not None:
                again = before.anew(pipe)
                again.owner = before.owner
                _install(pipe, again)


def summary(pipe: Any) -> RunSummary:
    """What really ran in the last call of an accelerated pipeline, a record per step; printable.

    Raises:
        UsageError: the pipeline is not accelerated, or has not been called since.
    """
    attachment = _attachment(pipe)
    if attachment is None or attachment.summary is None:
        raise UsageError(
            "summary of a pipeline",
            "it is not accelerated, or has finished no call since" if attachment else "it is not accelerated",
            "call enable(pipe, knobs), then the pipeline",
        )
    return attachment.summary
