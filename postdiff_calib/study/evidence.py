"""What a study answers from: plans with their scores on either set of prompts, and the budgets that were searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from postdiff_calib.cost.budget import Limit
from postdiff_calib.knobs import Knobs
from postdiff_calib.scores.objective import Objective
from postdiff_calib.scores.select import ARMS, Arm, PlanScores
from postdiff_calib.search.adjust import joined, observations
from postdiff_calib.study.rows import Judged, Row, make_row
from postdiff_calib.study.searched import SearchedBudget

Array = npt.NDArray[np.float64]

#: A plan can be chosen when at least this many prompts are scored (or all, of fewer).
MIN_PROMPTS = 50
#: Limits that differ by less than this share are one.
_SAME = 1e-6


@dataclass(frozen=True)
class Scored:
    """Plans and the baseline on one set of prompts.

    Args:
        baseline: the baseline.
        plans: every scored plan.
        set_aside: prompts that are scored for no plan, since the baseline's own image is broken.
    """

    baseline: PlanScores
    plans: Sequence[PlanScores]
    set_aside: int = 0

    @property
    def least(self) -> int:
        """Prompts that a plan needs to be chosen."""
        return min(MIN_PROMPTS, len(self.baseline.scores) - self.set_aside)

    @property
    def complete(self) -> list[PlanScores]:
        """The plans that are scored wherever the baseline is."""
        known = np.isfinite(self.baseline.scores)
        return [p for p in self.plans if known.any() and np.isfinite(p.scores[known]).all()]


@dataclass(frozen=True)
class Evidence:
    """All that an answer rests on.

    Args:
        calibration: every plan the search scored.
        held_out: the finalists on held-out prompts; no plan where nothing was confirmed yet.
        searched: the budgets that were searched.
        objective: the metrics with their spreads, weights and δ.
        guides: the model uses classifier-free guidance at all.
    """

    calibration: Scored
    held_out: Scored
    searched: Sequence[SearchedBudget]
    objective: Objective
    guides: bool = True

    def at(self, limit: Limit) -> SearchedBudget | None:
        """What was searched at a limit; None where it was not."""
        for budget in self.searched:
            same = budget.limit.terms == limit.terms
            if same and abs(budget.limit.value - limit.value) <= _SAME * limit.value:
                return budget
        return None

    def rows_beside(self, limit: Limit) -> list[Limit]:
        """The budgets of a trade-off table: this one, and those searched in the same terms, cheapest first."""
        others = [b.limit for b in self.searched if b.limit.terms == limit.terms]
        others = [other for other in others if abs(other.value - limit.value) > _SAME * limit.value]
        return sorted([limit, *others], key=lambda one: one.value)

    def judged(self, limit: Limit) -> Judged | None:
        """The plans within a limit that were scored on the held-out prompts; None where there are none."""
        plans = [p for p in self.held_out.complete if limit.allows(p.cost)]
        return Judged(self.held_out.baseline, plans, self.objective, self.standing) if plans else None

    @cached_property
    def standing(self) -> Mapping[str, float]:
        """Mean difference of each plan by the objective over all prompts that it was scored on, by plan id.

        What prompts do to all plans alike is taken out (``search.adjust``).
        """

        rows = joined(self.differences(self.calibration), self.differences(self.held_out))
        return {o.plan: o.mean for o in observations(rows)}

    def differences(self, scored: Scored) -> dict[str, Array]:
        """The objective's paired differences to the baseline by plan id, (N,), NaN where unknown."""
        base = scored.baseline.quality(self.objective)
        return {p.plan.plan_id: p.quality(self.objective) - base for p in scored.plans}

    def unjudged(self, limit: Limit) -> int:
        """How many finalists of a searched limit are not scored on the held-out prompts yet."""
        found = self.at(limit)
        done = {p.plan.plan_id for p in self.held_out.complete}
        return 0 if found is None else len(set(found.finalists) - done)

    def row(self, limit: Limit) -> Row:
        """The arms compared at a limit; a budget whose finalists are not all judged counts as not searched."""
        if limit not in self._rows:
            found = None if self.unjudged(limit) else self.at(limit)
            fits: Mapping[Arm, bool | None] = dict.fromkeys(ARMS) if found is None else found.fits
            unfound = None if found is None else found.unfound
            share = limit.value / limit.baseline
            self._rows[limit] = make_row(self.judged(limit), share, unfound=unfound, fits=fits)
        return self._rows[limit]

    @cached_property
    def _rows(self) -> dict[Limit, Row]:
        """Rows that were asked for before: their intervals take a while."""
        return {}


class NoImages:
    """An evaluator where scores are only read."""

    def scores(self, knobs: Knobs, indices: Sequence[int]) -> list[float]:
        """Never asked.

        Raises:
            AssertionError: always.
        """
        raise AssertionError("a study that is read back makes no image")
