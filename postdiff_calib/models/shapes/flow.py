"""``shapes-flow``: a stock Stable Diffusion 3 pipeline of small networks, its training loss and a sampler by hand.

Rectified flow (Liu et al. 2022, arXiv 2209.03003): x_σ = (1 − σ)·x₀ + σ·ε, the network predicts v = ε − x₀. Noise
levels are logit-normal(0, 1) as in Stable Diffusion 3 (arXiv 2403.03206); every size sees all of them.

Text comes from the frozen encoder of ``shapes``, twice, since the pipeline wants two: ``text_encoder`` is the whole
encoder (the sentence), ``text_encoder_2`` its first layer (the words). The pipeline reads the last hidden state but
one, so the whole encoder gets a fourth layer that changes nothing. The third encoder is absent: one token of zeros.

Symbols: B images, C = 12 latent channels, H = W = 16 latent side, L = 24 + 1 tokens, D = 2·128 text width, σ in [0, 1].
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from postdiff_calib.models.shapes.absent_text import AbsentTextEncoder
from postdiff_calib.models.shapes.autoencoder import PatchAutoencoder
from postdiff_calib.models.shapes.diffusion import LATENT_SIDE, TEXT_WIDTH
from postdiff_calib.models.shapes.tokenizer import CONTEXT_LENGTH, build_tokenizer, token_numbers
from postdiff_calib.models.shapes.world import sample_scene

PATCH = 2
WIDTH = 160
HEADS = 5
LAYERS = 6
#: The two text encoders' hidden states side by side.
JOINT_WIDTH = 2 * TEXT_WIDTH
TRAIN_TIMESTEPS = 1000


def build_transformer(channels: int) -> Any:
    """A stock joint-attention transformer: 6 blocks of width 160 on 64 image and 25 text tokens, 5.5 M parameters.

    Position embeddings are cropped around the centre, as Stable Diffusion 3's, so smaller latents use the middle ones.
    Modulations and the output start at zero (Peebles and Xie 2022, arXiv 2212.09748): every block is then the
    identity, which trains much faster than the library's default.
    """
    from diffusers import SD3Transformer2DModel

    network = SD3Transformer2DModel(
        sample_size=LATENT_SIDE,
        patch_size=PATCH,
        in_channels=channels,
        out_channels=channels,
        num_layers=LAYERS,
        attention_head_dim=WIDTH // HEADS,
        num_attention_heads=HEADS,
        joint_attention_dim=JOINT_WIDTH,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=JOINT_WIDTH,
        pos_embed_max_size=LATENT_SIDE // PATCH,
    )
    modulations = ("norm1.linear", "norm1_context.linear", "norm_out.linear", "proj_out")
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Linear):
            if name.endswith(modulations):
                torch.nn.init.zeros_(module.weight)
            else:
                torch.nn.init.xavier_uniform_(module.weight)
            torch.nn.init.zeros_(module.bias)
    return network


def build_scheduler() -> Any:
    """The stock Euler scheduler of flow matching, without a shift of the noise levels."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=TRAIN_TIMESTEPS, shift=1.0)


@dataclass(frozen=True)
class TextEncoders:
    """The tokenizer and the frozen encoders; calling it encodes captions as the pipeline does."""

    tokenizer: Any
    sentence: Any
    words: Any
    absent: AbsentTextEncoder

    def to(self, device: torch.device) -> TextEncoders:
        """Copies of the encoders on a device."""
        moved = (copy.deepcopy(encoder).to(device) for encoder in (self.sentence, self.words, self.absent))
        return TextEncoders(self.tokenizer, *moved)

    def tokens(self, captions: list[str]) -> torch.Tensor:
        """Captions to token numbers, (B, 24)."""
        ids: torch.Tensor = token_numbers(self.tokenizer, captions)
        return ids

    def __call__(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Captions to hidden states (B, L, D) and pooled embeddings (B, D)."""
        return self.encode(self.tokens(captions))

    def encode(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Token numbers (B, 24) to hidden states (B, L, D) and pooled embeddings (B, D), on the encoders' device."""
        with torch.no_grad():
            ids = ids.to(self.sentence.device)
            read = [encoder(ids, output_hidden_states=True) for encoder in (self.sentence, self.words)]
            hidden = torch.cat([r.hidden_states[-2] for r in read], dim=-1)
            hidden = torch.cat([hidden, self.absent(ids)[0]], dim=1)
            return hidden, torch.cat([r.text_embeds for r in read], dim=-1)


def load_text_encoders(folder: Path) -> TextEncoders:
    """Both encoders from the ``text_encoder`` folder of the ``shapes`` pipeline, in float32."""
    from transformers import CLIPTextModel

    shapes = CLIPTextModel.from_pretrained(folder, dtype=torch.float32)  # nosec B615: a folder of this package, nothing is downloaded
    sentence = _with_layers(shapes, shapes.config.num_hidden_layers + 1)
    return TextEncoders(build_tokenizer(), sentence, _with_layers(shapes, 1), AbsentTextEncoder(JOINT_WIDTH))


def _with_layers(encoder: Any, layers: int) -> Any:
    """The encoder with its first ``layers`` layers, those beyond its own the identity, and an identity projection."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(**(encoder.config.to_dict() | {"num_hidden_layers": layers}))
    result = CLIPTextModelWithProjection(config)
    weights = {key.replace("text_model.", ""): value for key, value in encoder.state_dict().items()}
    state = {}
    for key, own in result.state_dict().items():
        base = key.replace("text_model.", "")
        if base == "text_projection.weight":
            state[key] = torch.eye(len(own))
        elif base in weights:
            state[key] = weights[base]
        else:  # a layer whose two branches end in nothing leaves its input as it is
            state[key] = torch.ones_like(own) if "norm" in base and base.endswith("weight") else torch.zeros_like(own)
    result.load_state_dict(state)
    return result.eval().requires_grad_(False)


@contextmanager
def precision(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Matrix products in ``dtype``; on a CPU attention is plain products too, faster in bfloat16 than its kernel."""
    if dtype == torch.float32:
        yield
        return
    if device.type != "cpu":
        with torch.autocast(device.type, dtype):
            yield
        return
    before: bool = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()  # type: ignore[no-untyped-call]
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with torch.autocast(device.type, dtype), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)


