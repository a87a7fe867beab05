"""Pipeline families as data: what differs between them, in one table.

A family is found by the pipeline's class name along its method resolution order, so no diffusers pipeline has to be
imported. Source of the differences: the pipelines of diffusers 0.42.

| | guidance batch | depends on resolution, kept at full size |
| --- | --- | --- |
| Stable Diffusion, ControlNet | [unconditional, conditional] | nothing |
| SDXL | the same; pooled text and time ids doubled too | time ids |
| LCM | none: the guidance scale is embedded | nothing |
| PixArt-α | the same as SD | resolution and aspect ratio, position embedding (rescales by itself) |
| PixArt-Σ | the same as SD | position embedding (rescales by itself) |

Low-resolution steps keep the full-size conditioning: it names the picture that is wanted, and the pipeline is called
at its full height and width throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from postdiff_calib.errors import UnsupportedError


@dataclass(frozen=True)
class Family:
    """What the accelerator has to know about a pipeline class.

    Attributes:
        pipeline_class: class name in diffusers.
        denoiser: attribute of the pipeline that holds the network called once per step.
        guides: False where no unconditional half exists (LCM); then m means cross-attention caching alone.
        control: attribute that holds a control network called before the denoiser, or None.
        low_res_refusal: why low-resolution steps are not defined here; empty where they are.
        partial_schedule: the pipeline may run a tail of the schedule only (image to image with a strength); the
            knobs' fractions then apply to the steps that do run.
    """

    pipeline_class: str
    denoiser: str = "unet"
    guides: bool = True
    control: str | None = None
    low_res_refusal: str = ""
    partial_schedule: bool = False


_IMAGE = "image to image starts from a noised picture, not from pure noise"

FAMILIES: tuple[Family, ...] = (
    Family("StableDiffusionPipeline"),
    Family("StableDiffusionXLPipeline"),
    Family("LatentConsistencyModelPipeline", guides=False),
    Family("PixArtAlphaPipeline", denoiser="transformer"),
    Family("PixArtSigmaPipeline", denoiser="transformer"),
    Family("StableDiffusionControlNetPipeline", control="controlnet"),
    Family("StableDiffusionXLControlNetPipeline", control="controlnet"),
    Family("StableDiffusionImg2ImgPipeline", low_res_refusal=_IMAGE, partial_schedule=True),
    Family("StableDiffusionXLImg2ImgPipeline", low_res_refusal=_IMAGE, partial_schedule=True),
)


def family_of(pipe: Any) -> Family:
    """The family of a pipeline object.

    Raises:
        UnsupportedError: its class is none of ``FAMILIES`` nor derived from one.
    """
    names = [cls.__name__ for cls in type(pipe).__mro__]
    for name in names:
        for family in FAMILIES:
            if family.pipeline_class == name:
                return family
    raise UnsupportedError(
        f"pipeline {names[0]}",
        f"accelerated pipelines are {', '.join(family.pipeline_class for family in FAMILIES)}",
        "load the model into one of these, e.g. with AutoPipelineForText2Image",
    )


def latent_multiple_of(network: Any) -> int:
    """What a latent side must be a multiple of: a U-Net's total down-sampling, or a transformer's patch size."""
    config = network.config
    if hasattr(network, "transformer_blocks"):
        return int(config.patch_size)
    return int(2 ** (len(config.block_out_channels) - 1))
