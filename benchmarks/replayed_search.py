"""The project's own search and its answers, replayed on a world's scores. Only this file knows how that is driven.

Every decision is made by the project's code: what to evaluate (``search.strategy``), the finalists, and what is
concluded from their scores (``conclude``). Only the storage and the images are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from worlds import Arm, Array, Scores, World

from postdiff_calib.jobs.calibrate import searched_budgets
from postdiff_calib.knobs import Knobs
from postdiff_calib.scores.book import Evaluator, ScoreBook
from postdiff_calib.scores.measured import Measured
from postdiff_calib.scores.objective import Objective
from postdiff_calib.scores.select import PlanScores
from postdiff_calib.scores.store import MemoryStore
from postdiff_calib.search.postdiff import PostDiff
from postdiff_calib.search.proposals import Proposal
from postdiff_calib.search.settings import IMAGES_A_PROMPT, SearchSettings, default_explore_prompts, prompt_order
from postdiff_calib.search.space import Candidate
from postdiff_calib.search.strategies import default_trials
from postdiff_calib.search.strategy import enqueued
from postdiff_calib.study.evidence import Evidence, Scored
from postdiff_calib.study.searched import SearchedBudget

#: The row it would choose from so many images on.
Curve = list[tuple[int, int]]
#: A search notes what it would choose at least so often: with many evaluations a fit for each takes as long as it does.
NOTES = 200


class Lookup:
    """The evaluator: scores are looked up; further metrics too, where there are any."""

    def __init__(self, world: World, scores: Scores | Array, further: dict[str, Array]) -> None:
        self._rows = {c.knobs: i for i, c in enumerate(world.candidates)}
        self._scores, self._further = scores, further

    def measured(self, knobs: Knobs, indices: Sequence[int]) -> Measured:
        """As ``evaluate.MeasuringEvaluator``."""
        row, where = self._rows[knobs], list(indices)
        return Measured(
            self._scores[row, where].tolist(),
            {name: table[row, where].tolist() for name, table in self._further.items()},
        )

    def scores(self, knobs: Knobs, indices: Sequence[int]) -> list[float]:
        """As ``evaluate.Evaluator``."""
        return list(self.measured(knobs, indices).scores)


def default_settings(num_prompts: int, seed: int) -> SearchSettings:
    """What ``calibrate`` searches with, for so many prompts that finalists are judged on."""
    return SearchSettings(
        n_trials=default_trials(num_prompts),
        seed=seed,
        explore_prompts=default_explore_prompts(num_prompts),
    )


@dataclass
class Replay:
    """One study in a world.

    Args:
        world: its candidates and baseline.
        scores: (plans, n_search + n_judged), those of the search first.
        n_judged: prompts that finalists are judged on.
        shares: budgets, the study's own first.
        settings: of the search.
        objective: what is improved.
        further: further metrics by name, shaped like the scores.
    """

    world: World
    scores: Scores
    n_judged: int
    shares: Sequence[float]
    settings: SearchSettings
    objective: Objective = field(default_factory=Objective)
    further: dict[str, Array] | None = None

    def __post_init__(self) -> None:
        n_search = self.scores.shape[1] - self.n_judged
        whole, tables = self.scores, self.further or {}
        search, judged = whole.split(n_search)
        self.reference = self.world.reference
        limits = [self.world.limit(share) for share in self.shares]
        self.book = self._book(search, {m: t[:, :n_search] for m, t in tables.items()}, n_search)
        self.held_out = self._book(judged, {m: t[:, n_search:] for m, t in tables.items()}, self.n_judged)
        self.strategy = PostDiff(self.world.candidates, limits, self.reference, self.book, self.settings)
        self.searched: list[SearchedBudget] = []
        self.by_plan_id = {c.plan_id: c for c in self.world.candidates}

    def _book(self, scores: Scores, tables: dict[str, Array], n: int) -> ScoreBook:
        evaluator: Evaluator = Lookup(self.world, scores, tables)
        return ScoreBook(evaluator, n, self.reference.knobs, MemoryStore(), self.objective)

    @property
    def images(self) -> int:
        """Images made so far."""
        return self.book.images_made + self.held_out.images_made

    def evaluate(self, proposal: Proposal) -> None:
        """Score the next prompts of a plan and of the baseline."""
        order = prompt_order(self.book.num_prompts, self.settings.seed)
        known = np.isfinite(self.book.known(proposal.candidate.plan_id))
        block = [i for i in order if not known[i]][: self.settings.explore_prompts]
        self.book.scores(self.reference.knobs, block)
        self.book.scores(proposal.candidate.knobs, block)

    def search(self) -> Curve:
        """Every evaluation at every budget; returns what it would have chosen on the way."""
        curve: Curve = []

        def note() -> None:
            chosen = self.strategy.choice()
            if chosen is not None:
                curve.append((self.images, self.world.rows[chosen]))

        first = enqueued(self.strategy, None)
        for proposal in first:
            self.evaluate(proposal)
        note()
        others = sum(p.arm != "step_reduction" for p in first)
        for budget in range(len(self.shares)):
            planned = self.strategy.planned(budget, others)
            for number in range(planned):
                self.evaluate(self.strategy.propose(budget, number))
                if budget == 0 and number % max(1, planned // NOTES) == 0:
                    note()
        return curve

    def judge(self) -> None:
        """Score the finalists of every budget on the held-out prompts."""
        searched = self.strategy.searched()
        judged = {f.candidate.plan_id for budget in searched for f in budget.finalists}
        every = list(range(self.n_judged))
        for plan in (self.reference.plan_id, *sorted(judged)):
            self.held_out.scores(self.by_plan_id[plan].knobs, every)
        held_out = {plan: self.held_out.differences(plan) for plan in sorted(judged)}
        self.searched = searched_budgets(self.strategy.after_judging(searched, held_out))

    def evidence(self) -> Evidence:
        """What the project concludes from."""
        return Evidence(self._scored(self.book), self._scored(self.held_out), tuple(self.searched), self.objective)

    def chosen(self, arm: Arm, share: float) -> int | None:
        """The row of an arm's best plan within a budget, by all scores of the finalists; None where there is none."""
        judged = self.evidence().judged(self.world.limit(share))
        best = None if judged is None else judged.best(arm)
        return None if best is None else self.world.rows[best.plan.plan_id]

    def _scored(self, book: ScoreBook) -> Scored:
        def scores(c: Candidate) -> PlanScores:
            return book.plan_scores(c.knobs, c.cost)

        return Scored(scores(self.reference), [scores(self.by_plan_id[plan]) for plan in book.plans])


