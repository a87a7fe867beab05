"""The kinds of noise that low-resolution steps start from and continue with, and the ways to full size, by name."""

from __future__ import annotations

from typing import Literal, TypeVar

from postdiff_calib.errors import KnobError

Noise = Literal["complement", "coupled", "independent"]
NOISES: tuple[Noise, ...] = ("complement", "coupled", "independent")
#: What a new calibration and ``enable`` with bare knobs take; a profile names its own.
DEFAULT_NOISE: Noise = "complement"

#: How the latent gets to full size, and whether low-resolution steps have noise levels of their own.
SwitchWay = Literal["renoise", "expand", "renoise-own-grid", "expand-own-grid"]
SWITCH_WAYS: tuple[SwitchWay, ...] = ("renoise", "expand", "renoise-own-grid", "expand-own-grid")
_Name = TypeVar("_Name", bound=str)
#: What is defined for every scheduler, and what profiles have that name none.
DEFAULT_SWITCH: SwitchWay = "renoise"
#: What a new calibration and ``enable`` with bare knobs take for a rectified flow.
FLOW_SWITCH: SwitchWay = "expand"


def parse_noise(text: str) -> Noise:
    """The noise of low-resolution steps, by its name.

    Raises:
        KnobError: there is no such way.
    """
    return _named("noise", text, NOISES, "complement stays nearest to a seed's baseline image")


def parse_switch(text: str) -> SwitchWay:
    """The way to full resolution, by its name.

    Raises:
        KnobError: there is no such way.
    """
    return _named("switch", text, SWITCH_WAYS, "renoise is defined for every scheduler")


def _named(what: str, text: str, names: tuple[_Name, ...], remedy: str) -> _Name:
    for name in names:
        if text == name:
            return name
    raise KnobError(f"{what} {text!r}", f"it is {', '.join(names[:-1])} or {names[-1]}", remedy)
