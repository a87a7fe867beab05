"""Latent consistency models: Stable Diffusion's networks, with the guidance scale as an input instead of a half."""

from __future__ import annotations

from postdiff_calib.models.families.family import Family
from postdiff_calib.models.families.unet import UNET

FAMILIES = (Family("LatentConsistencyModelPipeline", UNET, guidance="embedded", safety_checked=True),)
