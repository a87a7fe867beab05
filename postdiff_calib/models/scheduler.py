"""Which scheduler a pipeline runs with: its own, the one that stands in for it, or the one that was asked for."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

from postdiff_calib.errors import UnsupportedError, UsageError, reason_of
from postdiff_calib.models.card import DPM, Card

#: Schedulers without an estimate of the clean sample that a change of resolution could use.
REPLACED_SCHEDULERS = {"PNDMScheduler": "PNDM", "DEISMultistepScheduler": "DEIS"}
#: Schedulers that may be asked for: those with a row in ``accelerate.schedulers.SWITCHES``.
SCHEDULERS = (
    "DDIMScheduler",
    "LCMScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
)
_FLOW = "FlowMatch"


def scheduler_settings(name: str) -> dict[str, Any]:
    """What a scheduler class is given beside the configuration of the one it replaces."""
    # DEIS names solvers of its own in fields that DPM++ has too.
    return {"algorithm_type": "dpmsolver++", "solver_type": "midpoint", "solver_order": 2} if name == DPM else {}


def require_known(name: str) -> None:
    """Refuse a scheduler class that low-resolution steps are not defined with.

    Raises:
        UsageError: it is none of ``SCHEDULERS``.
    """
    if name not in SCHEDULERS:
        raise UsageError(f"--scheduler {name}", f"schedulers are {', '.join(SCHEDULERS)}", "take one of these")


def wanted_scheduler(shipped: str, card: Card | None, asked: str | None) -> str:
    """The class that a pipeline runs with.

    Args:
        shipped: the class in the model's files.
        card: the model's card, if it has one.
        asked: the class that was asked for; None leaves it to the model.
    """
    if asked is not None:
        return asked
    if card is not None and card.unet_hub_id is not None:
        return card.scheduler
    return DPM if shipped in REPLACED_SCHEDULERS else shipped


def check_scheduler_choice(shipped: str, wanted: str, settings: Mapping[str, Any]) -> None:
    """Refuse a scheduler that does not fit the model, and settings that its class does not take; no weights needed.

    Args:
        shipped: the class in the model's files.
        wanted: the class that it will run with.
        settings: arguments of that class that were asked for.

    Raises:
        UnsupportedError: one of both is of flow matching, the other is not.
        UsageError: an unknown argument, or a value that the class refuses.
    """
    if shipped.startswith(_FLOW) != wanted.startswith(_FLOW):
        kind = "a model of flow matching" if shipped.startswith(_FLOW) else "not a model of flow matching"
        fitting = [name for name in SCHEDULERS if name.startswith(_FLOW) == shipped.startswith(_FLOW)]
        raise UnsupportedError(f"--scheduler {wanted}", f"this is {kind} ({shipped})", f"take {', '.join(fitting)}")
    if not settings:
        return
    import diffusers

    kind = getattr(diffusers, wanted)
    parameters = {name: p for name, p in inspect.signature(kind.__init__).parameters.items() if name != "self"}
    for name, value in settings.items():
        given = f"--scheduler-config {name}={value}"
        if name not in parameters:
            raise UsageError(given, f"{wanted} takes {', '.join(parameters)}", "name one of these")
        _check_type(given, value, parameters[name].default)
    text = "--scheduler-config " + ", ".join(f"{name}={value}" for name, value in settings.items())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = kind(**{**scheduler_settings(wanted), **settings})
    except Exception as error:  # the classes raise what they like
        raise UsageError(text, f"{wanted} refuses it ({reason_of(error)})", "correct it") from error
    _check_noise_levels(text, made)


def _check_noise_levels(given: str, scheduler: Any) -> None:
    """Refuse settings that the class takes and that make no noise schedule."""
    import torch

    for name, highest in (("alphas_cumprod", 1.0), ("sigmas", float("inf"))):
        levels = getattr(scheduler, name, None)
        if levels is None:
            continue
        levels = torch.as_tensor(levels)
        if not (levels.isfinite().all() and levels.min() >= 0 and levels.max() <= highest):
            rule = f"the noise levels of {type(scheduler).__name__} are then negative or have no bound ({name})"
            raise UsageError(given, rule, "correct it")


def _check_type(given: str, value: Any, default: Any) -> None:
    """Refuse a value of another kind than the default's, where that tells."""
    if isinstance(default, bool):
        fits, what = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        fits, what = isinstance(value, int) and not isinstance(value, bool), "a whole number"
    elif isinstance(default, float):
        fits, what = isinstance(value, (int, float)) and not isinstance(value, bool), "a number"
    elif isinstance(default, str):
        fits, what = isinstance(value, str), "a word"
    else:
        return
    if not fits:
        raise UsageError(given, f"it must be {what}, such as {default}", "correct the value")


def adapt_scheduler(pipe: Any, card: Card | None, asked: str | None, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Replace the scheduler where the card, the technique or the user asks for it; what was done, as text.

    Args:
        pipe: a loaded pipeline.
        card: its card, if it has one.
        asked: the class that was asked for, or None.
        settings: arguments of the class that were asked for.
    """
    import diffusers

    shipped = type(pipe.scheduler).__name__
    wanted = wanted_scheduler(shipped, card, asked)
    check_scheduler_choice(shipped, wanted, settings)
    if wanted == shipped and not settings:
        return ()
    own = {} if wanted == shipped else scheduler_settings(wanted)
    pipe.scheduler = getattr(diffusers, wanted).from_config(pipe.scheduler.config, **{**own, **settings})
    if wanted == shipped:
        return ()
    short = REPLACED_SCHEDULERS.get(shipped, shipped)
    return (f"{short} replaced by {'DPM++ 2M' if wanted == DPM else wanted}{', as asked' if asked else ''}",)
