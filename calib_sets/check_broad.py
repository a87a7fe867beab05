"""Check broad.jsonl: word counts, proportions, exact and near-duplicates; prints the table of README.md.

Two prompts are near-duplicates when one of these holds:

- their character trigrams (lower case, letters, digits and single blanks) have a Jaccard similarity above 0.45;
- both say at least four things (distinct words but for fillers), and more than 0.7 of the shorter one's are in the
  other.

It also counts how often prompts begin with the same four words: sentences made from a template would.

python calib_sets/check_broad.py
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

TARGET = Path(__file__).with_name("broad.jsonl")
COUNT = 1500
#: Share of each category in per cent; README.md says why.
PROPORTIONS: dict[str, int] = {
    "single subject": 15,
    "people": 14,
    "places": 14,
    "styles": 12,
    "spatial relations": 9,
    "text": 9,
    "counting": 8,
    "long": 8,
    "abstract": 6,
    "tags": 5,
}
FEWEST_WORDS, MOST_WORDS = 4, 60
#: Highest Jaccard similarity of character trigrams, and highest share of shared content words.
TRIGRAMS, SHARED = 0.45, 0.7
#: Most prompts that begin with the same four words.
SAME_START = 2
#: Words that say nothing by themselves.
FILLERS = (
    "a an and are as at by for from his her in into is it its no of off on one or out over that the their to two up "
    "with who under"
)


class Pair(NamedTuple):
    """Two prompts that are too much alike, and by which measure."""

    first: str
    second: str
    measure: str
    value: float


def rows() -> tuple[dict[str, object], list[dict[str, str]]]:
    """The file's header, and its prompts with id and category."""
    header, *found = (json.loads(line) for line in TARGET.read_text(encoding="utf-8").splitlines())
    return header, found


def plain(text: str) -> str:
    """Letters, digits and single blanks in lower case."""
    return " ".join("".join(ch if ch.isalnum() or ch == "'" else " " for ch in text.lower()).split())


def trigrams(text: str) -> frozenset[str]:
    """Character trigrams."""
    padded = f" {plain(text)} "
    return frozenset(padded[i : i + 3] for i in range(len(padded) - 2))


def content(text: str) -> frozenset[str]:
    """The words that say something."""
    return frozenset(plain(text).split()) - set(FILLERS.split())


def near_duplicates(prompts: Sequence[str]) -> list[Pair]:
    """Pairs of prompts above one of the two thresholds."""
    grams, words = [trigrams(p) for p in prompts], [content(p) for p in prompts]
    containing: dict[str, list[int]] = defaultdict(list)
    found = []
    for i, mine in enumerate(grams):
        for j, shared in Counter(k for gram in mine for k in containing[gram]).items():
            likeness = shared / (len(mine) + len(grams[j]) - shared)
            if likeness > TRIGRAMS:
                found.append(Pair(prompts[j], prompts[i], "trigrams", likeness))
            shorter = min(len(words[i]), len(words[j]))
            if shorter >= 4 and len(words[i] & words[j]) > SHARED * shorter:
                found.append(Pair(prompts[j], prompts[i], "words", len(words[i] & words[j]) / shorter))
        for gram in mine:
            containing[gram].append(i)
    return found


def same_starts(prompts: Sequence[str]) -> list[tuple[str, int]]:
    """Openings of four words that more than ``SAME_START`` prompts share."""
    counts = Counter(" ".join(plain(p).split()[:4]) for p in prompts)
    return [(start, n) for start, n in counts.items() if n > SAME_START]


def faults() -> list[str]:
    """What is wrong with the file, a line each; nothing when it is as README.md says."""
    header, found = rows()
    prompts = [row["prompt"] for row in found]
    wrong = [] if header["count"] == len(prompts) == COUNT else [f"{len(prompts)} prompts, header: {header['count']}"]
    wrong += [f"keys {list(row)}" for row in found if list(row) != ["id", "category", "prompt"]]
    wrong += [f"id {name} stands {n} times" for name, n in Counter(row["id"] for row in found).items() if n > 1]
    wrong += [f"twice: {text}" for text, n in Counter(map(plain, prompts)).items() if n > 1]
    for text in prompts:
        if not FEWEST_WORDS <= len(text.split()) <= MOST_WORDS:
            wrong.append(f"{len(text.split())} words: {text}")
    counts = Counter(row["category"] for row in found)
    for name in {*counts, *PROPORTIONS}:
        if counts[name] * 100 != PROPORTIONS.get(name, 0) * len(prompts):
            wrong.append(f"{name}: {counts[name]} of {len(prompts)}, not {PROPORTIONS.get(name, 0)} %")
    wrong += [f"{n} begin with: {start}" for start, n in same_starts(prompts)]
    wrong += [f"{p.measure} {p.value:.2f}: {p.first} / {p.second}" for p in near_duplicates(prompts)]
    return wrong


def table() -> str:
    """The table of proportions, as README.md has it."""
    _, found = rows()
    lines = ["| category | prompts | share | words, median (range) | example |", "| --- | ---: | ---: | ---: | --- |"]
    for name in PROPORTIONS:
        texts = [row["prompt"] for row in found if row["category"] == name]
        words = sorted(len(text.split()) for text in texts)
        share = f"{100 * len(texts) / len(found):.0f} %"
        spread = f"{words[len(words) // 2]} ({words[0]} to {words[-1]})"
        lines.append(f"| {name} | {len(texts)} | {share} | {spread} | {min(texts, key=len)} |")
    words = sorted(len(row["prompt"].split()) for row in found)
    lines.append(f"| all | {len(found)} | 100 % | {words[len(words) // 2]} ({words[0]} to {words[-1]}) | |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
    if wrong := faults():
        sys.exit("\n".join(wrong))
