"""The words and figures that every output shares: what a profile's metrics, verdict and trade-off rows say.

The terminal, the comparison of profiles and the HTML report all take their text from here, so they cannot differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from postdiff_calib.cost.budget import format_flops, format_macs, format_seconds
from postdiff_calib.cost.rounds import is_stable
from postdiff_calib.profile import ArmResult, Comparison, MetricResult, Profile, TradeoffRow
from postdiff_calib.profile.categories import CategoriesSection, CategoryRow
from postdiff_calib.quality import metric as find_metric
from postdiff_calib.quality.metric import Metric
from postdiff_calib.quality.metrics import SCORE, in_words
from postdiff_calib.scores.objective import DELTA_SHARE
from postdiff_calib.scores.select import ARM_NAMES, Arm, with_verb

if TYPE_CHECKING:
    from postdiff_calib.study.prompt_sizes import PromptSizes


class Interval(Protocol):
    """A mean with both ends of its interval, of a profile or just computed."""

    @property
    def mean(self) -> float: ...  # noqa: D102
    @property
    def low(self) -> float: ...  # noqa: D102
    @property
    def high(self) -> float: ...  # noqa: D102


def shown(name: str) -> Metric:
    """The metric of that name, a scorer's too; what no metric can be called is shown as it is, with two digits."""
    try:
        return find_metric(name)
    except KeyError:
        return Metric(name, name, "higher", "", lambda _: [])


def signed(value: float, metric: str = SCORE) -> str:
    """A difference with its sign and the metric's digits, e.g. ``−0.12``."""
    return shown(metric).show(value, signed=True)


def end(value: float, metric: str = SCORE) -> str:
    """An interval's end or mean, with its own sign even where its digits are 0: −0.003 is ``−0.00``."""
    text = signed(value, metric)
    return f"−{text[1:]}" if value < 0 else text


def interval(c: Interval, metric: str = SCORE) -> str:
    """Mean and 95 % interval of a difference, e.g. ``−0.12 [−0.30, +0.06]``."""
    return f"{end(c.mean, metric)} [{end(c.low, metric)}, {end(c.high, metric)}]"


def value(amount: float, metric: str) -> str:
    """A metric's value, e.g. ``86.70`` or ``88.0 %``."""
    m = shown(metric)
    return f"{m.show(amount)} %" if m.unit.startswith("%") else m.show(amount)


def factor(share: float) -> str:
    """How many times less than all a share is, e.g. ``1.67×`` for 0.6."""
    return f"{1 / share:.2f}×"


def speed_up(profile: Profile) -> str:
    """How much faster the plan is than the baseline, in time where that was measured and in compute."""
    relative = profile.times.relative
    said = f"{factor(profile.expected.relative_macs)} in compute"
    return said if relative is None else f"{factor(relative)} in time, {said}"


def macs_text(profile: Profile) -> str:
    """The plan's MACs and FLOPs per image beside the baseline's."""
    e = profile.expected
    macs, base = e.cost.macs, e.baseline_cost.macs
    flops = f"{format_flops(macs)} of {format_flops(base)}"
    return f"{format_macs(macs)} of {format_macs(base)} ({e.relative_macs:.0%}; {flops})"


def seconds(amount: float | None) -> str:
    """Seconds as text, or a dash where nothing was timed."""
    return "–" if amount is None else format_seconds(amount)


def seconds_and_share(amount: float | None, baseline: float | None) -> tuple[str, str]:
    """Seconds and their share of the baseline's as text, or dashes where they were not measured."""
    return seconds(amount), f"{amount / baseline:.0%}" if amount is not None and baseline else "–"


