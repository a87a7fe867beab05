"""The embedded model's autoencoder: a linear transform of 4×4 patches, fitted by principal components.

An image of the embedded world is flat colour and edges, so the first 12 of a patch's 48 principal components keep
more than 30 dB, cost almost nothing, and need no training run. Encoding is deterministic. Components are scaled by the
inverse square root of their standard deviation (then to unit variance for the first), which leaves the usual
coarse-to-fine order of variances but not all of its range.

Symbols: P = 4 patch side, C = 12 latent channels, S image side; images (B, 3, S, S) in [−1, 1], latents
(B, C, S/P, S/P).
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_utils import ModelMixin
from torch.nn import functional as F

PATCH = 4


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Linear patch autoencoder with the interface that a Stable Diffusion pipeline asks of its ``vae``.

    Args:
        latent_channels: C, how many principal components are kept, 1 to 48.
        scaling_factor: kept at 1; latents already have unit scale.
        shift_factor: kept at 0; latents are already centred.
        block_out_channels: its length fixes the pipeline's ``vae_scale_factor`` (three entries: 4).
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 12,
        scaling_factor: float = 1.0,
        block_out_channels: tuple[int, ...] = (1, 1, 1),
        shift_factor: float = 0.0,
    ) -> None:
        super().__init__()
        size = 3 * PATCH * PATCH
        self.mean = torch.nn.Parameter(torch.zeros(size), requires_grad=False)
        self.analysis = torch.nn.Parameter(torch.zeros(latent_channels, size), requires_grad=False)
        self.synthesis = torch.nn.Parameter(torch.zeros(size, latent_channels), requires_grad=False)

    @torch.no_grad()
    def fit(self, images: torch.Tensor) -> None:
        """Set the transform from example images of shape (B, 3, S, S) in [−1, 1]."""
        patches = F.pixel_unshuffle(images, PATCH).permute(0, 2, 3, 1).flatten(0, 2).double()
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
        keep = self.analysis.shape[0]
        std = values.flip(0)[:keep].sqrt()
        basis = vectors.flip(1)[:, :keep]
        # An eigenvector's sign is arbitrary; make its largest entry positive so that a refit gives the same latents.
        basis = basis * basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()
        scale = (std[0] * std).sqrt()
        self.mean.copy_(mean)
        self.analysis.copy_((basis / scale).T)
        self.synthesis.copy_(basis * scale)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, S, S) in [−1, 1] to latents (B, C, S/4, S/4)."""
        patches = F.pixel_unshuffle(images, PATCH) - self.mean[:, None, None]
        return F.conv2d(patches, self.analysis[:, :, None, None])

    def decode(self, z: torch.Tensor, return_dict: bool = True, generator: Any = None) -> DecoderOutput | tuple[Any]:
        """Latents (B, C, H, W) to images (B, 3, 4H, 4W); ``generator`` is accepted and not used."""
        patches = F.conv2d(z, self.synthesis[:, :, None, None]) + self.mean[:, None, None]
        sample = F.pixel_shuffle(patches, PATCH)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        """Encode and decode."""
        decoded: torch.Tensor = self.decode(self.encode(sample), return_dict=False)[0]
        return decoded
