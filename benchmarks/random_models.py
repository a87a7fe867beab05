"""Models of a card's full size with random weights, and the same in miniature; nothing is downloaded.

The networks are built from the card's configurations, directly on the device and one after another, so that a network
is never held twice. What runs and how long it takes does not depend on the weights' values; images are noise.
"""

from __future__ import annotations

import inspect
import string
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from postdiff_calib.errors import UnsupportedError
from postdiff_calib.models.cards import CARDS, Card
from postdiff_calib.models.families import family_named
from postdiff_calib.models.load import LoadedModel

#: Stable Diffusion's noise schedule, for the schedulers that take one.
SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
#: FLUX's and Stable Diffusion 3's, for the scheduler of flow matching.
FLOW: dict[str, dict[str, Any]] = {
    "StableDiffusion3Pipeline": {"shift": 3.0},
    "FluxPipeline": {"shift": 3.0, "use_dynamic_shifting": True},
}
MINIATURE_SIDE = 128
#: Of a model's weights: what a call needs beside them, and bytes that are kept free whatever it is.
ROOM, SPARE = 0.15, 4 * 2**30
_WIDTH = 32


@dataclass(frozen=True)
class Size:
    """A model to build.

    Attributes:
        label: in tables.
        card: a card's name, or how it begins: the first such card is taken.
        side: image side in pixels.
    """

    label: str
    card: str
    side: int


SIZES = (
    Size("SD1.5-size 512²", "sd15", 512),
    Size("SD1.5-size 768²", "sd15", 768),
    Size("SDXL-size 1024²", "sdxl", 1024),
)
#: Built where memory allows.
FURTHER = (Size("FLUX-size 1024²", "flux", 1024), Size("SD3-size 1024²", "sd3", 1024))


def card_of(size: Size) -> Card:
    """The card of a size, at its side.

    Raises:
        UnsupportedError: there is none, or no such pipeline can be accelerated.
    """
    card = next((card for card in CARDS if card.name.startswith(size.card)), None)
    if card is None:
        raise UnsupportedError(f"model {size.label}", f"no card begins with {size.card!r}", "add a card")
    if family_named(card.pipeline_class) is None:
        raise UnsupportedError(f"model {size.label}", f"{card.pipeline_class} is of no family", "add the family")
    return replace(card, height=size.side, width=size.side)


def miniature(card: Card) -> Card:
    """The same networks with a few channels, for images of 128.

    Raises:
        UnsupportedError: a network of which no miniature is known.
    """
    texts = sum(role.startswith("text_encoder") for role in card.networks)
    networks = {role: _small(card.network_config(role), texts) for role in card.networks}
    return replace(card, height=MINIATURE_SIDE, width=MINIATURE_SIDE, networks=networks)


_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "SD3Transformer2DModel": {
        "sample_size": MINIATURE_SIDE // 8,
        "num_layers": 6,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "caption_projection_dim": 16,
        "pos_embed_max_size": MINIATURE_SIDE // 8,
    },
    "FluxTransformer2DModel": {
        "num_layers": 3,
        "num_single_layers": 3,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "axes_dims_rope": [4, 4, 8],
    },
}