def draw(latents: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise levels (B,) and noise (B, C, h, w) of a training batch."""
    sigma = torch.randn(len(latents), generator=generator).sigmoid()
    return sigma, torch.randn(latents.shape, generator=generator)


class Training(torch.nn.Module):
    """The transformer and its loss; text encoders and autoencoder stay outside and fixed.

    A raw hidden state has a few very large dimensions. The transformer is trained on standardised ones; ``folded``
    moves the standardisation into its first text layer, so that it takes the raw ones that the pipeline hands it.
    """

    def __init__(self, seed: int, channels: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.transformer = build_transformer(channels)
        self.text_mean: torch.Tensor
        self.text_scale: torch.Tensor
        self.register_buffer("text_mean", torch.zeros(JOINT_WIDTH))
        self.register_buffer("text_scale", torch.ones(JOINT_WIDTH))

    def standardise(self, text: TextEncoders, seed: int, captions: int) -> None:
        """Take mean and spread of every hidden dimension from freshly drawn captions."""
        rng = Random(f"{seed}/text statistics")
        hidden, _ = text([sample_scene(rng).caption() for _ in range(captions)])
        named = hidden[:, :CONTEXT_LENGTH]
        self.text_mean.copy_(named.mean((0, 1)))
        self.text_scale.copy_(named.std((0, 1)).clamp(min=1e-3))

    def loss(
        self,
        latents: torch.Tensor,
        hidden: torch.Tensor,
        pooled: torch.Tensor,
        drawn: tuple[torch.Tensor, torch.Tensor],
        dtype: torch.dtype = torch.float32,
    ) -> torch.Tensor:
        """Mean squared error of the velocity; latents (B, C, h, w) of any even side; ``drawn`` as ``draw`` gives it."""
        device = self.text_mean.device
        latents, hidden, pooled, sigma, noise = (x.to(device) for x in (latents, hidden, pooled, *drawn))
        s = sigma[:, None, None, None]
        with precision(dtype, device):
            predicted = self.transformer(
                (1 - s) * latents + s * noise,
                encoder_hidden_states=(hidden - self.text_mean) / self.text_scale,
                pooled_projections=pooled,
                timestep=TRAIN_TIMESTEPS * sigma,
            ).sample
        loss: torch.Tensor = (predicted.float() - (noise - latents)).square().mean()
        return loss

    @torch.no_grad()
    def folded(self) -> Any:
        """A copy of the transformer that takes raw hidden states."""
        network = copy.deepcopy(self.transformer).eval()
        layer = network.context_embedder
        layer.weight.div_(self.text_scale)
        layer.bias.sub_(layer.weight @ self.text_mean)
        return network


@torch.no_grad()
def sample(
    network: Any, text: TextEncoders, captions: list[str], noise: torch.Tensor, steps: int, guidance_scale: float
) -> torch.Tensor:
    """Latents (B, C, H, W) from noise of that shape by Euler steps with guidance; ``network`` takes raw text."""
    hidden, pooled = (torch.cat(pair) for pair in zip(text([""] * len(captions)), text(captions), strict=True))
    hidden, pooled = hidden.to(noise.device), pooled.to(noise.device)
    scheduler = build_scheduler()
    scheduler.set_timesteps(steps)
    x = noise
    for t, sigma, following in zip(scheduler.timesteps, scheduler.sigmas[:-1], scheduler.sigmas[1:], strict=True):
        velocity = network(
            torch.cat([x, x]),
            encoder_hidden_states=hidden,
            pooled_projections=pooled,
            timestep=t.expand(2 * len(x)).to(x.device),
        ).sample
        without, given = velocity.chunk(2)
        x = x + float(following - sigma) * (without + guidance_scale * (given - without))
    return x


def build_pipeline(network: Any, text: TextEncoders, autoencoder: PatchAutoencoder) -> Any:
    """The stock Stable Diffusion 3 pipeline; ``network`` takes raw text, as ``Training.folded`` gives it."""
    from diffusers import StableDiffusion3Pipeline

    return StableDiffusion3Pipeline(
        transformer=network,
        scheduler=build_scheduler(),
        vae=autoencoder,
        text_encoder=text.sentence,
        tokenizer=text.tokenizer,
        text_encoder_2=text.words,
        tokenizer_2=build_tokenizer(),
        text_encoder_3=text.absent,
        tokenizer_3=build_tokenizer(),
    )
