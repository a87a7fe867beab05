"""Judging a profile against what is found on a machine: pure functions from facts to checks, a line each.

Symbols: L the budget's limit, t measured seconds per call, d₀ the stated and d₁ the fresh mean paired score difference
to the baseline, with standard errors σ₀ and σ₁.

Latency: t ≤ L passes, t > 1.05·L fails, and between the two is a warning. A relative budget (2x, 60% time) is judged
relative to the baseline's seconds measured in the same minutes. Quality, a check for each metric: d₀ and d₁ come
from different prompts, so they are compared by Welch's interval of d₁ − d₀, in which σ₀ is taken from the lower end of
the stated interval, since that end allows for d₀ having been the best of several. It fails when that interval lies
below 0; the level is shared among the metrics, so a profile that holds fails in 1 of 40 choices of fresh prompts at
most. A given machine always takes the same ones, so it does not flicker.
Guards: a reading on fresh prompts fails when it breaks the guard by more than its own noise (two standard errors), and
is a warning when by less.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from scipy import stats

from postdiff_calib.cost.budget import PlanCost, format_macs, format_seconds, parse_budget
from postdiff_calib.cost.rounds import SECONDS_HOLD
from postdiff_calib.profile import Comparison as StatedComparison
from postdiff_calib.profile import Profile
from postdiff_calib.quality import Metric
from postdiff_calib.quality import metric as find_metric
from postdiff_calib.scores.guards import Guard, Reading
from postdiff_calib.scores.paired import Comparison
from postdiff_calib.study.seconds import quantile

Outcome = Literal["passed", "failed", "warning", "not judged"]

#: Seconds of one machine drift by a few per cent with its heat and its other work, and the profile's own are predicted
#: from kinds of step with an error of the same order: up to this share over the limit is a warning.
LATENCY_ALLOWANCE = 0.05
#: Versions whose major and minor number should be those of the calibration.
PACKAGES = ("torch", "diffusers")
#: (z at 97.5 % + z at 80 %): a loss of so many standard errors would be noticed in 4 of 5 cases.
_NOTICEABLE = 2.8
#: Standard errors by which the baseline's mean on other prompts does not fall short by chance.
_FAR = 4.0
#: Figures that are summed in another order differ by this share at most.
_SLACK = 1e-6


@dataclass(frozen=True)
class Check:
    """One line of a verification.

    Attributes:
        name: what was checked.
        wanted, found: as text.
        outcome: ``failed`` alone makes the verification fail.
        reason: why it is not ``passed``, or what a pass means; may be empty.
        figures: the numbers behind it, for scripts.
    """

    name: str
    wanted: str
    found: str
    outcome: Outcome
    reason: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool | None:
        """Whether it holds; a warning does; None where it was not judged."""
        return None if self.outcome == "not judged" else self.outcome != "failed"

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "passed": self.passed, "figures": dict(self.figures)}


def same(name: str, wanted: str, found: str, reason: str, otherwise: Outcome = "failed") -> Check:
    """Two texts that should be equal; ``reason`` says what it means when they are not."""
    if wanted == found:
        return Check(name, wanted, found, "passed")
    return Check(name, wanted, found, otherwise, reason)


def not_judged(name: str, wanted: str, reason: str) -> Check:
    """A check that could not be made."""
    return Check(name, wanted, "–", "not judged", reason)


def versions(stated: Mapping[str, str], found: Mapping[str, str]) -> list[Check]:
    """A warning for each package whose major or minor version is not the calibration's."""
    reason = "another version may compute differently; cost and quality are judged below"
    wanted = {name: stated.get(name, "not stated") for name in PACKAGES}
    return [
        Check(name, wanted[name], found[name], "passed")
        if wanted[name].split(".")[:2] == found[name].split(".")[:2]
        else Check(name, wanted[name], found[name], "warning", reason)
        for name in PACKAGES
    ]


def latency_device(stated: str | None, found: str) -> Check:
    """A warning when the profile's seconds are another machine's."""
    if stated is None:
        return Check("device", "not stated", found, "not judged", "the profile holds no seconds")
    return same("device", stated, found, "the profile's seconds are another machine's", "warning")


def budget_section(profile: Profile) -> Check:
    """The budget's text, limit and share must say the same; a file that was edited in one of them does not.

    Raises:
        BudgetError: the text is no budget.
    """
    section, base, times = profile.budget, profile.expected.baseline_cost, profile.times.baseline
    budget = parse_budget(section.text)
    cost = PlanCost(base.macs, base.macs_paper, batch_size=section.batch_size)
    if times is not None:
        cost = replace(cost, seconds=times.per_image, seconds_p95=times.per_image_p95)
    limit = budget.resolve(cost)
    agree = (
        (section.kind, section.quantile, section.unit) == (budget.kind, budget.quantile, limit.unit)
        and math.isclose(section.limit, limit.value, rel_tol=_SLACK)
        and math.isclose(section.share, limit.value / limit.baseline, rel_tol=_SLACK)
    )
    wanted = f"{section.text}: {limit.show(limit.value)}"
    found = f"limit {limit.show(section.limit)}, {section.share:.4g} of the baseline's cost"
    reason = "text, limit and share contradict each other: the file was edited; export the profile again"
    figures = {"limit": section.limit, "share": section.share, "limit_of_text": limit.value}
    return Check("budget", wanted, found, "passed" if agree else "failed", "" if agree else reason, figures)