def _small(config: dict[str, Any], texts: int) -> dict[str, Any]:
    name = config.get("_class_name") or config["architectures"][0]
    if name.startswith("CLIPTextModel"):
        width = {"hidden_size": _WIDTH, "intermediate_size": _WIDTH, "projection_dim": _WIDTH}
        return config | width | {"num_hidden_layers": 2, "num_attention_heads": 2}
    if name == "T5EncoderModel":  # as wide as the pooled text, which CLIP's encoders make one behind the other
        width = _WIDTH * max(1, texts - 1)
        return config | {"d_model": width, "d_kv": 8, "d_ff": _WIDTH, "num_layers": 1, "num_heads": 2}
    if name in _TRANSFORMERS:
        width = _WIDTH * max(1, texts - 1)
        return config | _TRANSFORMERS[name] | {"joint_attention_dim": width, "pooled_projection_dim": width}
    if name == "AutoencoderKL":
        return config | {"block_out_channels": [4] * len(config["block_out_channels"]), "norm_num_groups": 2}
    if name != "UNet2DConditionModel":
        raise UnsupportedError(f"network {name}", "no miniature of it is known", "run it at full size")
    depth = len(config["block_out_channels"])
    small = {
        "block_out_channels": [8, 8, 16, 16][-depth:],
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "cross_attention_dim": _WIDTH * texts,
    }
    if config.get("addition_embed_type"):
        # Six numbers of the image's size, four values each, and the pooled text.
        more = {"addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 6 * 4 + _WIDTH}
        small |= more | {"transformer_layers_per_block": [1] * depth}
    return config | small


def build(card: Card, device: str, dtype: str, seed: int = 0) -> LoadedModel:
    """A pipeline of a card's networks with random weights.

    Args:
        card: whose networks and pipeline class; see ``card_of`` and ``miniature``.
        device, dtype: where and in which type.
        seed: of the weights.
    """
    import diffusers

    kind = getattr(diffusers, card.pipeline_class)
    torch.manual_seed(seed)
    parts: dict[str, Any] = {}
    for role in card.networks:
        parts[role] = _network(card.network_config(role), device, dtype).to(getattr(torch, dtype)).eval()
        if role.startswith("text_encoder"):
            length = card.text_lengths.get(role, card.text_length)
            parts[role.replace("text_encoder", "tokenizer")] = _tokenizer(length)
    scheduler = getattr(diffusers, card.scheduler)
    taken = inspect.signature(scheduler.__init__).parameters
    values = FLOW.get(card.pipeline_class, SCHEDULE)
    parts["scheduler"] = scheduler(**{name: value for name, value in values.items() if name in taken})
    given = inspect.signature(kind.__init__).parameters
    parts |= {name: False for name in ("requires_safety_checker", "add_watermarker") if name in given}
    required = [name for name, value in given.items() if value.default is inspect.Parameter.empty and name != "self"]
    pipe = kind(**{name: None for name in required if name not in parts} | parts)
    pipe.set_progress_bar_config(disable=True)
    name = f"random weights of {card.name}"
    return LoadedModel(pipe, card, name, "", (), f"random-{card.name}-{card.height}", device, dtype)


def require_room(card: Card, dtype: str, free: int | None) -> None:
    """Refuse a model whose weights and their calls do not fit into the memory that is left.

    Args:
        card: whose networks.
        dtype: of its weights.
        free: bytes; None where nobody knows.

    Raises:
        UnsupportedError: says what it takes and what there is.
    """
    if free is None:
        return
    needed = round(weight_bytes(card, dtype) * (1 + ROOM)) + SPARE
    if needed > free:
        rule = f"it takes {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free"
        raise UnsupportedError(f"model {card.name}", rule, "take a larger GPU")


def weight_bytes(card: Card, dtype: str) -> int:
    """Bytes of a card's weights."""
    networks = (_network(card.network_config(role), "meta", dtype) for role in card.networks)
    numbers = sum(weight.numel() for network in networks for weight in network.parameters())
    return numbers * getattr(torch, dtype).itemsize


@contextmanager
def made_as(dtype: str) -> Iterator[None]:
    """Weights are made in this type, so that a large network is never held in a wider one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _network(config: dict[str, Any], device: str, dtype: str) -> Any:
    """One network, its weights initialised on the device."""
    import diffusers
    import transformers

    values = dict(config)
    with torch.device(device), made_as(dtype):
        if "_class_name" in values:
            return getattr(diffusers, values["_class_name"]).from_config(values)
        name, kind = values.pop("architectures")[0], values.pop("model_type")
        # Only as many words as the tokenizer has: an encoder's cost does not depend on its vocabulary.
        words = _words()
        ends = {"bos_token_id": words["<|startoftext|>"], "eos_token_id": words["<|endoftext|>"]}
        values |= ends | {"pad_token_id": ends["eos_token_id"], "vocab_size": len(words)}
        return getattr(transformers, name)(transformers.AutoConfig.for_model(kind, **values))


def _words() -> dict[str, int]:
    names = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    return {name: i for i, name in enumerate([*names, "<|startoftext|>", "<|endoftext|>"])}


def _tokenizer(length: int) -> Any:
    """A CLIP tokenizer with one token per letter."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer(vocab=_words(), merges=[], model_max_length=length)
