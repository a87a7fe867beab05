"""Budgets: what a call or an image may cost, in the unit that a person thinks in.

A budget is a number and a unit, and a hard limit: no profile holds a plan above it. Seconds are of a *call* of the
pipeline at the batch size of the deployment, which is what a server's latency is; MACs are of an *image*.

| text | limit | kind |
| --- | --- | --- |
| ``1.2s``, ``850ms`` | median seconds of a call, end to end | seconds |
| ``1.2s per image``, ``1.2s/image`` | the same over the images of the call | seconds |
| ``p95:1.2s`` | 95th percentile of the seconds of a call | seconds |
| ``9.5TMACs``, ``19TFLOPs`` | MACs of the denoising loop (1 MAC = 2 FLOPs), convention ``full`` | macs |
| ``60%`` | that share of the baseline's MACs; ``60% time`` of its seconds | macs |
| ``2x`` | twice as fast as the baseline, in seconds; ``2x macs`` half its MACs | seconds |

The *baseline* is the baseline at its default number of steps. The two conventions of counting are those of
PostDiff, arXiv 2508.06160 (convolutions and linear layers, ``paper``), and that plus attention's own products
(``full``). No heavy import here.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal

from postdiff_calib.errors import BudgetError

BudgetKind = Literal["seconds", "macs"]
Quantile = Literal["median", "p95"]
#: What seconds are of; MACs are always of an image.
Per = Literal["call", "image"]
BudgetUnit = Literal["s per call", "s per image", "MACs per image"]

ACCEPTED = "such as 1.2s, 850ms, p95:1.2s, 9.5TMACs, 19TFLOPs, 60% (of the baseline) or 2x (faster than the baseline)"

_SYNTAX = re.compile(
    r"(?P<p95>p95\s*:\s*)?(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*"
    r"(?P<unit>ms|s|[kmgtp]?macs?|[kmgtp]?flops?|%|x)\s*(?P<noun>time|macs)?\s*"
    r"(?:(?:/|per\s)\s*(?P<per>image|call))?",
    re.IGNORECASE | re.ASCII,
)
_PREFIX = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15}
# A plan that costs exactly the limit is within it, whatever the order in which its steps were summed.
_SLACK = 1e-9


@dataclass(frozen=True)
class PlanCost:
    """What one image costs under one plan.

    Attributes:
        macs: multiply-accumulates of all network calls of the denoising loop, convention ``full``.
        macs_paper: the same in convention ``paper`` (convolutions and linear layers only).
        seconds: median seconds per image, end to end (text encoding to image); None where not measured.
        seconds_p95: 95th percentile of the same.
        batch_size: images of the calls that these seconds are of.
    """

    macs: float
    macs_paper: float
    seconds: float | None = None
    seconds_p95: float | None = None
    batch_size: int = 1

    @property
    def call(self) -> float | None:
        """Median seconds of a whole call."""
        return None if self.seconds is None else self.seconds * self.batch_size

    @property
    def call_p95(self) -> float | None:
        """95th percentile of the seconds of a whole call."""
        return None if self.seconds_p95 is None else self.seconds_p95 * self.batch_size


@dataclass(frozen=True)
class Limit:
    """A budget in absolute terms, for one baseline.

    Attributes:
        kind: which cost is limited.
        quantile: for seconds, which quantile is limited.
        value: the limit, in seconds per call or image (``per``) or MACs (``full``) per image.
        baseline: the baseline's own cost in the same terms.
        text: the budget as it was asked for; by default the value, as ``parse_budget`` reads it. Two limits of one
            value are equal, whatever was written.
    """

    kind: BudgetKind
    quantile: Quantile
    value: float
    baseline: float
    text: str = field(default="", compare=False)
    per: Per = "call"

    def __post_init__(self) -> None:
        if self.kind == "macs":
            object.__setattr__(self, "per", "image")
        if not self.text:
            before, unit = ("p95:" if self.quantile == "p95" else ""), ("s" if self.kind == "seconds" else "MACs")
            after = " per image" if self.kind == "seconds" and self.per == "image" else ""
            object.__setattr__(self, "text", f"{before}{float(self.value)!r}{unit}{after}")

    def measure(self, cost: PlanCost) -> float:
        """The figure of ``cost`` that this limit is about.

        Raises:
            BudgetError: it is about seconds, and none were measured.
        """
        if self.kind == "macs":
            return cost.macs
        if self.per == "call":
            seconds = cost.call if self.quantile == "median" else cost.call_p95
        else:
            seconds = cost.seconds if self.quantile == "median" else cost.seconds_p95
        if seconds is None:
            raise BudgetError(*_NOT_MEASURED)
        return seconds

    def allows(self, cost: PlanCost) -> bool:
        """Whether a plan of this cost is within the budget."""
        return self.measure(cost) <= self.value * (1 + _SLACK)

    @property
    def above_baseline(self) -> str | None:
        """One sentence where the baseline is already within the budget, else None."""
        if self.baseline > self.value * (1 + _SLACK):
            return None
        return (
            f"the budget of {self.show(self.value)} is not below the baseline's "
            f"{self.show(self.baseline)}: nothing needs to be saved"
        )

    def require_reachable(self, cheapest: PlanCost, knobs: str, binding: str) -> None:
        """Refuse a limit below the cheapest plan there is.

        Args:
            cheapest: the lowest cost in the search space, by this limit's own measure.
            knobs: that plan, as text.
            binding: which knob's range keeps it from being lower.

        Raises:
            BudgetError: the limit is lower; the line says what is reachable and which knob binds.
        """
        if not self.allows(cheapest):
            floor = self.measure(cheapest)
            raise BudgetError(
                f"budget of {self.show(self.value)} per {self.per}",
                f"the cheapest reachable plan ({knobs}) costs {self.show(floor)}, "
                f"{100 * floor / self.baseline:.3g}% of the baseline, and {binding}",
                "take a larger budget or a wider range for that knob",
            )

    def show(self, value: float) -> str:
        """A figure of this limit's kind, as text."""
        return format_macs(value) if self.kind == "macs" else format_seconds(value) + self._suffix

    @property
    def _suffix(self) -> str:
        return " (p95)" if self.quantile == "p95" else ""

    @property
    def terms(self) -> tuple[BudgetKind, Quantile, Per]:
        """What ``value`` is of: budgets in other terms cannot be compared."""
        return self.kind, self.quantile, self.per

    @property
    def unit(self) -> BudgetUnit:
        """The unit of ``value``."""
        if self.kind == "macs":
            return "MACs per image"
        return "s per call" if self.per == "call" else "s per image"


