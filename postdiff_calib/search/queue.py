"""Which trials a study holds and which come next: what is queued, what counts for this budget, what is proposed.

A trial *counts* when it is one of this budget's, done or in hand; trials made for another budget, trials of the ladder
and trials cut short do not. Everything is read from the study anew each time, so that all workers see the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import optuna
from optuna.trial import FrozenTrial, TrialState

from postdiff_calib.plan import compile_plan
from postdiff_calib.search.evaluate import ScoreBook
from postdiff_calib.search.problem import Problem
from postdiff_calib.search.sampler import fit, parameters
from postdiff_calib.search.select import ARMS
from postdiff_calib.search.space import Candidate
from postdiff_calib.search.strategy import Proposal, Role, Strategy, enqueued
from postdiff_calib.search.trial import TrialRunner


class TrialQueue:
    """The study's trials as one budget's search sees them.

    Args:
        study: Optuna's study.
        problem: what is searched.
        strategy: proposes trials.
        book: the scores.
        runner: knows which plans the budget allows.

    Attributes:
        first: what every search starts with: baseline, fewer steps, the paper's settings, corners.
    """

    def __init__(
        self, study: optuna.Study, problem: Problem, strategy: Strategy, book: ScoreBook, runner: TrialRunner
    ) -> None:
        self.study, self.problem, self.strategy, self.book, self.runner = study, problem, strategy, book, runner
        self.n_trials = strategy.settings.n_trials
        paper = problem.space.paper
        found = runner.allowed.get(compile_plan(paper).content) or self._smaller(paper.as_dict())
        self.first = enqueued(strategy, found)

    def _smaller(self, values: dict[str, Any]) -> Candidate | None:
        """The paper's setting with T lowered until it fits; None when it never does."""
        found = fit(values, self.problem.space, self.runner.allowed)
        same = found.knobs.cache_interval == values["cache_interval"]
        return found if same and found.knobs.low_res_fraction == values["low_res_fraction"] else None

    def trials(self) -> list[FrozenTrial]:
        """All trials there are, by number."""
        found: list[FrozenTrial] = self.study.get_trials(deepcopy=False)
        return found

    def is_running(self, number: int) -> bool:
        """Whether a trial is in hand, as the storage has it."""
        return bool(self.trials()[number].state == TrialState.RUNNING)

    def enqueue(self, proposals: Sequence[Proposal]) -> None:
        """Queue these, each once per plan and role."""
        queued = {
            (t.user_attrs.get("plan"), t.user_attrs.get("role"))
            for t in self.trials()
            if t.state != TrialState.FAIL or "failed" in t.user_attrs
        }
        for p in proposals:
            if (p.candidate.content, p.role) not in queued:
                self.study.enqueue_trial(
                    parameters(p.candidate.knobs, self.problem.space),
                    user_attrs={"role": p.role, "arm": p.arm, "plan": p.candidate.content, "enqueued": True},
                )

    def propose(self, number: int) -> Proposal:
        """What trial ``number`` is to do."""
        self.book.refresh()
        trials = self.trials()
        mine = [t for t in trials if t.number != number and self.counts(t) and not t.user_attrs.get("enqueued")]
        history = [cast(Role, t.user_attrs["role"]) for t in mine if "role" in t.user_attrs]
        busy = {
            str(t.user_attrs.get("plan"))
            for t in trials
            if t.number != number and (t.state == TrialState.RUNNING or "failed" in t.user_attrs)
        }
        # Trials cut short do not count, so that a resumed search draws what an undisturbed one would have drawn.
        cut_short = sum(t.state == TrialState.FAIL and "failed" not in t.user_attrs for t in trials[:number])
        return self.strategy.propose(number - cut_short, history, self.n_trials - len(self.first), busy)

    def counts(self, trial: FrozenTrial) -> bool:
        """Whether a trial is one of this budget's, done or in hand."""
        if trial.state == TrialState.RUNNING and "plan" not in trial.user_attrs:
            return True  # another worker is about to decide on it
        if trial.user_attrs.get("role") == "ladder" or trial.user_attrs.get("plan") not in self.runner.relevant:
            return False
        return trial.state in (TrialState.COMPLETE, TrialState.RUNNING) or "failed" in trial.user_attrs

    def begun(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Those that count."""
        return [t for t in trials if self.counts(t)]

    def surplus(self, trial: optuna.Trial) -> bool:
        """Whether as many trials as were asked for had begun before this one, or are queued."""
        if "plan" in trial.user_attrs:
            return False
        others = [t for t in self.trials() if t.number != trial.number]
        ahead = [
            t for t in others if t.number < trial.number or t.state == TrialState.WAITING or "plan" in t.user_attrs
        ]
        return len([t for t in ahead if self.counts(t) or t.state == TrialState.WAITING]) >= self.n_trials

    def images_left(self, trials: Sequence[FrozenTrial], ladder_to_come: bool) -> int:
        """Pictures still to be made at most: for the trials in hand, for those queued and for those to be proposed.

        Args:
            trials: all there are.
            ladder_to_come: the ladder's trials are not queued yet.
        """
        settings, n, base = self.strategy.settings, self.problem.num_prompts, self.book.baseline
        left: int = n - self.book.count(base)
        for t in trials:
            role, plan = t.user_attrs.get("role"), t.user_attrs.get("plan")
            if t.state in (TrialState.RUNNING, TrialState.WAITING) and role is not None and plan not in (None, base):
                wanted = t.user_attrs.get("wanted") or self.runner.prompts_for(role, plan)
                left += max(0, wanted - self.book.count(plan))
        begun = self.begun(trials)
        queued = sum(t.state == TrialState.WAITING and t.user_attrs.get("role") != "ladder" for t in trials)
        open_trials = max(0, self.n_trials - len(begun) - queued)
        finals = sum(t.user_attrs.get("role") == "final" for t in begun)
        n_finals = settings.finalists if settings.sampler == "postdiff" else self.n_trials
        finals_left = min(open_trials, max(0, n_finals - finals))
        left += finals_left * n + (open_trials - finals_left) * min(n, settings.explore_prompts)
        if ladder_to_come:
            left += len(ARMS) * len(self.problem.ladder) * min(n, settings.ladder_prompts)
        return left

    def ladder(self) -> list[Proposal]:
        """The best guess of each arm at each further budget."""
        proposals = []
        for limit in self.problem.ladder:
            allowed = {c.content for c in self.strategy.candidates if limit.allows(c.cost)}
            for arm in ARMS:
                guess = self.strategy.best_guess(arm, allowed)
                if guess is not None:
                    proposals.append(Proposal(guess, "ladder", arm))
        return list({p.candidate.content: p for p in proposals}.values())
