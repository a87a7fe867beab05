"""The search strategies, in one explicit list."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from postdiff_calib.errors import StudyError
from postdiff_calib.search.postdiff import PostDiff
from postdiff_calib.search.settings import IMAGES_A_PROMPT, LEAST_TRIALS, MOST_TRIALS, default_explore_prompts
from postdiff_calib.search.strategy import Strategy
from postdiff_calib.search.suggested import Gp, Nsga2, Random, Tpe

STRATEGIES: tuple[type[Strategy], ...] = (PostDiff, Tpe, Gp, Random, Nsga2)
_REGISTERED: list[type[Strategy]] = []


def strategies() -> tuple[type[Strategy], ...]:
    """Every strategy, the default first."""
    return (*STRATEGIES, *_REGISTERED)


def find_strategy(name: str) -> type[Strategy]:
    """The strategy of that name.

    Raises:
        StudyError: there is none.
    """
    for candidate in strategies():
        if candidate.name == name:
            return candidate
    names = ", ".join(candidate.name for candidate in strategies())
    raise StudyError(f"search {name!r}", f"searches are {names}", f"take {STRATEGIES[0].name}")


@contextmanager
def registered(strategy: type[Strategy]) -> Iterator[None]:
    """One more strategy, for the length of the block."""
    _REGISTERED.append(strategy)
    try:
        yield
    finally:
        _REGISTERED.remove(strategy)


def default_trials(num_prompts: int, strategy: str = PostDiff.name) -> int:
    """Evaluations of a search where nobody asks for another number (``benchmarks/README.md``: what more or fewer find).

    A strategy that scores every plan on all prompts gets what can be waited for.
    """
    wanted = IMAGES_A_PROMPT * num_prompts // default_explore_prompts(num_prompts)
    whole = find_strategy(strategy).role == "whole"
    return LEAST_TRIALS if whole else min(MOST_TRIALS, max(LEAST_TRIALS, wanted))
