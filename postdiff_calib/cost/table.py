"""The cost table: prices any plan of one model from a few kinds of step.

A plan's MACs are the sum over its steps, exact. Its seconds per image, end to end, are

    before + (scale + reuse_slope · r) · (first + Σ steps + switch, if it changes resolution) + after,

where ``before`` is everything up to the first network call (text encoding, set-up) and ``after`` is decoding to a
image. ``first`` is what step 0 takes beyond others of its kind: it is the same in a run of any length, so it must not
count as a part of each step. The factor, fitted to whole measured runs, is near 1: medians of steps add up to a little
less than the median of their sum, and a step's time depends a little on what ran before it (a processor's caches hold
less of the deep blocks' weights after cached steps), so it is linear in the share r of steps that reuse. A kind of
step that was not measured is predicted from its MACs.

The table is plain data: one made on another machine prices plans here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from postdiff_calib.cost.budget import PlanCost
from postdiff_calib.cost.macs import Macs
from postdiff_calib.cost.meter import Meter, StepKey, keys_of_kinds
from postdiff_calib.cost.rounds import is_stable, stability
from postdiff_calib.errors import ModelError
from postdiff_calib.plan import StepPlan

TABLE_VERSION = 1


@dataclass(frozen=True)
class Timing:
    """Repeated measurements of one thing, in seconds per image.

    Attributes:
        median, low, high: the median and the quartiles around it.
        count: how many measurements.
    """

    median: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Latency:
    """What was measured on one machine; all in seconds per image at ``batch_size``.

    Attributes:
        steps: measured kinds of step.
        before, after: everything before the first network call, and from the decoder's start to the image.
        text: the text encoders' share of ``before``.
        step_overhead: share of a step outside the network (scheduler, guidance).
        switch: what the step that changes resolution takes beyond others of its kind.
        scale, reuse_slope: measured over summed seconds of a run's steps, as a line in the share of cached steps.
        p95_ratio: 95th percentile of the seconds of whole runs over their median.
        batch_size: images per call.
        first, first_low: what step 0 takes beyond others of its kind, at full and at low resolution.
        disagreement: of the rounds that it comes from, the slowest over the fastest, minus 1 (``rounds.py``).
        memory: peak bytes per image beyond the weights by kind of step, where the device reports them.
        environment: device, driver, versions, type, threads.
    """

    steps: Mapping[StepKey, Timing]
    before: Timing
    after: Timing
    text: Timing
    step_overhead: Timing
    switch: float
    scale: float
    reuse_slope: float
    p95_ratio: float
    batch_size: int
    first: float = 0.0
    first_low: float = 0.0
    disagreement: float = 0.0
    memory: Mapping[StepKey, float] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stable(self) -> bool:
        """Whether the machine kept its speed while it was measured."""
        return is_stable(self.disagreement)

    @property
    def stability(self) -> str:
        """The same in words."""
        return stability(self.disagreement)

    def once(self, plan: StepPlan) -> float:
        """What a run's steps take together beyond their kinds: its beginning, and the change of resolution."""
        return self.first_low + self.switch if plan.n_low else self.first

    def step_factor(self, plan: StepPlan) -> float:
        """Measured over summed seconds of a plan's steps, by the fitted line; see the module."""
        return max(0.5, self.scale + self.reuse_slope * reuse_share(plan))


def reuse_share(plan: StepPlan) -> float:
    """r, the share of steps that reuse the deep blocks' features."""
    return 1 - len(plan.refresh_steps) / len(plan)


