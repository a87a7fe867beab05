"""Sana: a chain of blocks with linear self-attention and cross-attention to Gemma's text, flow matching.

No position embedding at 1024², so the network takes any size as it is. Source: diffusers 0.42, Xie et al. 2024
(arXiv 2410.10629).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from postdiff_calib.models.families.family import Call, Denoiser, Family, Zeros


def _inputs(config: Mapping[str, Any], call: Call, zeros: Zeros) -> dict[str, Any]:
    return {
        "hidden_states": zeros(call.batch, config["in_channels"], call.height, call.width),
        "encoder_hidden_states": zeros(call.batch, call.text_length, config["caption_channels"]),
        "encoder_attention_mask": zeros(call.batch, call.text_length) + 1,
        "timestep": zeros(call.batch),
    }


SANA = Denoiser(
    classes=("SanaTransformer2DModel",),
    sample="hidden_states",
    latent_multiple=lambda config: int(config["patch_size"]),
    inputs=_inputs,
    chains=("transformer_blocks",),
)

FAMILIES = (Family("SanaPipeline", SANA, denoiser="transformer", paper_scale=0.75),)
