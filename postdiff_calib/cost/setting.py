"""What a measurement of seconds is of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """How the deployment will call the pipeline.

    Attributes:
        height, width: pixels.
        guidance_scale: as passed to the pipeline.
        batch_size: images per call.
        scales: β values to measure.
        branches: cache branches to measure.
        quick: few kinds and little time; the others are predicted.
    """

    height: int
    width: int
    guidance_scale: float
    batch_size: int
    scales: tuple[float, ...]
    branches: tuple[int, ...] = (1,)
    quick: bool = False
