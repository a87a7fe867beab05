"""Running a search on Optuna: storage, resuming, refusing a changed setting, and the loop over blocks of prompts.

A study folder holds ``study.db`` (Optuna's trials, SQLite; any Optuna dashboard opens it) and ``scores.jsonl`` (every
per-prompt score, the ground truth of all statistics). Each trial is one plan looked at: scored block by block, and
stored block by block. Its value is the mean paired difference to the unaccelerated model over the prompts it has;
whether that is all of them is in its user attribute ``complete``. One study serves any budget: scores do not depend on
it. A study belongs to one model, prompt set and way of scoring: their fingerprint is kept, and another is refused.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
from optuna.trial import TrialState

from postdiff_calib.budget import Limit
from postdiff_calib.errors import OutputError, PostdiffError, StudyError
from postdiff_calib.plan import compile_plan
from postdiff_calib.search.evaluate import Evaluator, FileStore, ScoreBook, ScoreStore
from postdiff_calib.search.sampler import PostDiffSampler, fit, make_sampler, parameters, suggest
from postdiff_calib.search.select import ARMS, Arm, PlanScores
from postdiff_calib.search.space import Candidate, Price, SearchSpace, candidate, within
from postdiff_calib.search.storage import HEARTBEAT, SCORES, STUDY_NAME, StudyStore, disconnect, open_study, recover
from postdiff_calib.search.strategy import Proposal, Role, SearchSettings, Strategy, enqueued


@dataclass(frozen=True)
class Problem:
    """What is searched.

    Args:
        space: the grid of knobs.
        price: cost of a plan, e.g. ``CostTable.price``.
        limit: the budget; plans above it are never run (except the unaccelerated model, for reference).
        evaluator: makes and scores pictures of the calibration prompts.
        num_prompts: N of them.
        ladder: further budgets at which the best plan of each arm is scored on some prompts, for the trade-off.
    """

    space: SearchSpace
    price: Price
    limit: Limit
    evaluator: Evaluator
    num_prompts: int
    ladder: tuple[Limit, ...] = ()


@dataclass(frozen=True)
class Progress:
    """Where a search stands; ``best`` is the best complete plan within the budget so far.

    ``images_at_most`` bounds the pictures of the whole search; races usually end well below it.
    """

    stage: Role
    trials_done: int
    trials_total: int
    images_made: int
    images_at_most: int
    trying: Candidate
    best: Candidate | None
    best_difference: float | None


@dataclass(frozen=True)
class SearchResult:
    """Everything that was scored; ``select`` reads the answer off it.

    Attributes:
        baseline: the unaccelerated model.
        plans: every scored plan of the space with its cost, the baseline included, by content hash.
        images_made: pictures this call made; earlier calls' are remembered.
        trials: finished trials of the study.
        failed: knobs and reason of the trials that failed.
        interrupted: stopped by Ctrl-C; the same call resumes.
    """

    baseline: PlanScores
    plans: dict[str, PlanScores]
    images_made: int
    trials: int
    failed: tuple[tuple[str, str], ...] = ()
    interrupted: bool = False


def run_search(
    problem: Problem,
    settings: SearchSettings,
    folder: Path,
    fingerprint: Mapping[str, Any],
    *,
    storage: str | None = None,
    study_name: str = STUDY_NAME,
    fresh: bool = False,
    progress: Callable[[Progress], None] | None = None,
    store: ScoreStore | None = None,
    join: bool = False,
    heartbeat: int = HEARTBEAT,
) -> SearchResult:
    """Search for the best plan within the budget, or go on with the study in ``folder``.

    Args:
        problem: what is searched.
        settings: how; they may change between calls on one study.
        folder: the study's folder, made when missing.
        fingerprint: what scores depend on (model, prompts, size, seeds, scorer …): plain JSON values.
        storage: Optuna storage URL that workers share; SQLite in the folder by default, for one process.
        study_name: of the Optuna study.
        fresh: drop what the folder's study holds and start anew.
        progress: called after every block of prompts.
        store: where scores are kept; by default a file in the folder, or the storage where one is given.
        join: work on a study that a leader has made with the same arguments, instead of making it.
        heartbeat: seconds between a worker's signs of life, where a storage is given.

    Returns:
        All scores. After Ctrl-C, what there is so far, with ``interrupted`` set.

    Raises:
        StudyError: the folder's study was made under another fingerprint; the line names what differs.
        BudgetError: no plan is within the budget.
        PostdiffError: the unaccelerated model itself cannot be scored.
    """
    search = Search(
        problem, settings, folder, fingerprint, storage, study_name, fresh, progress, store, join, heartbeat
    )
    try:
        return search.run()
    finally:
        search.close()


@dataclass
class Search:
    """One run of a search; see ``run_search``."""

    problem: Problem
    settings: SearchSettings
    folder: Path
    fingerprint: Mapping[str, Any]
    storage: str | None = None
    study_name: str = STUDY_NAME
    fresh: bool = False
    progress: Callable[[Progress], None] | None = None
    store: ScoreStore | None = None
    join: bool = False
    heartbeat: int = HEARTBEAT

    def __post_init__(self) -> None:
        space, price = self.problem.space, self.problem.price
        candidates = space.candidates(price)
        self.allowed = {c.content: c for c in within(candidates, self.problem.limit)}
        self.reference = candidate(compile_plan(space.baseline), price)
        self._single = self.storage is None
        self.study, self._backend = open_study(
            self.folder,
            self.storage,
            self.study_name,
            {**self.fingerprint, "num_prompts": self.problem.num_prompts},
            make_sampler(self.settings.sampler, self.settings.seed, space, self._propose),
            fresh=self.fresh,
            join=self.join,
            heartbeat=self.heartbeat,
        )
        self._fatal: PostdiffError | None = None
        self.book = ScoreBook(
            self.problem.evaluator,
            self.problem.num_prompts,
            space.baseline,
            self.store or (FileStore(self.folder / SCORES) if self._single else StudyStore(self.study)),
        )
        self.strategy = Strategy(candidates, self.allowed.values(), self.reference, self.book, self.settings)
        self._by_content = {c.content: c for c in self.strategy.candidates}
        paper = compile_plan(space.paper)
        self.first = enqueued(self.strategy, self.allowed.get(paper.content) or self._smaller(space.paper.as_dict()))

    def _smaller(self, values: dict[str, Any]) -> Candidate | None:
        """The paper's setting with T lowered until it fits; None when it never does."""
        found = fit(values, self.problem.space, self.allowed)
        same = found.knobs.cache_interval == values["cache_interval"]
        return found if same and found.knobs.low_res_fraction == values["low_res_fraction"] else None

    def _enqueue(self, proposals: list[Proposal]) -> None:
        """Queue what this budget's search starts with, once per budget and plan."""
        queued = {
            (t.user_attrs.get("plan"), t.user_attrs.get("role"))
            for t in self.study.get_trials(deepcopy=False)
            if t.state != TrialState.FAIL or "failed" in t.user_attrs
        }
        for p in proposals:
            if (p.candidate.content, p.role) not in queued:
                self.study.enqueue_trial(
                    parameters(p.candidate.knobs, self.problem.space),
                    user_attrs={"role": p.role, "arm": p.arm, "plan": p.candidate.content, "enqueued": True},
                )

    def _propose(self, study: optuna.Study, number: int) -> Proposal:
        self.book.refresh()
        trials = study.get_trials(deepcopy=False)
        mine = [t for t in trials if t.number != number and self._counts(t) and not t.user_attrs.get("enqueued")]
        history = [cast(Role, t.user_attrs["role"]) for t in mine if "role" in t.user_attrs]
        busy = {
            str(t.user_attrs.get("plan"))
            for t in trials
            if t.number != number and (t.state == TrialState.RUNNING or "failed" in t.user_attrs)
        }
        # Trials cut short do not count, so that a resumed search draws what an undisturbed one would have drawn.
        cut_short = sum(t.state == TrialState.FAIL and "failed" not in t.user_attrs for t in trials[:number])
        return self.strategy.propose(number - cut_short, history, self.settings.n_trials - len(self.first), busy)

    def _counts(self, trial: optuna.trial.FrozenTrial) -> bool:
        """Whether a trial is one of this budget's, done or in hand."""
        if trial.state == TrialState.RUNNING and "plan" not in trial.user_attrs:
            return True  # another worker is about to decide on it
        if trial.user_attrs.get("role") == "ladder" or trial.user_attrs.get("plan") not in self._relevant:
            return False
        return trial.state in (TrialState.COMPLETE, TrialState.RUNNING) or "failed" in trial.user_attrs

    @property
    def _relevant(self) -> set[str]:
        return {*self.allowed, self.reference.content}

    # --- running -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give back the connections to the storage."""
        disconnect(self._backend)

    def prepare(self) -> None:
        """What the leader does before anyone works: queue the first trials."""
        if self._single:
            recover(self.study)
            # One process scores the unaccelerated model first, so that a fault of the set-up ends the search here.
            for indices in self._blocks(self.reference, self.problem.num_prompts):
                self._score(self.reference, "baseline", indices)
        self._enqueue(self.first)

    def run(self) -> SearchResult:
        """Do what is left of the search, alone or beside other workers."""
        interrupted = False
        try:
            if not self.join:
                self.prepare()
            self._optimize(self.settings.n_trials)
            # The guesses depend on what is scored, so a ladder that is done is not climbed again with newer ones.
            rungs = [[limit.kind, limit.quantile, limit.value] for limit in self.problem.ladder]
            climbed = self.study.user_attrs.get("ladders", [])
            if rungs and rungs not in climbed:
                if not self.join:
                    self._enqueue(self._ladder())
                self._optimize(0)
                if not self.join:
                    self.study.set_user_attr("ladders", [*climbed, rungs])
        except KeyboardInterrupt:
            interrupted = True
        return self.result(interrupted)

    def _optimize(self, total: int) -> None:
        """Run what is queued, and the sampler's proposals until ``total`` trials of this budget are done.

        Beside other workers, one trial at a time, and not leaving before the others' trials are finished: one of them
        may have died, and then its trial is queued again and somebody must be there to run it.
        """
        while True:
            trials = self.study.get_trials(deepcopy=False)
            waiting = sum(t.state == TrialState.WAITING for t in trials)
            left = waiting or total - sum(self._counts(t) for t in trials)
            if left > 0:
                n_trials = left if self._single else 1
                self.study.optimize(self._objective, n_trials=n_trials, catch=(PostdiffError,))
            elif any(t.state == TrialState.RUNNING for t in trials):
                time.sleep(min(self.heartbeat, 5) / 4)
                optuna.storages.fail_stale_trials(self.study)
            else:
                return
            if self._fatal is not None:
                raise self._fatal

    def _objective(self, trial: optuna.Trial) -> float:
        if not self._single and self._surplus(trial):
            raise optuna.TrialPruned  # others began the last trials while this worker was deciding to begin one
        chosen, role, arm = self._take(trial)
        if role != "ladder" and chosen.content not in self._relevant:
            raise optuna.TrialPruned  # queued for another budget, which this one does not allow
        trial.set_user_attr("plan", chosen.content)
        trial.set_user_attr("role", role)
        trial.set_user_attr("arm", arm)
        trial.set_user_attr("knobs", chosen.knobs.as_dict())
        trial.set_user_attr("cost", {"macs": chosen.cost.macs, "seconds": chosen.cost.seconds})
        wanted = self._wanted(trial, chosen, role)
        try:
            stopped = self._look(chosen, role, arm, wanted)
        except (OutputError, StudyError) as error:  # not this plan's fault: no other plan would fare better
            self._fatal = error
            trial.study.stop()
            raise
        except PostdiffError as error:
            trial.set_user_attr("failed", str(error))
            raise
        difference = self.book.differences(chosen.content)
        difference = difference[np.isfinite(difference)]
        trial.set_user_attr("prompts", len(difference))
        trial.set_user_attr("complete", self.book.complete(chosen.content))
        trial.set_user_attr("stopped", stopped)
        if len(difference) > 1:
            trial.set_user_attr("standard_error", float(difference.std(ddof=1) / np.sqrt(len(difference))))
        return float(difference.mean())

    def _surplus(self, trial: optuna.Trial) -> bool:
        """Whether as many trials as were asked for had begun before this one, or are queued."""
        if "plan" in trial.user_attrs:
            return False
        others = [t for t in self.study.get_trials(deepcopy=False) if t.number != trial.number]
        ahead = [
            t for t in others if t.number < trial.number or t.state == TrialState.WAITING or "plan" in t.user_attrs
        ]
        counted = sum(self._counts(t) or t.state == TrialState.WAITING for t in ahead)
        return bool(counted >= self.settings.n_trials)

    def _take(self, trial: optuna.Trial) -> tuple[Candidate, Role, Arm]:
        values = suggest(trial, self.problem.space)
        attrs = trial.user_attrs
        sampler = self.study.sampler
        if "plan" in attrs and attrs["plan"] in self._by_content:
            return self._by_content[attrs["plan"]], attrs["role"], attrs["arm"]
        if isinstance(sampler, PostDiffSampler) and trial.number in sampler.proposals:
            proposal = sampler.proposals.pop(trial.number)
            return proposal.candidate, proposal.role, proposal.arm
        return fit(values, self.problem.space, self.allowed), "final", "joint"

    def _wanted(self, trial: optuna.Trial, chosen: Candidate, role: Role) -> int:
        """How many prompts of the plan are to be known in the end; fixed when a trial first starts."""
        if "wanted" not in trial.user_attrs:
            more = {
                "explore": self.book.count(chosen.content) + self.settings.explore_prompts,
                "ladder": self.settings.ladder_prompts,
            }.get(role, self.problem.num_prompts)
            trial.set_user_attr("wanted", min(more, self.problem.num_prompts))
        return int(trial.user_attrs["wanted"])

    def _look(self, chosen: Candidate, role: Role, arm: Arm, wanted: int) -> bool:
        """Score the prompts this trial is for; returns whether a race was lost."""
        racing = role == "final" and self.settings.sampler == "postdiff" and arm != "fewer"
        for indices in self._blocks(chosen, wanted, in_order=role == "ladder"):
            self.book.refresh()
            self._score(self.reference, role, indices)
            self._score(chosen, role, indices)
            if racing and self.strategy.race_lost(chosen.content, arm):
                return True
        return False

    def _blocks(self, chosen: Candidate, wanted: int, in_order: bool = False) -> list[list[int]]:
        """Blocks of prompts to score until ``wanted`` are known, in an order that is the plan's own.

        Plans look at different prompts first, so that their early errors are independent and the surrogate averages
        them out; ladder plans share the first prompts, to be comparable among themselves.
        """
        order = np.arange(self.problem.num_prompts)
        if not in_order:
            key = int(hashlib.sha256(chosen.content.encode()).hexdigest()[:8], 16)
            np.random.default_rng([key, self.settings.seed]).shuffle(order)
        else:
            order = order[:wanted]
        known = np.isfinite(self.book.known(chosen.content))
        missing = [int(i) for i in order if not known[i]]
        if not in_order:
            missing = missing[: max(0, wanted - int(known.sum()))]
        size = self.settings.block
        return [missing[start : start + size] for start in range(0, len(missing), size)]

    def _score(self, chosen: Candidate, role: Role, indices: list[int]) -> None:
        before = self.book.images_made
        self.book.scores(chosen.knobs, indices)
        if self.progress is not None and self.book.images_made > before:
            self.progress(self._progress(role, chosen))

    def _progress(self, role: Role, trying: Candidate) -> Progress:
        best = self.strategy.incumbent("joint")
        found = None if best is None else self._by_content[best]
        done = sum(self._counts(t) for t in self.study.get_trials(deepcopy=False))
        return Progress(
            stage=role,
            trials_done=done,
            trials_total=max(self.settings.n_trials, done),
            images_made=self.book.images_made,
            images_at_most=self.images_at_most,
            trying=trying,
            best=found,
            best_difference=None if best is None else float(np.nanmean(self.book.differences(best))),
        )

    @property
    def images_at_most(self) -> int:
        """Pictures of a whole search at most: all finalists complete, nothing remembered."""
        n, s = self.problem.num_prompts, self.settings
        ladder = 3 * len(self.problem.ladder) * min(n, s.ladder_prompts)
        if s.sampler != "postdiff":
            return n * (1 + s.n_trials) + ladder
        full = 2 + s.n_finalists
        return n * full + max(0, s.n_trials - full) * min(n, s.explore_prompts) + ladder

    def _ladder(self) -> list[Proposal]:
        """The best guess of each arm at each further budget."""
        proposals = []
        for limit in self.problem.ladder:
            allowed = {c.content for c in self.strategy.candidates if limit.allows(c.cost)}
            for arm in ARMS:
                guess = self.strategy.best_guess(arm, allowed)
                if guess is not None:
                    proposals.append(Proposal(guess, "ladder", arm))
        return list({p.candidate.content: p for p in proposals}.values())

    def result(self, interrupted: bool = False) -> SearchResult:
        """Everything scored so far."""
        self.book.refresh()
        plans = {}
        for content, knobs in self.book.plans.items():
            c = self._by_content.get(content) or candidate(compile_plan(knobs), self.problem.price)
            plans[content] = PlanScores(c.knobs, c.cost, self.book.known(content).copy())
        reference = PlanScores(
            self.reference.knobs, self.reference.cost, self.book.known(self.reference.content).copy()
        )
        trials = self.study.get_trials(deepcopy=False)
        return SearchResult(
            baseline=reference,
            plans=plans,
            images_made=self.book.images_made,
            trials=sum(t.state == TrialState.COMPLETE for t in trials),
            failed=tuple(
                (self._by_content[t.user_attrs["plan"]].knobs.describe(), str(t.user_attrs["failed"]))
                for t in trials
                if "failed" in t.user_attrs and t.user_attrs.get("plan") in self._by_content
            ),
            interrupted=interrupted,
        )
