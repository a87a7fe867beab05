"""How pipelines hold latents, and what techniques work on: (B, C, h, w), of any floating type.

| layout | held by the pipeline | given to the network |
| --- | --- | --- |
| spatial | (B, C, h, w) | the same |
| packed | (B, h/2 · w/2, 4C), a token per 2 × 2 patch | the same |
| list | (B, C, h, w) | a list of (C, 1, h, w), an entry per image |

Source: ``_pack_latents`` of diffusers' FluxPipeline, and its ZImagePipeline (0.42).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from postdiff_calib.models.families.family import LatentLayout

Size = tuple[int, int]


def latent_size(pipe: Any, latents: Any, layout: LatentLayout, given: Mapping[str, Any]) -> Size:
    """Latent (height, width) of what ``prepare_latents`` made.

    Args:
        pipe: the pipeline.
        latents: as the pipeline holds them.
        layout: how that is.
        given: the arguments of ``prepare_latents``; packed latents do not tell their height from their width.
    """
    if layout != "packed":
        return int(latents.shape[-2]), int(latents.shape[-1])
    unit = 2 * int(pipe.vae_scale_factor)
    return 2 * (int(given["height"]) // unit), 2 * (int(given["width"]) // unit)


def spatial(latents: Any, size: Size, layout: LatentLayout) -> Any:
    """Held latents, or what a network returned for them, as (B, C, h, w)."""
    if layout != "packed":
        return latents
    batch, _, channels = latents.shape
    height, width = size
    patches = latents.view(batch, height // 2, width // 2, channels // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, height, width)


def held(latents: Any, layout: LatentLayout) -> Any:
    """The inverse of ``spatial``."""
    if layout != "packed":
        return latents
    batch, channels, height, width = latents.shape
    patches = latents.view(batch, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, height // 2 * (width // 2), 4 * channels)


def entries(sample: Any) -> int:
    """Entries of the batch that a network is called with."""
    return len(sample) if isinstance(sample, list) else int(sample.shape[0])


def replaced(sample: Any, latents: Any) -> Any:
    """Other held ``latents`` in the place of a network's ``sample``: as many entries per image, of the same type."""
    if isinstance(sample, list):
        return [latents[i % len(latents)].unsqueeze(1).to(sample[0].dtype) for i in range(len(sample))]
    times = len(sample) // len(latents)
    return latents.repeat(times, *[1] * (latents.ndim - 1)).to(sample.dtype)
