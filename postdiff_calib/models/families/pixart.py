"""PixArt-α and PixArt-Σ: a chain of transformer blocks on patches, with cross-attention to T5's text (diffusers 0.42).

The position embedding rescales by itself. PixArt-α's large model also takes the image's resolution and aspect ratio.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from postdiff_calib.models.families.family import Call, Denoiser, Family, Zeros


def _inputs(config: Mapping[str, Any], call: Call, zeros: Zeros) -> dict[str, Any]:
    explicit = config.get("use_additional_conditions")
    sized = config["sample_size"] == 128 if explicit is None else explicit
    resolution, ratio = (zeros(call.batch, 2), zeros(call.batch, 1)) if sized else (None, None)
    return {
        "hidden_states": zeros(call.batch, config["in_channels"], call.height, call.width),
        "timestep": zeros(call.batch, dtype="int64"),
        "encoder_hidden_states": zeros(call.batch, call.text_length, config["caption_channels"]),
        "encoder_attention_mask": zeros(call.batch, call.text_length) + 1,
        "added_cond_kwargs": {"resolution": resolution, "aspect_ratio": ratio},
    }


PIXART = Denoiser(
    # Transformer2DModel is how the network was called before it had a class.
    classes=("PixArtTransformer2DModel", "Transformer2DModel"),
    sample="hidden_states",
    latent_multiple=lambda config: int(config["patch_size"]),
    inputs=_inputs,
    chains=("transformer_blocks",),
)

FAMILIES = (
    Family(
        "PixArtAlphaPipeline",
        PIXART,
        denoiser="transformer",
        held_at_full_size=("resolution", "aspect_ratio"),
        paper_scale=0.75,
    ),
    Family("PixArtSigmaPipeline", PIXART, denoiser="transformer", paper_scale=0.75),
)