@dataclass(frozen=True)
class Budget:
    """A budget as it was asked for; ``parse_budget`` makes them.

    Attributes:
        text: what the user wrote, without surrounding blanks.
        kind: ``seconds`` or ``macs``.
        relative: ``amount`` is a share of the baseline's cost.
        quantile: ``median`` or ``p95`` (seconds only).
        amount: seconds, MACs, or a share such as 0.6 for both ``60%`` and 1/0.6 ``x``.
        per: what seconds are of.
    """

    text: str
    kind: BudgetKind
    relative: bool
    quantile: Quantile
    amount: float
    per: Per = "call"

    def resolve(self, baseline_cost: PlanCost) -> Limit:
        """The absolute limit, given what the baseline costs.

        Raises:
            BudgetError: the budget is about seconds, and the baseline's were not measured.
        """
        unscaled = Limit(self.kind, self.quantile, self.amount, math.nan, per=self.per)
        baseline = unscaled.measure(baseline_cost)
        value = self.amount * baseline if self.relative else self.amount
        return Limit(self.kind, self.quantile, value, baseline, self.text, self.per)

    def describe(self, batch_size: int = 1) -> str:
        """As text, with the batch at which seconds are meant, e.g. ``at most 1.2 s per call (median, batch 4)``."""
        if self.relative:
            what = "MACs" if self.kind == "macs" else "seconds"
            amount = f"{100 * self.amount:.4g}% of the baseline's {what}"
        else:
            amount = format_macs(self.amount) if self.kind == "macs" else format_seconds(self.amount)
        if self.kind == "macs":
            return f"at most {amount} per image (attention counted)"
        return f"at most {amount} per {self.per} ({self.quantile}, batch {batch_size})"


_NOT_MEASURED = (
    "a budget in seconds",
    "no seconds were measured for this model on this machine",
    "give MACs or a share of them (such as 60%), or measure first (postdiff cost --measure)",
)


