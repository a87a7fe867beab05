"""What to try next: Thompson sampling over the plans within the budget, then finalists that are run in full.

*Exploring*, a plan is drawn from the surrogate's belief (one joint draw of all plans' values, the best one is taken)
and scored on the next few prompts; its mean paired difference and the variance of that mean feed the surrogate.
Then come *finalists*: the plan of the highest expected value is run on all prompts, racing against the best complete
plan.

Both steps serve the arms: the last of the exploration and some of the finalists come from the cheaper-steps arm alone
(T at the model's default), so that the best plan of each arm is known and not just the best of all. The fewer-steps arm
needs no search: its best plan is the largest T that fits, and one finalist is that.

Plans that guards rule out (``keeping``) are passed over; those *known* to break one lose their race and never are the
incumbent.

All of it is a function of what is already scored and of (seed, trial number), so a resumed search goes on as it would
have, and no two workers propose from the same draw. This file knows no Optuna.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from postdiff_calib.search.adjust import observations
from postdiff_calib.search.evaluate import ScoreBook
from postdiff_calib.search.guards import Guard
from postdiff_calib.search.keeping import Keeper
from postdiff_calib.search.racing import FIRST_LOOK, Race
from postdiff_calib.search.space import Candidate, coordinate_matrix
from postdiff_calib.search.surrogate import Features, Observation, Posterior

Arm = Literal["fewer", "cheaper", "joint"]
Role = Literal["baseline", "explore", "final", "ladder"]

#: This last share of the exploration, and one in so many finalists, is taken from the cheaper-steps arm.
_CHEAPER_SHARE = 0.2
_FINALIST_CHEAPER_EVERY = 3
_LEAST_TRIALS = 36


@dataclass(frozen=True)
class SearchSettings:
    """How a search is run; none of it changes what a score means.

    Args:
        n_trials: trials in all, the enqueued ones included.
        sampler: ``postdiff``, or one of Optuna's for comparison: ``tpe``, ``gp``, ``random``, ``nsga2``.
        seed: of the proposals.
        block: prompts that are scored and stored at once.
        explore_prompts: prompts of a plan's first look.
        finalists: plans that are raced over all prompts, within ``n_trials``. Four are enough: for the same pictures,
            more short looks find better plans than more finalists (``benchmarks/README.md``).
        false_stop: highest chance that a race stops a plan as good as the incumbent.
        ladder_prompts: prompts per plan at the ladder's other budgets.
        guards: what a chosen plan must meet; the incumbent and the races keep to it.
    """

    n_trials: int = 60
    sampler: str = "postdiff"
    seed: int = 0
    block: int = 10
    explore_prompts: int = 10
    finalists: int = 4
    false_stop: float = 0.10
    ladder_prompts: int = 100
    guards: tuple[Guard, ...] = ()


def default_trials(num_prompts: int, sampler: str = "postdiff") -> int:
    """Trials of a search where nobody asks for another number: most are short looks, at ten prompts each.

    Half as many as there are prompts, which makes the pictures of the looks about as many as the finalists'. A sampler
    that scores every plan on all prompts gets what can be waited for.
    """
    return max(_LEAST_TRIALS, num_prompts // 2) if sampler == "postdiff" else _LEAST_TRIALS


@dataclass(frozen=True)
class Proposal:
    """What a trial is to do."""

    candidate: Candidate
    role: Role
    arm: Arm


class Strategy:
    """Proposes trials from what is scored.

    Args:
        candidates: every plan of the space, within the budget or not: scores made for another budget teach too.
        allowed: those within the budget.
        reference: the unaccelerated model.
        book: the scores.
        settings: see there.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        allowed: Iterable[Candidate],
        reference: Candidate,
        book: ScoreBook,
        settings: SearchSettings,
    ) -> None:
        known = {c.content for c in candidates}
        self.candidates: tuple[Candidate, ...] = tuple(candidates)
        if reference.content not in known:
            self.candidates += (reference,)
        self.reference = reference
        self.settings = settings
        self._book = book
        self._row = {c.content: i for i, c in enumerate(self.candidates)}
        within = {c.content for c in allowed}
        self.allowed = np.array([c.content in within for c in self.candidates])
        steps = np.array([c.knobs.num_inference_steps for c in self.candidates])
        self._arms: Mapping[Arm, npt.NDArray[np.bool_]] = {
            "fewer": self.allowed & np.array([c.fewer for c in self.candidates]),
            "cheaper": self.allowed & (steps == reference.knobs.num_inference_steps),
            "joint": self.allowed,
        }
        points = coordinate_matrix(self.candidates)
        features = Features(points, np.array(reference.coordinates()), seed=0)
        self._features, self._groups = features(points), features.groups
        self._fitted: tuple[int, Posterior] | None = None
        self.keeper = Keeper(settings.guards, self.candidates, reference, book, self._features, self._groups)

    def members(self, arm: Arm) -> list[Candidate]:
        """The arm's plans within the budget."""
        return [c for c, member in zip(self.candidates, self._arms[arm], strict=True) if member]

    def posterior(self) -> Posterior:
        """The surrogate, fitted to every scored plan."""
        if self._fitted is None or self._fitted[0] != self._book.images_known:
            self._fitted = self._book.images_known, self._fit()
        return self._fitted[1]

    def _fit(self) -> Posterior:
        seen = self.observations()
        return Posterior(
            self._features,
            self._groups,
            np.array([self._row[o.plan] for o in seen], dtype=np.intp),
            np.array([o.mean for o in seen]),
            np.array([o.variance / o.n for o in seen]),
        )

    def observations(self) -> list[Observation]:
        """Mean and variance of the paired differences of every plan with at least two scored prompts."""
        plans = [plan for plan in self._book.plans if plan in self._row and plan != self.reference.content]
        return observations({plan: self._book.differences(plan) for plan in plans})

    def choice(self, arm: Arm) -> str | None:
        """The arm's plan believed best among those looked at, by content hash; None before any."""
        looked = [plan for plan in self._book.plans if self._book.count(plan) and not self.keeper.known_to_break(plan)]
        rows = np.array([self._row[plan] for plan in looked if plan in self._row], dtype=np.intp)
        rows = np.unique(rows[self._arms[arm][rows]])
        if not len(rows):
            return None
        return self.candidates[int(rows[self.posterior().mean()[rows].argmax()])].content

    def incumbent(self, arm: Arm) -> str | None:
        """The arm's best mean among plans scored on every prompt that meet the guards, by content hash."""
        member = self._arms[arm]
        complete = [
            plan
            for plan in self._book.plans
            if plan in self._row
            and member[self._row[plan]]
            and self._book.complete(plan)
            and not self.keeper.known_to_break(plan)
        ]
        if not complete:
            return None
        return max(complete, key=lambda plan: float(self._book.known(plan).mean()))

    def propose(self, number: int, history: Sequence[Role], planned: int, busy: Collection[str] = ()) -> Proposal:
        """What trial ``number`` is to do.

        Args:
            number: the trial's number, not counting trials cut short; with the settings' seed it fixes the draw.
            history: roles of the trials that this strategy proposed so far (finished or running).
            planned: how many it will have proposed in the end.
            busy: plans that other workers have in hand, and plans that failed.
        """
        rng = np.random.default_rng([self.settings.seed, number])
        explored, finals = history.count("explore"), history.count("final")
        total = max(planned, len(history) + 1)
        n_final = min(self.settings.finalists, total)
        n_explore = total - n_final
        posterior = self.posterior()
        if explored >= n_explore:
            for arm in self._final_arms(finals):
                chosen = self._finalist(posterior, arm, busy)
                if chosen is not None:
                    return Proposal(chosen, "final", arm)
        arms = self._order("cheaper" if explored >= (1 - _CHEAPER_SHARE) * n_explore else "joint")
        for arm in arms:
            open_plans = self._open(arm, busy)
            if open_plans.any():
                value = np.where(open_plans, posterior.draw(rng)[0], -np.inf)
                value = np.where(self.keeper.keeping(open_plans, rng), value, -np.inf)
                return Proposal(self.candidates[int(value.argmax())], "explore", arm)
        # everything within the budget is complete: repeat the best, at no cost
        best = self.incumbent("joint")
        row = self._row[best] if best is not None else int(np.flatnonzero(self.allowed)[0])
        return Proposal(self.candidates[row], "explore", "joint")

    @classmethod
    def _final_arms(cls, finals: int) -> tuple[Arm, ...]:
        """Whose finalist is next, with who stands in for it: all three arms first, then mostly the joint one."""
        if finals == 1:
            return "fewer", "joint", "cheaper"
        return cls._order("cheaper" if finals % _FINALIST_CHEAPER_EVERY == 2 else "joint")

    @staticmethod
    def _order(first: Arm) -> tuple[Arm, Arm]:
        return ("cheaper", "joint") if first == "cheaper" else ("joint", "cheaper")

    def _open(self, arm: Arm, busy: Collection[str]) -> npt.NDArray[np.bool_]:
        """The arm's plans that can still teach something."""
        mask = self._arms[arm].copy()
        for plan in (*self._book.plans, *busy):
            row = self._row.get(plan)
            if row is not None and (plan in busy or self._book.complete(plan) or self.keeper.known_to_break(plan)):
                mask[row] = False
        return mask

    def _finalist(self, posterior: Posterior, arm: Arm, busy: Collection[str]) -> Candidate | None:
        mask = self._open(arm, busy)
        if arm == "fewer":
            most = _most_steps(self.members("fewer"))
            return most if most is not None and mask[self._row[most.content]] else None
        for plan in self._book.plans:
            row = self._row.get(plan)
            if row is not None and mask[row] and self.race_lost(plan, arm):
                mask[row] = False
        rows = np.flatnonzero(self.keeper.keeping(mask))
        if not len(rows):
            return None
        return self.candidates[int(rows[posterior.mean()[rows].argmax()])]

    def race_lost(self, plan: str, arm: Arm) -> bool:
        """Whether a plan has lost its race against the arm's best complete plan, or breaks a guard."""
        if self.keeper.known_to_break(plan):
            return True
        best = self.incumbent(arm)
        if best is None or best == plan or self._book.count(plan) < FIRST_LOOK:
            return False
        race = Race(self._book.num_prompts, self.settings.block, self.settings.false_stop)
        return race.lost(self._book.known(plan), self._book.known(best))

    def best_guess(self, arm: Arm, allowed: Collection[str]) -> Candidate | None:
        """The arm's plan of the highest posterior mean among ``allowed`` content hashes (of any budget).

        Of the fewer-steps arm it is the plan of most steps.
        """
        if arm == "fewer":
            return _most_steps([c for c in self.candidates if c.fewer and c.content in allowed])
        default = self.reference.knobs.num_inference_steps
        rows = [
            i
            for i, c in enumerate(self.candidates)
            if c.content in allowed and (arm == "joint" or c.knobs.num_inference_steps == default)
        ]
        if not rows:
            return None
        mask = np.zeros(len(self.candidates), dtype=np.bool_)
        mask[rows] = True
        mean = np.where(self.keeper.keeping(mask), self.posterior().mean(), -np.inf)
        return self.candidates[int(mean.argmax())]


