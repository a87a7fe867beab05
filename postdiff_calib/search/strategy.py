"""What to try next: a broad look, then Thompson sampling within each budget, then finalists judged on unseen prompts.

An evaluation scores a plan on its next few prompts of the search. First, plans within the budget are drawn at random,
until a third as many were looked at as there are evaluations: they teach the surrogate, and among them may be one that
no knob points to. After that a plan is drawn from the
surrogate's belief (one joint draw of all plans' values, the best one is taken; Russo et al., "A Tutorial on Thompson
Sampling", arXiv 1707.02038). One such evaluation in three is drawn from the belief of a sceptic, for whom the knobs
explain little and every plan is its own: it looks again at those that did well beyond expectation.

The question "fewer or cheaper?" is asked at several budgets, and each of them is searched: first at the study's own
budget, in all plans and, every third time, in the cheaper-steps arm alone; then in the cheaper-steps arm within each
further budget. The fewer-steps arm is small: every plan of it is scored on some prompts.

In the end the plans of the highest expected value at each budget and of each arm are the *finalists*. They are judged
on held-out prompts, so what was seen in the search cannot flatter them.

Plans that guards rule out (``keeping``) are passed over. All of it is a function of what is already scored and of
(seed, budget, number of the evaluation), so a resumed search goes on as it would have, and no two workers propose from
the same draw. This file knows no Optuna.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from postdiff_calib.accelerate.techniques import techniques
from postdiff_calib.budget import Limit
from postdiff_calib.scores.book import ScoreBook
from postdiff_calib.scores.guards import Guard
from postdiff_calib.scores.select import ARMS, Arm
from postdiff_calib.search.adjust import joined, observations
from postdiff_calib.search.keeping import Keeper
from postdiff_calib.search.space import Candidate, coordinate_matrix
from postdiff_calib.search.surrogate import Features, Observation, Posterior, Scales
from postdiff_calib.search.unfound import DRAWS, Unfound, unfound

#: ``whole`` evaluations score all prompts of the search; only Optuna's own samplers ask for them.
Role = Literal["baseline", "explore", "whole"]
Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: One in so many evaluations at the study's own budget is of the cheaper-steps arm, and one in so many of all is drawn
#: from the belief of a sceptic, for whom plans deviate strongly from what the knobs explain.
_CHEAPER_EVERY, _SCEPTIC_EVERY = 3, 3
_SCEPTIC = Scales(own=1.2)
#: Plans are drawn at random until so many are looked at within the study's own budget: a share of the evaluations.
_BROAD = 3
#: Finalists by arm: at the study's own budget, and at each further one.
OWN_FINALISTS: Mapping[Arm, int] = {"joint": 3, "cheaper": 2, "fewer": 2}
FURTHER_FINALISTS: Mapping[Arm, int] = {"joint": 1, "cheaper": 2, "fewer": 2}
#: Images of the search's evaluations for each prompt that finalists are judged on: about as many go into either.
_IMAGES_A_PROMPT = 7
#: Prompts of one evaluation: few, so that many plans are looked at; more where there are more prompts to score.
_LEAST_EXPLORED, _MOST_EXPLORED = 3, 10
_LEAST_TRIALS, _MOST_TRIALS = 36, 400


@dataclass(frozen=True)
class SearchSettings:
    """How a search is run; none of it changes what a score means.

    Args:
        n_trials: evaluations at the study's own budget, the enqueued ones included but for the fewer-steps arm's.
        sampler: ``postdiff``, or one of Optuna's for comparison: ``tpe``, ``gp``, ``random``, ``nsga2``.
        seed: of the proposals.
        block: prompts that are scored and stored at once.
        explore_prompts: prompts of one evaluation.
        further_trials: evaluations at each further budget; a twelfth of ``n_trials`` where None.
        guards: what a chosen plan must meet.
    """

    n_trials: int = 100
    sampler: str = "postdiff"
    seed: int = 0
    block: int = 10
    explore_prompts: int = 10
    further_trials: int | None = None
    guards: tuple[Guard, ...] = ()

    @property
    def at_further_budgets(self) -> int:
        """Evaluations at each further budget."""
        return max(2, self.n_trials // 12) if self.further_trials is None else self.further_trials


def default_explore_prompts(num_prompts: int) -> int:
    """Prompts of one evaluation, for so many prompts that finalists are judged on."""
    return min(_MOST_EXPLORED, max(_LEAST_EXPLORED, num_prompts // 40))


def default_trials(num_prompts: int, sampler: str = "postdiff") -> int:
    """Evaluations of a search where nobody asks for another number (``benchmarks/README.md``: what more or fewer find).

    A sampler that scores every plan on all prompts gets what can be waited for.
    """
    wanted = _IMAGES_A_PROMPT * num_prompts // default_explore_prompts(num_prompts)
    return min(_MOST_TRIALS, max(_LEAST_TRIALS, wanted)) if sampler == "postdiff" else _LEAST_TRIALS


@dataclass(frozen=True)
class Proposal:
    """What a trial is to do; ``budget`` numbers the budget it is made for, 0 being the study's own."""

    candidate: Candidate
    role: Role
    arm: Arm
    budget: int = 0


