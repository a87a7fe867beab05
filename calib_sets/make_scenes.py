"""Write scenes.jsonl: 1,000 everyday scene prompts, put together from phrases written for this project.

Twenty domains, each with its own subjects, doings, places and details (scene_phrases.yaml), meet a dozen sentence
frames, counts, light, weather and styles. Every phrase is used sparingly. A prompt that shares too many word triples
with an earlier one, or says little that an earlier one does not say, is thrown away: no two are near-duplicates.

python calib_sets/make_scenes.py
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

COUNT = 1000
SEED = 41
#: Highest Jaccard overlap of word triples between any two prompts.
OVERLAP = 0.30
#: Highest share of the shorter prompt's content words that are in the other one too.
SHARED = 0.7
TARGET = Path(__file__).with_name("scenes.jsonl")
PHRASES = Path(__file__).with_name("scene_phrases.yaml")
#: No phrase is used more often than this.
PHRASE_LIMIT = {"s": 9, "d": 11, "p": 12, "x": 9}
#: Words that say nothing by themselves.
FILLERS = "a an and the of in on at by to with his her its from under over up into for"


def words(text: str) -> list[str]:
    """The words of a prompt in lower case, without punctuation."""
    return "".join(ch if ch.isalnum() or ch in "'-" else " " for ch in text.lower()).split()


@cache
def triples(text: str) -> frozenset[tuple[str, ...]]:
    """Word triples of a prompt; all words together when there are fewer than three."""
    found = words(text)
    return frozenset(zip(found, found[1:], found[2:], strict=False)) or frozenset({tuple(found)})


@cache
def content(text: str) -> frozenset[str]:
    """The words of a prompt that say something."""
    return frozenset(words(text)) - set(FILLERS.split())


def alike(first: str, second: str) -> bool:
    """Whether two prompts are near-duplicates: by their word triples, or because one nearly contains the other."""
    mine, theirs = triples(first), triples(second)
    if len(mine & theirs) > OVERLAP * len(mine | theirs):
        return True
    said, known = content(first), content(second)
    return len(said & known) > SHARED * min(len(said), len(known))


def scene(rng: Random, phrases: dict[str, Any], domain: str, used: Counter[str]) -> str | None:
    """One prompt of a domain, or None when a phrase it would take is used up; counts the phrases in ``used``."""
    subjects, doings, places, details = phrases["domains"][domain].values()
    pick = {"s": rng.choice(subjects), "d": rng.choice(doings), "p": rng.choice(places), "x": rng.choice(details)}
    if any(used[phrase] >= PHRASE_LIMIT[kind] for kind, phrase in pick.items()):
        return None
    other = rng.choice([s for s in subjects if s != pick["s"]])
    numbers, colors, things = (rng.sample(phrases[part], 2) for part in ("numbers", "colors", "things"))
    still = {pick["s"], other} & set(phrases["without_hands"])
    frame = rng.choice([f for f in phrases["frames"] if not (still and "{d}" in f)])
    text = frame.format(
        **pick,
        s2=other,
        p2=pick["p"],
        x2=rng.choice([x for x in details if x != pick["x"]]),
        l=rng.choice(phrases["light"] + (phrases["open_air"] if domain in phrases["outdoors"] else [])),
        n=numbers[0],
        n2=numbers[1],
        c=colors[0],
        c2=colors[1],
        t=things[0],
        t2=things[1],
    )
    if rng.random() < 0.3:
        starts_with_subject = frame.startswith(("{s}", "{n}"))
        after = [style for style in phrases["styles"] if style.startswith("{}")]
        text = rng.choice(phrases["styles"] if starts_with_subject else after).format(text)
    shown = frame.replace("{p2}", "{p}")
    used.update(phrase for kind, phrase in pick.items() if "{" + kind + "}" in shown)
    return text


def prompts() -> list[str]:
    """The prompts, in the order they are drawn."""
    rng = Random(SEED)
    phrases = yaml.safe_load(PHRASES.read_text(encoding="utf-8"))
    names = list(phrases["domains"])
    used: Counter[str] = Counter()
    kept: list[str] = []
    while len(kept) < COUNT:
        before = used.copy()
        text = scene(rng, phrases, names[len(kept) % len(names)], used)
        if text is None:
            continue
        if len(triples(text)) < 2 or any(alike(text, earlier) for earlier in kept):
            used = before
            continue
        kept.append(text[0].upper() + text[1:] if rng.random() < 0.5 else text)
    return kept


def text() -> str:
    """The file's content."""
    header = {
        "name": "scenes",
        "source": "everyday scenes written for postdiff and put together by calib_sets/make_scenes.py",
        "licence": "Apache-2.0",
        "seed": SEED,
        "count": COUNT,
    }
    rows = [header, *({"prompt": prompt} for prompt in prompts())]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
