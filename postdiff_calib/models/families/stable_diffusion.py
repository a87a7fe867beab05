"""Stable Diffusion 1.x and 2.x, BK-SDM: one U-Net, one text encoder, nothing that names a resolution."""

from __future__ import annotations

from dataclasses import replace

from postdiff_calib.models.families.family import STARTS_FROM_IMAGE, Family
from postdiff_calib.models.families.unet import UNET

STABLE_DIFFUSION = Family("StableDiffusionPipeline", UNET, safety_checked=True)

FAMILIES = (
    STABLE_DIFFUSION,
    replace(
        STABLE_DIFFUSION,
        pipeline_class="StableDiffusionControlNetPipeline",
        safety_checked=False,
        control="controlnet",
        without_control="StableDiffusionPipeline",
    ),
    replace(
        STABLE_DIFFUSION,
        pipeline_class="StableDiffusionImg2ImgPipeline",
        without_control="StableDiffusionImg2ImgPipeline",
        safety_checked=False,
        low_res_refusal=STARTS_FROM_IMAGE,
        partial_schedule=True,
    ),
)