@dataclass(frozen=True)
class Finalist:
    """A plan to be judged on held-out prompts, and the arm it stands for."""

    candidate: Candidate
    arm: Arm


@dataclass(frozen=True)
class Searched:
    """One budget that was searched.

    Attributes:
        limit: the budget.
        finalists: the plans to judge on held-out prompts.
        unfound: what better plans may lie elsewhere; None where the arms were not searched one by one (Optuna's own
            samplers), so that the budget decides nothing between them.
        fits: whether any plan of each arm fits the budget.
    """

    limit: Limit
    finalists: tuple[Finalist, ...]
    unfound: Unfound | None
    fits: Mapping[Arm, bool]


class Strategy:
    """Proposes trials from what is scored.

    Args:
        candidates: every plan of the space, within a budget or not: scores made for another budget teach too.
        limits: the study's own budget, then the further ones.
        reference: the unaccelerated model.
        book: the scores.
        settings: see there.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        limits: Sequence[Limit],
        reference: Candidate,
        book: ScoreBook,
        settings: SearchSettings,
    ) -> None:
        self.candidates: tuple[Candidate, ...] = tuple(candidates)
        if reference.content not in {c.content for c in candidates}:
            self.candidates += (reference,)
        self.reference, self.settings, self.limits = reference, settings, tuple(limits)
        self._book = book
        self._row = {c.content: i for i, c in enumerate(self.candidates)}
        stock = np.array([c.content == reference.content for c in self.candidates])
        steps = np.array([c.knobs.num_inference_steps for c in self.candidates])
        self._within = [np.array([limit.allows(c.cost) for c in self.candidates]) & ~stock for limit in self.limits]
        self._arms: Mapping[Arm, Mask] = {
            "fewer": np.array([c.fewer for c in self.candidates]),
            "cheaper": steps == reference.knobs.num_inference_steps,
            "joint": np.ones(len(self.candidates), dtype=np.bool_),
        }
        points = coordinate_matrix(self.candidates)
        features = Features(points, np.array(reference.coordinates()), seed=0)
        self._features, self._groups = features(points), features.groups
        self._fitted: tuple[int, Posterior] | None = None
        self.keeper = Keeper(settings.guards, self.candidates, reference, book, self._features, self._groups)

    def mask(self, arm: Arm, budget: int = 0) -> Mask:
        """The arm's plans within a budget, the baseline left out, (M,)."""
        found: Mask = self._within[budget] & self._arms[arm]
        return found

    def members(self, arm: Arm, budget: int = 0) -> list[Candidate]:
        """The arm's plans within a budget, the baseline left out."""
        return [self.candidates[i] for i in np.flatnonzero(self.mask(arm, budget))]

    def posterior(self) -> Posterior:
        """The surrogate, fitted to every scored plan."""
        known = self._book.images_known
        if self._fitted is None or self._fitted[0] != known:
            self._fitted = known, self._fit()
        return self._fitted[1]

    def _fit(self, scales: Scales | None = None, held_out: Mapping[str, Array] | None = None) -> Posterior:
        seen = self.observations(held_out)
        return Posterior(
            self._features,
            self._groups,
            np.array([self._row[o.plan] for o in seen], dtype=np.intp),
            np.array([o.mean for o in seen]),
            np.array([o.variance / o.n for o in seen]),
            scales,
        )

    def observations(self, held_out: Mapping[str, Array] | None = None) -> list[Observation]:
        """Mean and variance of the paired differences of every plan with at least two scored prompts.

        Args:
            held_out: differences on the held-out prompts by plan id, where finalists were judged on them.
        """
        plans = [plan for plan in self._book.plans if plan in self._row and plan != self.reference.content]
        return observations(joined({plan: self._book.differences(plan) for plan in plans}, held_out or {}))

    def choice(self, arm: Arm = "joint", budget: int = 0) -> str | None:
        """The arm's plan believed best among those looked at, by content hash; None before any."""
        looked = np.zeros(len(self.candidates), dtype=np.bool_)
        for plan in self._book.plans:
            if plan in self._row and self._book.count(plan) and not self.keeper.known_to_break(plan):
                looked[self._row[plan]] = True
        looked &= self.mask(arm, budget)
        if not looked.any():
            return None
        return self.candidates[int(np.where(looked, self.posterior().mean(), -np.inf).argmax())].content

    def planned(self, budget: int, enqueued: int) -> int:
        """How many evaluations are to be proposed at a budget, when so many were enqueued at the study's own."""
        if budget == 0:
            return max(0, self.settings.n_trials - enqueued)
        if self.settings.sampler != "postdiff" or not self.mask("cheaper", budget).any():
            return 0
        return self.settings.at_further_budgets

    def propose(self, budget: int, number: int, busy: Collection[str] = ()) -> Proposal:
        """The next evaluation at a budget.

        Args:
            budget: which one.
            number: how many were proposed there before; with the settings' seed and the limit it fixes the draw.
            busy: plans that other workers have in hand, and plans that failed.
        """
        limit = self.limits[budget]
        rng = np.random.default_rng([self.settings.seed, number, round(1e6 * limit.value / limit.baseline)])
        cheaper = budget > 0 or number % _CHEAPER_EVERY == _CHEAPER_EVERY - 1
        arms: tuple[Arm, ...] = ("cheaper", "joint") if cheaper else ("joint", "cheaper")
        for arm in arms if budget == 0 else arms[:1]:
            open_plans = self._open(arm, budget, busy)
            if open_plans.any():
                few = int((self._seen() & self.mask("joint", 0)).sum()) < self.settings.n_trials // _BROAD
                row = self._unseen(open_plans, rng) if few and budget == 0 else None
                row = self._drawn(open_plans, number, rng) if row is None else row
                return Proposal(self.candidates[row], "explore", arm, budget)
        # every plan is scored on every prompt: repeat the best, at no cost
        best = self.choice("joint", budget)
        row = self._row[best] if best is not None else int(self.mask("joint", budget).argmax())
        return Proposal(self.candidates[row], "explore", "joint", budget)

    def _unseen(self, open_plans: Mask, rng: np.random.Generator) -> int | None:
        """A plan that nobody looked at, drawn at random; None where all were looked at."""
        unseen = open_plans & ~self._seen()
        rows = np.flatnonzero(self.keeper.keeping(unseen))
        return int(rng.choice(rows)) if len(rows) else None

    def _drawn(self, open_plans: Mask, number: int, rng: np.random.Generator) -> int:
        """The best plan of one draw from the belief, or from the sceptic's belief in the plans that were looked at."""
        posterior, eligible = self.posterior(), open_plans
        sceptical = open_plans & self._seen()
        if number % _SCEPTIC_EVERY == _SCEPTIC_EVERY - 1 and sceptical.any():
            posterior, eligible = self._fit(_SCEPTIC), sceptical
        value = np.where(eligible, posterior.draw(rng)[0], -np.inf)
        value = np.where(self.keeper.keeping(eligible, rng), value, -np.inf)
        return int(value.argmax())

    def _seen(self) -> Mask:
        """The plans with a score, (M,)."""
        seen = np.zeros(len(self.candidates), dtype=np.bool_)
        seen[[self._row[plan] for plan in self._book.plans if plan in self._row]] = True
        return seen

    def _open(self, arm: Arm, budget: int, busy: Collection[str]) -> Mask:
        """The arm's plans that can still teach something."""
        mask = self.mask(arm, budget)
        for plan in (*self._book.plans, *busy):
            row = self._row.get(plan)
            if row is not None and (plan in busy or self._book.complete(plan) or self.keeper.known_to_break(plan)):
                mask[row] = False
        return mask

    def finalists(self, budget: int = 0, failed: Collection[str] = ()) -> list[Finalist]:
        """The plans to judge at a budget: those of the highest expected value in each arm.

        Of the fewer-steps arm the plan of the most steps that fit is always one. Guards rule over the plans that may be
        chosen (*joint*); the two arms are compared by quality alone.

        Args:
            budget: which one.
            failed: plans whose images were broken.
        """
        mean = self.posterior().mean()
        sound = np.array([c.content not in failed for c in self.candidates])
        found: dict[str, Finalist] = {}
        for arm, count in (OWN_FINALISTS if budget == 0 else FURTHER_FINALISTS).items():
            mask = self.mask(arm, budget) & sound
            if arm == "joint" and mask.any():
                mask = self.keeper.keeping(mask)
            chosen = [self.candidates[i] for i in np.argsort(-np.where(mask, mean, -np.inf))[:count] if mask[i]]
            if arm == "fewer" and mask.any():
                most = most_steps([self.candidates[i] for i in np.flatnonzero(mask)])
                chosen = [*chosen[: count - 1], most] if most not in chosen else chosen
            for c in chosen:
                found.setdefault(c.content, Finalist(c, arm))
        return list(found.values())

    def searched(self, failed: Collection[str] = ()) -> tuple[Searched, ...]:
        """What each budget's search came to, the study's own first.

        Args:
            failed: plans whose images were broken.
        """
        full = self.settings.sampler == "postdiff"
        budgets = range(len(self.limits)) if full else range(1)
        finalists = [self.finalists(budget, failed) for budget in budgets]
        judged = {f.candidate.content for found in finalists for f in found}
        draws = self._possible() if full else None
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
        draws = self._possible(held_out)
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
        return self._unfound(budget, judged, self._possible())

    def _possible(self, held_out: Mapping[str, Array] | None = None) -> Array:
        """Draws of every plan's value with its own deviation, (draws, M)."""
        rng, every = np.random.default_rng([self.settings.seed, 1]), np.ones(len(self.candidates), dtype=np.bool_)
        posterior = self._fit(held_out=held_out) if held_out else self.posterior()
        return posterior.draw(rng, DRAWS, every)

    def _unfound(self, budget: int, judged: Collection[str], draws: Array) -> Unfound:
        out = np.array([c.content not in judged for c in self.candidates])
        return unfound(draws, self.mask("cheaper", budget), self.mask("fewer", budget), out)


