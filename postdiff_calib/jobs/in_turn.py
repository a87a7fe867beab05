"""Calls timed in turn, so that a slow minute of the machine falls on all alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from postdiff_calib.progress import Progress

#: Rounds that are timed however long they take, and seconds after which no further round is begun.
LEAST_ROUNDS, TIME_LIMIT = 5, 120.0


def in_turn(
    calls: Sequence[Callable[[], float]], rounds: int, limit: float, clock: Callable[[], float], progress: Progress
) -> list[list[float]]:
    """What each call returns, after one call of each to warm up; a round calls each, every other one backwards.

    So a slow minute of the machine falls on all alike.

    Args:
        calls: each does something and returns its seconds.
        rounds: at most so many.
        limit: seconds by ``clock`` after which no further round is begun, once there are ``LEAST_ROUNDS``.
        clock: returns seconds.
        progress: is given each round.
    """
    for call in calls:
        call()
    found: list[list[float]] = [[] for _ in calls]
    start = clock()
    for done in range(rounds):
        if done >= LEAST_ROUNDS and clock() - start > limit:
            break
        for index in range(len(calls)) if done % 2 == 0 else reversed(range(len(calls))):
            found[index].append(calls[index]())
        progress.advance()
    return found
