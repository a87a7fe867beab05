"""The knobs: one immutable point of the search space.

Source: PostDiff, arXiv 2508.06160, sections 2.2 (mixed resolution), 2.5 (hybrid module caching) and 2.6 (guidance).

| symbol | field | range |
| --- | --- | --- |
| T | ``num_inference_steps`` | 1 … 1000 |
| s | ``low_res_fraction`` | [0, 1) |
| β | ``low_res_scale`` | [0.25, 1] |
| k | ``cache_interval`` | 1 … 1000 |
| m | ``guidance_fraction`` | (0, 1] |
| – | ``cache_branch`` | 0 … 11 |
| – | ``cross_attention_cache`` | ``cond``, ``mean``, ``off`` |
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, cast, get_args

from postdiff_calib.errors import KnobError

CrossAttentionCache = Literal["cond", "mean", "off"]

#: Smallest and largest accepted value of each numeric knob. Wider than any search: the search's ranges are its own.
RANGES: dict[str, tuple[float, float]] = {
    "num_inference_steps": (1, 1000),
    "low_res_fraction": (0.0, 1.0),
    "low_res_scale": (0.25, 1.0),
    "cache_interval": (1, 1000),
    "guidance_fraction": (0.0, 1.0),
    "cache_branch": (0, 11),
}

#: Short names used on the command line and in tables.
SYMBOLS: dict[str, str] = {
    "num_inference_steps": "T",
    "low_res_fraction": "s",
    "low_res_scale": "β",
    "cache_interval": "k",
    "guidance_fraction": "m",
    "cache_branch": "cache_branch",
    "cross_attention_cache": "cross_attention_cache",
}


@dataclass(frozen=True)
class Knobs:
    """One way to run a diffusion model; the defaults are the unaccelerated model.

    Args:
        num_inference_steps: T, denoising steps.
        low_res_fraction: s, share of the steps, the early ones, done at low resolution.
        low_res_scale: β, side of the low-resolution latent over the full side; must be below 1 when s > 0.
        cache_interval: k, the deep part of the network runs every k-th step and is reused in between.
        guidance_fraction: m, classifier-free guidance runs on the first m·T steps only.
        cache_branch: how much of a U-Net is shallow, i.e. runs on every step (DeepCache's ``cache_branch_id``).
        cross_attention_cache: what a cross-attention layer returns once guidance is dropped: its last conditional
            output (``cond``), the mean of its conditional and unconditional one (``mean``), or a fresh one (``off``).

    Raises:
        KnobError: a value of the wrong type or out of range.
    """

    num_inference_steps: int = 20
    low_res_fraction: float = 0.0
    low_res_scale: float = 1.0
    cache_interval: int = 1
    guidance_fraction: float = 1.0
    cache_branch: int = 1
    cross_attention_cache: CrossAttentionCache = "cond"

    def __post_init__(self) -> None:
        self._integer("num_inference_steps", "take the number of denoising steps, such as 20")
        self._number("low_res_fraction", "take the share of early steps at low resolution, such as 0.5")
        self._number("low_res_scale", "take the low side over the full side, such as 0.5")
        self._integer("cache_interval", "take 1 to run the deep blocks on every step, 2 on every other")
        self._number("guidance_fraction", "take the share of steps that are guided, such as 0.75, or 1 for all")
        self._integer("cache_branch", "take 1, as the paper does")
        if self.low_res_fraction >= 1:
            self._refuse(
                "low_res_fraction", "it must be below 1, since the last steps run at full resolution", "such as 0.5"
            )
        if self.guidance_fraction <= 0:
            self._refuse(
                "guidance_fraction", "it must be above 0", "take the share of steps that are guided, such as 0.75"
            )
        if self.low_res_fraction > 0 and self.low_res_scale >= 1:
            raise KnobError(
                f"low_res_fraction={self.low_res_fraction:g} with low_res_scale={self.low_res_scale:g}",
                "low-resolution steps need a scale below 1",
                "set low_res_scale (--beta), such as 0.5",
            )
        if self.cross_attention_cache not in get_args(CrossAttentionCache):
            self._refuse("cross_attention_cache", "it must be one of cond, mean, off", "the paper's choice is cond")

    def _refuse(self, name: str, rule: str, remedy: str) -> None:
        raise KnobError(f"{name}={getattr(self, name)!r}", rule, remedy)

    def _integer(self, name: str, remedy: str) -> None:
        value = getattr(self, name)
        low, high = RANGES[name]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self._refuse(name, f"it must be a whole number from {low:g} to {high:g}", remedy)

    def _number(self, name: str, remedy: str) -> None:
        value = getattr(self, name)
        low, high = RANGES[name]
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not math.isfinite(value)
            or not low <= value <= high
        ):
            self._refuse(name, f"it must be a number from {low:g} to {high:g}", remedy)
        object.__setattr__(self, name, float(value))

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, in order; the inverse of ``from_dict``."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Knobs:
        """Build from names and values, as read from a file; unknown names are refused."""
        names = {f.name for f in fields(cls)}
        for name in values:
            if name not in names:
                raise KnobError(f"unknown knob {name!r}", f"knobs are {', '.join(sorted(names))}", "correct the name")
        return cls(**cast(Any, values))

    def describe(self) -> str:
        """One short line, e.g. ``T=20 s=0.5 β=0.5 k=2 m=0.75``; knobs that do nothing are left out."""
        parts = [f"T={self.num_inference_steps}"]
        if self.low_res_fraction > 0:
            parts.append(f"s={self.low_res_fraction:g} β={self.low_res_scale:g}")
        if self.cache_interval > 1:
            parts.append(f"k={self.cache_interval}")
            if self.cache_branch != 1:
                parts.append(f"branch={self.cache_branch}")
        if self.guidance_fraction < 1:
            parts.append(f"m={self.guidance_fraction:g}")
            if self.cross_attention_cache != "cond":
                parts.append(f"cross={self.cross_attention_cache}")
        return " ".join(parts)
