"""What every search strategy is: it proposes evaluations, names finalists, and says what each budget came to.

A strategy is one file with a subclass of ``Strategy`` and a line in ``search.strategies``. It must say what to evaluate
next (``propose``); which plans are judged in the end (``finalists``) and what each budget came to (``searched``) have a
default, by the surrogate's belief, that any strategy can use.

A proposal is a function of what is already scored and of (seed, budget, number of the evaluation), so a resumed search
goes on as it would have, and no two workers propose from the same draw. No strategy knows Optuna.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from postdiff_calib.cost.budget import Limit
from postdiff_calib.scores.book import ScoreBook
from postdiff_calib.scores.select import ARMS, Arm
from postdiff_calib.search.belief import Belief
from postdiff_calib.search.finalists import best_of_each_arm
from postdiff_calib.search.keeping import Keeper
from postdiff_calib.search.plans import Plans
from postdiff_calib.search.proposals import Finalist, Proposal, Role, Searched
from postdiff_calib.search.settings import SearchSettings
from postdiff_calib.search.space import Candidate
from postdiff_calib.search.surrogate import Observation, Posterior
from postdiff_calib.search.unfound import Unfound, unfound
from postdiff_calib.techniques import techniques

Array = npt.NDArray[np.float64]


class Strategy(ABC):
    """Proposes evaluations from what is scored.

    Args:
        candidates: every plan of the space, within a budget or not: scores made for another budget teach too.
        limits: the study's own budget, then the further ones.
        reference: the baseline.
        book: the scores.
        settings: how the search is run.

    Attributes:
        name: as on the command line.
        role: what its evaluations are: of a few prompts (``explore``), or of all (``whole``).
        by_arm: whether each arm is searched at every budget, so that the budgets decide between the arms.
        asks: name of Optuna's class that suggests its plans; empty where it proposes by itself.
    """

    name: ClassVar[str]
    role: ClassVar[Role] = "explore"
    by_arm: ClassVar[bool] = False
    asks: ClassVar[str] = ""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        limits: Sequence[Limit],
        reference: Candidate,
        book: ScoreBook,
        settings: SearchSettings,
    ) -> None:
        self.plans = Plans(candidates, limits, reference, book)
        self.candidates, self.limits, self.reference = self.plans.candidates, self.plans.limits, reference
        self.book, self.settings = book, settings
        self.belief = Belief(self.plans, settings.seed)
        features, groups = self.belief.features, self.belief.groups
        self.keeper = Keeper(settings.guards, self.candidates, reference, book, features, groups)

    @abstractmethod
    def propose(
        self, budget: int, number: int, busy: Collection[str] = (), suggested: Candidate | None = None
    ) -> Proposal:
        """The next evaluation at a budget.

        Args:
            budget: which one.
            number: how many were proposed there before; with the settings' seed and the limit it fixes the draw.
            busy: plans that other workers have in hand, and plans that failed.
            suggested: the plan that Optuna suggests, where the strategy ``asks`` one.
        """

    def mask(self, arm: Arm, budget: int = 0) -> npt.NDArray[np.bool_]:
        """The arm's plans within a budget, the baseline left out, (M,)."""
        return self.plans.mask(arm, budget)

    def members(self, arm: Arm, budget: int = 0) -> list[Candidate]:
        """The arm's plans within a budget, the baseline left out."""
        return self.plans.members(arm, budget)

    def posterior(self) -> Posterior:
        """The surrogate, fitted to every scored plan."""
        return self.belief.posterior()

    def observations(self, held_out: Mapping[str, Array] | None = None) -> list[Observation]:
        """As ``Belief.observations``."""
        return self.belief.observations(held_out)

    def choice(self, arm: Arm = "combined", budget: int = 0) -> str | None:
        """The arm's plan believed best among those evaluated, by plan id; None before any."""
        evaluated = np.zeros(len(self.candidates), dtype=np.bool_)
        for plan in self.book.plans:
            if plan in self.plans.row and self.book.count(plan) and not self.keeper.known_to_break(plan):
                evaluated[self.plans.row[plan]] = True
        return self.belief.best(evaluated & self.mask(arm, budget))

    def planned(self, budget: int, enqueued: int) -> int:
        """How many evaluations are to be proposed at a budget, when so many were enqueued at the study's own."""
        if budget == 0:
            return max(0, self.settings.n_trials - enqueued)
        return self.settings.at_further_budgets if self.by_arm and self.mask("cheaper_steps", budget).any() else 0

    def finalists(self, budget: int = 0, failed: Collection[str] = ()) -> list[Finalist]:
        """The plans to judge on held-out prompts at a budget.

        Args:
            budget: which one.
            failed: plans whose images were broken.
        """
        return best_of_each_arm(self.plans, self.belief, self.keeper, budget, failed)

    def searched(self, failed: Collection[str] = ()) -> tuple[Searched, ...]:
        """What each budget's search came to, the study's own first.

        Args:
            failed: plans whose images were broken.
        """
        budgets = range(len(self.limits)) if self.by_arm else range(1)
        finalists = [self.finalists(budget, failed) for budget in budgets]
        judged = {f.candidate.plan_id for found in finalists for f in found}
        draws = self.belief.draws() if self.by_arm else None
        return tuple(
            Searched(
                limit=self.limits[budget],
                finalists=tuple(finalists[budget]),
                unfound=None if draws is None else self._unfound(budget, judged, draws),
                fits={arm: bool(self.mask(arm, budget).any()) for arm in ARMS},
            )
            for budget in budgets
        )

    def after_judging(self, searched: Sequence[Searched], held_out: Mapping[str, Array]) -> tuple[Searched, ...]:
        """The same, with what may not have been found as the finalists' held-out scores tell it.

        Args:
            searched: as ``searched`` gave it.
            held_out: differences on the held-out prompts by plan id.
        """
        draws = self.belief.draws(held_out)
        return tuple(
            s if s.unfound is None else replace(s, unfound=self._unfound(budget, held_out, draws))
            for budget, s in enumerate(searched)
        )

    def unfound(self, budget: int, judged: Collection[str]) -> Unfound:
        """What better plans may lie among those that are not judged at a budget; see ``rows.Unfound``.

        Args:
            budget: which one.
            judged: plan ids of the finalists of all budgets.
        """
        return self._unfound(budget, judged, self.belief.draws())

    def _unfound(self, budget: int, judged: Collection[str], draws: Array) -> Unfound:
        out = np.array([c.plan_id not in judged for c in self.candidates])
        return unfound(draws, self.mask("cheaper_steps", budget), self.mask("step_reduction", budget), out)


def enqueued(strategy: Strategy, paper: Candidate | None) -> list[Proposal]:
    """The trials that every search starts with: baseline, the whole step-reduction arm, the paper's settings, corners.

    Of the step-reduction arm every plan within the largest of the budgets is scored, most steps first. Corners are, at
    the default T, the mildest value within the budget of each knob used alone.
    """
    proposals = [Proposal(strategy.reference, "baseline", "combined")]
    step_reduction: dict[str, Proposal] = {}
    for budget in range(len(strategy.limits)):
        for c in sorted(strategy.members("step_reduction", budget), key=lambda c: -c.knobs.num_inference_steps):
            step_reduction.setdefault(c.plan_id, Proposal(c, "explore", "step_reduction", budget))
    proposals += step_reduction.values()
    if paper is not None:
        proposals.append(Proposal(paper, "explore", "combined"))
    cheaper_steps = strategy.members("cheaper_steps")
    for technique in techniques():
        corner = [c for c in cheaper_steps if c.plan.acting == (technique.name,)]
        if corner:
            proposals.append(Proposal(max(corner, key=lambda c: c.cost.macs), "explore", "cheaper_steps"))
    unique = {p.candidate.plan_id: p for p in reversed(proposals)}
    return list(reversed(unique.values()))
