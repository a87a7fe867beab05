"""Tells a progress how long the stages of a job should take, from the cost of each plan whose images are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from postdiff_calib.cost.budget import PlanCost
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import StepPlan, compile_plan
from postdiff_calib.progress import Progress, tell_work


@dataclass(frozen=True)
class Followed:
    """A progress of a stage after which others come.

    Args:
        inner: every call is passed on to it.
        later: seconds that the later stages are expected to take.
    """

    inner: Progress
    later: float

    def stage(self, name: str, total: int | None = None) -> None:
        """As ``Progress``."""
        self.inner.stage(name, total)

    def advance(self, count: int = 1, detail: str | None = None, total: int | None = None) -> None:
        """As ``Progress``."""
        self.inner.advance(count, detail, total)

    def work(self, made: float, left: float, later: float = 0.0) -> None:
        """As ``TimedProgress``, with what comes after this stage."""
        tell_work(self.inner, made, left, later + self.later)

    def note(self, text: str) -> None:
        """As ``Progress``."""
        self.inner.note(text)


@dataclass
class EvenUnits:
    """A progress of a stage whose units take equally long.

    Args:
        inner: every call is passed on to it.
        seconds: that a unit is expected to take; 0 where nothing was timed.
        later: seconds that the later stages are expected to take.
    """

    inner: Progress
    seconds: float
    later: float
    _left: float = field(default=0.0, init=False)

    def stage(self, name: str, total: int | None = None) -> None:
        """As ``Progress``."""
        self.inner.stage(name, total)
        self._left = self.seconds * (total or 0)
        if self._left > 0:
            tell_work(self.inner, 0.0, self._left, self.later)

    def advance(self, count: int = 1, detail: str | None = None, total: int | None = None) -> None:
        """As ``Progress``, and what these units were expected to take."""
        made = count * self.seconds
        self._left = max(0.0, self._left - made)
        if made > 0:
            tell_work(self.inner, made, self._left, self.later)
        self.inner.advance(count, detail, total)

    def note(self, text: str) -> None:
        """As ``Progress``."""
        self.inner.note(text)


@dataclass
class ImagesInTurn:
    """Counts images that are made plan by plan, and says what they were expected to take; it is an ``on_images``.

    Args:
        progress: called with what is done and what is left.
        price: of a plan; where nothing was timed, images count alone.
        plans: in the order in which they are run.
        num_images: of each.
    """

    progress: Progress
    price: Callable[[StepPlan], PlanCost]
    plans: Sequence[Knobs]
    num_images: int
    _seconds: float = field(default=0.0, init=False)
    _left: float = field(default=0.0, init=False)

    def begin(self, knobs: Knobs) -> None:
        """Its images come next."""
        rest = self.plans[list(self.plans).index(knobs) :]
        self._seconds = self._of(knobs)
        self._left = sum(self.num_images * self._of(plan) for plan in rest)
        if self._left > 0:
            tell_work(self.progress, 0.0, self._left)

    def __call__(self, count: int) -> None:
        """So many were made."""
        made = count * self._seconds
        self._left -= made
        if made > 0:
            tell_work(self.progress, made, max(0.0, self._left))
        self.progress.advance(count)

    def _of(self, knobs: Knobs) -> float:
        return self.price(compile_plan(knobs)).seconds or 0.0
