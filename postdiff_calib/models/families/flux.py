"""FLUX.1: joint blocks, then blocks on one row of text and image tokens, flow matching.

Latents are packed, and positions come from ``img_ids`` (row and column of each token), which are those of a smaller
image on low-resolution steps. FLUX.1-dev takes the guidance scale as an input; an unconditional half runs only where a
caller asks for it (``true_cfg_scale`` and a negative prompt), in a call of its own. Blocks of both kinds hand on the
text's hidden states and the image's, so they are one chain. Source: diffusers 0.42.

Symbols: S = h/2 · w/2 image tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from postdiff_calib.models.families.family import Call, Denoiser, Family, Zeros


def _inputs(config: Mapping[str, Any], call: Call, zeros: Zeros) -> dict[str, Any]:
    tokens = call.height // 2 * (call.width // 2)
    return {
        "hidden_states": zeros(call.batch, tokens, config["in_channels"]),
        "timestep": zeros(call.batch),
        "guidance": zeros(call.batch) if config.get("guidance_embeds") else None,
        "pooled_projections": zeros(call.batch, config["pooled_projection_dim"]),
        "encoder_hidden_states": zeros(call.batch, call.text_length, config["joint_attention_dim"]),
        "txt_ids": zeros(call.text_length, 3),
        "img_ids": zeros(tokens, 3),
    }


def _resized(inputs: Mapping[str, Any], size: tuple[int, int], full: tuple[int, int]) -> dict[str, Any]:
    """Positions of a smaller image: the first rows and columns of the full one's; ``img_ids`` (S, 3)."""
    ids = inputs["img_ids"].view(full[0] // 2, full[1] // 2, -1)
    return {"img_ids": ids[: size[0] // 2, : size[1] // 2].flatten(0, 1)}


FLUX = Denoiser(
    classes=("FluxTransformer2DModel",),
    sample="hidden_states",
    latent_multiple=lambda config: 2,
    inputs=_inputs,
    chains=("transformer_blocks", "single_transformer_blocks"),
    block_output="encoder, hidden",
    cross_attention=lambda network: [],
    guides_by_default=False,
    resized=_resized,
    lacks=frozenset({"cross_attention_cache"}),
)

FAMILIES = (
    Family(
        "FluxPipeline",
        FLUX,
        denoiser="transformer",
        text_encoders=("text_encoder", "text_encoder_2"),
        guidance="two calls",
        latents="packed",
        latents_first=True,
        paper_scale=0.75,
    ),
)
