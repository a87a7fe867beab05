"""What better plans a search may not have found: how far an answer about the best plans has to allow for them.

The surrogate's belief is drawn many times at every plan, each plan's own deviation included. In every draw the best
plan that was not judged is compared with the best of the other arm; a high quantile of these comparisons is what is
held possible.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: Draws, and up to which of their quantiles a better plan is held possible: with this one nearly all rows cover the
#: true arms in worlds where these are known (``benchmarks/README.md``).
DRAWS, BEYOND = 400, 0.975


@dataclass(frozen=True)
class Unfound:
    """What better plans may lie among those that were not judged, at one budget, in the objective's unit.

    Attributes:
        cheaper_steps: 97.5 % quantile of (best unjudged plan of cheaper steps − best plan of step reduction); −∞ when
            every plan was judged.
        step_reduction: 2.5 % quantile of (best plan of cheaper steps − best unjudged plan of step reduction); ∞ when
            every plan was judged.
    """

    cheaper_steps: float = -math.inf
    step_reduction: float = math.inf


def unfound(draws: Array, cheaper_steps: Mask, step_reduction: Mask, unjudged: Mask) -> Unfound:
    """What better plans may lie among those that were not judged.

    Args:
        draws: (D, M) draws of the belief in every plan's value.
        cheaper_steps, step_reduction: (M,) the arms' plans within the budget.
        unjudged: (M,) plans that were not judged on held-out prompts.
    """
    above, below = -math.inf, math.inf
    if (cheaper_steps & unjudged).any() and step_reduction.any():
        above = float(np.quantile(draws[:, cheaper_steps & unjudged].max(1) - draws[:, step_reduction].max(1), BEYOND))
    if (step_reduction & unjudged).any() and cheaper_steps.any():
        below = float(
            np.quantile(draws[:, cheaper_steps].max(1) - draws[:, step_reduction & unjudged].max(1), 1 - BEYOND)
        )
    return Unfound(above, below)
