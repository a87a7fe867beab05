"""What one trial does: take a plan, score some of its prompts block by block, write down what came out.

A trial's value is the mean paired difference to the baseline by the objective, over the prompts it has;
whether that is all of them is in its user attribute ``outcome``. Its plan, role, the limit it is made under and its
number of wanted prompts are stored before the first image is made, so that whoever goes on with it after a kill does
the same.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import optuna

from postdiff_calib.cost.budget import Limit
from postdiff_calib.errors import OutputError, PostdiffError, ScorerError, StudyError
from postdiff_calib.progress import log_event
from postdiff_calib.scores.book import ScoreBook
from postdiff_calib.search.backend.proposer import Proposer, fit, suggest
from postdiff_calib.search.problem import Problem
from postdiff_calib.search.proposals import Proposal, Role
from postdiff_calib.search.settings import prompt_order
from postdiff_calib.search.space import Candidate
from postdiff_calib.search.strategy import Strategy


def key(limit: Limit) -> list[str | float]:
    """A limit as a trial carries it; two searches of one study are told apart by it."""
    return [limit.kind, limit.quantile, limit.value, *((limit.per,) if limit.kind == "seconds" else ())]


class TrialRunner:
    """Runs one trial after another.

    Args:
        problem: what is searched.
        strategy: knows every candidate, the budgets and the settings.
        book: the scores.
        scored: called after every block of images with the trial's role and plan.

    Attributes:
        fatal: the fault that no other plan would escape, such as a full disk; the search ends with it.
    """

    def __init__(
        self, problem: Problem, strategy: Strategy, book: ScoreBook, scored: Callable[[Role, Candidate], None]
    ) -> None:
        self.problem, self.strategy, self.book = problem, strategy, book
        self.settings, self.reference = strategy.settings, strategy.reference
        self.by_plan_id = {c.plan_id: c for c in strategy.candidates}
        self.allowed = {c.plan_id: c for c in strategy.candidates if problem.limit.allows(c.cost)}
        self.fatal: PostdiffError | None = None
        self._scored = scored

    @cached_property
    def limits(self) -> Sequence[list[str | float]]:
        """The study's own limit and the further ones, as trials carry them: with what the space was restricted to."""
        restricted = [one.text for one in self.problem.space.restrictions]
        return [[*key(limit), *restricted] for limit in self.strategy.limits]

    def take(self, trial: optuna.Trial) -> Proposal:
        """The trial's plan, stored with it: what it was queued with, or what the strategy proposes.

        Raises:
            TrialPruned: the trial was queued for another search of this study.
        """
        if trial.user_attrs.get("search", self.limits[0]) != self.limits[0]:
            raise optuna.TrialPruned
        taken = self._choose(trial)
        for name, value in (
            ("role", taken.role),
            ("arm", taken.arm),
            ("search", self.limits[0]),
            ("limit", self.limits[taken.budget]),
            ("knobs", taken.candidate.knobs.as_dict()),
            ("worker", f"{platform.node()}:{os.getpid()}"),
            # the last: whoever finds a plan finds all that belongs to it
            ("plan", taken.candidate.plan_id),
        ):
            if trial.user_attrs.get(name) != value:
                trial.set_user_attr(name, value)
        return taken

    def run(self, trial: optuna.Trial, taken: Proposal) -> float:
        """The objective: mean paired difference of the plan that the trial has taken.

        Raises:
            PostdiffError: the images are broken, or nothing can be stored (``fatal`` is set then).
        """
        chosen, role = taken.candidate, taken.role
        wanted = self.begin(trial, taken)
        about = {"number": trial.number, "plan": chosen.plan_id, "knobs": chosen.knobs.describe()}
        log_event("trial", state="begun", **about, role=role, arm=taken.arm, prompts=wanted)
        try:
            self._look(chosen, role, wanted)
        except (
            OutputError,
            ScorerError,
            StudyError,
        ) as error:  # not this plan's fault: another would not fare better
            self.fatal = error
            trial.study.stop()
            raise
        except PostdiffError as error:
            trial.set_user_attr("failed", str(error))
            log_event("failed plan", **about, reason=str(error))
            raise
        difference = self.book.differences(chosen.plan_id)
        difference = difference[np.isfinite(difference)]
        n = len(difference)
        outcome = {
            "prompts": n,
            "standard_error": float(difference.std(ddof=1) / np.sqrt(n)) if n > 1 else None,
            "complete": self.book.complete(chosen.plan_id),
            "macs": chosen.cost.macs,
            "seconds": chosen.cost.seconds,
        }
        trial.set_user_attr("outcome", outcome)  # in one: every attribute is a transaction of its own
        objective = float(difference.mean()) if n else 0.0
        log_event("trial", state="done", **about, value=objective, **outcome)
        return objective

    def _choose(self, trial: optuna.Trial) -> Proposal:
        values = suggest(trial, self.problem.space)
        attrs = trial.user_attrs
        proposer = trial.study.sampler
        if "plan" in attrs and attrs["plan"] in self.by_plan_id:
            budget = self.limits.index(attrs["limit"]) if attrs.get("limit") in self.limits else 0
            return Proposal(self.by_plan_id[attrs["plan"]], attrs["role"], attrs["arm"], budget)
        if isinstance(proposer, Proposer):
            proposed = proposer.take(trial.study, trial.number)
            if proposed is not None:
                return proposed
        return self.strategy.propose(0, trial.number, suggested=fit(values, self.problem.space, self.allowed))

    def begin(self, trial: optuna.Trial, taken: Proposal) -> int:
        """Fix how many prompts of the plan are to be known in the end; from then on the trial has its plan for good."""
        if "wanted" not in trial.user_attrs:
            trial.set_user_attr("wanted", self.prompts_for(taken.role, taken.candidate.plan_id))
        return int(trial.user_attrs["wanted"])

    def prompts_for(self, role: Role, plan: str) -> int:
        """How many prompts of a plan, by plan id, are known once a trial that begins now is done."""
        many = {
            "baseline": self.settings.explore_prompts,
            "explore": self.book.count(plan) + self.settings.explore_prompts,
        }.get(role, self.problem.num_prompts)
        return min(many, self.problem.num_prompts)

    def _look(self, chosen: Candidate, role: Role, wanted: int) -> None:
        """Score the prompts this trial is for."""
        for indices in self.blocks(chosen, wanted):
            self.book.refresh()
            self.score(self.reference, role, indices)
            self.score(chosen, role, indices)

    def blocks(self, chosen: Candidate, wanted: int) -> list[list[int]]:
        """Blocks of prompts to score until ``wanted`` are known, in one order for all plans.

        Plans then compare on the same prompts, where much of their noise is shared and cancels out, and the
        baseline is run on no more prompts than the plan with the most scores.
        """
        order = prompt_order(self.problem.num_prompts, self.settings.seed)
        known = np.isfinite(self.book.known(chosen.plan_id))
        missing = [i for i in order if not known[i] and i not in self.book.set_aside]
        missing = missing[: max(0, wanted - int(known.sum()))]
        size = self.settings.block
        return [missing[start : start + size] for start in range(0, len(missing), size)]

    def score(self, chosen: Candidate, role: Role, indices: list[int]) -> None:
        """Score one block, where it is not known yet."""
        before = self.book.images_made
        self.book.scores(chosen.knobs, indices)
        if self.book.images_made > before:
            self._scored(role, chosen)