def compute(profile: Profile, macs: float) -> Check:
    """Counted MACs per image of the plan, against a limit in MACs and against the profile's own figure."""
    stated, limit = profile.expected.cost.macs, profile.budget.limit
    limited = profile.budget.kind == "macs"
    wanted = f"at most {format_macs(limit)}" if limited else f"{format_macs(stated)} as stated"
    figures = {"macs": macs, "stated": stated, "limit": limit if limited else None}
    if limited and macs > limit * (1 + _SLACK):
        return Check("compute", wanted, format_macs(macs), "failed", f"{macs / limit:.2f} × the budget", figures)
    if not math.isclose(macs, stated, rel_tol=1e-3):
        reason = f"the profile states {format_macs(stated)}: it was counted otherwise; export it again"
        return Check("compute", wanted, format_macs(macs), "warning", reason, figures)
    return Check("compute", wanted, format_macs(macs), "passed", "", figures)


def latency(profile: Profile, accelerated: Sequence[float], baseline: Sequence[float]) -> Check:
    """Seconds of the plan against the budget, of a call or of an image as the budget has it.

    Args:
        profile: whose budget it is.
        accelerated, baseline: seconds of each timed call, with and without the profile, taken in turn.
    """
    section = profile.budget
    per = section.unit.rpartition(" ")[2]
    p50, p95 = statistics.median(accelerated), quantile(accelerated, 0.95)
    base50, base95 = statistics.median(baseline), quantile(baseline, 0.95)
    figures = {
        "p50": p50,
        "p95": p95,
        "baseline_p50": base50,
        "baseline_p95": base95,
        "seconds": list(accelerated),
        "baseline_seconds": list(baseline),
        "batch_size": section.batch_size,
    }
    found = (
        f"p50 {format_seconds(p50)}, p95 {format_seconds(p95)} per call, baseline {format_seconds(base50)} "
        f"({len(accelerated)} calls of {section.batch_size}, {format_seconds(p50 / section.batch_size)} per image)"
    )
    if section.kind == "macs":
        return Check("latency", "no limit", found, "not judged", "the budget is in MACs", figures)
    measured, reference = (p50, base50) if section.quantile == "median" else (p95, base95)
    name = "p50" if section.quantile == "median" else "p95"
    if parse_budget(section.text).relative:
        value, limit = measured / reference, section.share
        wanted = f"{name} at most {limit:.3g} of the baseline {name}"
        found = f"{value:.3g}: {found}"
    else:
        value, limit = measured if per == "call" else measured / section.batch_size, section.limit
        wanted = f"{name} at most {format_seconds(limit)} per {per}"
    over = value / limit - 1
    figures |= {"measured": value, "limit": limit}
    if over > LATENCY_ALLOWANCE:
        return Check("latency", wanted, found, "failed", f"{name} is {over:.0%} over the budget", figures)
    if over > 0:
        reason = f"{name} is {over:.1%} over the budget, within the {LATENCY_ALLOWANCE:.0%} that timings drift"
        return Check("latency", wanted, found, "warning", reason, figures)
    return Check("latency", wanted, found, "passed", "", figures)


def stated_seconds(profile: Profile, device: str, baseline: Sequence[float]) -> list[Check]:
    """A warning where the baseline's calls do not take what the profile says of this very device; empty elsewhere.

    Args:
        profile: whose times they are.
        device: the hardware at hand.
        baseline: seconds of each timed call of the baseline.
    """
    stated = profile.times.baseline
    if stated is None or profile.times.device != device:
        return []
    found = statistics.median(baseline)
    wanted, told = f"{format_seconds(stated.call)} per call", f"{format_seconds(found)} per call"
    if abs(found / stated.call - 1) <= SECONDS_HOLD:
        return [Check("baseline seconds", wanted, told, "passed")]
    reason = "the machine was busy then, or is now, or is set up otherwise: calibrate --refresh measures again"
    return [Check("baseline seconds", wanted, told, "warning", reason)]


