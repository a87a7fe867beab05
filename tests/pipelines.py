"""Tiny random-weight pipelines of the real diffusers classes, built offline; importable from any test.

Four-level U-Nets of Stable Diffusion's and SDXL's kinds, a two-level LCM, PixArt transformers of six blocks; those of
flow matching are in ``flow_pipelines.py``. Every builder takes a seed; the same seed gives the same weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from flow_pipelines import flow_dpm as flow_dpm
from flow_pipelines import flux, qwen_image, sana, sd3, z_image
from pipeline_parts import LENGTH, TEXT, quiet, scheduler, t5, text_encoder, tokenizer, vae

PROMPTS = ["a red circle", "a large blue square", "red on green"]


def unet(**changes: Any) -> Any:
    """Stable Diffusion's U-Net in small: four levels, the deepest without attention."""
    from diffusers import UNet2DConditionModel

    settings: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (8, 8, 16, 16),
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "cross_attention_dim": TEXT,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**{**settings, **changes}).eval()


CALL_ATTRIBUTES = {
    *("_guidance_scale", "_guidance_rescale", "_clip_skip", "_cross_attention_kwargs", "_interrupt"),
    *("_num_timesteps", "_denoising_end", "_denoising_start"),
}
SCHEDULERS = ("ddim", "dpm", "euler", "unipc")


def sd(
    scheduler_name: str = "ddim", *, seed: int = 0, scheduler_changes: dict[str, Any] | None = None, **unet_changes: Any
) -> Any:
    """A StableDiffusionPipeline; images of 64, latents of 8 by default."""
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(seed)
    return quiet(
        StableDiffusionPipeline(
            vae=vae(),
            text_encoder=text_encoder(),
            tokenizer=tokenizer(),
            unet=unet(**unet_changes),
            scheduler=scheduler(scheduler_name, **(scheduler_changes or {})),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def generators(count: int, seed: int = 7) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def of_images(call: dict[str, Any], count: int) -> dict[str, Any]:
    """A call's arguments for ``count`` images: as many negative prompts."""
    return {name: value[:count] if name == "negative_prompt" else value for name, value in call.items()}


def latents(pipe: Any, count: int = 3, **call: Any) -> torch.Tensor:
    """Final latents for the first ``count`` prompts, a fixed seed each."""
    call = {"generator": generators(count), **of_images(call, count)}
    return pipe(PROMPTS[:count], output_type="latent", **call).images


def fingerprint(pipe: Any) -> dict[str, Any]:
    """Everything that an accelerator could leave behind: classes, attribute names, hooks and forwards of all parts."""
    # What the stock ``__call__`` leaves on the pipeline is not ours.
    own = sorted(key for key in pipe.__dict__ if key not in CALL_ATTRIBUTES)
    found: dict[str, Any] = {"pipe": (type(pipe), own)}
    for name, part in pipe.components.items():
        if not isinstance(part, torch.nn.Module):
            continue
        for path, module in part.named_modules():
            hooks = (len(module._forward_hooks), len(module._forward_pre_hooks), len(module._forward_hooks_with_kwargs))
            found[f"{name}.{path}"] = (
                type(module),
                sorted(module.__dict__),
                hooks,
                str(module.__dict__.get("forward")),
            )
    found["scheduler"] = [key for key in pipe.scheduler.__dict__ if callable(pipe.scheduler.__dict__[key])]
    return found


def takes(function: Any, name: str) -> bool:
    return name in inspect.signature(function).parameters


def sdxl(
    scheduler_name: str = "euler", *, seed: int = 0, kind: str = "StableDiffusionXLPipeline", **unet_changes: Any
) -> Any:
    """A Stable Diffusion XL pipeline: three levels, the shallowest without attention, two text encoders."""
    import diffusers

    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "block_out_channels": (8, 8, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 1, 2),
        "use_linear_projection": True,
        "cross_attention_dim": 2 * TEXT,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 6 * 4 + TEXT,
    }
    return quiet(
        getattr(diffusers, kind)(
            vae=vae(),
            text_encoder=text_encoder(),
            text_encoder_2=text_encoder(projection=True),
            tokenizer=tokenizer(),
            tokenizer_2=tokenizer(),
            unet=unet(**{**settings, **unet_changes}),
            scheduler=scheduler(scheduler_name),
            add_watermarker=False,
        )
    )


def lcm(*, seed: int = 0) -> Any:
    """A latent consistency pipeline: the guidance scale is embedded, so the batch has one half."""
    from diffusers import LatentConsistencyModelPipeline

    torch.manual_seed(seed)
    return quiet(
        LatentConsistencyModelPipeline(
            vae=vae(),
            text_encoder=text_encoder(),
            tokenizer=tokenizer(),
            unet=unet(time_cond_proj_dim=8),
            scheduler=scheduler("lcm"),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def pixart(scheduler_name: str = "dpm", *, seed: int = 0, sigma: bool = False, depth: int = 6) -> Any:
    """PixArt-α (with resolution and aspect ratio conditions, as at 1024²) or PixArt-Σ, six blocks."""
    from diffusers import PixArtAlphaPipeline, PixArtSigmaPipeline, PixArtTransformer2DModel

    torch.manual_seed(seed)
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=6,
        num_layers=depth,
        cross_attention_dim=12,
        sample_size=32 if sigma else 128,
        caption_channels=TEXT,
        use_additional_conditions=not sigma,
    ).eval()
    # The trained model's output layer is not zero.
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.2)
    torch.nn.init.normal_(transformer.scale_shift_table)
    return quiet(
        (PixArtSigmaPipeline if sigma else PixArtAlphaPipeline)(
            vae=vae(),
            # Any tokenizer will do for random weights.
            tokenizer=tokenizer(),
            text_encoder=t5(),
            transformer=transformer,
            scheduler=scheduler(scheduler_name),
        )
    )


def controlnet(pipe: Any, kind: str = "StableDiffusionControlNetPipeline") -> Any:
    """A control network on top of another pipeline's parts; its zero convolutions are made random."""
    import diffusers

    control = diffusers.ControlNetModel.from_unet(pipe.unet, conditioning_channels=3).eval()
    for layer in [
        *control.controlnet_down_blocks,
        control.controlnet_mid_block,
        control.controlnet_cond_embedding.conv_out,
    ]:
        torch.nn.init.normal_(layer.weight, std=0.3)
    parts = {**pipe.components, "controlnet": control}
    kwargs = {"requires_safety_checker": False} if "safety_checker" in parts else {"add_watermarker": False}
    return quiet(getattr(diffusers, kind)(**parts, **kwargs))


def img2img(pipe: Any) -> Any:
    """The image-to-image pipeline over another pipeline's parts."""
    import diffusers

    kind = type(pipe).__name__.replace("Pipeline", "Img2ImgPipeline")
    kwargs = {"requires_safety_checker": False} if "safety_checker" in pipe.components else {}
    return quiet(getattr(diffusers, kind)(**pipe.components, **kwargs))


def condition_image(count: int = 3, height: int = 64, width: int = 64) -> torch.Tensor:
    """Random images in [0, 1], for pipelines that start from one."""
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(3))


