"""The embedded diffusion model: a stock Stable Diffusion pipeline of small networks, and its training loss.

Velocity prediction on a cosine schedule (its last timestep is pure noise to float precision), caption dropout for
classifier-free guidance, and a third of the batches at a smaller image, so that low-resolution early steps are in
the model's experience as they are in a large pretrained model's.

Before the diffusion training the text encoder learns, from captions alone, to put the whole scene into the hidden
states behind the caption's end; cross-attention then finds it there.

Symbols: B images, C = 12 latent channels, H = W = 16 latent side; ᾱ cumulative signal share, v = √ᾱ·ε − √(1−ᾱ)·x₀
(Salimans and Ho 2022, arXiv 2202.00512).
"""

from __future__ import annotations

from random import Random
from typing import Any

import torch
from torch.nn import functional as F

from postdiff_calib.models.shapes.autoencoder import PATCH, PatchAutoencoder
from postdiff_calib.models.shapes.drawing import render
from postdiff_calib.models.shapes.tokenizer import CONTEXT_LENGTH, build_tokenizer, token_numbers
from postdiff_calib.models.shapes.world import (
    CODE_HEADS,
    CODE_SIZES,
    IGNORE,
    SIDE,
    SIZES,
    SLOT_NAMES,
    Scene,
    sample_scene,
    scene_code,
)

LATENT_SIDE = SIDE // PATCH
TEXT_WIDTH = 128
#: Sides of the smaller training images in latent pixels: β = 0.375 … 0.875 of 16.
SMALL_SIDES = (6, 8, 10, 12, 14)
#: Smaller images are seen at the noisier timesteps only: that is where low-resolution steps are taken.
SMALL_FIRST_TIMESTEP = 150
#: The loss weight of x₀ is (signal-to-noise + 1) under velocity prediction; nearly clean images are capped here.
SNR_CAP = 20.0


def build_text_encoder(vocab_size: int, bos: int, eos: int) -> Any:
    """A stock CLIP text encoder of three layers, width 128."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT_LENGTH,
            projection_dim=TEXT_WIDTH,
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=eos,
        )
    )


def build_unet(channels: int) -> Any:
    """A stock conditional U-Net of three resolution levels with cross-attention on the lower two."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def build_scheduler() -> Any:
    """DDIM on the cosine schedule, velocity prediction, trailing timesteps.

    DDIM and not a solver of higher order: flat images are so smooth that DPM-Solver++ 2M draws them in 4 steps as
    well as in 20, and a model on which every step count is equally good has no trade-off to calibrate.
    """
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,  # unused by trailing timesteps; the pipeline asks for it
    )


class Training(torch.nn.Module):
    """Text encoder and U-Net with the losses that train them; the autoencoder stays outside and fixed."""

    def __init__(self, seed: int, channels: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.tokenizer = build_tokenizer()
        t = self.tokenizer
        self.text_encoder = build_text_encoder(len(t), t.bos_token_id, t.eos_token_id)
        self.unet = build_unet(channels)
        # One class more than the scene code for the size: captions that name none.
        heads = [n + 1 if i % len(CODE_SIZES) == 2 and i < len(CODE_HEADS) - 1 else n for i, n in enumerate(CODE_HEADS)]
        self.text_heads = torch.nn.ModuleList([torch.nn.Linear(TEXT_WIDTH, n) for n in heads])
        self.alphas_cumprod: torch.Tensor
        self.register_buffer("alphas_cumprod", build_scheduler().alphas_cumprod.clone())

    def tokens(self, captions: list[str]) -> torch.Tensor:
        """Captions to token numbers, (B, 24)."""
        ids: torch.Tensor = token_numbers(self.tokenizer, captions)
        return ids.to(self.alphas_cumprod.device)

    def text_loss(self, scenes: list[Scene], rng: Random) -> torch.Tensor:
        """Cross-entropy of the scene's code read from one random position behind the caption's end."""
        tokens = self.tokens([s.caption() for s in scenes])
        hidden = self.text_encoder(tokens).last_hidden_state
        end = (tokens == self.tokenizer.eos_token_id).int().argmax(1).tolist()
        position = torch.tensor([rng.randrange(e, CONTEXT_LENGTH) for e in end])
        state = hidden[torch.arange(len(scenes)), position]
        codes = torch.tensor([scene_code(s) for s in scenes])
        codes[codes == IGNORE] = len(SIZES) + 1
        codes = codes.to(state.device)
        losses = [F.cross_entropy(head(state), codes[:, i]) for i, head in enumerate(self.text_heads)]
        # Four of five slots are mostly empty; divide by the slots so that the sum stays near one head's scale.
        return torch.stack(losses).sum() / len(SLOT_NAMES)

    def loss(self, latents: torch.Tensor, captions: list[str], generator: torch.Generator) -> torch.Tensor:
        """Velocity loss at random timesteps; latents (B, C, h, w) of any side, captions "" where dropped."""
        b, device = len(latents), self.alphas_cumprod.device
        first = 0 if latents.shape[-1] == LATENT_SIDE else SMALL_FIRST_TIMESTEP
        timesteps = torch.randint(first, 1000, (b,), generator=generator).to(device)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        signal = self.alphas_cumprod[timesteps].float()
        a, s = signal.sqrt()[:, None, None, None], (1 - signal).sqrt()[:, None, None, None]
        latents = latents.to(device)
        hidden = self.text_encoder(self.tokens(captions)).last_hidden_state
        predicted = self.unet((a * latents + s * noise), timesteps, hidden).sample.float()
        error = (predicted - (a * noise - s * latents)).square().mean((1, 2, 3))
        weight = (SNR_CAP * (1 - signal)).clamp(max=1)
        loss: torch.Tensor = (weight * error).mean()
        return loss


def text_batch(seed: int, step: int, size: int) -> tuple[list[Scene], Random]:
    """The scenes of one text warm-up step."""
    rng = Random(f"{seed}/text/{step}")
    return [sample_scene(rng) for _ in range(size)], rng


def batch(
    seed: int,
    step: int,
    size: int,
    autoencoder: PatchAutoencoder,
    caption_dropout: float = 0.1,
    small_share: float = 0.3,
    small_sides: tuple[int, ...] = SMALL_SIDES,
) -> tuple[torch.Tensor, list[str], torch.Generator]:
    """Latents, captions and noise generator of one step; a function of its arguments, so a run can resume."""
    rng = Random(f"{seed}/diffusion/{step}")
    scenes = [sample_scene(rng) for _ in range(size)]
    side = rng.choice(small_sides) if rng.random() < small_share else LATENT_SIDE
    images = render(scenes, seed=rng.randrange(2**31), side=side * PATCH)
    with torch.no_grad():
        latents = autoencoder.encode(images * 2 - 1)
    captions = ["" if rng.random() < caption_dropout else s.caption() for s in scenes]
    return latents, captions, torch.Generator().manual_seed(rng.randrange(2**31))
