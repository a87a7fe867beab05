"""What is believed of every plan: the surrogate fitted to all scores there are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from postdiff_calib.search.adjust import joined, observations
from postdiff_calib.search.plans import Mask, Plans
from postdiff_calib.search.space import coordinate_matrix
from postdiff_calib.search.surrogate import Features, Observation, Posterior, Scales
from postdiff_calib.search.unfound import DRAWS

Array = npt.NDArray[np.float64]


class Belief:
    """The surrogate over a search's plans.

    Args:
        plans: of the search; what is scored is read from their book.
        seed: of the draws.

    Attributes:
        features, groups: of the candidates, as ``surrogate.Features`` makes them.
    """

    def __init__(self, plans: Plans, seed: int) -> None:
        self._plans, self._seed = plans, seed
        points = coordinate_matrix(plans.candidates)
        features = Features(points, np.array(plans.reference.coordinates()), seed=0)
        self.features, self.groups = features(points), features.groups
        self._fitted: tuple[int, Posterior] | None = None

    def posterior(self) -> Posterior:
        """The surrogate, fitted to every scored plan."""
        known = self._plans.book.images_known
        if self._fitted is None or self._fitted[0] != known:
            self._fitted = known, self.fit()
        return self._fitted[1]

    def fit(self, scales: Scales | None = None, held_out: Mapping[str, Array] | None = None) -> Posterior:
        """The surrogate, fitted anew.

        Args:
            scales: to be used; the likeliest where None.
            held_out: as ``observations``.
        """
        seen = self.observations(held_out)
        return Posterior(
            self.features,
            self.groups,
            np.array([self._plans.row[o.plan] for o in seen], dtype=np.intp),
            np.array([o.mean for o in seen]),
            np.array([o.variance / o.n for o in seen]),
            scales,
        )

    def observations(self, held_out: Mapping[str, Array] | None = None) -> list[Observation]:
        """Mean and variance of the paired differences of every plan with at least two scored prompts.

        Args:
            held_out: differences on the held-out prompts by plan id, where finalists were judged on them.
        """
        book, reference = self._plans.book, self._plans.reference.plan_id
        # a study may hold scores of plans that are not searched, such as those of another version's grid
        plans = [plan for plan in book.plans if plan in self._plans.row and plan != reference]
        judged = {plan: found for plan, found in (held_out or {}).items() if plan in self._plans.row}
        return observations(joined({plan: book.differences(plan) for plan in plans}, judged))

    def best(self, mask: Mask) -> str | None:
        """The plan of the highest expected value in a mask, by plan id; None where the mask is empty."""
        if not mask.any():
            return None
        return self._plans.candidates[int(np.where(mask, self.posterior().mean(), -np.inf).argmax())].plan_id

    def draws(self, held_out: Mapping[str, Array] | None = None) -> Array:
        """Draws of every plan's value with its own deviation, (draws, M)."""
        rng, every = np.random.default_rng([self._seed, 1]), np.ones(len(self._plans.candidates), dtype=np.bool_)
        posterior = self.fit(held_out=held_out) if held_out else self.posterior()
        return posterior.draw(rng, DRAWS, every)
