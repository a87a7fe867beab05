"""A model in one ``.safetensors`` file, as the community shares Stable Diffusion 1.x, 2.x and XL: loaded offline.

Such a file holds the weights of all networks in the original repository's names and says nothing else. Which model it
is follows from the names and shapes in its header; configurations are this package's own, the vocabulary of the
tokenizers is the one that comes with open_clip, so neither the hub nor a folder is asked.
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from postdiff_calib.errors import ModelError, UnsupportedError, reason_of
from postdiff_calib.models.card import Card

#: Kind of checkpoint, by diffusers' own name for it → the card whose configurations it has.
SINGLE_FILE_CARDS = {"v1": "sd15", "v2": "sd21", "xl_base": "sdxl"}
#: A tensor that each of these kinds has: the first convolution of the network.
_FIRST = "model.diffusion_model.input_blocks.0.0.weight"
_NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
#: The scheduler of each kind's original repository.
_SCHEDULERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "v1": ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}),
    "v2": ("DDIMScheduler", {"prediction_type": "v_prediction", "clip_sample": False, "set_alpha_to_one": False,
                             "steps_offset": 1}),
    "xl_base": ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1}),
}  # fmt: skip
#: What fills a prompt up; "!" is token 0 of the vocabulary.
_PADDING = {"text_encoder": "<|endoftext|>", "text_encoder_2": "!"}


def is_single_file(model: str) -> bool:
    """Whether a model is given as one file of weights."""
    return model.endswith((".safetensors", ".ckpt", ".pt", ".bin")) and not os.path.isdir(model)


def kind_of(path: str) -> str:
    """Which kind of checkpoint a file is, from its header; no weight is read.

    Raises:
        ModelError: there is no such file, or it is not one of safetensors with all of a model's networks.
        UnsupportedError: a kind that postdiff does not load.
    """
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type
    from safetensors import SafetensorError, safe_open

    if not path.endswith(".safetensors"):
        raise ModelError(f"model {path!r}", "weights are read from .safetensors alone", "convert the file first")
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            shapes = {name: SimpleNamespace(shape=tuple(file.get_slice(name).get_shape())) for name in names}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"model {path!r}", f"it cannot be read ({reason_of(error)})", "give another file") from error
    if _FIRST not in shapes:
        raise ModelError(
            f"model {path!r}",
            f"it holds no whole model: {_FIRST} is missing",
            "give a checkpoint of Stable Diffusion 1.x, 2.x or XL, or a folder that save_pretrained wrote",
        )
    kind = str(infer_diffusers_model_type(shapes))
    if kind not in SINGLE_FILE_CARDS:
        known = ", ".join(SINGLE_FILE_CARDS)
        raise UnsupportedError(f"model {path!r}", f"it is a checkpoint of kind {kind}; kinds are {known}", "give one")
    return kind


def card_of_kind(kind: str) -> Card:
    """The card whose configurations a kind of checkpoint has."""
    from postdiff_calib.models.cards import get_card

    return get_card(SINGLE_FILE_CARDS[kind])


def load_single_file(path: str, kind: str, options: Mapping[str, Any]) -> Any:
    """The pipeline of a file.

    Args:
        path: of the file.
        kind: as ``kind_of`` says.
        options: of diffusers' ``from_single_file``: ``dtype``, and components that stand in for the file's own.
    """
    import diffusers

    card = card_of_kind(kind)
    with tempfile.TemporaryDirectory(prefix="postdiff-") as folder:
        write_configuration(Path(folder), kind, card)
        pipeline_class = getattr(diffusers, card.pipeline_class)
        return pipeline_class.from_single_file(path, config=folder, local_files_only=True, **options)


def write_configuration(folder: Path, kind: str, card: Card) -> None:
    """A folder with the configuration of every component of a kind of checkpoint, and no weights."""
    scheduler, settings = _SCHEDULERS[kind]
    index: dict[str, Any] = {
        "_class_name": card.pipeline_class,
        "scheduler": ["diffusers", scheduler],
    }
    if kind == "xl_base":
        index["force_zeros_for_empty_prompt"] = True
    else:
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    _write(folder / "scheduler" / "scheduler_config.json", {"_class_name": scheduler, **_NOISE, **settings})
    for role in card.networks:
        config = card.network_config(role)
        library = "transformers" if "architectures" in config else "diffusers"
        index[role] = [library, config["architectures"][0] if library == "transformers" else config["_class_name"]]
        _write(folder / role / "config.json", config)
        if role.startswith("text_encoder"):
            name = role.replace("text_encoder", "tokenizer")
            index[name] = ["transformers", "CLIPTokenizer"]
            padding = "!" if kind == "v2" else _PADDING[role]
            write_tokenizer(folder / name, padding, int(config.get("max_position_embeddings", 77)))
    _write(folder / "model_index.json", index)


def write_tokenizer(folder: Path, padding: str, length: int) -> None:
    """CLIP's tokenizer, from the byte-pair vocabulary that open_clip carries (49,408 tokens).

    Source: OpenAI's ``simple_tokenizer.py``: bytes, bytes that end a word, merges in order, start and end of a text.
    """
    from open_clip import tokenizer as open_clip_tokenizer

    source = Path(open_clip_tokenizer.default_bpe())
    with gzip.open(source) as file:
        merges = file.read().decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    symbols = list(open_clip_tokenizer.bytes_to_unicode().values())
    words = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *("".join(merge.split()) for merge in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    _write(folder / "vocab.json", {word: number for number, word in enumerate(words)})
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    _write(folder / "special_tokens_map.json", {**special, "pad_token": padding})
    _write(
        folder / "tokenizer_config.json",
        {
            **special,
            "pad_token": padding,
            "model_max_length": length,
            "do_lower_case": True,
            "tokenizer_class": "CLIPTokenizer",
        },
    )


def _write(path: Path, data: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")
