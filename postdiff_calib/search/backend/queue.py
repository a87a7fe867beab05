"""Which trials a study holds and which come next: what is queued, what counts for this search, what is proposed.

Every trial carries the limit of the search that made it (``search``) and the limit of the budget it serves (``limit``).
A trial *counts* when it is one of this search's, done or in hand; those of another budget's search do not, so a second
budget on one study is searched as fully as a first, with the old scores known. A proposed trial *holds a place* at its
budget from the moment it begins, and keeps it when it is cut short: whoever takes it up goes on in the same place.
Everything is read from the study anew each time, so that all workers see the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from postdiff_calib.knobs import searched
from postdiff_calib.plan import compile_plan
from postdiff_calib.scores.book import ScoreBook
from postdiff_calib.search.backend import retry
from postdiff_calib.search.backend.proposer import fit, parameters
from postdiff_calib.search.backend.trial import TrialRunner
from postdiff_calib.search.problem import Problem
from postdiff_calib.search.proposals import Proposal
from postdiff_calib.search.settings import TRIAL_SECONDS
from postdiff_calib.search.space import Candidate
from postdiff_calib.search.strategy import Strategy, enqueued


class TrialQueue:
    """The study's trials as one budget's search sees them.

    Args:
        study: Optuna's study.
        problem: what is searched.
        strategy: proposes trials.
        book: the scores.
        runner: knows which plans the budget allows.

    Attributes:
        first: what every search starts with: baseline, step reduction, the paper's settings, corners.
    """

    def __init__(
        self, study: optuna.Study, problem: Problem, strategy: Strategy, book: ScoreBook, runner: TrialRunner
    ) -> None:
        self.study, self.problem, self.strategy, self.book, self.runner = study, problem, strategy, book, runner
        paper = problem.space.paper
        found = runner.allowed.get(compile_plan(paper).plan_id) or self._smaller(paper.as_dict())
        self.first = enqueued(strategy, found)

    def _smaller(self, values: dict[str, Any]) -> Candidate | None:
        """The paper's setting with T lowered until it fits; None when it never does."""
        found = fit(values, self.problem.space, self.runner.allowed)
        kept = all(getattr(found.knobs, row.field) == values[row.field] for row in searched() if not row.binding)
        return found if kept else None

    @property
    def planned(self) -> list[int]:
        """How many evaluations are proposed at each budget, the study's own first."""
        others = sum(p.arm != "step_reduction" for p in self.first)
        return [self.strategy.planned(budget, others) for budget in range(len(self.strategy.limits))]

    @property
    def total(self) -> int:
        """Trials of the whole search."""
        return len(self.first) + sum(self.planned)

    def trials(self) -> list[FrozenTrial]:
        """All trials there are, by number."""
        found: list[FrozenTrial] = self.study.get_trials(deepcopy=False)
        return found

    def is_running(self, number: int) -> bool:
        """Whether a trial is in hand, as the storage has it."""
        return bool(self.trials()[number].state == TrialState.RUNNING)

    def enqueue(self, proposals: Sequence[Proposal]) -> None:
        """Queue these, each once per plan and search.

        A trial that was cut short is not queued again here: it has a successor already, or ``left_behind`` finds it.
        """
        search = self.runner.limits[0]
        queued = {
            t.user_attrs.get("plan")
            for t in self.trials()
            if t.user_attrs.get("enqueued") and t.user_attrs.get("search") == search and t.state != TrialState.PRUNED
        }
        for p in proposals:
            if p.candidate.plan_id not in queued:
                self.study.enqueue_trial(
                    parameters(p.candidate.knobs, self.problem.space),
                    user_attrs={
                        "role": p.role,
                        "arm": p.arm,
                        "plan": p.candidate.plan_id,
                        "search": search,
                        "limit": self.runner.limits[p.budget],
                        "enqueued": True,
                    },
                )

    def propose(self, number: int) -> Proposal:
        """What trial ``number`` is to do: the first budget that lacks evaluations has the next."""
        self.book.refresh()
        trials = self.trials()
        busy = {
            str(t.user_attrs.get("plan"))
            for t in trials
            if t.number != number and (t.state == TrialState.RUNNING or "failed" in t.user_attrs)
        }
        # Those with a lower number alone, so that two workers never take the same place.
        mine = [t for t in trials[:number] if self.holds_place(t)]
        undecided = sum("limit" not in t.user_attrs for t in mine)
        done = [self._at(mine, budget) for budget in range(len(self.planned))]
        for budget, planned in enumerate(self.planned):
            if done[budget] + undecided < planned:
                return self.strategy.propose(budget, done[budget] + undecided, busy)
            undecided -= max(0, planned - done[budget])
        return self.strategy.propose(0, len(mine), busy)

    def counts(self, trial: FrozenTrial) -> bool:
        """Whether a trial is one of this search's, done or in hand."""
        if trial.state == TrialState.RUNNING and "search" not in trial.user_attrs:
            return True  # another worker is about to decide on it
        if trial.user_attrs.get("search") != self.runner.limits[0]:
            return False
        return trial.state in (TrialState.COMPLETE, TrialState.RUNNING) or "failed" in trial.user_attrs

    def holds_place(self, trial: FrozenTrial) -> bool:
        """Whether a trial holds a place of its own at a budget; a successor uses the place of the trial it takes up."""
        if trial.user_attrs.get("enqueued") or retry.cut_short_before(trial):
            return False
        return self.counts(trial) or self.cut_short(trial)

    def cut_short(self, trial: FrozenTrial) -> bool:
        """Whether a trial of this search was ended with a plan of its own that it did not finish."""
        return (
            trial.state == TrialState.FAIL
            and retry.has_begun(trial)
            and "failed" not in trial.user_attrs
            and trial.user_attrs.get("search") == self.runner.limits[0]
        )

    def places_left(self, trials: Sequence[FrozenTrial]) -> int:
        """How many trials are to be proposed still, at all budgets together, when these are there."""
        holders = [t for t in trials if self.holds_place(t)]
        held = [self._at(holders, budget) for budget in range(len(self.planned))]
        undecided = sum("limit" not in t.user_attrs for t in holders)
        return sum(max(0, planned - n) for planned, n in zip(self.planned, held, strict=True)) - undecided

    def _at(self, trials: Sequence[FrozenTrial], budget: int) -> int:
        return sum(t.user_attrs.get("limit") == self.runner.limits[budget] for t in trials)

    def begun(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Those that count."""
        return [t for t in trials if self.counts(t)]

    def failed(self) -> dict[str, str]:
        """Plans whose images were broken in any search of the study, with the reason, by plan id."""
        return {
            str(t.user_attrs["plan"]): str(t.user_attrs["failed"]) for t in self.trials() if "failed" in t.user_attrs
        }

    def left_behind(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Trials of this search that were cut short and that nobody has queued again.

        Ending a trial and queuing its successor are two steps. A process may be killed between them. When the storage
        fails in the middle of a trial and answers again at its end, Optuna takes the first step alone.
        """
        taken_up = {number for t in trials for number in retry.cut_short_before(t)}
        return [t for t in trials if self.cut_short(t) and t.number not in taken_up]

    def surplus(self, trial: optuna.Trial) -> bool:
        """Whether a trial must not run: every place was taken before it began, or an earlier trial does the same work.

        Two processes may queue a successor of one trial at the same moment. The second successor may be cut short, too,
        so the whole chain of predecessors is checked.
        """
        trials = self.trials()
        before = retry.cut_short_before(trials[trial.number])
        if before:
            chain = [*before, trial.number]
            return any(
                retry.cut_short_before(t) == chain[:link]
                for link in range(1, len(chain))
                for t in trials[: chain[link]]
            )
        if "plan" in trial.user_attrs:
            return False
        ahead = [t for t in trials if t.number < trial.number or "plan" in t.user_attrs]
        return self.places_left(ahead) <= 0

    def crowded(self, trial: optuna.Trial) -> bool:
        """Whether all places of the trial's budget are taken by others, once its own choice is stored.

        Other trials begin and end while it chooses, so its place may be gone. The trial that stores its choice last
        sees the choices of all others, so no budget gets more trials than it has places. Two trials that see each other
        may both step back.
        """
        trials = self.trials()
        if not self.holds_place(trials[trial.number]):
            return False
        budget = self.runner.limits.index(trial.user_attrs["limit"])
        others = [t for t in trials if t.number != trial.number and self.holds_place(t)]
        return self._at(others, budget) >= self.planned[budget]

    def work_left(self, trials: Sequence[FrozenTrial]) -> tuple[int, float]:
        """Images still to be made at most, and the seconds that they and their trials take; 0 where no plan was timed.

        The images are those of the trials in hand, of those queued and of those to be proposed.
        A plan that is yet to be proposed is taken to cost what the plans within its budget cost on average.
        """
        settings, n, base = self.strategy.settings, self.problem.num_prompts, self.book.baseline
        left: int = n - self.book.count(base)
        seconds = left * (self.strategy.reference.cost.seconds or 0.0)
        for t in trials:
            role, plan = t.user_attrs.get("role"), t.user_attrs.get("plan")
            if t.state in (TrialState.RUNNING, TrialState.WAITING) and role is not None and plan not in (None, base):
                wanted = int(t.user_attrs.get("wanted") or self.runner.prompts_for(role, plan))
                images = max(0, wanted - self.book.count(plan))
                left += images
                if plan in self.runner.by_plan_id:
                    seconds += images * (self.runner.by_plan_id[plan].cost.seconds or 0.0)
        begun = self.begun(trials)
        queued = sum(t.state == TrialState.WAITING for t in trials)
        open_trials = max(0, self.total - len(begun) - queued)
        each = min(n, settings.explore_prompts) if self.strategy.role == "explore" else n
        return int(left + open_trials * each), seconds + open_trials * (each * self._usual_seconds + TRIAL_SECONDS)

    @cached_property
    def _usual_seconds(self) -> float:
        """Seconds of an image that a trial yet to be proposed makes."""
        means = [self._mean_seconds(budget) for budget in range(len(self.planned))]
        return sum(n * mean for n, mean in zip(self.planned, means, strict=True)) / max(1, sum(self.planned))

    def _mean_seconds(self, budget: int) -> float:
        found = [c.cost.seconds or 0.0 for c in self.strategy.members("combined", budget)]
        return sum(found) / len(found) if found else 0.0