#: Every family: builder, and the arguments that a call needs besides the prompt. Images of 128, latents of 16.
FAMILIES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "sd": (lambda: sd("dpm"), {}),
    "sdxl": (lambda: sdxl("euler"), {}),
    "lcm": (lcm, {}),
    "pixart-alpha": (pixart, {"use_resolution_binning": False, "clean_caption": False}),
    "pixart-sigma": (lambda: pixart(sigma=True), {"use_resolution_binning": False, "clean_caption": False}),
    "sd3": (sd3, {"max_sequence_length": LENGTH}),
    "sana": (sana, {"complex_human_instruction": None, "max_sequence_length": LENGTH, "use_resolution_binning": False}),
    "flux": (flux, {"max_sequence_length": LENGTH, "negative_prompt": ["blue"] * 3, "true_cfg_scale": 4.0}),
    "qwen-image": (qwen_image, {"negative_prompt": ["blue"] * 3, "true_cfg_scale": 4.0}),
    "z-image": (z_image, {"max_sequence_length": LENGTH}),
    "controlnet": (lambda: controlnet(sd("unipc")), {"image": condition_image(3, 128, 128)}),
    "sdxl-controlnet": (
        lambda: controlnet(sdxl("ddim"), "StableDiffusionXLControlNetPipeline"),
        {"image": condition_image(3, 128, 128)},
    ),
}


def suited(pipe: Any, knobs: Any) -> Any:
    """Knobs with ``cross_attention_cache="off"`` where the network has no cross-attention."""
    from postdiff_calib.models.families import family_of

    lacks = "cross_attention_cache" in family_of(pipe).network.lacks
    return replace(knobs, cross_attention_cache="off") if lacks else knobs


#: Families of rectified-flow transformers.
FLOW = ("sd3", "sana", "flux", "qwen-image", "z-image")


def noise_of(pipe: Any, count: int, seed: int = 7) -> torch.Tensor:
    """The noise that a flow pipeline makes of ``generators(count, seed)`` for images of 128, as it holds latents."""
    made = torch.cat([torch.randn(1, 4, 16, 16, generator=g) for g in generators(count, seed)])
    return pipe._pack_latents(made, *made.shape) if hasattr(pipe, "_pack_latents") else made


def sample_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """What a transformer is called with, as one tensor."""
    sample = args[0] if args else kwargs["hidden_states"]
    return torch.stack(sample) if isinstance(sample, list) else sample


def without_forward_attributes(pipe: Any) -> None:
    """Clear the ``forward`` attributes that other packages leave on modules."""
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            for module in part.modules():
                module.__dict__.pop("forward", None)