def run_postdiff(
    world: World, scores: Scores, share: float, num_prompts: int, seed: int, each: int | None = None
) -> tuple[int, Curve, int]:
    """One search at one budget, without further ones.

    Args:
        world: its candidates and baseline.
        scores: (plans, n // 2 + n) for n = ``num_prompts``, those of the search first.
        share: the budget.
        num_prompts: prompts that finalists are judged on.
        seed: of the search.
        each: prompts of an evaluation, for about as many images as by default; the default number where None.

    Returns:
        The row it chooses, the rows it would have chosen on the way, and the images it made.
    """
    replay, curve = judged_search(world, scores, share, num_prompts, seed, each)
    row = replay.chosen("combined", share)
    assert row is not None
    return row, [*curve, (replay.images, row)], replay.images


def judged_search(
    world: World, scores: Scores, share: float, num_prompts: int, seed: int, each: int | None = None
) -> tuple[Replay, Curve]:
    """As ``run_postdiff``; returns the search with its judged finalists, and what it would have chosen on the way."""
    settings = default_settings(num_prompts, seed)
    if each is not None:
        settings = replace(settings, n_trials=round(IMAGES_A_PROMPT * num_prompts / each), explore_prompts=each)
    replay = Replay(world, scores, num_prompts, [share], settings)
    curve = replay.search()
    replay.judge()
    return replay, curve
