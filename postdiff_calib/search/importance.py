"""Knob importance: how much of the differences between the scored plans each knob explains.

Symbols: y_i mean paired difference of plan i to the baseline over n_i prompts; u its severities, one per
knob, 0 where the knob does nothing; R² the share of the n_i-weighted variance of y that a least-squares fit on the
columns u (and u², from 32 plans on) of some knobs explains.

A knob's share is its mean gain in R² over all orders in which knobs can be added (Shapley value of R²; Lindeman,
Merenda and Gold, "Introduction to Bivariate and Multivariate Analysis", 1980), so that two knobs that were varied
together share what they explain. All shares are then scaled to add up to the R² of all knobs adjusted for their number
of columns, for any column explains a little by chance; the rest is interactions, finer shapes and noise. Outlying y
are moved to Tukey's fences (1.5 interquartile ranges beyond the quartiles).

Limits: it speaks of the plans that the search evaluated, which crowd around good ones, not of the whole space; of
scores at any cost, not of quality per cost; and an additive fit cannot see what only a combination of knobs does. A few
dozen plans give shares that are good to about ten per cent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
import numpy.typing as npt

from postdiff_calib.knobs import searched, settled
from postdiff_calib.scores.select import PlanScores

Array = npt.NDArray[np.float64]

#: Prompts a plan needs to count: below that its mean is mostly noise.
LEAST_PROMPTS = 10
#: Plans needed for a fit of one column a knob, and from which on the knobs' effects may be curved (two columns): about
#: three plans a column.
LEAST_PLANS, CURVED_PLANS = 16, 32


@dataclass(frozen=True)
class Importance:
    """Shares of the variance of the differences between plans.

    Attributes:
        shares: knob's symbol → share in [0, 1], in the order of the table; knobs that never vary are left out.
        noise: share that the finite number of prompts alone would cause, at most 1.
        plans: how many plans this rests on.
    """

    shares: dict[str, float]
    noise: float
    plans: int

    @property
    def rest(self) -> float:
        """What no knob explains by itself: interactions and noise."""
        return max(0.0, 1.0 - sum(self.shares.values()))


def severities(plan: PlanScores) -> tuple[float, ...]:
    """What each searched knob takes away, 0 where it takes nothing; 1/T, s, 1 − β, 1 − 1/k, 1 − m."""
    acting = settled(plan.knobs.as_dict(), plan.knobs.num_inference_steps)
    return tuple(row.severity(getattr(acting, row.field)) for row in searched() if row.severity is not None)


def importance(plans: Sequence[PlanScores], baseline: PlanScores) -> Importance | None:
    """Main-effect shares of the knobs; None where too few plans, or plans without any difference, were scored.

    Args:
        plans: scored plans, at any cost; those with fewer than 10 prompts in common with the baseline are left out.
        baseline: the baseline.
    """
    rows: list[tuple[tuple[float, ...], float, int, float]] = []
    for plan in plans:
        difference = plan.scores - baseline.scores
        difference = difference[np.isfinite(difference)]
        n = len(difference)
        if n >= LEAST_PROMPTS and plan.plan.plan_id != baseline.plan.plan_id:
            rows.append((severities(plan), float(difference.mean()), n, float(difference.var(ddof=1)) / n))
    if len(rows) < LEAST_PLANS:
        return None
    u = np.array([row[0] for row in rows])
    y, weight, variance = (np.array([row[i] for row in rows], dtype=np.float64) for i in (1, 2, 3))
    weight /= weight.sum()
    # One broken plan would be all that the variance is made of: Tukey's fences bound what a plan can add to it.
    first, third = np.quantile(y, [0.25, 0.75])
    y = np.clip(y, first - 1.5 * (third - first), third + 1.5 * (third - first))
    spread = float(weight @ (y - weight @ y) ** 2)
    if spread <= 1e-12:
        return None
    curved = len(rows) >= CURVED_PLANS
    symbols = [row.symbol for row in searched()]
    columns = {name: _columns(u[:, i], curved) for i, name in enumerate(symbols) if np.ptp(u[:, i]) > 1e-9}
    shares = _shapley(columns, y, weight)
    noise = min(1.0, float(weight @ variance) / spread)
    return Importance(shares, noise, len(rows))


def _columns(u: Array, curved: bool) -> Array:
    """u and, where effects may be curved and u has more than two values, u², on [0, 1]."""
    scaled = (u - u.min()) / np.ptp(u)
    curved = curved and len(np.unique(scaled.round(9))) > 2
    return np.stack([scaled, scaled**2] if curved else [scaled], 1)


def _shapley(columns: dict[str, Array], y: Array, weight: Array) -> dict[str, float]:
    names = tuple(columns)
    explained: dict[frozenset[str], float] = {}
    for size in range(len(names) + 1):
        for chosen in combinations(names, size):
            explained[frozenset(chosen)] = _r2([columns[name] for name in chosen], y, weight)[0]
    shares = {}
    for name in names:
        others = [other for other in names if other != name]
        share = 0.0
        for size in range(len(others) + 1):
            # Orders in which exactly these others come first, as a share of all orders.
            order_share = 1 / (len(names) * comb(len(others), size))
            for before in combinations(others, size):
                share += order_share * (explained[frozenset((*before, name))] - explained[frozenset(before)])
        shares[name] = share
    r2, adjusted = _r2(list(columns.values()), y, weight)
    return {name: share * max(0.0, adjusted) / r2 for name, share in shares.items()}


def _r2(columns: list[Array], y: Array, weight: Array) -> tuple[float, float]:
    """Share of the weighted variance that a linear fit explains; and adjusted for its number of columns."""
    if not columns:
        return 0.0, 0.0
    root = np.sqrt(weight)[:, None]
    design = np.concatenate([np.ones((len(y), 1)), *columns], 1)
    fit, _, rank, _ = np.linalg.lstsq(design * root, y * root[:, 0], rcond=1e-9)
    residual = float(weight @ (y - design @ fit) ** 2) / float(weight @ (y - weight @ y) ** 2)
    return 1 - residual, 1 - residual * (len(y) - 1) / (len(y) - int(rank))
