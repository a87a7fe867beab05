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
        scales: β values whose kinds of step are measured.
        branches: cache branches whose cached steps are measured.
        quick: measure a few kinds for about ten seconds and predict the others.
    """

    height: int
    width: int
    guidance_scale: float
    batch_size: int
    scales: tuple[float, ...] = ()
    branches: tuple[int, ...] = (1,)
    quick: bool = False
