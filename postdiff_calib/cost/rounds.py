"""Do the rounds of a measurement agree? A processor whose clock ramps makes later rounds faster or slower.

A round runs every plan once. Its pace is its seconds over the usual ones: the median over the plans of (seconds in this
round / median seconds of the plan over all rounds), so one plan that was disturbed does not matter. The latest rounds
that agree within ``TOLERANCE`` have settled; what came before them was measured at another speed and is left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: Most by which the slowest of the kept rounds is slower than the fastest: timings of a machine at rest differ by less.
TOLERANCE = 0.02
#: Most by which seconds may be off what was measured before on the same machine, at rest and set up alike: timings
#: drift by a few per cent with its heat, work beside them makes them a quarter longer.
SECONDS_HOLD = 0.1
MAX_ROUNDS = 30
MIN_ROUNDS = 2
#: Rounds that are added at most where they do not agree when the time is over.
MORE_ROUNDS = 6


@dataclass(frozen=True)
class Agreement:
    """How far rounds agree.

    Attributes:
        first: the first round to keep; 0 where they have not settled.
        disagreement: pace of the slowest kept round over that of the fastest, minus 1.
    """

    first: int
    disagreement: float

    @property
    def stable(self) -> bool:
        """Whether the kept rounds agree within ``TOLERANCE``."""
        return is_stable(self.disagreement)

    @property
    def stability(self) -> str:
        """The same in words."""
        return stability(self.disagreement)


def is_stable(disagreement: float) -> bool:
    """Whether rounds that disagree by so much are taken for one speed."""
    return disagreement <= TOLERANCE


def stability(disagreement: float) -> str:
    """The same in words, e.g. ``unstable (rounds disagree by 7.5 %)``."""
    word = "stable" if is_stable(disagreement) else "unstable"
    return f"{word} (rounds disagree by {100 * disagreement:.1f} %)"


def notes_of_rounds(disagreement: float | None) -> list[str]:
    """What a reader must know of seconds whose rounds disagree by so much; None where none were measured."""
    return [] if disagreement is None or is_stable(disagreement) else [f"Seconds are {stability(disagreement)}."]


def paces(rounds: Sequence[Mapping[str, float]]) -> list[float]:
    """The pace of each round, around 1.

    Args:
        rounds: of each, the seconds by plan id; all of the same plans.
    """
    usual = {plan: statistics.median(seconds[plan] for seconds in rounds) for plan in rounds[0]}
    return [statistics.median(seconds[plan] / usual[plan] for plan in usual) for seconds in rounds]


def agreement(found: Sequence[float]) -> Agreement:
    """Which rounds to keep, from the paces of all: the latest that agree, where they are at least half of them."""
    first = len(found) - 1
    while first > 0 and is_stable(_apart(found[first - 1 :])):
        first -= 1
    if len(found) - first < max(MIN_ROUNDS, (len(found) + 1) // 2):
        return Agreement(0, _apart(found))
    return Agreement(first, _apart(found[first:]))


def goes_on(rounds: Sequence[Mapping[str, float]], added: int, time_is_over: bool) -> bool:
    """Whether another round is run.

    Args:
        rounds: those that have been run, as for ``paces``.
        added: how many of them were run because others did not agree.
        time_is_over: no further round would be begun if they did.
    """
    if len(rounds) < MIN_ROUNDS:
        return True
    if not time_is_over and len(rounds) - added < MAX_ROUNDS:
        return True
    return added < MORE_ROUNDS and not agreement(paces(rounds)).stable


def _apart(found: Sequence[float]) -> float:
    return max(found) / min(found) - 1
