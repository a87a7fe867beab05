"""Tiny random-weight pipelines of the real diffusers classes, built offline; importable from any test.

Four-level U-Nets of Stable Diffusion's and SDXL's kinds, a two-level LCM, PixArt and Stable Diffusion 3 transformers of
six blocks. Every builder takes a seed; the same seed gives the same weights.
"""

from __future__ import annotations

import inspect
import string
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
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


def vae(scale: int = 8, **changes: Any) -> Any:
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
        **changes,
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
    if name == "flow":
        return diffusers.FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **changes})
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


def t5(width: int = TEXT) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(tokenizer()),
        d_model=width,
        d_kv=8,
        d_ff=TEXT,
        num_layers=1,
        num_heads=2,
        tie_word_embeddings=True,
    )
    return T5EncoderModel(config).eval()


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


def sd3(*, seed: int = 0, scheduler_changes: dict[str, Any] | None = None, **changes: Any) -> Any:
    """Stable Diffusion 3: six joint blocks on 64 image tokens, two CLIP encoders and a T5."""
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 6,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 2 * TEXT,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 2 * TEXT,
        "pos_embed_max_size": 12,
    }
    return quiet(
        StableDiffusion3Pipeline(
            vae=vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
            text_encoder=text_encoder(projection=True),
            text_encoder_2=text_encoder(projection=True),
            text_encoder_3=t5(2 * TEXT),
            tokenizer=tokenizer(),
            tokenizer_2=tokenizer(),
            tokenizer_3=tokenizer(),
            transformer=SD3Transformer2DModel(**{**settings, **changes}).eval(),
            scheduler=scheduler("flow", **(scheduler_changes or {})),
        )
    )


def flow_dpm(**changes: Any) -> Any:
    """DPM++ 2M as Sana ships it, for flow matching."""
    import diffusers

    settings = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    return diffusers.DPMSolverMultistepScheduler(**{**settings, **changes})


def sana(*, seed: int = 0, euler: bool = False) -> Any:
    """Sana: six blocks on 256 image tokens, a Gemma 2, a deep-compression autoencoder."""
    from diffusers import AutoencoderDC, SanaPipeline, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    torch.manual_seed(seed)
    text = Gemma2Config(
        vocab_size=len(tokenizer()),
        hidden_size=TEXT,
        intermediate_size=TEXT,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=tokenizer().eos_token_id,
        bos_token_id=tokenizer().bos_token_id,
        eos_token_id=tokenizer().eos_token_id,
    )
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=6,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=TEXT,
        sample_size=16,
    )
    return quiet(
        SanaPipeline(
            vae=AutoencoderDC(
                latent_channels=4,
                attention_head_dim=4,
                encoder_block_types=("ResBlock",) * 4,
                decoder_block_types=("ResBlock",) * 4,
                encoder_block_out_channels=(4,) * 4,
                decoder_block_out_channels=(4,) * 4,
                encoder_layers_per_block=(1,) * 4,
                decoder_layers_per_block=(1,) * 4,
                encoder_qkv_multiscales=((),) * 4,
                decoder_qkv_multiscales=((),) * 4,
                downsample_block_type="conv",
                upsample_block_type="interpolate",
            ).eval(),
            text_encoder=Gemma2Model(text).eval(),
            tokenizer=tokenizer(),
            transformer=transformer.eval(),
            scheduler=scheduler("flow") if euler else flow_dpm(),
        )
    )


def flux(*, seed: int = 0, guidance_embeds: bool = True) -> Any:
    """FLUX.1: three joint and three single blocks on 64 image tokens; the schedule is shifted by the image's size."""
    from diffusers import FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(seed)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=3,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        pooled_projection_dim=TEXT,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guidance_embeds,
    )
    shift = {"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 100}
    return quiet(
        FluxPipeline(
            vae=vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
            text_encoder=text_encoder(),
            text_encoder_2=t5(),
            tokenizer=tokenizer(),
            tokenizer_2=tokenizer(),
            transformer=transformer.eval(),
            scheduler=scheduler("flow", **shift),
        )
    )


def qwen_image(*, seed: int = 0) -> Any:
    """Qwen-Image: six joint blocks on 64 image tokens, a Qwen 2.5 VL; prompts go into no template."""
    from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(seed)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer()),
            "hidden_size": TEXT,
            "intermediate_size": TEXT,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6},
        },
        vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": TEXT},
    )
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=6,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        axes_dims_rope=(4, 4, 8),
    )
    shift = {"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 100}
    pipe = QwenImagePipeline(
        vae=AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ).eval(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config).eval(),
        tokenizer=tokenizer(),
        transformer=transformer.eval(),
        scheduler=scheduler("flow", **shift),
    )
    pipe.prompt_template_encode, pipe.prompt_template_encode_start_idx = "{}", 0
    return quiet(pipe)


def z_image(*, seed: int = 0) -> Any:
    """Z-Image: a refiner for image and text each, then six blocks on both, a Qwen 3; prompts go into no template."""
    from diffusers import ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    torch.manual_seed(seed)
    text = Qwen3Config(
        vocab_size=len(tokenizer()),
        hidden_size=TEXT,
        intermediate_size=TEXT,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
    )
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=6,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=TEXT,
        axes_dims=[4, 6, 6],
        axes_lens=[128, 32, 32],
    )
    plain = deepcopy(tokenizer())
    plain.chat_template = "{{ messages[0]['content'] }}"
    shift = {"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 100}
    return quiet(
        ZImagePipeline(
            vae=vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
            text_encoder=Qwen3Model(text).eval(),
            tokenizer=plain,
            transformer=transformer.eval(),
            scheduler=scheduler("flow", **shift),
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
