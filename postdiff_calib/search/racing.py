"""Racing: a plan that is clearly worse than the incumbent is stopped before all prompts are spent on it.

Both plans have scores of the same prompts. After every block the mean paired difference over its standard error, t, is
looked at, and the plan is stopped when t < −c. The constant c is the quantile, over simulated races between truly equal
plans, of the lowest t at any look, so that the chance of stopping an equal plan at any time stays below
``false_stop``; the small-sample behaviour of t is part of the simulation. A constant threshold on t (Pocock's) stops
clear losers after a few blocks, which is what saves pictures.

Symbols: n prompts so far, N prompts in all, looks at n = first, first + block, … N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

#: Before this many prompts the t statistic of skewed differences is not trusted.
FIRST_LOOK = 30
#: Differences of real scores have heavier tails than the simulated normal ones; aim a little below what is promised.
_SAFETY = 0.8
_RACES = 20_000


@lru_cache(maxsize=32)
def threshold(num_prompts: int, block: int, false_stop: float) -> float:
    """The constant c: stop when t < −c.

    Args:
        num_prompts: N.
        block: prompts between looks.
        false_stop: highest chance of stopping a truly equal plan.

    Returns:
        c > 0; infinity when there is no look before the end.
    """
    if not 0 < false_stop < 0.5:
        raise ValueError(f"false_stop={false_stop}: it must lie between 0 and 0.5")
    looks = np.arange(max(FIRST_LOOK, block), num_prompts, block)
    if not len(looks):
        return math.inf
    rng = np.random.default_rng(0)
    # Sums of each block, drawn directly: a normal mean and a chi-square spread per stretch between looks.
    sizes = np.diff(looks, prepend=0)
    total = np.zeros(_RACES)
    squares = np.zeros(_RACES)
    lowest = np.zeros(_RACES)
    for n, size in zip(looks, sizes, strict=True):
        part = rng.standard_normal(_RACES) * math.sqrt(size)
        spread = rng.chisquare(size - 1, _RACES) if size > 1 else 0.0
        total += part
        squares += spread + part**2 / size
        variance = (squares - total**2 / n) / (n - 1)
        lowest = np.minimum(lowest, total / np.sqrt(n * variance))
    return float(-np.quantile(lowest, false_stop * _SAFETY))


@dataclass(frozen=True)
class Race:
    """The rule of one race; see the module for its symbols."""

    num_prompts: int
    block: int = 10
    false_stop: float = 0.10

    def lost(self, challenger: npt.NDArray[np.float64], incumbent: npt.NDArray[np.float64]) -> bool:
        """Whether the challenger is to be stopped.

        Args:
            challenger, incumbent: (N,) scores of the same prompts, NaN where unknown; only common ones count.
        """
        difference = challenger - incumbent
        difference = difference[np.isfinite(difference)]
        n = len(difference)
        if n < FIRST_LOOK or n >= self.num_prompts:
            return False
        spread = float(difference.std(ddof=1))
        mean = float(difference.mean())
        if spread == 0:
            return mean < 0
        return mean * math.sqrt(n) / spread < -threshold(self.num_prompts, self.block, self.false_stop)
