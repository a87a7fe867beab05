"""Stable Diffusion 3 and 3.5: joint blocks on image and text tokens, three text encoders, flow matching.

Image and text attend jointly, so there is no cross-attention to keep. The position embedding is cropped around the
centre, so the network takes smaller latents as it is. Its blocks hand on the text's hidden states and the image's; the
last block the image's alone. Source: diffusers 0.42, Esser et al. 2024 (arXiv 2403.03206).

Symbols: D_t width of the text's hidden states, D_p of the pooled text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from postdiff_calib.models.families.family import Call, Denoiser, Family, Zeros


def _inputs(config: Mapping[str, Any], call: Call, zeros: Zeros) -> dict[str, Any]:
    return {
        "hidden_states": zeros(call.batch, config["in_channels"], call.height, call.width),
        "timestep": zeros(call.batch),
        "encoder_hidden_states": zeros(call.batch, call.text_length, config["joint_attention_dim"]),
        "pooled_projections": zeros(call.batch, config["pooled_projection_dim"]),
    }


def _text_tokens(pipe: Any, longest: int) -> int:
    """CLIP's tokens and T5's behind them; an absent third encoder (``shapes.absent_text``) gives a single one."""
    absent = type(pipe.text_encoder_3).__name__ == "AbsentTextEncoder"
    return int(pipe.tokenizer_max_length) + (1 if absent else longest)


SD3 = Denoiser(
    classes=("SD3Transformer2DModel",),
    sample="hidden_states",
    latent_multiple=lambda config: int(config["patch_size"]),
    inputs=_inputs,
    chains=("transformer_blocks",),
    block_output="encoder, hidden",
    cross_attention=lambda network: [],
    lacks=frozenset({"cross_attention_cache"}),
)

FAMILIES = (
    Family(
        "StableDiffusion3Pipeline",
        SD3,
        denoiser="transformer",
        text_encoders=("text_encoder", "text_encoder_2", "text_encoder_3"),
        latents_first=True,
        paper_scale=0.75,
        text_tokens=_text_tokens,
    ),
)
