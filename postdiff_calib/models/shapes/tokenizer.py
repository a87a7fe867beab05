"""A stock ``CLIPTokenizer`` whose vocabulary is the embedded world's words, one token a word.

Unknown words fall apart into letters, as in CLIP's own tokenizer, so any text can be encoded.
"""

from __future__ import annotations

import json
import string
from typing import Any

from postdiff_calib.models.shapes.world import WORDS

#: The longest caption has 18 words; with start and end tokens it is 20.
CONTEXT_LENGTH = 24


def build_tokenizer() -> Any:
    """Train byte-pair merges on the word list until each word is one token; returns a ``CLIPTokenizer``."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = list(string.ascii_lowercase)
    trainer = trainers.BpeTrainer(
        vocab_size=10_000,
        min_frequency=1,
        end_of_word_suffix="</w>",
        show_progress=False,
        initial_alphabet=letters,
    )
    trained.train_from_iterator([" ".join(WORDS)], trainer)
    model = json.loads(trained.to_str())["model"]
    names = sorted(set(model["vocab"]) | set(letters) | {f"{c}</w>" for c in letters})
    # The end token comes last: open_clip pools the text at the position of the highest token number.
    names += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {name: i for i, name in enumerate(names)}
    merges = [tuple(m) for m in model["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CONTEXT_LENGTH)


def token_numbers(tokenizer: Any, captions: list[str]) -> Any:
    """Captions to token numbers, an int64 tensor (B, ``CONTEXT_LENGTH``), padded."""
    return tokenizer(captions, padding="max_length", max_length=CONTEXT_LENGTH, return_tensors="pt").input_ids
