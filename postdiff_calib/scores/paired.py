"""Paired comparisons and verdicts, with intervals that hold after the best of several has been chosen.

All comparisons are of plans on the same prompts with the same seeds, by mean paired differences. The best of several
noisy means is flattered by its noise, so its lower end is moved: the largest of the finalists' t statistics has a
97.5 % quantile c, found from their correlation and their skewness (``largest_t``), and the lower end is the mean less c
standard errors (the single-step max-t method: Hothorn, Bretz and Westfall, Biometrical Journal 50, 2008). Whichever
finalist is chosen, its true difference lies below that end in at most 1 of 40 cases. The upper end needs no such
correction: choosing the best errs on the high side.

Symbols: n prompts, σ_d standard deviation of the paired differences, δ the difference one cares about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]

#: Simulated maxima behind a quantile: its own error is about 1 %. Draws of the prompts themselves, and the fewest
#: prompts of which that says something.
_DRAWS, _REDRAWN = 20_000, 6_000
_LEAST_REDRAWN = 30
#: A draw's variance counts as at least this share of the variance of the differences themselves.
_LEAST_VARIANCE = 0.1


@dataclass(frozen=True)
class Comparison:
    """A paired comparison: mean difference (first minus second) over n prompts, its 95 % interval, and σ_d.

    The ends need not be at equal distances from the mean; see the module.
    """

    n: int
    mean: float
    low: float
    high: float
    sd: float

    @property
    def standard_error(self) -> float:
        """σ_d / √n."""
        return self.sd / math.sqrt(self.n) if self.n else math.inf

    @property
    def detectable(self) -> float:
        """The smallest true difference that such an interval tells from 0 in four cases of five."""
        reach = max(self.mean - self.low, self.high - self.mean)
        return reach + float(stats.norm.ppf(0.8)) * self.standard_error

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}], {self.n} prompts"


def compare(
    first: Array, second: Array, low: float | None = None, high: float | None = None, *, equal: bool = False
) -> Comparison:
    """Mean paired difference first − second on the prompts both have values of, with its interval.

    A metric that only says yes or no (a scene is right) may not differ on any prompt, and then the prompts seem to say
    that it never does. So its σ_d counts one prompt more, on which it differs (after the pseudo-counts of Agresti and
    Min, Statistics in Medicine 24, 2005): 50 prompts without a difference leave 4 percentage points to either side.

    Args:
        first, second: (N,) values, NaN where unknown.
        low, high: standard errors from the mean to each end; Student's 97.5 % quantile where None.
        equal: the images are known to be the same, so that no difference is none.

    Raises:
        ValueError: fewer than two common prompts.
    """
    difference = first - second
    difference = difference[np.isfinite(difference)]
    n = len(difference)
    if n < 2:
        raise ValueError(f"{n} common prompts: a paired comparison needs at least two")
    mean, sd = float(difference.mean()), float(difference.std(ddof=1))
    if not equal and (step := _yes_or_no(first, second)):
        sd = math.sqrt((sd * sd * (n - 1) + step * step) / n)
    student = float(stats.t.ppf(0.975, n - 1))
    error = sd / math.sqrt(n)
    return Comparison(
        n,
        mean,
        mean - (student if low is None else low) * error,
        mean + (student if high is None else high) * error,
        sd,
    )


def _yes_or_no(first: Array, second: Array) -> float:
    """How far yes is from no where values, or their differences and 0, are of two kinds at most; else 0."""
    seen = np.unique(np.abs(np.concatenate([first, second])))
    seen = seen[np.isfinite(seen)]
    return float(seen[-1] - (seen[0] if len(seen) == 2 else 0)) if len(seen) in (1, 2) else 0.0


def largest_t(differences: Array, share: float = 0.975, *, skewed: bool = True) -> float:
    """The quantile of the largest of several t statistics whose true means are all 0.

    The larger of two: for normal differences of the rows' correlation, and for differences as they are, by drawing the
    prompts with replacement (the bootstrap t of Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter
    12). Losses are skewed, a few prompts lose a lot, and then the normal quantile is too small for a lower end.

    Args:
        differences: (K, n) paired differences, a row per comparison, for a lower end; their negatives for an upper one.
            Columns with a NaN are left out, and so are rows that do not vary.
        share: of the quantile.
        skewed: False leaves out the second, for an end that the choice of the best does not flatter.

    Returns:
        At least Student's own quantile for one row.
    """
    rows = differences[:, np.isfinite(differences).all(0)]
    n = rows.shape[1]
    rows = rows[rows.std(1) > 0] if n > 2 else rows[:0]
    if len(rows) < 2:
        return float(stats.t.ppf(share, max(n - 1, 1)))
    correlation = np.corrcoef(rows)
    values, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.maximum(values, 0))
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((_DRAWS, len(rows))) @ root.T
    scale = np.sqrt(rng.chisquare(n - 1, _DRAWS) / (n - 1))
    found = max(float(np.quantile(normal.max(1) / scale, share)), float(stats.t.ppf(share, n - 1)))
    return max(found, _redrawn(rows, share)) if skewed and n >= _LEAST_REDRAWN else found


def _redrawn(rows: Array, share: float) -> float:
    """The same quantile from prompts drawn with replacement; rows (K, n) that vary."""
    n = rows.shape[1]
    centred = rows - rows.mean(1, keepdims=True)
    often = _how_often(n)
    mean = often @ centred.T / n
    # where few prompts differ at all, a draw may hold hardly any of them, and then its error means nothing
    variance = np.maximum(often @ (centred**2).T / n - mean**2, _LEAST_VARIANCE * rows.var(1)) / (n - 1)
    return float(np.quantile((mean / np.sqrt(variance)).max(1), share))


@lru_cache(maxsize=2)
def _how_often(n: int) -> Array:
    """How often each of n prompts comes in each of the draws with replacement, (draws, n)."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_REDRAWN).astype(np.float64)


