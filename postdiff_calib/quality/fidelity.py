"""Comparisons of an image with the baseline's of the same prompt and seed, by torchmetrics.

Images are (B, 3, H, W) float, values in [0, 1]; each function gives a number per image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: PSNR of equal images is infinite; reported as this, in dB, so that means stay finite.
PSNR_CAP = 100.0


def ssim(images: torch.Tensor, reference: torch.Tensor) -> list[float]:
    """Structural similarity per image, 1 for equal images (Wang et al. 2004, 11-pixel Gaussian window)."""
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    values = structural_similarity_index_measure(images.float(), reference.float(), data_range=1.0, reduction="none")
    return [float(value) for value in torch.as_tensor(values).reshape(-1)]


def psnr(images: torch.Tensor, reference: torch.Tensor) -> list[float]:
    """Peak signal-to-noise ratio per image, in dB, at most ``PSNR_CAP``."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    values = peak_signal_noise_ratio(images.float(), reference.float(), data_range=1.0, reduction="none", dim=(1, 2, 3))
    return [min(PSNR_CAP, float(value)) for value in values]
