"""Tiny random-weight pipelines of rectified-flow transformers, six blocks each; one seed gives one set of weights."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from pipeline_parts import TEXT, quiet, scheduler, t5, text_encoder, tokenizer, vae


def flow_dpm(**changes: Any) -> Any:
    """DPM++ 2M as Sana ships it, for flow matching."""
    import diffusers

    settings = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    return diffusers.DPMSolverMultistepScheduler(**{**settings, **changes})


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
