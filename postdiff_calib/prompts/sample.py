"""Sampling a calibration set from a large corpus of captions, so that small sets look like the whole.

Prompts are sorted by stratum (cluster of text embeddings, where asked for), then by length in words, then at random,
and taken at equal distances along that order from a random start (systematic sampling): each stratum and each length
is represented in proportion, to within one prompt. Every third one taken is held out for confirmation, which makes
both sets alike and disjoint. The written file carries its provenance in a header row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from postdiff_calib.errors import OutputError, PromptError
from postdiff_calib.prompts.read import PromptSet, content_hash

Stratify = Literal["length", "embedding"]
Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]

#: Clusters of text embeddings: about as many as there are everyday subjects in COCO's supercategories.
CLUSTERS = 16


def sample(
    corpus: PromptSet, size: int, seed: int, *, stratify: Stratify = "length", embed: Embed | None = None
) -> tuple[list[str], list[str]]:
    """Draw a calibration set and a disjoint held-out set of half the size.

    Args:
        corpus: distinct prompts, as ``load_prompt_set`` gives them.
        size: calibration prompts.
        seed: of everything random.
        stratify: by ``length`` in words, or by clusters of text embeddings and length within them.
        embed: prompts → (N, D) embeddings; needed for ``embedding``.

    Returns:
        (calibration, held-out), each in random order.

    Raises:
        PromptError: ``size`` is below 1 or the corpus too small.
    """
    if size < 1:
        raise PromptError(f"size={size}", "it must be at least 1", "such as 500")
    held_out = max(1, size // 2)
    wanted = size + held_out
    if wanted > len(corpus):
        raise PromptError(
            f"corpus {corpus.name!r} with {len(corpus)} distinct prompts",
            f"{size} for calibration and {held_out} held-out ones are needed",
            "ask for fewer (--size), or give a larger corpus",
        )
    rng = Random(seed)
    strata = [0] * len(corpus)
    if stratify == "embedding":
        if embed is None:
            raise ValueError("stratify='embedding' needs a function that embeds prompts")
        strata = clusters(embed(corpus.prompts), seed)
    order = sorted(range(len(corpus)), key=lambda i: (strata[i], len(corpus[i].split()), rng.random()))
    start, stride = rng.random(), len(order) / wanted
    taken = [corpus[order[min(len(order) - 1, int((i + start) * stride))]] for i in range(wanted)]
    held = _evenly(wanted, held_out)
    parts = [p for i, p in enumerate(taken) if i not in held], [p for i, p in enumerate(taken) if i in held]
    for part in parts:
        rng.shuffle(part)
    return parts


def _evenly(total: int, count: int) -> set[int]:
    """``count`` positions among ``total``, at equal distances."""
    return {int((i + 0.5) * total / count) for i in range(count)}


def clusters(embeddings: npt.NDArray[np.float32], seed: int, count: int = CLUSTERS) -> list[int]:
    """Cluster number of each embedding, by k-means; at most one cluster per ten prompts."""
    from scipy.cluster.vq import kmeans2

    count = max(1, min(count, len(embeddings) // 10))
    _, labels = kmeans2(
        np.asarray(embeddings, dtype=np.float64), count, minit="++", seed=np.random.default_rng(seed), iter=25
    )
    return [int(label) for label in labels]


def write_set(path: Path, calibration: Sequence[str], held_out: Sequence[str], header: dict[str, Any]) -> None:
    """Write a set in our format, atomically; ``load_prompt_set`` and ``draw`` keep its split.

    Raises:
        OutputError: the file cannot be written.
    """
    facts = {
        **header,
        "calibration": len(calibration),
        "held_out": len(held_out),
        "sha256": content_hash(calibration, held_out),
    }
    rows: list[dict[str, Any]] = [facts, *({"prompt": p} for p in calibration)]
    rows += [{"prompt": p, "split": "held_out"} for p in held_out]
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise OutputError(
            f"prompt set {path}", f"it cannot be written ({error.strerror})", "give another --out"
        ) from error
