"""The state of one accelerated call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from postdiff_calib.accelerate.run_summary import RunSummary, StepRecord
from postdiff_calib.errors import UnsupportedError, UsageError
from postdiff_calib.plan import Step, StepPlan


class Run:
    """The state of one call: where in the plan it is, and what has happened so far.

    Args:
        plan: the plan to follow.
        batch: images, b.
        full_size: full latent size (height, width); needed where a control network sees low-resolution steps.
        plan_at_first_call: asked at the first network call for the plan to follow instead, or None.

    Attributes:
        low_size: low-resolution latent size (height, width), where there is one.
        start: latents that take the place of the pipeline's in the first step, or None.
        calls: most network calls of a step.
        seen: network calls of the present step, answered ones too.
    """

    def __init__(
        self,
        plan: StepPlan,
        batch: int,
        full_size: tuple[int, int] | None = None,
        plan_at_first_call: Callable[[], StepPlan] | None = None,
    ) -> None:
        self.batch, self.full_size, self.plan_at_first_call = batch, full_size, plan_at_first_call
        self.low_size: tuple[int, int] | None = None
        self.start: Any = None
        self.calls, self.seen = 1, 0
        self.thread = threading.get_ident()
        self.record = StepRecord(0)
        self.follow(plan)

    def follow(self, plan: StepPlan) -> None:
        """Take ``plan`` for this run; only before its first step."""
        self.plan, self.summary = plan, RunSummary(plan)

    @property
    def step(self) -> Step:
        """The plan's row for the present step."""
        if self.record.index >= len(self.plan):
            raise UsageError(
                f"step {self.record.index}",
                f"the plan has {len(self.plan)} steps",
                "call the pipeline with the step count of the knobs",
            )
        return self.plan[self.record.index]

    def complete_step(self, switched: bool = False) -> None:
        """Count one finished step; the scheduler has moved on."""
        if not 1 <= self.seen <= self.calls:
            raise UnsupportedError(
                f"{self.seen} network calls in step {self.record.index}",
                f"a step plan prices and runs {'one call' if self.calls == 1 else 'at most two calls'} a step",
                "use a scheduler and options that call the network once per step",
            )
        self.record.switched = switched
        self.summary.steps.append(self.record)
        self.record = StepRecord(self.record.index + 1)
        self.seen, self.start = 0, None

    @property
    def size(self) -> tuple[int, int] | None:
        """Latent (height, width) of the present step, where known."""
        return self.low_size if self.step.low_res else self.full_size
