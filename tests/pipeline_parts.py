"""Tiny parts of pipelines with random weights: text encoders, an autoencoder, schedulers."""

from __future__ import annotations

import string
from functools import lru_cache
from typing import Any

LENGTH = 24
TEXT = 32


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    """A CLIP tokenizer with one token per letter."""
    from transformers import CLIPTokenizer

    names = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    names += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={name: i for i, name in enumerate(names)}, merges=[], model_max_length=LENGTH)


def text_encoder(projection: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer()),
        hidden_size=TEXT,
        intermediate_size=TEXT,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        projection_dim=TEXT,
        bos_token_id=tokenizer().bos_token_id,
        eos_token_id=tokenizer().eos_token_id,
        pad_token_id=tokenizer().eos_token_id,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def vae(scale: int = 8, **changes: Any) -> Any:
    """An AutoencoderKL with 4 latent channels that shrinks by ``scale`` (2, 4 or 8)."""
    from diffusers import AutoencoderKL

    levels = {2: 2, 4: 3, 8: 4}[scale]
    return AutoencoderKL(
        block_out_channels=(4,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=4,
        norm_num_groups=2,
        layers_per_block=1,
        sample_size=64,
        **changes,
    ).eval()


def scheduler(name: str = "ddim", **changes: Any) -> Any:
    """A scheduler by short name, with Stable Diffusion's noise schedule."""
    import diffusers

    classes = {
        "ddim": diffusers.DDIMScheduler,
        "dpm": diffusers.DPMSolverMultistepScheduler,
        "euler": diffusers.EulerDiscreteScheduler,
        "unipc": diffusers.UniPCMultistepScheduler,
        "lcm": diffusers.LCMScheduler,
        "pndm": diffusers.PNDMScheduler,
    }
    if name == "flow":
        return diffusers.FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **changes})
    settings: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
    }
    if name in ("ddim", "lcm"):
        settings |= {"clip_sample": False, "set_alpha_to_one": False}
    return classes[name](**{**settings, **changes})


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def t5(width: int = TEXT) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(tokenizer()),
        d_model=width,
        d_kv=8,
        d_ff=TEXT,
        num_layers=1,
        num_heads=2,
        tie_word_embeddings=True,
    )
    return T5EncoderModel(config).eval()
