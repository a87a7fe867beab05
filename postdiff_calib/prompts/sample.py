"""Sampling a calibration set from a large corpus of captions, so that small sets look like the whole.

Prompts are sorted by stratum (cluster of text embeddings, where asked for), then by length in words, then at random,
and taken at equal distances along that order from a random start (systematic sampling): each stratum and each length
is represented in proportion, to within one prompt. Every third one taken is held out for confirmation, which makes
both sets alike and disjoint. The written file carries its provenance in a header row.

The corpus is read several times and never held: a first pass notes a hash and a length per row, 12 bytes; for
embeddings, a second one embeds some thousands for the clusters and a third assigns every row; the last fetches what was
taken.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from postdiff_calib.errors import PromptError
from postdiff_calib.files import write_atomically
from postdiff_calib.prompts.read import content_hash

Stratify = Literal["length", "embedding"]
Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]

#: Clusters of text embeddings: about as many as there are everyday subjects in COCO's supercategories.
CLUSTERS = 16
#: Prompts whose embeddings make the clusters: a thousand a cluster, however large the corpus.
FITTED = 16_000
#: Prompts embedded at once.
BATCH = 1024


class Source(Protocol):
    """Prompts that can be read several times: a ``Corpus`` or a ``PromptSet``."""

    @property
    def name(self) -> str: ...  # noqa: D102
    def __iter__(self) -> Iterator[str]: ...


class Sample(NamedTuple):
    """A drawn set: calibration and held-out prompts, each in random order, and the corpus' number of distinct ones."""

    calibration: list[str]
    held_out: list[str]
    corpus_prompts: int


def sample(
    corpus: Source, size: int, seed: int, *, stratify: Stratify = "length", embed: Embed | None = None
) -> Sample:
    """Draw a held-out set to judge finalists on, and a disjoint calibration set of half the size to search on.

    Args:
        corpus: prompts; repeats (ignoring case) count once.
        size: held-out prompts.
        seed: of everything random.
        stratify: by ``length`` in words, or by clusters of text embeddings and length within them.
        embed: prompts → (N, D) embeddings; needed for ``embedding``, called with ``BATCH`` prompts at most.

    Raises:
        PromptError: ``size`` is below 1, the corpus is too small or cannot be read.
    """
    if size < 1:
        raise PromptError(f"size={size}", "it must be at least 1", "such as 500")
    n_search = max(1, size // 2)
    wanted = size + n_search
    rows, lengths = _distinct_rows(corpus)
    if wanted > len(rows):
        raise PromptError(
            f"corpus {corpus.name!r} with {len(rows)} distinct prompts",
            f"{n_search} for the search and {size} held-out ones are needed",
            "ask for fewer (--size), or give a larger corpus",
        )
    generator = np.random.default_rng(seed)
    at_random = generator.permutation(len(rows))
    strata = np.zeros(len(rows), dtype=np.intp)
    if stratify == "embedding":
        if embed is None:
            raise ValueError("stratify='embedding' needs a function that embeds prompts")
        strata = _strata(corpus, rows, at_random, embed, seed)
    order = np.lexsort((at_random, lengths, strata))
    positions = ((np.arange(wanted) + generator.random()) * (len(order) / wanted)).astype(np.intp)
    chosen = rows[order[np.minimum(positions, len(order) - 1)]]
    places = {int(row): place for place, row in enumerate(chosen)}
    texts = {places[row]: text for row, text in enumerate(corpus) if row in places}
    if len(texts) < wanted:
        raise PromptError(f"corpus {corpus.name!r}", "it changed while it was read", "sample again")
    searched = {int((i + 0.5) * wanted / n_search) for i in range(n_search)}  # at equal distances
    parts = [texts[i] for i in range(wanted) if i in searched], [texts[i] for i in range(wanted) if i not in searched]
    rng = Random(seed)
    for part in parts:
        rng.shuffle(part)
    return Sample(*parts, len(rows))


def _distinct_rows(corpus: Source) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64]]:
    """Row numbers of the first of each distinct prompt, ascending, and their lengths in words."""
    hashes, lengths = array("q"), array("i")
    for text in corpus:
        # Equality alone matters, so Python's own hash, which differs between processes, gives the same rows in each.
        hashes.append(hash(text.casefold()))
        lengths.append(len(text.split()))
    _, rows = np.unique(np.array(hashes, dtype=np.int64), return_index=True)
    rows.sort()
    return rows, np.array(lengths, dtype=np.int64)[rows]


def _strata(
    corpus: Source, rows: npt.NDArray[np.intp], at_random: npt.NDArray[np.intp], embed: Embed, seed: int
) -> npt.NDArray[np.intp]:
    """Cluster of each distinct row: clusters are made from some of them, then every one is assigned."""
    some = rows[np.sort(np.argsort(at_random)[:FITTED])]
    points = np.concatenate([embed(batch) for batch in _batches(corpus, some)])
    centres = cluster_centres(points, seed)
    return np.concatenate([nearest(embed(batch), centres) for batch in _batches(corpus, rows)])


def _batches(corpus: Source, rows: npt.NDArray[np.intp]) -> Iterator[list[str]]:
    wanted = np.zeros(int(rows[-1]) + 1, dtype=np.bool_)
    wanted[rows] = True
    texts = (text for text, take in zip(corpus, wanted, strict=False) if take)
    while batch := list(islice(texts, BATCH)):
        yield batch


def cluster_centres(points: npt.NDArray[np.float32], seed: int, count: int = CLUSTERS) -> npt.NDArray[np.float64]:
    """Centres of k-means clusters: (N, D) → (K, D); at most one cluster per ten prompts."""
    from scipy.cluster.vq import kmeans2

    count = max(1, min(count, len(points) // 10))
    centres, _ = kmeans2(
        np.asarray(points, dtype=np.float64), count, minit="++", seed=np.random.default_rng(seed), iter=25
    )
    return np.asarray(centres, dtype=np.float64)


def nearest(points: npt.NDArray[np.float32], centres: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Number of the centre nearest to each point: (N, D), (K, D) → (N,)."""
    from scipy.cluster.vq import vq

    numbers, _ = vq(np.asarray(points, dtype=np.float64), centres)
    return np.asarray(numbers, dtype=np.intp)


def write_set(path: Path, drawn: Sample, header: dict[str, Any], categories: Mapping[str, str] | None = None) -> None:
    """Write a set in our format, atomically; ``load_prompt_set`` and ``draw`` keep its split.

    Args:
        path: the file; its folder is made.
        drawn: the prompts.
        header: where they come from and how they were drawn; sizes and the plan id are added.
        categories: prompt → what kind of prompt it is, written beside it.

    Raises:
        OutputError: the file cannot be written.
    """
    facts = {
        **header,
        "corpus_prompts": drawn.corpus_prompts,
        "calibration": len(drawn.calibration),
        "held_out": len(drawn.held_out),
        "sha256": content_hash(drawn.calibration, drawn.held_out),
    }
    known = categories or {}

    def row(prompt: str) -> dict[str, Any]:
        return {"prompt": prompt, **({"category": known[prompt]} if prompt in known else {})}

    rows: list[dict[str, Any]] = [facts, *(row(p) for p in drawn.calibration)]
    rows += [{**row(p), "split": "held_out"} for p in drawn.held_out]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomically(path, text, f"prompt set {path}", "give another --out")