def quality(metric: str, stated: StatedComparison, fresh: Comparison, on: str, metrics: int = 1) -> Check:
    """The loss on fresh prompts against the stated loss, in one metric (see the module).

    Args:
        metric: its name, of ``quality.METRICS``.
        stated: the profile's paired difference, in the metric's unit.
        fresh: the paired difference measured now.
        on: what it was measured on, as text, e.g. ``fresh prompts``.
        metrics: how many metrics are checked.
    """
    gap = fresh.mean - stated.mean
    upper, error = _upper(stated, fresh, gap, 1 - 0.025 / metrics)
    figures = {
        "metric": metric,
        "stated": stated.model_dump(),
        "fresh": {"mean": fresh.mean, "low": fresh.low, "high": fresh.high, "num_prompts": fresh.n},
        "fresh_minus_stated": gap,
        "fresh_minus_stated_high": upper,
    }
    m, name = find_metric(metric), f"quality {metric}"
    wanted = f"{_interval(m, stated)} over {stated.num_prompts} prompts, or better"
    found = f"{_interval(m, fresh)} over {fresh.n} {on}"
    if upper < -_SLACK:
        lost = f"{m.show(-gap)} {m.difference_unit}".rstrip()
        reason = f"worse than stated by {lost}, at least {m.show(-upper)} of that not by chance (95 %)"
        return Check(name, wanted, found, "failed", reason, figures)
    further = f"{m.show(_NOTICEABLE * error)} {m.difference_unit}".rstrip()
    seen = f"a further loss of {further} would have been noticed" if error < math.inf else ""
    return Check(name, wanted, found, "passed", seen, figures)


def baseline_score(metric: str, stated: float, num_prompts: int, fresh: Sequence[float], on: str) -> Check:
    """The baseline's own mean on fresh prompts against the stated one: far below, the model itself is broken here.

    Prompts differ, so it is judged by four standard errors, with the fresh prompts' spread for both.

    Args:
        metric: its name, of ``quality.METRICS``.
        stated: the profile's mean of the baseline.
        num_prompts: over so many prompts.
        fresh: at least two values measured now.
        on: what they were measured on, as text.
    """
    n = len(fresh)
    mean, spread = statistics.fmean(fresh), statistics.stdev(fresh)
    allowed = _FAR * spread * math.sqrt(1 / n + 1 / max(1, num_prompts)) + _SLACK
    figures = {"metric": metric, "stated": stated, "fresh": mean, "allowed": allowed}
    m, name = find_metric(metric), f"baseline {metric}"
    wanted, found = f"{m.show(stated)}, or better", f"{m.show(mean)} over {n} {on}"
    if stated - mean > allowed:
        by = m.show(allowed)
        reason = f"the baseline itself is worse than stated, by more than {by}: the model does not work here"
        return Check(name, wanted, found, "failed", reason, figures)
    return Check(name, wanted, found, "passed", "", figures)


def guard_rail(guard: Guard, reading: Reading | None, on: str) -> Check:
    """What the plan had to keep beside its score, on fresh prompts (see the module).

    Args:
        guard: the profile's.
        reading: of the plan now; None where the metric could not be computed here.
        on: what it was measured on, as text.
    """
    name = f"guard {guard.metric}"
    wanted = f"{guard.rule} {guard.bound:g}".replace("-", "−")
    if reading is None:
        return not_judged(name, wanted, "it cannot be computed here, or on too few prompts")
    found = f"{reading.value:.3g} ± {reading.error:.2g} over {reading.n} {on}".replace("-", "−")
    figures = {"bound": guard.bound, "rule": guard.rule, "value": reading.value, "standard_error": reading.error}
    if guard.met(reading):
        return Check(name, wanted, found, "passed", "", figures)
    beyond = f"{guard.miss(reading):.2g} on the wrong side"
    if guard.surely(reading) == "broken":
        return Check(name, wanted, found, "failed", f"{beyond}, more than chance explains", figures)
    return Check(
        name, wanted, found, "warning", f"{beyond}, which {reading.n} prompts cannot tell from chance", figures
    )


def _upper(stated: StatedComparison, fresh: Comparison, gap: float, share: float) -> tuple[float, float]:
    """Upper end of the interval of d₁ − d₀ at a quantile, and its standard error, by Welch's approximation."""
    n0 = stated.num_prompts
    first = (stated.mean - stated.low) / float(stats.t.ppf(0.975, n0 - 1)) if n0 > 1 else math.inf
    second = fresh.standard_error
    error = math.hypot(first, second)
    if not math.isfinite(error):
        return math.inf, math.inf
    if error == 0:
        return gap, 0.0
    freedom = error**4 / (first**4 / (n0 - 1) + second**4 / (fresh.n - 1))
    return gap + float(stats.t.ppf(share, freedom)) * error, error


def _interval(m: Metric, c: StatedComparison | Comparison) -> str:
    mean, low, high = (m.show(one, signed=True) for one in (c.mean, c.low, c.high))
    return f"{mean} [{low}, {high}]"
