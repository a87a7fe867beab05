"""Paired differences by category of prompt: where a plan loses although the mean over all prompts does not.

Every category has its mean paired difference with Student's 95 % interval, by itself. With many categories one of them
looks bad by chance, so whether one *loses* follows from all of them together: the two-sided p values of all categories
and metrics are adjusted by Holm's step-down method (Scandinavian Journal of Statistics 6, 1979), which keeps the chance
of even one false finding at 5 %, whatever the correlation; of a false loss alone it is half of that. A loss that lies
inside ±δ with its whole interval is none, as everywhere (``paired.verdict``).

The plan was chosen among finalists on the same prompts. That flatters it a little, so losses are found less often than
without a choice, never more often.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from postdiff_calib.scores.paired import Comparison, compare

Array = npt.NDArray[np.float64]

#: Fewest prompts of a category that stands by itself; smaller ones, and prompts without a category, are put together.
LEAST_PROMPTS = 10
#: What they are called then.
OTHER = "(other)"
#: The chance of a false finding in the whole table.
LEVEL = 0.05


@dataclass(frozen=True)
class CategoryDifferences:
    """One category of prompts.

    Attributes:
        category: its name.
        n: its prompts with a known difference in the first metric.
        metrics: metric → mean difference with its interval.
        adjusted: metric → p value of "no difference", adjusted for all categories and metrics; at most 1.
    """

    category: str
    n: int
    metrics: Mapping[str, Comparison]
    adjusted: Mapping[str, float]

    def loses(self, metric: str, delta: float) -> bool:
        """Whether the category loses in a metric: significantly (see module), and not surely by less than δ."""
        found = self.metrics[metric]
        return found.mean < 0 and self.adjusted[metric] < LEVEL and not found.low > -delta


def by_category(differences: Mapping[str, Array], categories: Sequence[str]) -> list[CategoryDifferences]:
    """The categories, by name, with their differences; empty where there are not two of ``LEAST_PROMPTS``.

    Args:
        differences: metric → (N,) paired differences plan − baseline, NaN where unknown.
        categories: N names, ``""`` for a prompt without one.

    Raises:
        ValueError: there are not as many categories as differences.
    """
    first = next(iter(differences.values()))
    if len(categories) != len(first):
        raise ValueError(f"{len(categories)} categories for {len(first)} prompts")
    known = np.isfinite(np.array(list(differences.values()))).all(0)
    sizes = Counter(name for name, there in zip(categories, known, strict=True) if there)
    names = [name if name and sizes[name] >= LEAST_PROMPTS else OTHER for name in categories]
    labels = np.array(names, dtype=object)
    rows = [*sorted(set(names) - {OTHER}), OTHER]
    rows = [name for name in rows if ((labels == name) & known).sum() >= LEAST_PROMPTS]
    if len(rows) < 2:
        return []
    found = [
        {
            metric: compare(values[(labels == name) & known], np.zeros(((labels == name) & known).sum()))
            for metric, values in differences.items()
        }
        for name in rows
    ]
    adjusted = iter(holm([p_value(comparison) for row in found for comparison in row.values()]))
    return [
        CategoryDifferences(name, next(iter(row.values())).n, row, {metric: next(adjusted) for metric in row})
        for name, row in zip(rows, found, strict=True)
    ]


def p_value(comparison: Comparison) -> float:
    """Two-sided p value of a mean difference of 0, by Student's t."""
    if comparison.sd == 0:
        return 1.0 if comparison.mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(comparison.mean) / comparison.standard_error, comparison.n - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values: the k-th smallest of m times m − k + 1, at least the one before it and at most 1."""
    m, largest = len(p_values), 0.0
    adjusted = [math.nan] * m
    for rank, i in enumerate(sorted(range(m), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (m - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