@dataclass(kw_only=True, eq=False)
class CostTable:
    """Prices of one model at one image size.

    Args:
        model: name of the model.
        height, width: image size in pixels.
        latent: latent (height, width).
        latent_multiple: low-resolution sides are multiples of this.
        guides: guidance doubles the batch.
        meter: counts steps that are not in ``macs`` yet.
        macs: steps counted already.
        macs_text_encoder, macs_vae_decoder: per image, convention ``full``; outside the denoising loop.
        latency: what was measured; None where nothing was.
    """

    model: str
    height: int
    width: int
    latent: tuple[int, int]
    latent_multiple: int
    guides: bool
    meter: Meter
    macs: dict[StepKey, Macs] = field(default_factory=dict)
    macs_text_encoder: int = 0
    macs_vae_decoder: int = 0
    latency: Latency | None = None

    def __post_init__(self) -> None:
        self._predicted: dict[StepKey, float] = {}

    def keys(self, plan: StepPlan) -> list[StepKey]:
        """The kind of each step of a plan, with its sizes."""
        by_kind = keys_of_kinds(plan, self.latent, self.latent_multiple, self.guides)
        return [by_kind[step.kind] for step in plan]

    def step_macs(self, key: StepKey) -> Macs:
        """MACs of one step per image."""
        if key not in self.macs:
            self.macs[key] = self.meter.step(key)
        return self.macs[key]

    def step_seconds(self, key: StepKey) -> float:
        """Seconds per image of one step: measured, else predicted.

        Raises:
            ModelError: nothing was measured.
        """
        if self.latency is None:
            raise ModelError(f"seconds of {self.model}", "none were measured", "run: postdiff cost --measure")
        if key in self.latency.steps:
            return self.latency.steps[key].median
        if key not in self._predicted:
            self._predicted[key] = self._predict(key, self.latency.steps)
        return self._predicted[key]

    def price(self, plan: StepPlan) -> PlanCost:
        """What one image costs under ``plan``; seconds are None where nothing was measured.

        Raises:
            KnobError: β leaves no smaller latent size.
            UnsupportedError: the network has no such cache branch.
        """
        by_kind = keys_of_kinds(plan, self.latent, self.latent_multiple, self.guides)
        steps = [(by_kind[kind], times) for kind, times in plan.kinds().items()]
        full = float(sum(times * self.step_macs(key).full for key, times in steps))
        paper = float(sum(times * self.step_macs(key).paper for key, times in steps))
        if self.latency is None:
            return PlanCost(full, paper)
        now = self.latency
        loop = sum(times * self.step_seconds(key) for key, times in steps) + now.once(plan)
        total = now.before.median + loop * now.step_factor(plan) + now.after.median
        return PlanCost(full, paper, total, total * now.p95_ratio, now.batch_size)

    def is_measured(self, key: StepKey) -> bool:
        """Whether the seconds of this kind were measured rather than predicted."""
        return self.latency is not None and key in self.latency.steps

    def _predict(self, key: StepKey, measured: Mapping[StepKey, Timing]) -> float:
        """Seconds from MACs: a·calls + MACs/rate, corrected by how far the most similar measured kind is off it."""
        # In one order, so that a table read from a file predicts the very same seconds.
        fit = _affine_fit([(self.step_macs(k).full, measured[k].median) for k in sorted(measured)])
        own = self.step_macs(key).full

        def distance(other: StepKey) -> tuple[int, float]:
            flags = sum(a != b for a, b in zip(key[2:], other[2:], strict=True))
            return flags, abs(math.log(own / self.step_macs(other).full))

        # Two neighbours of the same kind on either side in size, where there are, weighted by closeness.
        nearest = sorted(sorted(measured), key=distance)
        same = [k for k in nearest if distance(k)[0] == distance(nearest[0])[0]][:2]
        weights = [1 / (1e-9 + distance(k)[1]) for k in same]
        ratios = [measured[k].median / fit(self.step_macs(k).full) for k in same]
        ratio = sum(w * r for w, r in zip(weights, ratios, strict=True)) / sum(weights)
        return fit(own) * ratio

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the inverse of ``from_dict``."""
        now = self.latency
        rows = []
        for key in sorted(self.macs.keys() | (now.steps.keys() if now else set())):
            row: dict[str, Any] = {"step": _plain(key), "macs": asdict(self.step_macs(key))}
            if now is not None and key in now.steps:
                row["seconds"] = asdict(now.steps[key])
            if now is not None and key in now.memory:
                row["peak_memory_bytes"] = now.memory[key]
            rows.append(row)
        data: dict[str, Any] = {
            "table_version": TABLE_VERSION,
            "model": self.model,
            "height": self.height,
            "width": self.width,
            "latent": list(self.latent),
            "latent_multiple": self.latent_multiple,
            "guides": self.guides,
            "macs_text_encoder": self.macs_text_encoder,
            "macs_vae_decoder": self.macs_vae_decoder,
            "network": self.meter.config,
            "text_length": self.meter.text_length,
            **({"control": self.meter.control} if self.meter.control else {}),
            "steps": rows,
            "latency": None,
        }
        if now is not None:
            parts = ("before", "after", "text", "step_overhead")
            data["latency"] = {part: asdict(getattr(now, part)) for part in parts} | {
                "switch": now.switch,
                "first": now.first,
                "first_low": now.first_low,
                "scale": now.scale,
                "reuse_slope": now.reuse_slope,
                "p95_ratio": now.p95_ratio,
                "batch_size": now.batch_size,
                "disagreement": now.disagreement,
                "environment": dict(now.environment),
            }
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CostTable:
        """Rebuild a table from ``as_dict``'s data; what comes from a file is read by ``check.read_data``.

        Raises:
            ModelError: it is not a table of this version.
        """
        if data.get("table_version") != TABLE_VERSION:
            raise ModelError(
                f"cost table of version {data.get('table_version')!r}",
                f"this postdiff reads version {TABLE_VERSION}",
                "measure again: postdiff cost --measure --out FILE",
            )
        macs, steps, memory = {}, {}, {}
        for row in data["steps"]:
            further = tuple((name, value) for name, value in row["step"].get("more", ()))
            key = StepKey(**{**row["step"], "more": further})
            macs[key] = Macs(**row["macs"])
            if "seconds" in row:
                steps[key] = Timing(**row["seconds"])
            if "peak_memory_bytes" in row:
                memory[key] = float(row["peak_memory_bytes"])
        latency = None
        if data["latency"] is not None:
            raw = dict(data["latency"])
            raw |= {part: Timing(**raw[part]) for part in ("before", "after", "text", "step_overhead")}
            latency = Latency(steps=steps, memory=memory, **raw)
        return cls(
            model=data["model"],
            height=data["height"],
            width=data["width"],
            latent=(data["latent"][0], data["latent"][1]),
            latent_multiple=data["latent_multiple"],
            guides=data["guides"],
            meter=Meter(data["network"], data["text_length"], data.get("control", ())),
            macs=macs,
            macs_text_encoder=data["macs_text_encoder"],
            macs_vae_decoder=data["macs_vae_decoder"],
            latency=latency,
        )


def _plain(key: StepKey) -> dict[str, Any]:
    """A key for JSON; states of further techniques are written where there are any."""
    fields = key._asdict()
    return fields if key.more else {name: value for name, value in fields.items() if name != "more"}


class _Line:
    """seconds = start + slope · macs, never below a tenth of proportional."""

    def __init__(self, start: float, slope: float) -> None:
        self.start, self.slope = start, slope

    def __call__(self, macs: float) -> float:
        return self.start + self.slope * macs


def _affine_fit(points: list[tuple[float, float]]) -> _Line:
    """Least squares of the relative error, with start and slope both at or above zero."""
    import numpy as np
    from scipy.optimize import nnls

    macs, seconds = np.array(points, dtype=np.float64).T
    unit = float(macs.max())  # both columns are of one size then, whatever a step costs
    # The slope comes first: where all steps cost the same, either column explains them, and the first one is taken.
    slope, start = nnls(np.stack([macs / unit / seconds, 1 / seconds], axis=1), np.ones(len(points)))[0]
    return _Line(float(start), float(slope) / unit)