def parse_budget(text: str) -> Budget:
    """Read a budget; the module's table says what is accepted.

    Raises:
        BudgetError: it is nonsense: no or an unknown unit, negative, zero, infinite, a comma for the decimal point.
    """
    shown = f"budget {text!r}"
    if not isinstance(text, str):
        raise BudgetError(shown, "a budget is a text with its unit", f"write {ACCEPTED}")
    stripped = text.strip()
    if "," in stripped:
        raise BudgetError(shown, "a decimal point is written '.', without separators of thousands", f"write {ACCEPTED}")
    match = _SYNTAX.fullmatch(stripped)
    if match is None:
        raise BudgetError(shown, "a budget is a number above zero and a unit", f"write {ACCEPTED}")
    number = float(match["number"])
    unit = match["unit"].lower()
    noun = (match["noun"] or "").lower()
    if not math.isfinite(number) or number <= 0:
        raise BudgetError(shown, "it must be finite and above zero", f"write {ACCEPTED}")
    relative = unit in ("%", "x")
    if noun and not relative:
        raise BudgetError(shown, f"'{noun}' goes with a share of the baseline only", f"write {ACCEPTED}")
    p95 = match["p95"] is not None
    kind, amount = _amount(number, unit, noun, p95)
    if p95 and kind == "macs":
        raise BudgetError(shown, "p95 is a quantile of seconds; MACs do not vary", f"write {ACCEPTED}")
    if not math.isfinite(amount) or amount <= 0:
        raise BudgetError(shown, "it must be finite and above zero", f"write {ACCEPTED}")
    per: Per = "image" if kind == "macs" or (match["per"] or "").lower() == "image" else "call"
    if kind == "macs" and (match["per"] or "").lower() == "call":
        raise BudgetError(shown, "MACs are counted per image", "leave out 'per call'")
    return Budget(stripped, kind, relative, "p95" if p95 else "median", amount, per)


def parse_budgets(text: str) -> list[Budget]:
    """Read budgets with commas between them, e.g. ``0.8s,1.2s,2s``; one that is named twice counts once.

    Raises:
        BudgetError: as ``parse_budget``.
    """
    return list({budget.text: budget for budget in map(parse_budget, text.split(","))}.values())


def budget_of(text: str, *, per_image: bool = False) -> Budget:
    """Read a budget, in which seconds are of an image where ``per_image`` says so.

    Raises:
        BudgetError: as ``parse_budget``.
    """
    return parse_budget(of_image(text) if per_image else text)


def budgets_of(text: str, *, per_image: bool = False) -> list[Budget]:
    """As ``parse_budgets``, in which seconds are of an image where ``per_image`` says so."""
    return parse_budgets(",".join(map(of_image, text.split(","))) if per_image else text)


def of_image(text: str) -> str:
    """A budget in seconds as one of an image; what is none, or says what it is of, stays as it is."""
    try:
        budget = parse_budget(text)
    except BudgetError:
        return text
    named = _SYNTAX.fullmatch(budget.text)
    said = named is None or named["per"] is not None
    return text if said or budget.kind == "macs" else f"{budget.text} per image"


def _amount(number: float, unit: str, noun: str, p95: bool) -> tuple[BudgetKind, float]:
    if unit in ("%", "x"):
        share = number / 100 if unit == "%" else 1 / number
        if noun == "macs":
            return "macs", share
        # "2x" is said of speed, "60%" of compute; a quantile only exists for time.
        return ("seconds" if noun == "time" or p95 or unit == "x" else "macs"), share
    if unit in ("s", "ms"):
        return "seconds", number / 1000 if unit == "ms" else number
    body = unit.rstrip("s")
    per_mac = 1.0 if body.endswith("mac") else 0.5
    prefix = body.removesuffix("mac").removesuffix("flop")
    return "macs", number * _PREFIX[prefix] * per_mac


def format_macs(macs: float) -> str:
    """MACs with three significant digits or more, e.g. ``30.42 TMACs``."""
    for prefix, scale in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if macs >= scale:
            return f"{macs / scale:.4g} {prefix}MACs"
    return f"{macs:.4g} MACs"


def format_flops(macs: float) -> str:
    """The FLOPs of so many MACs (1 MAC = 2 FLOPs), e.g. ``60.84 TFLOPs``."""
    return format_macs(2 * macs).replace("MACs", "FLOPs")


def format_seconds(seconds: float) -> str:
    """Seconds with three significant digits, in milliseconds below one, e.g. ``850 ms``."""
    # Rounded before printing, so that 999.9 is 1000 and not 1e+03.
    value, unit = (seconds, "s") if seconds >= 0.9995 else (1000 * seconds, "ms")
    return f"{float(f'{value:.3g}'):.10g} {unit}"