def call_time(profile: Profile) -> str | None:
    """The plan's seconds of a call beside the baseline's, per image too where a call has several; None where untimed.

    For example ``520 ms of 860 ms (60%), p95 540 ms; 52 ms of 86 ms per image, batch 10; on NVIDIA H100``.
    """
    times, batch = profile.times, profile.budget.batch_size
    if times.plan is None or times.baseline is None:
        return None
    plan, base = times.plan, times.baseline
    share = "" if times.relative is None else f" ({times.relative:.0%})"
    text = f"{seconds(plan.call)} of {seconds(base.call)}{share}, p95 {seconds(plan.call_p95)}"
    if batch > 1:
        text += f"; {seconds(plan.per_image)} of {seconds(base.per_image)} per image, batch {batch}"
    how = profile.environment.compile
    text += f"; on {times.device}" if times.device else ""
    text += f", compiled ({how})" if how not in (None, "off") else ""
    return f"{text}, unstable" if times.disagreement is not None and not is_stable(times.disagreement) else text


def whole_calls(profile: Profile) -> str | None:
    """The calls that were timed as they are, in a line; None where none were."""
    calls = profile.times.whole_calls
    if calls is None:
        return None
    return (
        f"median {seconds(calls.plan.call)}, p95 {seconds(calls.plan.call_p95)}; baseline "
        f"{seconds(calls.baseline.call)}, p95 {seconds(calls.baseline.call_p95)} ({calls.number} calls of each)"
    )


def budget_text(profile: Profile) -> str:
    """The budget as it was asked for and the limit that it became, e.g. ``2x: at most 430 ms per call``."""
    budget = profile.budget
    per = budget.unit.rpartition(" ")[2]
    limit = format_macs(budget.limit) if budget.kind == "macs" else format_seconds(budget.limit)
    p95 = " (p95)" if budget.quantile == "p95" else ""
    return f"{budget.text}: at most {limit}{p95} per {per}"


def results(profile: Profile) -> tuple[MetricResult, ...]:
    """The quality metrics of a profile."""
    return profile.metric_results


def result_text(result: MetricResult) -> str:
    """One metric in a line, e.g. ``86.70, baseline 86.08: +0.62 [+0.14, +1.10] better``."""
    name = result.metric
    both = f"{value(result.score, name)}, baseline {value(result.baseline_score, name)}"
    return f"{both}: {interval(result.difference, name)} {result.verdict}"


def prompts(profile: Profile) -> str:
    """What the plan was judged on, e.g. ``240 held-out prompts``."""
    e = profile.expected
    return f"{e.difference.num_prompts} {'held-out' if e.confirmed else 'calibration'} prompts"


def within(profile: Profile) -> str:
    """The differences that *equivalent* means to stay within, e.g. ``within 0.42 (a tenth of what …)``."""
    found = results(profile)
    parts = [f"within {shown(r.metric).show(r.delta)}" for r in found]
    if len(found) > 1:
        parts = [f"{shown(r.metric).label} {part}" for r, part in zip(found, parts, strict=True)]
    default = all(math.isclose(r.delta, DELTA_SHARE * r.spread, rel_tol=1e-6) for r in found)
    return ", ".join(parts) + (" (a tenth of what another seed changes)" if default else "")


def verdict(profile: Profile, on: str = "") -> str:
    """The verdict over all metrics as text; ``on`` is put behind its first word."""
    e = profile.expected
    kind = f"{e.verdict} {on}".strip()
    if e.verdict == "equivalent":
        comma = "," if on else ":" if len(results(profile)) > 1 else ""
        return f"{kind}{comma} {within(profile)}"
    if e.verdict == "undecided" and e.prompts_to_decide:
        return f"{kind}; --num-prompts {e.prompts_to_decide} would decide"
    return kind


def minimum_detectable_difference(profile: Profile) -> str:
    """The smallest true difference that four such studies of five find."""
    m = shown(results(profile)[0].metric)
    least = m.show(profile.evidence.minimum_detectable_difference)
    return f"minimum detectable difference {least} ({m.label}; 4 of 5 such studies find one of that size)"


def fidelity(profile: Profile) -> str:
    """How near the images are to the baseline's, by what was measured; empty where nothing was."""
    return in_words(profile.expected.fidelity)


def own_row(profile: Profile) -> TradeoffRow | None:
    """The trade-off row of the profile's own budget; None where there is none."""
    return next((r for r in profile.tradeoff.rows if abs(r.share - profile.budget.share) < 1e-9), None)


