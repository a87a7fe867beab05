"""The kinds of noise that low-resolution steps start from and continue with, and the ways to full size, by name."""

from __future__ import annotations

from typing import Literal

from postdiff_calib.errors import KnobError

Noise = Literal["complement", "coupled", "independent"]
NOISES: tuple[Noise, ...] = ("complement", "coupled", "independent")
#: What a new calibration and ``enable`` with bare knobs take; a profile names its own.
DEFAULT_NOISE: Noise = "complement"

#: How the latent gets to full size, and whether low-resolution steps have noise levels of their own.
SwitchWay = Literal["renoise", "expand", "renoise-own-grid", "expand-own-grid"]
SWITCH_WAYS: tuple[SwitchWay, ...] = ("renoise", "expand", "renoise-own-grid", "expand-own-grid")
#: What is defined for every scheduler, and what profiles have that name none.
DEFAULT_SWITCH: SwitchWay = "renoise"
#: What a new calibration and ``enable`` with bare knobs take for a rectified flow.
FLOW_SWITCH: SwitchWay = "expand"


def parse_noise(text: str) -> Noise:
    """The noise of low-resolution steps, by its name.

    Raises:
        KnobError: there is no such way.
    """
    for noise in NOISES:
        if text == noise:
            return noise
    raise KnobError(
        f"noise {text!r}",
        f"it is {', '.join(NOISES[:-1])} or {NOISES[-1]}",
        "complement stays nearest to a seed's baseline image",
    )


def parse_switch(text: str) -> SwitchWay:
    """The way to full resolution, by its name.

    Raises:
        KnobError: there is no such way.
    """
    for way in SWITCH_WAYS:
        if text == way:
            return way
    raise KnobError(
        f"switch {text!r}",
        f"it is {', '.join(SWITCH_WAYS[:-1])} or {SWITCH_WAYS[-1]}",
        "renoise is defined for every scheduler",
    )