VerdictKind = Literal["better", "equivalent", "worse", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """What one comparison, or several of one plan, say about the plan.

    ``prompts_needed`` is set when it is undecided: about how many prompts would decide, if the means stayed.
    """

    kind: VerdictKind
    prompts_needed: int | None = None


def verdict(comparison: Comparison, delta: float) -> VerdictKind:
    """Judge one metric by its interval: better above 0, equivalent inside ±δ, worse below 0, else undecided.

    A plan that is measurably worse but by less than δ is equivalent: that is what δ is for.

    Args:
        comparison: first plan against second.
        delta: δ > 0, the difference one cares about, in the metric's unit.
    """
    if delta <= 0:
        raise ValueError(f"delta={delta}: it must be above 0")
    if comparison.low > 0:
        return "better"
    if -delta < comparison.low and comparison.high < delta:
        return "equivalent"
    return "worse" if comparison.high < 0 else "undecided"


def overall(comparisons: Sequence[Comparison], deltas: Sequence[float]) -> Verdict:
    """One verdict over all metrics of a plan.

    *Better*: one metric's interval lies above 0 and none lies below. *Equivalent*: every one lies inside ±δ. *Worse*:
    one lies below 0 and is not inside ±δ. Else *undecided*.

    Args:
        comparisons: plan against baseline, one per metric.
        deltas: δ of each.
    """
    kinds = [verdict(c, delta) for c, delta in zip(comparisons, deltas, strict=True)]
    if "worse" in kinds:
        return Verdict("worse")
    if "better" in kinds and not any(c.high < 0 for c in comparisons):
        return Verdict("better")
    if all(-delta < c.low and c.high < delta for c, delta in zip(comparisons, deltas, strict=True)):
        return Verdict("equivalent")
    return Verdict("undecided", _needed(comparisons, deltas))


def _needed(comparisons: Sequence[Comparison], deltas: Sequence[float]) -> int | None:
    """Prompts until one interval more leaves 0, or all fit inside ±δ, whichever is sooner; ends shrink as 1/√n.

    None where neither ever happens, such as where one metric is better and another worse by less than δ.
    """

    def until(reach: float, margin: float, n: int) -> float:
        ratio = reach / margin if margin > 0 else math.inf
        return n * ratio * ratio

    leaving = [
        until(c.mean - c.low if c.mean > 0 else c.high - c.mean, abs(c.mean), c.n)
        for c in comparisons
        if c.low <= 0 <= c.high
    ]
    fitting = [
        max(until(c.mean - c.low, delta + c.mean, c.n), until(c.high - c.mean, delta - c.mean, c.n))
        for c, delta in zip(comparisons, deltas, strict=True)
    ]
    needed = min(min(leaving, default=math.inf), max(fitting))
    return max(math.ceil(needed), max(c.n for c in comparisons) + 1) if math.isfinite(needed) else None


def non_inferior(comparison: Comparison, delta: float) -> bool:
    """Whether the one-sided 95 % bound of a loss lies above −δ."""
    return comparison.mean - float(stats.t.ppf(0.95, comparison.n - 1)) * comparison.standard_error > -delta