def _most_steps(plans: Sequence[Candidate]) -> Candidate | None:
    """The fewer-steps arm's plan at a budget, known without a search: the most steps that fit."""
    return max(plans, key=lambda c: c.knobs.num_inference_steps, default=None)


def prompt_order(num_prompts: int, seed: int) -> list[int]:
    """The order in which every plan of a search sees the prompts."""
    return [int(i) for i in np.random.default_rng([seed, num_prompts]).permutation(num_prompts)]


def enqueued(strategy: Strategy, paper: Candidate | None) -> list[Proposal]:
    """The trials that every search starts with: baseline, the fewer-steps arm, the paper's settings, corners.

    Corners are, at the default T, the mildest value within the budget of each knob used alone.
    """
    proposals = [Proposal(strategy.reference, "baseline", "joint")]
    fewer = _most_steps(strategy.members("fewer"))
    if fewer is not None:
        proposals.append(Proposal(fewer, "explore", "fewer"))
    if paper is not None:
        proposals.append(Proposal(paper, "explore", "joint"))
    cheaper = strategy.members("cheaper")
    alone = {
        "s": [c for c in cheaper if c.n_low and c.k == 1 and c.coordinates()[4] == 1],
        "k": [c for c in cheaper if not c.n_low and c.k > 1 and c.coordinates()[4] == 1],
        "m": [c for c in cheaper if not c.n_low and c.k == 1 and c.coordinates()[4] < 1],
    }
    for corner in alone.values():
        if corner:
            proposals.append(Proposal(max(corner, key=lambda c: c.cost.macs), "explore", "cheaper"))
    unique = {p.candidate.content: p for p in reversed(proposals)}
    return list(reversed(unique.values()))
