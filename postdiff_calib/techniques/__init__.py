"""The techniques, one file each, and the one explicit list of them.

Plan, network and cost meter walk the list. It runs from the innermost to the outermost: a network call passes the
techniques from the last to the first, its output from the first to the last.

Importing this package imports no torch. Steps, T, are the loop itself and no technique.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from postdiff_calib.knobs import Knobs, extended
from postdiff_calib.models.families import Family
from postdiff_calib.techniques.block_cache import BlockCaching
from postdiff_calib.techniques.guidance import GuidanceDropping
from postdiff_calib.techniques.mixed_resolution import MixedResolution
from postdiff_calib.techniques.technique import State, Steps, Technique

TECHNIQUES: tuple[Technique, ...] = (MixedResolution(), BlockCaching(), GuidanceDropping())
_REGISTERED: list[Technique] = []


def techniques() -> tuple[Technique, ...]:
    """Every technique, innermost first."""
    return (*TECHNIQUES, *_REGISTERED)


def admit(knobs: Knobs, steps: Steps, family: Family, guides: bool | None = None) -> None:
    """Refuse a plan that a pipeline of this family, or a call that guides or does not, cannot run.

    Args:
        knobs, steps: of the plan.
        family: of the pipeline.
        guides: whether the call guides; None where that is not known yet.

    Raises:
        UnsupportedError: the family cannot.
        UsageError: such a call cannot.
    """
    for technique in techniques():
        if technique.acts(steps):
            technique.admit(family, knobs, guides)


def states() -> tuple[State, ...]:
    """What is said of a step, in the order of ``StepKind``, further techniques' last."""
    order = ("low_res", "guided", "refresh", "cross_attention_live")
    found = [state for technique in techniques() for state in technique.states]
    return tuple(sorted(found, key=lambda state: order.index(state.name) if state.name in order else len(order)))


@contextmanager
def registered(technique: Technique) -> Iterator[None]:
    """One more technique with its knobs, for the length of the block: planned, run, priced, searched and shown."""
    _REGISTERED.append(technique)
    try:
        with extended(technique.rows):
            yield
    finally:
        _REGISTERED.remove(technique)
