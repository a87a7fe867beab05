"""Mixed-resolution denoising, s and β: the early steps run on a smaller latent.

Two moments. The start: noise of the low size, by default made from the full-size noise of the same seed, so that a
seed keeps its composition. The switch, after the last low-resolution step: predicted clean latent x̂0 → bilinear
up-sampling → forward noising to the next timestep with fresh full-size noise. Source: PostDiff, arXiv 2508.06160,
section 2.2; coupling the starting noise is ours.

Symbols: β low side over full side, x̂0 predicted clean latent, ε noise; latents (B, C, H, W).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, get_args

import torch
from torch.nn import functional as F

from postdiff_calib.errors import UsageError

NoiseMode = Literal["coupled", "independent"]


def check_noise(noise: str) -> str:
    """``noise`` itself when it is a known mode.

    Raises:
        UsageError: it is not.
    """
    if noise not in get_args(NoiseMode):
        raise UsageError(f"noise={noise!r}", "it must be coupled or independent", "the default is coupled")
    return noise


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # remembered, so it must be a normal tensor wherever it is first asked for
def pooling_matrix(full: int, low: int) -> torch.Tensor:
    """Area pooling that keeps white noise white, shape (low, full), float32.

    Row i of plain area pooling averages the full pixels under low pixel i, shared ones by their overlap. Its rows are
    orthonormalised symmetrically, (W·Wᵀ)^(−1/2)·W: the closest matrix with W·Wᵀ = 1, so every low pixel has unit
    variance and none is correlated with another, at non-integer ratios too. At integer ratios this is plain area
    pooling, rescaled.
    """
    ratio = full / low
    edges = torch.arange(low + 1, dtype=torch.float64) * ratio
    pixels = torch.arange(full, dtype=torch.float64)
    left = torch.maximum(edges[:-1, None], pixels[None])
    right = torch.minimum(edges[1:, None], pixels[None] + 1)
    weights = (right - left).clamp_min(0)
    values, vectors = torch.linalg.eigh(weights @ weights.T)
    matrix: torch.Tensor = (vectors @ torch.diag(values.rsqrt()) @ vectors.T @ weights).float()
    return matrix


def coupled_noise(noise: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Noise of the low size (B, C, *size) made from full-size noise; the same scale, pixels independent."""
    rows = pooling_matrix(noise.shape[-2], size[0]).to(noise.device)
    columns = pooling_matrix(noise.shape[-1], size[1]).to(noise.device)
    return (rows @ noise.float() @ columns.T).to(noise.dtype)


def low_res_start(
    latents: torch.Tensor, size: tuple[int, int], mode: str, scale: float, generator: Any
) -> torch.Tensor:
    """The low-resolution starting latent.

    Args:
        latents: the pipeline's full-size starting latent, already scaled by ``scale``, (B, C, H, W).
        size: low-resolution (height, width).
        mode: ``coupled`` or ``independent``.
        scale: the scheduler's initial noise standard deviation.
        generator: the caller's generator or generators, or None.
    """
    if mode == "coupled":
        return coupled_noise(latents, size)
    return fresh_noise(latents, size, generator) * scale


def fresh_noise(like: torch.Tensor, size: tuple[int, int], generator: Any) -> torch.Tensor:
    """Standard normal noise of the batch, channels, device and dtype of ``like``."""
    from diffusers.utils.torch_utils import randn_tensor

    noise: torch.Tensor = randn_tensor(
        (*like.shape[:2], *size), generator=generator, device=like.device, dtype=like.dtype
    )
    return noise


def upsample(clean: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear up-sampling of a clean latent to (height, width)."""
    return F.interpolate(clean, size=size, mode="bilinear", align_corners=False)
