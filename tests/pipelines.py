"""Tiny random-weight pipelines of the real diffusers classes, built offline; importable from any test.

Four-level U-Nets of Stable Diffusion's and SDXL's kinds, a two-level LCM, PixArt transformers of six blocks. Every
builder takes a seed; the same seed gives the same weights.
"""

from __future__ import annotations

import inspect
import string
from functools import lru_cache
from typing import Any

import torch

LENGTH = 24
TEXT = 32
PROMPTS = ["a red circle", "a large blue square", "red on green"]


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    """A CLIP tokenizer with one token per letter."""
    from transformers import CLIPTokenizer

    names = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    names += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={name: i for i, name in enumerate(names)}, merges=[], model_max_length=LENGTH)


def text_encoder(projection: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer()),
        hidden_size=TEXT,
        intermediate_size=TEXT,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        projection_dim=TEXT,
        bos_token_id=tokenizer().bos_token_id,
        eos_token_id=tokenizer().eos_token_id,
        pad_token_id=tokenizer().eos_token_id,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def vae(scale: int = 8) -> Any:
    """An AutoencoderKL with 4 latent channels that shrinks by ``scale`` (2, 4 or 8)."""
    from diffusers import AutoencoderKL

    levels = {2: 2, 4: 3, 8: 4}[scale]
    return AutoencoderKL(
        block_out_channels=(4,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=4,
        norm_num_groups=2,
        layers_per_block=1,
        sample_size=64,
    ).eval()


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


def scheduler(name: str = "ddim", **changes: Any) -> Any:
    """A scheduler by short name, with Stable Diffusion's noise schedule."""
    import diffusers

    classes = {
        "ddim": diffusers.DDIMScheduler,
        "dpm": diffusers.DPMSolverMultistepScheduler,
        "euler": diffusers.EulerDiscreteScheduler,
        "unipc": diffusers.UniPCMultistepScheduler,
        "lcm": diffusers.LCMScheduler,
        "pndm": diffusers.PNDMScheduler,
    }
    settings: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
    }
    if name in ("ddim", "lcm"):
        settings |= {"clip_sample": False, "set_alpha_to_one": False}
    return classes[name](**{**settings, **changes})


CALL_ATTRIBUTES = {
    *("_guidance_scale", "_guidance_rescale", "_clip_skip", "_cross_attention_kwargs", "_interrupt"),
    *("_num_timesteps", "_denoising_end", "_denoising_start"),
}
SCHEDULERS = ("ddim", "dpm", "euler", "unipc")


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sd(
    scheduler_name: str = "ddim", *, seed: int = 0, scheduler_changes: dict[str, Any] | None = None, **unet_changes: Any
) -> Any:
    """A StableDiffusionPipeline; pictures of 64, latents of 8 by default."""
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


def latents(pipe: Any, count: int = 3, **call: Any) -> torch.Tensor:
    """Final latents for the first ``count`` prompts, a fixed seed each."""
    call = {"generator": generators(count), **call}
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
