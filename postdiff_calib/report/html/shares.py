"""Whole percentages that add up to 100: what each knob explains of the differences between plans, and what is left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from postdiff_calib.knobs import searched
from postdiff_calib.search.importance import Importance


@dataclass(frozen=True)
class Part:
    """One share; ``symbol`` is a knob's, empty for what no knob explains."""

    symbol: str
    meaning: str
    percent: int


def parts(found: Importance) -> list[Part]:
    """The knobs' shares, then interactions, then noise.

    Noise is what finite prompts alone would cause, as far as the knobs leave room for it; the rest of what no knob
    explains by itself is what combinations of knobs do.
    """
    noise = min(found.noise, found.rest)
    meanings = {row.symbol: row.meaning for row in searched()}
    named = [(symbol, meanings.get(symbol, ""), share) for symbol, share in found.shares.items()]
    named += [("", "interactions of knobs", found.rest - noise), ("", "noise of finite prompts", noise)]
    percents = whole_percents([share for *_, share in named])
    return [Part(symbol, meaning, percent) for (symbol, meaning, _), percent in zip(named, percents, strict=True)]


def whole_percents(shares: Sequence[float]) -> list[int]:
    """Shares as whole percentages that add up to 100: those with the largest remainders are rounded up.

    Args:
        shares: at least 0 each; scaled to add up to 1.
    """
    total = sum(shares)
    exact = [100 * share / total for share in shares]
    found = [math.floor(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: found[i] - exact[i])
    for i in by_remainder[: 100 - sum(found)]:
        found[i] += 1
    return found
