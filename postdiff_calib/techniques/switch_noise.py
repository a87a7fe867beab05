"""Noise at the switch without a draw: the trajectory's own noise in the low band, the seed's in the high band.

The low-resolution start is W·z₀·Wᵀ: z₀ is the seed's full-size noise, W the orthonormal pooling, which keeps the low
band of z₀. The low-resolution steps have used up that band only. So the switch takes, with their noise estimate ε̂,

    Wᵀ·ε̂·W + z₀ − Wᵀ·(W·z₀·Wᵀ)·W

The two bands are orthogonal, since W·Wᵀ = 1, so white ε̂ and z₀ give white noise of the same variance. PostDiff
(arXiv 2508.06160, section 2.2) draws fresh noise here instead; this complement of the start is ours.

Symbols: ε̂ noise estimate (B, C, h, w), z₀ (B, C, H, W), α and σ of the next step. All is computed in float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from postdiff_calib.techniques.mixed_resolution import pooling_matrix


class Pooling(NamedTuple):
    """W for both sides of a latent, on the latent's device.

    Attributes:
        rows: (h, H), float32, orthonormal rows.
        columns: (w, W), the same.
    """

    rows: Any
    columns: Any

    def down(self, full: Any) -> Any:
        """The low band of a full-size latent: (…, H, W) → (…, h, w)."""
        return self.rows @ full @ self.columns.T

    def up(self, low: Any) -> Any:
        """The full-size latent with this low band and nothing else: (…, h, w) → (…, H, W)."""
        return self.rows.T @ low @ self.columns


def pooling(full: tuple[int, int], low: tuple[int, int], device: Any) -> Pooling:
    """The pooling from full (height, width) to low (height, width): two small copies, if the device is another."""
    rows, columns = (pooling_matrix(*sides).to(device) for sides in zip(full, low, strict=True))
    return Pooling(rows, columns)


def complement(noise: Any, start: Any, pool: Pooling) -> Any:
    """Full-size noise (B, C, H, W), float32: its low band is ``noise``, its high band that of ``start``.

    Args:
        noise: ε̂ at low resolution, (B, C, h, w).
        start: z₀, (B, C, H, W), of unit variance.
        pool: from (H, W) to (h, w), on their device.
    """
    start = start.float()
    return start + pool.up(noise.float() - pool.down(start))


def renoised(clean: Any, noise: Any, start: Any, alpha: Any, sigma: Any, pool: Pooling) -> Any:
    """The full-resolution sample after the switch, α·x̂₀ + σ·complement, (B, C, H, W), float32.

    Args:
        clean: x̂₀, up-sampled to full size, (B, C, H, W).
        noise, start, pool: as for ``complement``.
        alpha, sigma: levels of the step on which the network is called next; 1 − σ and σ for a rectified flow.
    """
    return alpha * clean.float() + sigma * complement(noise, start, pool)