def most_steps(plans: Sequence[Candidate]) -> Candidate:
    """The plan of the most steps; ``plans`` must not be empty."""
    return max(plans, key=lambda c: c.knobs.num_inference_steps)


def prompt_order(num_prompts: int, seed: int) -> list[int]:
    """The order in which every plan of a search sees the prompts."""
    return [int(i) for i in np.random.default_rng([seed, num_prompts]).permutation(num_prompts)]


def enqueued(strategy: Strategy, paper: Candidate | None) -> list[Proposal]:
    """The trials that every search starts with: baseline, the whole fewer-steps arm, the paper's settings, corners.

    Of the fewer-steps arm every plan within the largest of the budgets is scored, most steps first. Corners are, at the
    default T, the mildest value within the budget of each knob used alone.
    """
    proposals = [Proposal(strategy.reference, "baseline", "joint")]
    fewer: dict[str, Proposal] = {}
    for budget in range(len(strategy.limits)):
        for c in sorted(strategy.members("fewer", budget), key=lambda c: -c.knobs.num_inference_steps):
            fewer.setdefault(c.content, Proposal(c, "explore", "fewer", budget))
    proposals += fewer.values()
    if paper is not None:
        proposals.append(Proposal(paper, "explore", "joint"))
    cheaper = strategy.members("cheaper")
    for technique in techniques():
        corner = [c for c in cheaper if c.plan.acting == (technique.name,)]
        if corner:
            proposals.append(Proposal(max(corner, key=lambda c: c.cost.macs), "explore", "cheaper"))
    unique = {p.candidate.content: p for p in reversed(proposals)}
    return list(reversed(unique.values()))
