"""What one trial does: take a plan, score some of its prompts block by block, write down what came out.

A trial's value is the mean paired difference to the unaccelerated model over the prompts it has; whether that is all of
them is in its user attribute ``outcome``. Its plan, role and number of wanted prompts are stored before the first
picture is made, so that whoever goes on with it after a kill does the same.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np
import optuna

from postdiff_calib.errors import OutputError, PostdiffError, StudyError
from postdiff_calib.search.evaluate import ScoreBook
from postdiff_calib.search.problem import Problem
from postdiff_calib.search.sampler import PostDiffSampler, fit, suggest
from postdiff_calib.search.select import Arm
from postdiff_calib.search.space import Candidate
from postdiff_calib.search.strategy import Role, Strategy, prompt_order


class TrialRunner:
    """Runs one trial after another.

    Args:
        problem: what is searched.
        strategy: whose races decide when a finalist has lost; it knows every candidate and the settings.
        book: the scores.
        allowed: plans within the budget, by content hash.
        scored: called after every block of pictures with the trial's role and plan.

    Attributes:
        fatal: the fault that no other plan would escape, such as a full disk; the search ends with it.
    """

    def __init__(
        self,
        problem: Problem,
        strategy: Strategy,
        book: ScoreBook,
        allowed: Mapping[str, Candidate],
        scored: Callable[[Role, Candidate], None],
    ) -> None:
        self.problem, self.strategy, self.book, self.allowed = problem, strategy, book, allowed
        self.settings, self.reference = strategy.settings, strategy.reference
        self.by_content = {c.content: c for c in strategy.candidates}
        self.fatal: PostdiffError | None = None
        self._scored = scored

    @cached_property
    def relevant(self) -> frozenset[str]:
        """Plans that this budget's trials may run: those within it, and the unaccelerated model."""
        return frozenset({*self.allowed, self.reference.content})

    def run(self, trial: optuna.Trial) -> float:
        """The objective: mean paired difference of the trial's plan.

        Raises:
            TrialPruned: the trial was queued for another budget, which this one does not allow.
            PostdiffError: the pictures are broken, or nothing can be stored (``fatal`` is set then).
        """
        chosen, role, arm = self._take(trial)
        if role != "ladder" and chosen.content not in self.relevant:
            raise optuna.TrialPruned
        trial.set_user_attr("plan", chosen.content)
        trial.set_user_attr("role", role)
        trial.set_user_attr("arm", arm)
        trial.set_user_attr("knobs", chosen.knobs.as_dict())
        trial.set_user_attr("worker", f"{platform.node()}:{os.getpid()}")
        wanted = self._wanted(trial, chosen, role)
        try:
            stopped = self._look(chosen, role, arm, wanted)
        except (OutputError, StudyError) as error:  # not this plan's fault: no other plan would fare better
            self.fatal = error
            trial.study.stop()
            raise
        except PostdiffError as error:
            trial.set_user_attr("failed", str(error))
            raise
        difference = self.book.differences(chosen.content)
        difference = difference[np.isfinite(difference)]
        n = len(difference)
        outcome = {
            "prompts": n,
            "standard_error": float(difference.std(ddof=1) / np.sqrt(n)) if n > 1 else None,
            "complete": self.book.complete(chosen.content),
            "stopped": stopped,
            "macs": chosen.cost.macs,
            "seconds": chosen.cost.seconds,
        }
        trial.set_user_attr("outcome", outcome)  # in one: every attribute is a transaction of its own
        return float(difference.mean())

    def _take(self, trial: optuna.Trial) -> tuple[Candidate, Role, Arm]:
        """The trial's plan: what it was queued with, what our sampler proposed, or what Optuna's values come to."""
        values = suggest(trial, self.problem.space)
        attrs = trial.user_attrs
        sampler = trial.study.sampler
        if "plan" in attrs and attrs["plan"] in self.by_content:
            return self.by_content[attrs["plan"]], attrs["role"], attrs["arm"]
        if isinstance(sampler, PostDiffSampler) and trial.number in sampler.proposals:
            proposal = sampler.proposals.pop(trial.number)
            return proposal.candidate, proposal.role, proposal.arm
        return fit(values, self.problem.space, self.allowed), "final", "joint"

    def _wanted(self, trial: optuna.Trial, chosen: Candidate, role: Role) -> int:
        """How many prompts of the plan are to be known in the end; fixed when a trial first starts."""
        if "wanted" not in trial.user_attrs:
            trial.set_user_attr("wanted", self.prompts_for(role, chosen.content))
        return int(trial.user_attrs["wanted"])

    def prompts_for(self, role: Role, plan: str) -> int:
        """How many prompts of a plan, by content hash, are known once a trial that begins now is done."""
        many = {
            "baseline": self.settings.explore_prompts,
            "explore": self.book.count(plan) + self.settings.explore_prompts,
            "ladder": self.settings.ladder_prompts,
        }.get(role, self.problem.num_prompts)
        return min(many, self.problem.num_prompts)

    def _look(self, chosen: Candidate, role: Role, arm: Arm, wanted: int) -> bool:
        """Score the prompts this trial is for; returns whether a race was lost."""
        racing = role == "final" and self.settings.sampler == "postdiff" and arm != "fewer"
        for indices in self.blocks(chosen, wanted):
            self.book.refresh()
            self.score(self.reference, role, indices)
            self.score(chosen, role, indices)
            if racing and self.strategy.race_lost(chosen.content, arm):
                return True
        return False

    def blocks(self, chosen: Candidate, wanted: int) -> list[list[int]]:
        """Blocks of prompts to score until ``wanted`` are known, in one order for all plans.

        Plans then compare on the same prompts, where much of their noise is shared and cancels out, and the
        unaccelerated model is run on no more prompts than the most looked-at plan.
        """
        order = prompt_order(self.problem.num_prompts, self.settings.seed)
        known = np.isfinite(self.book.known(chosen.content))
        missing = [int(i) for i in order if not known[i]][: max(0, wanted - int(known.sum()))]
        size = self.settings.block
        return [missing[start : start + size] for start in range(0, len(missing), size)]

    def score(self, chosen: Candidate, role: Role, indices: list[int]) -> None:
        """Score one block, where it is not known yet."""
        before = self.book.images_made
        self.book.scores(chosen.knobs, indices)
        if self.book.images_made > before:
            self._scored(role, chosen)
