"""What the search improves: one number per prompt from any number of quality metrics.

A metric's paired difference is divided by the metric's *spread*: how much the baseline's own value moves when nothing
but the seed changes (its standard deviation over seeds, prompt by prompt). So a point of a CLIP score and a share of
right scenes are added in one unit, "spreads of the baseline", and a metric that hardly ever moves weighs as much as one
that always does. Weights can be set.

Symbols: d paired difference of one metric, σ its spread, w its weight; objective = Σ w·d/σ over metrics, divided by
Σ w so that it stays in spreads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from postdiff_calib.errors import UsageError
from postdiff_calib.quality.metrics import SCORE

Array = npt.NDArray[np.float64]

#: δ of a metric where none is given: this share of its spread. A tenth of what another seed changes is less than a
#: person who looks at two seeds' images would take notice of.
DELTA_SHARE = 0.1


@dataclass(frozen=True)
class Term:
    """One metric of the objective.

    Args:
        metric: its name, of ``quality.METRICS``; higher is better.
        spread: σ > 0, in the metric's unit.
        weight: w ≥ 0; a metric of weight 0 judges a plan and is not improved.
        delta: δ > 0, the difference that is cared about, in the metric's unit.
    """

    metric: str = SCORE
    spread: float = 1.0
    weight: float = 1.0
    delta: float = DELTA_SHARE

    def __post_init__(self) -> None:
        if not (self.spread > 0 and self.weight >= 0 and self.delta > 0):
            raise ValueError(f"{self}: spread and delta must be above 0, weight not below")


@dataclass(frozen=True)
class Objective:
    """The metrics that the search improves, the first of them being the score, and those that judge beside it."""

    terms: tuple[Term, ...] = (Term(),)

    @property
    def improved(self) -> tuple[Term, ...]:
        """The metrics that count in what the search improves."""
        return tuple(term for term in self.terms if term.weight > 0)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, in order."""
        return tuple(term.metric for term in self.terms)

    @property
    def unit(self) -> Literal["points", "spreads"]:
        """What differences of the objective are shown in: points of the one metric, or spreads of several."""
        return "points" if len(self.improved) == 1 else "spreads"

    @property
    def shown(self) -> float:
        """Factor from the objective to the unit in which it is shown."""
        return self.improved[0].spread if len(self.improved) == 1 else 1.0

    def values(self, scores: Array, measures: Mapping[str, Array]) -> Array:
        """The objective's value on each prompt, (N,), NaN where a metric is unknown; differences of it are compared."""
        total = sum(term.weight for term in self.terms)
        value = np.zeros(len(scores))
        for term in self.improved:
            row = scores if term.metric == SCORE else measures.get(term.metric)
            value = value + (np.nan if row is None else (term.weight / total / term.spread) * row)
        return value

    def with_deltas(self, deltas: Mapping[str, float]) -> Objective:
        """The same metrics with other δ, by name; those not named keep theirs."""
        return Objective(tuple(replace(t, delta=deltas.get(t.metric, t.delta)) for t in self.terms))

    def as_data(self) -> list[dict[str, str | float]]:
        """Plain data; the inverse of ``from_data``."""
        return [dict(vars(term)) for term in self.terms]

    @classmethod
    def from_data(cls, data: Sequence[Mapping[str, str | float]]) -> Objective:
        """Rebuild an objective from ``as_data``'s data."""
        return cls(tuple(Term(**term) for term in data))  # type: ignore[arg-type]


def spread_of(first: Array, second: Array) -> float:
    """Standard deviation of a metric over seeds, from two values a prompt: (n,) each of the same prompts.

    Half the mean squared difference of two independent values is their variance. Where no value moved at all, the
    standard deviation over prompts stands in, and 1 where that is 0 too, or where there is no prompt.
    """
    if not len(first):
        return 1.0
    spread = float(np.sqrt(np.mean((first - second) ** 2) / 2))
    return spread or float(np.concatenate([first, second]).std()) or 1.0


def make_objective(
    spreads: Mapping[str, float], deltas: Mapping[str, float], weights: Mapping[str, float]
) -> Objective:
    """The objective of a study.

    Args:
        spreads: σ of each metric, by name, the score first.
        deltas, weights: where given; else ``DELTA_SHARE`` of the spread, and 1. A weight may be 0 here.
    """
    return Objective(tuple(Term(m, s, weights.get(m, 1.0), deltas.get(m, DELTA_SHARE * s)) for m, s in spreads.items()))


def parse_per_metric(option: str, texts: Iterable[str], metrics: Sequence[str]) -> dict[str, float]:
    """Read ``--delta`` or ``--weight``: ``NAME=NUMBER`` for a metric, or a number alone for the score.

    Args:
        option: as on the command line, for the error.
        texts: as given.
        metrics: names that the study measures, the score first.

    Raises:
        UsageError: nonsense, an unknown or repeated name, or a number that is not above 0.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        name = name.strip().lower() or metrics[0]
        given, example = f"{option} {text}", f"such as {option} {metrics[-1]}=1"
        try:
            value = float(number)
        except ValueError:
            raise UsageError(given, "it is NAME=NUMBER, or a number for the score", example) from None
        if not (math.isfinite(value) and value > 0):
            raise UsageError(given, "it must be above 0", example)
        if name not in metrics:
            raise UsageError(given, f"the metrics of this study are {', '.join(metrics)}", example)
        if name in found:
            raise UsageError(given, f"{name} is given twice", "give it once")
        found[name] = value
    return found
