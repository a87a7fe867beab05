"""Optuna's own searches as strategies, for comparison: each of their plans is scored on every prompt of the search.

They know no budget: the backend moves what they suggest to the grid and, where it is too expensive, to the largest T
that fits. They search the study's own budget in all plans, so they decide nothing between the arms.
"""

from __future__ import annotations

from collections.abc import Collection

from postdiff_calib.search.proposals import Proposal
from postdiff_calib.search.space import Candidate
from postdiff_calib.search.strategy import Strategy


class Suggested(Strategy):
    """A strategy that evaluates what one of Optuna's own searches suggests."""

    role = "whole"

    def propose(
        self, budget: int, number: int, busy: Collection[str] = (), suggested: Candidate | None = None
    ) -> Proposal:
        """The suggested plan; see ``Strategy.propose``.

        Raises:
            ValueError: nothing is suggested.
        """
        if suggested is None:
            raise ValueError(f"the strategy {self.name} evaluates what Optuna's {self.asks} suggests")
        return Proposal(suggested, self.role, "combined", budget)


class Tpe(Suggested):
    """Tree-structured Parzen estimators."""

    name, asks = "tpe", "TPESampler"


class Gp(Suggested):
    """A Gaussian process with expected improvement."""

    name, asks = "gp", "GPSampler"


class Random(Suggested):
    """Uniformly at random."""

    name, asks = "random", "RandomSampler"


class Nsga2(Suggested):
    """A genetic algorithm."""

    name, asks = "nsga2", "NSGAIISampler"
