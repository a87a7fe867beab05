"""Means of paired differences that take account of which prompts each plan has seen.

A plan's difference to the baseline on prompt i is modelled as d = a + g_i + e: its own mean a, an effect of
the prompt that plans share (where the baseline's image was unlucky, most other plans gain), and the rest. Removing
g_i leaves less noise to each plan, and makes plans comparable that have seen different prompts. Both are estimated in
turns by weighted least squares; g_i is shrunk towards 0, the more the fewer plans have seen the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from postdiff_calib.search.surrogate import Observation, shrunk

Array = npt.NDArray[np.float64]

_ROUNDS = 8


def observations(differences: Mapping[str, Array]) -> list[Observation]:
    """Adjusted mean and variance of every plan with at least two scored prompts.

    Args:
        differences: paired differences of each plan by plan id: (N,), NaN where a prompt was not scored.
    """
    plans = [plan for plan, row in differences.items() if np.isfinite(row).sum() > 1]
    if not plans:
        return []
    rows = np.array([differences[plan] for plan in plans])
    known = np.isfinite(rows)
    n = known.sum(1)
    filled = np.where(known, rows, 0.0)
    mean = filled.sum(1) / n
    effect = np.zeros(rows.shape[1])
    variance = np.ones(len(plans))
    for _ in range(_ROUNDS):
        rest = np.where(known, filled - mean[:, None] - effect, 0.0)
        sample = (rest**2).sum(1) / (n - 1)
        typical = max(float(np.median(sample)), 1e-12)
        variance = shrunk(sample, n, typical)
        precision = known / variance[:, None]
        effect = (np.where(known, filled - mean[:, None], 0.0) * precision).sum(0) / (precision.sum(0) + 1 / typical)
        mean = np.where(known, filled - effect, 0.0).sum(1) / n
    return [Observation(plan, int(n[i]), float(mean[i]), float(variance[i])) for i, plan in enumerate(plans)]


def joined(first: Mapping[str, Array], second: Mapping[str, Array]) -> dict[str, Array]:
    """Differences on two sets of prompts as of one, by plan id; NaN where a plan was not scored on a set."""
    if not second:
        return dict(first)
    sizes = [max((len(row) for row in part.values()), default=0) for part in (first, second)]
    return {
        plan: np.concatenate(
            [part.get(plan, np.full(size, np.nan)) for part, size in zip((first, second), sizes, strict=True)]
        )
        for plan in dict.fromkeys((*first, *second))
    }
