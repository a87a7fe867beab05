"""The section of a profile that holds times: all that varies between two runs of one command under a budget in MACs.

Seconds are of a whole call, text encoding to images, at the profile's ``budget.batch_size``; those of a plan are
predicted from measured kinds of step (``cost/table.py``), those of ``whole_calls`` were measured as they are.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from postdiff_calib.profile.sections import Section

_Seconds = Annotated[float, Field(gt=0)]


class PlanTimes(Section):
    """Seconds of one plan: median and 95th percentile of a call, and the same of each of its images."""

    call: _Seconds
    call_p95: _Seconds
    per_image: _Seconds
    per_image_p95: _Seconds

    @classmethod
    def of_call(cls, call: float, call_p95: float, batch_size: int) -> PlanTimes:
        """From the seconds of a call of so many images."""
        return cls(call=call, call_p95=call_p95, per_image=call / batch_size, per_image_p95=call_p95 / batch_size)


class WholeCalls(Section):
    """Whole calls of the plan and of the baseline that were timed in turn once the plan had been found."""

    number: Annotated[int, Field(ge=2)]
    plan: PlanTimes
    baseline: PlanTimes


class RowTimes(Section):
    """Median seconds of a call of each plan of a row of the trade-off; null where the row has no such plan."""

    share: Annotated[float, Field(gt=0)]
    step_reduction: _Seconds | None
    cheaper_steps: _Seconds | None
    combined: _Seconds | None


class TimesSection(Section):
    """What was timed; all of it is null or empty where nothing was.

    ``device`` is the hardware whose seconds these are, ``disagreement`` by which share the rounds of the measurement
    disagree, ``relative`` the plan's seconds over the baseline's. ``rows`` go with those of the trade-off. ``notes``
    say what a reader must know of the seconds.
    """

    device: str | None = None
    disagreement: Annotated[float, Field(ge=0)] | None = None
    plan: PlanTimes | None = None
    baseline: PlanTimes | None = None
    relative: _Seconds | None = None
    whole_calls: WholeCalls | None = None
    rows: list[RowTimes] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
