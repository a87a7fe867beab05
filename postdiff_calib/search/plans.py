"""The plans of a search: which of them are of an arm, within a budget, and known to the scores.

Masks are (M,) over the M candidates, in their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from postdiff_calib.cost.budget import Limit
from postdiff_calib.scores.book import ScoreBook
from postdiff_calib.scores.select import Arm
from postdiff_calib.search.space import Candidate

Mask = npt.NDArray[np.bool_]


class Plans:
    """Every plan of the space, the baseline among them.

    Args:
        candidates: every plan, within a budget or not; the baseline is added where it is missing.
        limits: the study's own budget, then the further ones.
        reference: the baseline.
        book: the scores.

    Attributes:
        row: index of each candidate by plan id.
    """

    def __init__(
        self, candidates: Sequence[Candidate], limits: Sequence[Limit], reference: Candidate, book: ScoreBook
    ) -> None:
        self.candidates: tuple[Candidate, ...] = tuple(candidates)
        if reference.plan_id not in {c.plan_id for c in candidates}:
            self.candidates += (reference,)
        self.reference, self.limits, self.book = reference, tuple(limits), book
        self.row = {c.plan_id: i for i, c in enumerate(self.candidates)}
        stock = np.array([c.plan_id == reference.plan_id for c in self.candidates])
        steps = np.array([c.knobs.num_inference_steps for c in self.candidates])
        self._within = [np.array([limit.allows(c.cost) for c in self.candidates]) & ~stock for limit in self.limits]
        self._arms: Mapping[Arm, Mask] = {
            "step_reduction": np.array([c.step_reduction for c in self.candidates]),
            "cheaper_steps": steps == reference.knobs.num_inference_steps,
            "combined": np.ones(len(self.candidates), dtype=np.bool_),
        }

    def mask(self, arm: Arm, budget: int = 0) -> Mask:
        """The arm's plans within a budget, the baseline left out."""
        found: Mask = self._within[budget] & self._arms[arm]
        return found

    def members(self, arm: Arm, budget: int = 0) -> list[Candidate]:
        """The arm's plans within a budget, the baseline left out."""
        return self.of(self.mask(arm, budget))

    def of(self, mask: Mask) -> list[Candidate]:
        """The plans of a mask, in their order."""
        return [self.candidates[i] for i in np.flatnonzero(mask)]

    def seen(self) -> Mask:
        """The plans with a score."""
        seen = np.zeros(len(self.candidates), dtype=np.bool_)
        seen[[self.row[plan] for plan in self.book.plans if plan in self.row]] = True
        return seen
