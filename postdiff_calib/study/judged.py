"""Scores of set-ups → how each compares with the baseline, in every metric, with intervals and a verdict.

The same statistics as of a calibration's finalists (``scores.paired``): paired differences on the same prompts and
seeds; the lower ends allow for the choice of the best among all set-ups and metrics, the upper ends for the number of
metrics.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from postdiff_calib.scores import guards as rails
from postdiff_calib.scores import paired as stats
from postdiff_calib.scores.objective import Objective
from postdiff_calib.scores.paired import Comparison, Verdict, VerdictKind
from postdiff_calib.scores.select import PlanScores, compare_metrics
from postdiff_calib.study.choose import mean_score
from postdiff_calib.study.conclude import comparison_section

#: Set-ups with fewer common prompts are not judged.
_LEAST = 2


@dataclass(frozen=True)
class Cost:
    """What calls take, with a set-up and by the baseline in the same minutes.

    Attributes:
        batch_size: images per call.
        seconds, baseline_seconds: of each timed call, per image.
        macs, baseline_macs: of the denoising loop per image; None where they are not known.
    """

    batch_size: int
    seconds: tuple[float, ...]
    baseline_seconds: tuple[float, ...]
    macs: float | None = None
    baseline_macs: float | None = None

    @property
    def speed_up(self) -> float:
        """How many times faster a median call is than the baseline's."""
        return statistics.median(self.baseline_seconds) / statistics.median(self.seconds)


@dataclass(frozen=True)
class MetricJudged:
    """One quality metric: both means, the paired difference, δ, and what they say."""

    metric: str
    score: float
    baseline_score: float
    difference: Comparison
    delta: float
    verdict: VerdictKind


@dataclass(frozen=True)
class Judged:
    """One set-up.

    Attributes:
        setup: as written.
        cost: None where it broke before it was timed.
        metrics: the score first; empty where it is not judged.
        verdict: over all of them; None where it is not judged.
        fidelity: comparisons with the baseline's images by name, what was measured of them.
        broken: why it is not judged; empty where it is.
    """

    setup: str
    cost: Cost | None
    metrics: tuple[MetricJudged, ...] = ()
    verdict: Verdict | None = None
    fidelity: Mapping[str, float] | None = None
    broken: str = ""


@dataclass(frozen=True)
class Judgement:
    """All set-ups of a call.

    Attributes:
        model: as written.
        baseline: in one line.
        num_prompts: on which they are judged.
        scorers: metric → how its scorer is written.
        setups: in the order they were given.
        notes: what a reader should know.
    """

    model: str
    baseline: str
    num_prompts: int
    scorers: Mapping[str, str]
    setups: tuple[Judged, ...]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        data = asdict(self)
        for row, one in zip(data["setups"], self.setups, strict=True):
            if one.cost is not None:
                row["cost"]["speed_up"] = one.cost.speed_up
            for found, judged in zip(row["metrics"], one.metrics, strict=True):
                found["difference"] = comparison_section(judged.difference).model_dump()
        plain: dict[str, Any] = {**data, "notes": list(self.notes)}
        return plain


@dataclass(frozen=True)
class ScoredSetUp:
    """What was measured of a set-up: its scores, None where it broke (then ``broken`` says why), and its cost."""

    setup: str
    scores: PlanScores | None
    cost: Cost | None
    broken: str = ""


def judge_all(setups: Sequence[ScoredSetUp], baseline: PlanScores, objective: Objective) -> tuple[Judged, ...]:
    """Every set-up against the baseline.

    Args:
        setups: with scores on the baseline's prompts.
        baseline: the baseline's scores.
        objective: the metrics with their δ.
    """
    names = objective.metrics
    sound = [one.scores for one in setups if one.scores is not None and one.scores.common(baseline) >= _LEAST]
    low = stats.largest_t(np.array([p.metric(m) - baseline.metric(m) for p in sound for m in names])) if sound else 0.0
    return tuple(_judged(one, baseline, objective, low) for one in setups)


def _judged(one: ScoredSetUp, baseline: PlanScores, objective: Objective, low: float) -> Judged:
    plan = one.scores
    if plan is None or plan.common(baseline) < _LEAST:
        return Judged(one.setup, one.cost, broken=one.broken or "too few prompts are scored")
    names = objective.metrics
    high = stats.largest_t(np.array([baseline.metric(m) - plan.metric(m) for m in names]), skewed=False)
    comparisons = list(compare_metrics(plan, baseline, names, low, high).values())
    metrics = []
    for term, c in zip(objective.terms, comparisons, strict=True):
        base = mean_score(baseline, term.metric)
        metrics.append(MetricJudged(term.metric, base + c.mean, base, c, term.delta, stats.verdict(c, term.delta)))
    readings = {name: rails.read(name, plan, baseline) for name in rails.measures()}
    fidelity = {name: reading.value for name, reading in readings.items() if reading is not None}
    verdict = stats.overall(comparisons, [term.delta for term in objective.terms])
    return Judged(one.setup, one.cost, tuple(metrics), verdict, fidelity, one.broken)
