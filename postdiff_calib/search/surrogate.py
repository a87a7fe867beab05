"""The surrogate: losses of the knobs are nearly additive, and a few interactions carry most of the rest.

A plan's true difference to the baseline is modelled as

    f(x) = Σ knobs main effect + Σ pairs interaction + residual(x) + own(x),

all Gaussian with mean 0, and 0 at the baseline:

- main effects are piecewise linear in each knob, one increment per grid interval (a random walk), so neighbouring
  values help each other and no shape is imposed;
- an offset that all plans but the baseline share, such as its luck on the prompts seen so far;
- each knob also has a linear and a quadratic trend in its severity, which a few plans determine;
- interactions are products of normalised severities u ∈ [0, 1], with squares for the strong ones (k × T, s × β);
- the residual is a Gaussian process with a squared exponential kernel, by random Fourier features, so that the model is
  never stuck with what products cannot express;
- ``own`` is each plan's private deviation, known better the more of its own prompts were scored.

Observations are means of paired differences with known variances. Two factors, one on everything but ``own`` and one
on ``own``, are chosen by the marginal likelihood under a weak prior (Rasmussen and Williams, Gaussian Processes for
Machine Learning, 2006, section 5.4); given those, everything is closed form. Where the knobs explain little, ``own``
comes out large and plans nobody has tried are worth a try; where they explain nearly all, it comes out small. Draws of
f come from Matheron's rule (Wilson et al., arXiv 2002.09309): n³ + n·p each for n observed plans and p features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular

from postdiff_calib.knobs import searched

Array = npt.NDArray[np.float64]

_FOURIER = 96
#: Correlation length of the residual, as a share of a knob's range: wide enough to learn from few plans.
_LENGTH = 0.45
#: Prior standard deviations, as a share of the typical observed difference, by group.
_PRIOR = {"offset": 0.3, "trend": 0.6, "main": 0.15, "pairs": 0.5, "residual": 0.25}
#: Factors on the prior of all groups, and standard deviations of ``own``, that are tried; the middle is believed first.
_SCALES = (0.5, 1.0, 2.0)
_OWN = (0.05, 0.15, 0.4, 1.2)
_TYPICAL_OWN = 0.15
#: Values' worth of belief in the typical variance, against a plan's own.
_VARIANCE_WEIGHT = 6.0


class Features:
    """Maps effective coordinates, one per searched knob, to features that vanish at the baseline.

    Args:
        grid: (N, knobs) effective coordinates of the whole space.
        reference: (knobs,) those of the baseline.
        seed: of the random Fourier features.
    """

    def __init__(self, grid: Array, reference: Array, seed: int = 0) -> None:
        rows = searched()
        place = {row.field: i for i, row in enumerate(rows)}
        # T acts through the step size 1/T: 4 → 5 steps matters as much as 10 → 20.
        self._inverse = [i for i, row in enumerate(rows) if row.inverse]
        self._strong = {frozenset((i, place[other])) for i, row in enumerate(rows) for other in row.interacts}
        self._reference = reference
        self._levels = [_levels(grid[:, j]) for j in range(grid.shape[1])]
        self._span = np.maximum(np.abs(self._transform(grid) - self._transform(reference[None])).max(0), 1e-12)
        rng = np.random.default_rng([seed, 77])
        self._frequencies = rng.standard_normal((grid.shape[1], _FOURIER)) / _LENGTH
        self._phases = rng.uniform(0, 2 * np.pi, _FOURIER)
        self.groups = self._raw(grid[:1])[1]

    def _transform(self, points: Array) -> Array:
        moved = points.copy()
        moved[:, self._inverse] = 1 / moved[:, self._inverse]
        return moved

    def _raw(self, points: Array) -> tuple[Array, dict[str, slice]]:
        columns: list[Array] = []
        groups: dict[str, slice] = {}

        def close(name: str) -> None:
            start = max((g.stop for g in groups.values()), default=0)
            width = sum(c.shape[1] for c in columns)
            if width > start:
                groups[name] = slice(start, width)

        columns.append((points != self._reference).any(1, keepdims=True).astype(np.float64))
        close("offset")
        for j, levels in enumerate(self._levels):
            columns.append(_increments(points[:, j], levels, self._reference[j]))
            close(f"main{j}")
        u = (self._transform(points) - self._transform(self._reference[None])) / self._span
        columns += [u, u**2]
        close("trend")
        for i in range(u.shape[1]):
            for j in range(i + 1, u.shape[1]):
                product = u[:, i] * u[:, j]
                terms = [product]
                if frozenset((i, j)) in self._strong:
                    terms += [product * u[:, i], product * u[:, j]]
                columns.append(np.stack(terms, 1))
        close("pairs")
        wave = np.sqrt(2 / _FOURIER) * np.cos(u @ self._frequencies + self._phases)
        columns.append(wave - np.sqrt(2 / _FOURIER) * np.cos(self._phases))
        close("residual")
        return np.concatenate(columns, 1), groups

    def __call__(self, points: Array) -> Array:
        """(N, knobs) coordinates → (N, p) features."""
        return self._raw(points)[0]


def _levels(values: Array) -> Array:
    """At most 13 of the distinct values: finer steps than that cannot be told apart from a few dozen plans."""
    distinct: Array = np.unique(values.round(6))
    if len(distinct) <= 13:
        return distinct
    chosen: Array = np.unique(np.quantile(distinct, np.linspace(0, 1, 13)))
    return chosen


def _increments(values: Array, levels: Array, reference: float) -> Array:
    """One column per interval between levels: how much of it lies between the value and the reference, signed."""
    knots = np.unique(np.append(levels, reference))
    low, high = knots[:-1], knots[1:]

    def filled(x: Array) -> Array:
        share: Array = np.clip((x[:, None] - low) / np.maximum(high - low, 1e-12), 0, 1)
        return share

    columns: Array = filled(values) - filled(np.array([reference]))
    return columns


@dataclass(frozen=True)
class Observation:
    """Mean paired difference of one plan over n of its prompts, and the sample variance of those differences."""

    plan: str
    n: int
    mean: float
    variance: float


def shrunk(sample: Array, n: npt.NDArray[np.intp], typical: float) -> Array:
    """Sample variances of n values each, drawn towards a typical one as if six values more had shown that."""
    freedom = np.maximum(n - 1, 0)
    result: Array = (_VARIANCE_WEIGHT * typical + freedom * sample) / (_VARIANCE_WEIGHT + freedom)
    return result


def variances_of_means(observations: Sequence[Observation]) -> Array:
    """Variance of each observed mean, each plan's sample variance being shrunk towards the typical one.

    Ten or twenty prompts estimate a variance poorly, and a plan that looks certain by accident would mislead the fit.
    """
    n = np.array([o.n for o in observations], dtype=np.intp)
    sample = np.array([max(o.variance, 0.0) for o in observations])
    typical = float(np.median(sample[n > 1])) if (n > 1).any() else 1.0
    result: Array = np.maximum(shrunk(sample, n, typical), 1e-12) / n
    return result


@dataclass(frozen=True)
class Scales:
    """Factor on the prior of all groups of features, and standard deviation of a plan's own deviation.

    Both are shares of the typical observed difference.
    """

    shared: float = 1.0
    own: float = _TYPICAL_OWN

    @property
    def log_prior(self) -> float:
        """Logarithm of the prior density, up to a constant: log-normal around the usual values."""
        return -0.25 * float(np.log(self.shared) ** 2 + np.log(self.own / _TYPICAL_OWN) ** 2)


class Posterior:
    """The model after seeing observations; draws and means over any set of candidates.

    Args:
        features: (M, p) features of every candidate.
        groups: columns by group, of ``Features``.
        rows: (n,) index into the candidates of each observed plan.
        means, variances: (n,) observed means and their variances.
        scales: to be used; those that the observations make likeliest where None.

    Attributes:
        scales: those in use.
    """

    def __init__(
        self,
        features: Array,
        groups: dict[str, slice],
        rows: npt.NDArray[np.intp],
        means: Array,
        variances: Array,
        scales: Scales | None = None,
    ) -> None:
        self._features = features
        self._rows = rows
        typical = float(np.sqrt(np.mean(means**2))) if len(means) else 1.0
        noise = float(np.sqrt(np.median(variances))) if len(variances) else 1.0
        self._unit = max(typical, noise, 1e-9)
        self._y = means / self._unit
        self._noise = variances / self._unit**2
        self._x = features[rows]
        prior = np.empty(features.shape[1])
        for name, columns in groups.items():
            prior[columns] = _PRIOR["main" if name.startswith("main") else name] ** 2
        gram = (self._x * prior) @ self._x.T
        self.scales = scales or self._likeliest(gram)
        self._prior = prior * self.scales.shared**2
        self._own = self.scales.own**2
        self._factor = cho_factor(self._covariance(gram, self.scales)) if len(rows) else None
        self._alpha = self._solve(self._y)

    def _covariance(self, gram: Array, scales: Scales) -> Array:
        found: Array = scales.shared**2 * gram + np.diag(self._noise + scales.own**2)
        return found

    def _solve(self, values: Array) -> Array:
        solved: Array = values if self._factor is None else cho_solve(self._factor, values)
        return solved

    def _likeliest(self, gram: Array) -> Scales:
        if not len(self._y):
            return Scales()

        def log_posterior(scales: Scales) -> float:
            lower = cholesky(self._covariance(gram, scales), lower=True)
            white = solve_triangular(lower, self._y, lower=True)
            return float(-0.5 * white @ white - np.log(np.diag(lower)).sum()) + scales.log_prior

        return max((Scales(shared, own) for shared in _SCALES for own in _OWN), key=log_posterior)

    def mean(self) -> Array:
        """Posterior mean of every candidate, (M,), in the unit of the observations."""
        value: Array = self._features @ (self._prior * (self._x.T @ self._alpha))
        np.add.at(value, self._rows, self._own * self._alpha)
        return value * self._unit

    def draw(self, rng: np.random.Generator, count: int = 1, surprising: npt.NDArray[np.bool_] | None = None) -> Array:
        """``count`` joint draws of f at every candidate, (count, M).

        Args:
            rng: of the draws.
            count: how many.
            surprising: (M,) plans never tried whose own deviation is drawn too; it stays at its mean of 0 for others,
                since the largest of thousands of independent draws says nothing about any plan.
        """
        weights = rng.standard_normal((len(self._prior), count)) * np.sqrt(self._prior)[:, None]
        own = rng.standard_normal((len(self._rows), count)) * np.sqrt(self._own)
        error = rng.standard_normal((len(self._rows), count)) * np.sqrt(self._noise)[:, None]
        correction = self._solve(self._y[:, None] - self._x @ weights - own - error)
        weights += self._prior[:, None] * (self._x.T @ correction)
        values = self._features @ weights
        if surprising is not None:
            rows = np.setdiff1d(np.flatnonzero(surprising), self._rows)
            values[rows] += rng.standard_normal((len(rows), count)) * np.sqrt(self._own)
        np.add.at(values, self._rows, own + self._own * correction)
        drawn: Array = values.T * self._unit
        return drawn
