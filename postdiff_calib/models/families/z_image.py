"""Z-Image and Z-Image-Turbo: refiner blocks on image and text apart, then blocks on one row of both; flow matching.

The network is called with a list of latents, an entry per image and half of guidance, the conditional half first; any
scale above 0 is guidance. Texts are as long as they are, so rows of a batch are padded at their end. The refiners run
on every step; the chain of blocks behind them is what block caching reuses. Source: diffusers 0.42.

Symbols: D width of the text's hidden states.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from postdiff_calib.models.families.family import Call, Denoiser, Family, Zeros


def _inputs(config: Mapping[str, Any], call: Call, zeros: Zeros) -> dict[str, Any]:
    image, text = (config["in_channels"], 1, call.height, call.width), (call.text_length, config["cap_feat_dim"])
    return {
        "x": [zeros(*image) for _ in range(call.batch)],
        "t": zeros(call.batch),
        "cap_feats": [zeros(*text) for _ in range(call.batch)],
    }


Z_IMAGE = Denoiser(
    classes=("ZImageTransformer2DModel",),
    sample="x",
    latent_multiple=lambda config: int(config["all_patch_size"][0]),
    inputs=_inputs,
    chains=("layers",),
    cross_attention=lambda network: [],
    guided_above=0.0,
    lacks=frozenset({"cross_attention_cache"}),
)

FAMILIES = (
    Family(
        "ZImagePipeline",
        Z_IMAGE,
        denoiser="transformer",
        guidance="conditional first",
        latents="list",
        latents_first=True,
        paper_scale=0.75,
    ),
)
