"""How long work reports itself: what it is doing, how far it is, how much there is, and what happened on the way.

The stages of a job call a ``Progress``; the command line draws it (``report/progress.py``). What happened goes to the
log as *events*: stages and notes from here, trials, blocks of images and the like from where they happen. The log is
Python's own, under ``LOGGER``; the command line keeps or shows it (``files/log.py``). Nothing here prints.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol, runtime_checkable

LOGGER = logging.getLogger("postdiff_calib")
LOGGER.addHandler(logging.NullHandler())


def log_event(kind: str, **facts: Any) -> None:
    """Log that something happened; it costs nothing where nobody listens.

    Args:
        kind: such as ``trial``, ``block`` or ``retry``.
        facts: plain JSON values that tell it; never an address that may hold a password.
    """
    if LOGGER.isEnabledFor(logging.INFO):
        said = ", ".join(f"{name}={value}" for name, value in facts.items())
        LOGGER.info("%s: %s", kind, said, extra={"kind": kind, "facts": facts})


class Progress(Protocol):
    """Receives the progress of one job, stage after stage."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage; ``total`` is its number of units (images, measurements) where known."""

    def advance(self, count: int = 1, detail: str | None = None, total: int | None = None) -> None:
        """Count units of the current stage.

        Args:
            count: units done since the last call.
            detail: replaces the line's remark, e.g. the best so far.
            total: replaces the stage's total, where that is better known by now.
        """

    def note(self, text: str) -> None:
        """Say something once that a person should know."""


@runtime_checkable
class TimedProgress(Protocol):
    """A ``Progress`` that is also called with how long the work should take."""

    def work(self, made: float, left: float, later: float = 0.0) -> None:
        """Hear how long the job expects to take, for stages whose units do not all take equally long.

        Args:
            made: seconds expected of what was done since the last call.
            left: seconds expected of the rest of this stage.
            later: seconds expected of all stages after it.
        """


def tell_work(progress: Progress, made: float, left: float, later: float = 0.0) -> None:
    """``TimedProgress.work``, where the progress has it."""
    if isinstance(progress, TimedProgress):
        progress.work(made, left, later)


class Silent:
    """A ``Progress`` that shows nothing; stages and notes are logged. What shows them adds to it."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Log the stage."""
        log_event("stage", name=name, total=total)

    def advance(self, count: int = 1, detail: str | None = None, total: int | None = None) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Log the note."""
        log_event("note", text=text)
