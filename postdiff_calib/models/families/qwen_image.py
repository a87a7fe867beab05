"""Qwen-Image: joint blocks on image and text tokens, flow matching.

Latents are packed, and ``img_shapes`` names their size, which is a smaller one on low-resolution steps. Guidance runs
where a scale above 1 (``true_cfg_scale``) and a negative prompt are given, as a call of its own for each half; its
result is rescaled to the conditional half's norm, so it collapses to that half where both are the same.
Source: diffusers 0.42.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from postdiff_calib.models.families.family import Call, Denoiser, Family, Zeros


def _inputs(config: Mapping[str, Any], call: Call, zeros: Zeros) -> dict[str, Any]:
    rows, columns = call.height // 2, call.width // 2
    return {
        "hidden_states": zeros(call.batch, rows * columns, config["in_channels"]),
        "timestep": zeros(call.batch),
        "encoder_hidden_states": zeros(call.batch, call.text_length, config["joint_attention_dim"]),
        "img_shapes": [[(1, rows, columns)]] * call.batch,
    }


def _resized(inputs: Mapping[str, Any], size: tuple[int, int], full: tuple[int, int]) -> dict[str, Any]:
    shape = (1, size[0] // 2, size[1] // 2)
    return {"img_shapes": [[shape]] * len(inputs["img_shapes"])}


QWEN_IMAGE = Denoiser(
    classes=("QwenImageTransformer2DModel",),
    sample="hidden_states",
    latent_multiple=lambda config: 2,
    inputs=_inputs,
    chains=("transformer_blocks",),
    block_output="encoder, hidden",
    cross_attention=lambda network: [],
    resized=_resized,
    lacks=frozenset({"cross_attention_cache"}),
)


def _scale_arguments(scale: float) -> dict[str, Any]:
    """Without a negative prompt nothing guides; a space is what the model's own examples give."""
    return {"true_cfg_scale": scale, "negative_prompt": " "} if scale > 1 else {"true_cfg_scale": 1.0}


FAMILIES = (
    Family(
        "QwenImagePipeline",
        QWEN_IMAGE,
        denoiser="transformer",
        guidance="two calls",
        latents="packed",
        latents_first=True,
        paper_scale=0.75,
        scale_arguments=_scale_arguments,
    ),
)
