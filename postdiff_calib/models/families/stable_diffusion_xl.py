"""Stable Diffusion XL: two text encoders, whose pooled text and size numbers (time ids) are doubled with the batch."""

from __future__ import annotations

from dataclasses import replace

from postdiff_calib.models.families.family import STARTS_FROM_IMAGE, Family
from postdiff_calib.models.families.unet import UNET

STABLE_DIFFUSION_XL = Family(
    "StableDiffusionXLPipeline",
    UNET,
    text_encoders=("text_encoder", "text_encoder_2"),
    encodes_empty_text=False,
    held_at_full_size=("time_ids",),
    paper_scale=0.75,
)

FAMILIES = (
    STABLE_DIFFUSION_XL,
    replace(
        STABLE_DIFFUSION_XL,
        pipeline_class="StableDiffusionXLControlNetPipeline",
        control="controlnet",
        without_control="StableDiffusionXLPipeline",
    ),
    replace(
        STABLE_DIFFUSION_XL,
        pipeline_class="StableDiffusionXLImg2ImgPipeline",
        without_control="StableDiffusionXLImg2ImgPipeline",
        low_res_refusal=STARTS_FROM_IMAGE,
        partial_schedule=True,
    ),
)
