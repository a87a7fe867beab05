"""What a profile says of times: whose seconds they are, those of its plans, and what a reader must know of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from postdiff_calib.accelerate.compiled import stated_mode
from postdiff_calib.cost.budget import Limit, PlanCost, format_seconds, parse_budget
from postdiff_calib.cost.rounds import notes_of_rounds
from postdiff_calib.cost.table import Latency
from postdiff_calib.models.backends import FORMATS
from postdiff_calib.profile import PlanTimes, RowTimes, TimesSection, WholeCalls
from postdiff_calib.profile.sections import EnvironmentSection

if TYPE_CHECKING:
    from postdiff_calib.study.rows import Row


@dataclass(frozen=True)
class TimedCalls:
    """Whole calls of one plan and of the baseline, timed in turn.

    Attributes:
        plan_id: the plan.
        batch_size: images per call.
        seconds, baseline: of each call, at least two.
    """

    plan_id: str
    batch_size: int
    seconds: tuple[float, ...]
    baseline: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data; the inverse of ``from_dict``."""
        return {**vars(self), "seconds": list(self.seconds), "baseline": list(self.baseline)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TimedCalls:
        """Rebuild from ``as_dict``'s data."""
        return cls(**{**data, "seconds": tuple(data["seconds"]), "baseline": tuple(data["baseline"])})

    def section(self) -> WholeCalls:
        """As a profile states them."""

        def times(values: Sequence[float]) -> PlanTimes:
            return PlanTimes.of_call(statistics.median(values), quantile(values, 0.95), self.batch_size)

        return WholeCalls(number=len(self.seconds), plan=times(self.seconds), baseline=times(self.baseline))


@dataclass(frozen=True)
class Seconds:
    """All that a profile's times are made of.

    Args:
        latency: the table that plans are priced by; None where nothing was timed.
        whole_calls: calls that were timed as they are.
        notes: what a reader must know of the table's seconds.
    """

    latency: Latency | None = None
    whole_calls: TimedCalls | None = None
    notes: tuple[str, ...] = ()


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` in (0, 1] of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def times_section(
    seconds: Seconds, plan_id: str, cost: PlanCost, baseline: PlanCost, limit: Limit, rows: Sequence[Row]
) -> TimesSection:
    """The profile's section of times.

    Args:
        seconds: what was measured.
        plan_id: of the profile's plan.
        cost, baseline: its price and the baseline's.
        limit: the budget; a note says where whole calls are above it.
        rows: of the trade-off.
    """
    if seconds.latency is None:
        return TimesSection()
    plan, base = plan_times(cost), plan_times(baseline)
    calls, notes = seconds.whole_calls, list(seconds.notes)
    told = calls.section() if calls is not None and calls.plan_id == plan_id else None
    if told is not None and (above := _above(told, limit)):
        notes.append(above)
    return TimesSection(
        device=str(seconds.latency.environment.get("device_name", "unknown")),
        disagreement=seconds.latency.disagreement,
        plan=plan,
        baseline=base,
        relative=None if plan is None or base is None else plan.call / base.call,
        whole_calls=told,
        rows=[row_times(row) for row in rows],
        notes=notes,
    )


def plan_times(cost: PlanCost) -> PlanTimes | None:
    """The seconds of a price; None where nothing was timed."""
    if cost.call is None or cost.call_p95 is None:
        return None
    return PlanTimes.of_call(cost.call, cost.call_p95, cost.batch_size)


def row_times(row: Row) -> RowTimes:
    """Seconds of a call of the plans of a row."""
    arms = {arm: getattr(row, arm) for arm in ("step_reduction", "cheaper_steps", "combined")}
    return RowTimes(share=row.share, **{arm: None if p is None else p.cost.call for arm, p in arms.items()})


def _images(number: int) -> str:
    return "1 image" if number == 1 else f"{number} images"


def _above(calls: WholeCalls, limit: Limit) -> str | None:
    """One sentence where calls, timed as they are, are above a budget in seconds."""
    if limit.kind != "seconds":
        return None
    name = ("call" if limit.per == "call" else "per_image") + ("_p95" if limit.quantile == "p95" else "")
    found, base = getattr(calls.plan, name), getattr(calls.baseline, name)
    value = limit.value * base / limit.baseline if parse_budget(limit.text).relative else limit.value
    if found <= value:
        return None
    what = "median" if limit.quantile == "median" else "95th percentile"
    return (
        f"The {what} of {calls.number} whole calls is {format_seconds(found)} per {limit.per}, above the budget's "
        f"{format_seconds(value)}: plans are chosen by predicted seconds."
    )


def environment_of_seconds(environment: EnvironmentSection, latency: Latency) -> EnvironmentSection:
    """The profile's section with the facts of the machine whose seconds it states; None where a table does not say."""
    facts = latency.environment
    found = {
        "compile": stated_mode(facts.get("compiled")),
        "attention": stated_attention(facts),
        "memory_format": facts.get("memory_format") if facts.get("memory_format") in FORMATS else None,
    }
    return environment.model_copy(update=found)


def stated_attention(facts: Mapping[str, Any]) -> dict[str, str] | None:
    """Attention backends by network, where a table states them."""
    found = facts.get("attention")
    if not isinstance(found, dict) or not all(isinstance(text, str) for pair in found.items() for text in pair):
        return None
    return dict(found)


def described(attention: Mapping[str, str]) -> str:
    """Attention backends in a line, e.g. ``text_encoder sdpa; unet AttnProcessor2_0``."""
    return "; ".join(f"{role} {attention[role]}" for role in sorted(attention))


def notes_of_seconds(
    environment: EnvironmentSection, dtype: str, own: Latency | None, latency: Latency | None
) -> tuple[str, ...]:
    """What a reader must know of a table's seconds: what is other than where the scores come from, and is it stable.

    Args:
        environment, dtype: of the scores.
        own: the study's own seconds.
        latency: those that a profile is to state.
    """
    if latency is None:
        return ()
    notes = notes_of_rounds(latency.disagreement)
    if latency is own:
        return tuple(notes)
    facts = latency.environment
    if own is not None and latency.batch_size != own.batch_size:
        here, there = _images(own.batch_size), _images(latency.batch_size)
        notes.append(f"The seconds are of calls of {there}, the study's own of {here}: a call takes another time.")
    device = facts.get("device_name", "another machine")
    same = f"Seconds are of a table of their own, measured on hardware of the scores' kind ({device})."
    notes += [same if device == environment.device else f"Seconds were measured on {device}, scores were not."]
    if facts.get("dtype", dtype) != dtype:
        notes.append(f"The seconds are of {facts['dtype']}, the scores of {dtype}.")
    ours, theirs = environment, environment_of_seconds(environment, latency)
    if theirs.attention and ours.attention and theirs.attention != ours.attention:
        notes.append(
            f"The seconds are of attention by {described(theirs.attention)}, the scores by {described(ours.attention)}."
        )
    if theirs.memory_format and ours.memory_format and theirs.memory_format != ours.memory_format:
        notes.append(f"The seconds are of {theirs.memory_format} weights, the scores of {ours.memory_format} ones.")
    return tuple(notes)
