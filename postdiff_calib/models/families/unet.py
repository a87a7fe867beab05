"""The conditional U-Net of Stable Diffusion, SDXL and their distilled kin (diffusers 0.42).

It down-samples by 2 between levels, so latent sides are multiples of its total down-sampling. Every level's down
block hands its outputs to the up block of the same level, so the deep part can be reused by keeping one feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from postdiff_calib.models.families.family import Call, Denoiser, Zeros


def _latent_multiple(config: Any) -> int:
    return int(2 ** (len(config["block_out_channels"]) - 1))


def _inputs(config: Mapping[str, Any], call: Call, zeros: Zeros) -> dict[str, Any]:
    inputs: dict[str, Any] = {
        "sample": zeros(call.batch, config["in_channels"], call.height, call.width),
        "timestep": zeros(dtype="int64"),
        "encoder_hidden_states": zeros(call.batch, call.text_length, config["cross_attention_dim"]),
    }
    if config.get("time_cond_proj_dim"):
        inputs["timestep_cond"] = zeros(call.batch, config["time_cond_proj_dim"])
    if config.get("addition_embed_type") == "text_time":
        # Six numbers of size and crop, each embedded, and the pooled text fill the projection's input.
        pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        inputs["added_cond_kwargs"] = {"text_embeds": zeros(call.batch, pooled), "time_ids": zeros(call.batch, 6)}
    return inputs


def control_inputs(config: Mapping[str, Any], call: Call, zeros: Zeros) -> dict[str, Any]:
    """Keyword arguments of one call of a control network: those of its U-Net, and the image that it goes by.

    Each convolution between two widths of its embedding halves the image's sides, down to the latent's.
    """
    factor = 2 ** (len(config["conditioning_embedding_out_channels"]) - 1)
    image = zeros(call.batch, config["conditioning_channels"], factor * call.height, factor * call.width)
    return {**_inputs(config, call, zeros), "controlnet_cond": image}


UNET = Denoiser(
    classes=("UNet2DConditionModel",),
    sample="sample",
    latent_multiple=_latent_multiple,
    inputs=_inputs,
    # LCM's network, whatever pipeline it is in.
    embeds_guidance=lambda config: bool(config.get("time_cond_proj_dim")),
)
