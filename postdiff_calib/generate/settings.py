"""How images are made, beside the plan: the one set of settings from calibration to deployment.

What a plan varies (the knobs, the number of steps T among them) is not here. No heavy import.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from postdiff_calib.errors import UsageError
from postdiff_calib.techniques.noise import DEFAULT_NOISE, DEFAULT_SWITCH, Noise, SwitchWay, parse_noise, parse_switch


@dataclass(frozen=True)
class GenerationSettings:
    """How images are made, whatever the plan.

    Args:
        height, width: image size in pixels, at least 1.
        guidance_scale: w ≥ 0, as the pipeline takes it.
        batch_size: prompts per call, at least 1; images do not depend on it, beyond float rounding.
        noise: of low-resolution steps. ``complement``: the start is pooled from the seed's noise, and the switch adds
            what the pooling left out; ``coupled``: the same start, and fresh noise at the switch; ``independent``:
            fresh noise at both.
        switch: how low-resolution steps get to full size, one of ``techniques.noise.SWITCH_WAYS``.
        latent_multiple: what low-resolution latent sides are multiples of, at least 1; None is the network's own.
        negative_prompt: one for all images; None is the pipeline's default.

    Raises:
        UsageError: a number is out of its range.
        KnobError: the noise, or the way to full size, is none that there is.
    """

    height: int
    width: int
    guidance_scale: float
    batch_size: int
    noise: Noise = DEFAULT_NOISE
    latent_multiple: int | None = None
    negative_prompt: str | None = None
    switch: SwitchWay = DEFAULT_SWITCH

    def __post_init__(self) -> None:
        for name in ("height", "width", "latent_multiple"):
            value = getattr(self, name)
            if value is not None and not _whole(value):
                raise UsageError(f"{name}={value}", "it must be a whole number of at least 1", "take the model's own")
        scale = self.guidance_scale
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not (math.isfinite(scale) and scale >= 0):
            raise UsageError(f"guidance_scale={scale}", "it must be a number of at least 0", "take the model's own")
        if not _whole(self.batch_size):
            given = f"batch_size={self.batch_size}"
            raise UsageError(given, "it must be at least 1", "take 1, or what the memory holds")
        if self.negative_prompt is not None and not isinstance(self.negative_prompt, str):
            raise UsageError(f"negative_prompt={self.negative_prompt!r}", "it must be one text", "give a single one")
        parse_noise(self.noise)
        parse_switch(self.switch)

    @property
    def call(self) -> dict[str, Any]:
        """The keyword arguments of a pipeline's call, but for the negative prompt, which is one for each image."""
        return {"height": self.height, "width": self.width, "guidance_scale": self.guidance_scale}

    @property
    def attachment(self) -> dict[str, Any]:
        """The keyword arguments of ``enable``."""
        return {"noise": self.noise, "switch": self.switch, "latent_multiple": self.latent_multiple}

    @property
    def of_images(self) -> dict[str, Any]:
        """What an image depends on: all but the batch size; a negative prompt, and another way to full size, if any."""
        left_out = {"batch_size"}
        left_out |= {"negative_prompt"} if self.negative_prompt is None else set()
        left_out |= {"switch"} if self.switch == "renoise" else set()
        return {name: value for name, value in self.as_dict().items() if name not in left_out}

    def as_dict(self) -> dict[str, Any]:
        """Plain data; ``GenerationSettings(**data)`` is its inverse."""
        return asdict(self)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
