"""The switch of a rectified flow by expanding the state, and noise levels that suit a smaller latent.

x_σ = (1 − σ)·x₀ + σ·ε. An image of half the side has half the amplitude in each band of its cosine transform, its
noise has the same: a band that survives the change of size has r times the signal for its noise at the small size.
So the small latent at σ is the low band of a large one at a later time, nearer to noise:

    X̃ = κ·(Dᵀ·x_σ·D + σ·ξ in the bands above), κ = r/(1 + (r − 1)·σ), at σ̃ = κ·σ

D keeps the low band of the cosine transform, and ξ is white noise. Source of the expansion: SPEED, arXiv 2605.18736.
Read the other way round, σ = σ̃/(r − (r − 1)·σ̃) is the level at which a small latent tells as much of each of its
pixels as the large one at σ̃: low-resolution steps on that grid of their own lead to the large grid's own levels.

Symbols: r = √(H·W / (h·w)) ≥ 1, the ratio of the sides; latents (B, C, h, w) and (B, C, H, W).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from postdiff_calib.techniques.switch_noise import Pooling


def side_ratio(full: tuple[int, int], low: tuple[int, int]) -> float:
    """r: full over low side, the geometric mean of height and width."""
    return float((full[0] * full[1] / (low[0] * low[1])) ** 0.5)


def expanded_level(sigma: Any, ratio: float) -> Any:
    """σ̃ in [0, 1] of the expanded state: never below σ, and 1 where σ is."""
    return ratio * sigma / (1 + (ratio - 1) * sigma)


def own_level(sigma: Any, ratio: float) -> Any:
    """The level of a low-resolution step in the place of the full grid's σ; the inverse of ``expanded_level``."""
    return sigma / (ratio - (ratio - 1) * sigma)


def bands(full: tuple[int, int], low: tuple[int, int], device: Any) -> Pooling:
    """The lowest (h, w) bands of the cosine transform of (H, W), as a latent of (h, w): orthonormal, on the device."""
    rows, columns = (band_matrix(*sides).to(device) for sides in zip(full, low, strict=True))
    return Pooling(rows, columns)


@lru_cache(maxsize=64)
def band_matrix(full: int, low: int) -> Any:
    """D, (low, full), float32, orthonormal rows: the cosine transform of ``full``, cut, and that of ``low`` undone."""
    import torch

    with torch.inference_mode(False), torch.device("cpu"):
        return (_cosines(low).T @ _cosines(full)[:low]).float()


def _cosines(side: int) -> Any:
    """The orthonormal cosine transform (DCT-II) of a side, a row per band, float64."""
    import torch

    band, pixel = torch.arange(side, dtype=torch.float64)[:, None], torch.arange(side, dtype=torch.float64)
    matrix = (2 / side) ** 0.5 * torch.cos(torch.pi / side * (pixel + 0.5) * band)
    matrix[0] /= 2**0.5
    return matrix


def expanded(sample: Any, sigma: Any, noise: Any, pool: Pooling, ratio: float) -> Any:
    """X̃ (B, C, H, W), float32, a sample at ``expanded_level(sigma, ratio)``.

    Args:
        sample: x_σ at low resolution, (B, C, h, w).
        sigma: its σ in (0, 1].
        noise: white noise of full size; what it has above the low band is taken.
        pool: ``bands`` from (H, W) to (h, w), on their device.
        ratio: r.
    """
    noise = noise.float()
    above = noise - pool.up(pool.down(noise))
    return ratio / (1 + (ratio - 1) * sigma) * (pool.up(sample.float()) + sigma * above)
