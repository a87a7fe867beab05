"""The kinds of noise that low-resolution steps start from and continue with, by name."""

from __future__ import annotations

from typing import Literal

from postdiff_calib.errors import KnobError

Noise = Literal["complement", "coupled", "independent"]
NOISES: tuple[Noise, ...] = ("complement", "coupled", "independent")
#: What a new calibration and ``enable`` with bare knobs take; a profile names its own.
DEFAULT_NOISE: Noise = "complement"


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