def arm_results(row: TradeoffRow) -> dict[Arm, ArmResult]:
    """The arms of a row of which a plan was judged."""
    found: dict[Arm, ArmResult | None] = {
        "step_reduction": row.step_reduction,
        "cheaper_steps": row.cheaper_steps,
        "combined": row.combined,
    }
    return {arm: result for arm, result in found.items() if result is not None}


def row_metrics(rows: Sequence[TradeoffRow]) -> tuple[str, ...]:
    """Names of the metrics that the rows state, the score first."""
    names = (name for row in rows for result in arm_results(row).values() for name in result.metrics)
    return tuple(dict.fromkeys(names)) or (SCORE,)


def arm_difference(result: ArmResult, metric: str) -> Comparison | None:
    """A plan's difference to the baseline in a metric; older profiles state that of the score alone."""
    return result.metrics.get(metric, result.difference if metric == SCORE else None)


def winner(row: TradeoffRow) -> str:
    """Which arm is better at a budget, in a few words."""
    if not row.searched:
        return "not searched"
    if row.winner in ("step_reduction", "cheaper_steps"):
        compared = row.cheaper_steps_minus_step_reduction is not None
        return ARM_NAMES[row.winner] if compared else f"only {with_verb(row.winner, 'fit')}"
    return "neither" if row.winner == "tie" else "not compared"


def missing(row: TradeoffRow, arm: Arm) -> str:
    """Why a row has no plan of an arm."""
    if not row.searched:
        return "not searched"
    other = {"step_reduction": "cheaper_steps", "cheaper_steps": "step_reduction"}.get(arm)
    return "no plan fits" if row.cheaper_steps_minus_step_reduction is None and row.winner == other else "none judged"


def row_difference(row: TradeoffRow) -> str:
    """Cheaper steps minus step reduction, best found of each, with its unit; empty where nothing was compared."""
    c = row.cheaper_steps_minus_step_reduction
    if c is None:
        return ""
    if row.unit == "points":
        return interval(c, next(iter(row.metrics), SCORE))
    low, mean, high = (f"{end:+.3f}".replace("-", "−") for end in (c.low, c.mean, c.high))
    return f"{mean} [{low}, {high}] spreads"


def category_metrics(section: CategoriesSection) -> tuple[str, ...]:
    """Names of the metrics that the table of categories states, the score first."""
    return tuple(dict.fromkeys(name for row in section.rows for name in row.metrics))


def category_cell(row: CategoryRow, metric: str) -> str:
    """A category's difference in a metric, with a word where it loses."""
    found = row.metrics.get(metric)
    if found is None:
        return "–"
    return interval(found, metric) + (" loses" if metric in row.loses else "")


def category_note(section: CategoriesSection) -> str:
    """How the table of categories is to be read."""
    return (
        "Each interval is 95 % by itself. A category loses where that is significant at "
        f"{100 * section.level:.0f} % after {section.correction}'s correction for all {section.comparisons} "
        "comparisons, and not surely by less than delta."
    )


def duration(seconds: float) -> str:
    """Seconds as text for people, e.g. ``5 min`` or ``2 h 10 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def prompt_sizes_rows(result: PromptSizes) -> list[tuple[str, ...]]:
    """Of each size: how many prompts, Kendall's τ, the chance of a good pick, the mean loss."""
    metric = shown(result.metric)
    return [
        (
            f"{row.size}, extrapolated" if row.extrapolated(result.num_prompts) else str(row.size),
            f"{row.tau:.3f} [{row.tau_low:.3f}, {row.tau_high:.3f}]",
            f"{row.chance:.1%}",
            metric.show(row.loss),
        )
        for row in result.rows
    ]


def prompt_sizes_headings(result: PromptSizes) -> tuple[str, ...]:
    """Of the columns of ``prompt_sizes_rows``."""
    return "prompts", "Kendall's τ, 95 % of draws", f"picks within {result.delta:g} of the best", "mean loss"
