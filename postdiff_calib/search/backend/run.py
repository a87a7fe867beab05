"""Running a search on Optuna: opening the study, what to try, and the loop over trials, alone or beside others.

A study folder holds ``study.db`` (Optuna's trials, SQLite; any Optuna dashboard opens it) and ``scores.jsonl`` (every
per-prompt score, the ground truth of all statistics). Each trial is one evaluation of a plan (see ``trial``). One study
serves any budget: scores do not depend on it. A study belongs to one model, prompt set and way of scoring: their
fingerprint is kept, and another is refused.

Several processes share a study through one storage. The *leader* makes it, queues its first trials and keeps its
record there; *workers* join, each with its own trial. A trial whose process died is queued again for another.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from postdiff_calib.plan import compile_plan
from postdiff_calib.scores.book import ScoreBook
from postdiff_calib.scores.names import RECORD_ATTRIBUTE, SCORES
from postdiff_calib.scores.select import PlanScores
from postdiff_calib.scores.store import FileStore, ScoreStore
from postdiff_calib.search.backend import database, retry
from postdiff_calib.search.backend.agree import restore_scores
from postdiff_calib.search.backend.database import faults
from postdiff_calib.search.backend.loop import TrialLoop
from postdiff_calib.search.backend.proposer import make_proposer
from postdiff_calib.search.backend.queue import TrialQueue
from postdiff_calib.search.backend.storage import StudyPlace, StudyStore, open_study
from postdiff_calib.search.backend.trial import TrialRunner
from postdiff_calib.search.problem import Problem, Progress, SearchResult
from postdiff_calib.search.proposals import Role
from postdiff_calib.search.settings import TRIAL_SECONDS, SearchSettings
from postdiff_calib.search.space import Candidate, candidate, within
from postdiff_calib.search.strategies import find_strategy

#: Trials after which the storage is read again for the sake of progress.
_ASK_EVERY = 8

__all__ = ["Problem", "Progress", "Search", "SearchResult", "StudyPlace", "run_search"]


def run_search(
    problem: Problem,
    settings: SearchSettings,
    place: StudyPlace,
    fingerprint: Mapping[str, Any],
    *,
    progress: Callable[[Progress], None] | None = None,
    opened: Callable[[], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> SearchResult:
    """Search for the best plan within the budget, or go on with the study that is there.

    Args:
        problem: what is searched.
        settings: how; they may change between calls on one study.
        place: where the study is kept.
        fingerprint: what scores depend on (model, prompts, size, seeds, scorer …): plain JSON values.
        progress: called after every block of prompts.
        opened: called once the study is open and its fingerprint agrees, before anything is scored.
        note: hears in a line each what a person should know.

    Returns:
        All scores. After Ctrl-C, what there is so far, with ``interrupted`` set.

    Raises:
        StudyError: the study was made under another fingerprint (the line names what differs), or the storage cannot
            be used.
        BudgetError: no plan is within the budget.
        PostdiffError: the baseline itself cannot be scored.
    """
    with faults(place.url):
        if place.single and not place.fresh:
            database.set_aside_damaged(place.folder, note or Search.note)
        search = Search(problem, settings, place, fingerprint, progress)
        search.note = note or search.note
        try:
            if opened is not None:
                opened()
            search.tell_what_is_kept()
            result = search.run()
            if not (search.single or place.join):
                search.keep_scores()
            return result
        finally:
            search.close()


@dataclass
class Search:
    """One run of a search; see ``run_search``."""

    problem: Problem
    settings: SearchSettings
    place: StudyPlace
    fingerprint: Mapping[str, Any]
    progress: Callable[[Progress], None] | None = None
    note: Callable[[str], None] = lambda _: None

    def __post_init__(self) -> None:
        space, price = self.problem.space, self.problem.price
        candidates = space.candidates(price)
        within(candidates, self.problem.limit, space.restrictions)
        self.reference = candidate(compile_plan(space.baseline), price)
        self.single = self.place.single
        self._listed: tuple[int, int, list[FrozenTrial]] | None = None
        self._at_most = math.inf
        self._made, self._counted, self._seconds_made = 0, 0, 0.0
        self.study, self._backend = open_study(
            self.place,
            {**self.fingerprint, "num_prompts": self.problem.num_prompts},
            make_proposer(
                self.settings.strategy, self.settings.seed, space, lambda _, number: self.queue.propose(number)
            ),
        )
        try:
            self.book = ScoreBook(
                self.problem.evaluator,
                self.problem.num_prompts,
                space.baseline,
                self._store(),
                self.problem.objective,
            )
            limits = (self.problem.limit, *self.problem.further)
            strategy = find_strategy(self.settings.strategy)
            self.strategy = strategy(candidates, limits, self.reference, self.book, self.settings)
            self.runner = TrialRunner(self.problem, self.strategy, self.book, self._show)
            self.queue = TrialQueue(self.study, self.problem, self.strategy, self.book, self.runner)
            self.loop = TrialLoop(self.study, self.queue, self.runner, single=self.single)
            self._known_before = self.book.images_known
        except BaseException:
            self.close()
            raise

    def _store(self) -> ScoreStore:
        if self.place.store is not None:
            return self.place.store
        return FileStore(self.place.folder / SCORES) if self.single else StudyStore(self.study, self._backend.engine)

    def close(self) -> None:
        """Give back the connections to the storage."""
        database.disconnect(self._backend)

    def tell_what_is_kept(self) -> None:
        """Say in a line what the study holds already; nothing where it begins, or where a leader has said it."""
        if self.place.join or not self.book.images_known:
            return
        done = sum(t.state == TrialState.COMPLETE for t in self.queue.trials())
        self.note(f"this study goes on: {done} trials and {self.book.images_known} images of its search are kept")

    def prepare(self) -> None:
        """What the leader does before anyone works: queue the first trials, and say what the study is about."""
        if self.single:
            retry.recover(self.study)
            # One process scores the baseline first, so that a fault of the set-up ends the search here.
            for indices in self.runner.blocks(self.reference, self.settings.explore_prompts):
                self.runner.score(self.reference, "baseline", indices)
            restore_scores(self.queue, self.note)
        elif self.place.store is None and not self.book.plans:
            # Scores that one process alone has made are shared from now on.
            shared = StudyStore(self.study, self._backend.engine)
            for block in FileStore(self.place.folder / SCORES).read():
                shared.append(block)
            self.book.refresh()
        self.queue.enqueue(self.queue.first)
        if self.place.record is not None:
            self.study.set_user_attr(RECORD_ATTRIBUTE, dict(self.place.record))
        self.place.described()

    def run(self) -> SearchResult:
        """Do what is left of the search, alone or beside other workers."""
        interrupted = False
        try:
            if not self.place.join:
                self.prepare()
            self._optimize()
        except KeyboardInterrupt:
            interrupted = True
        return self.result(interrupted)

    @property
    def _pause(self) -> float:
        """Seconds after which the work of others is read again."""
        return min(self.place.heartbeat, 5) / 4

    def _optimize(self) -> None:
        """Run what is queued, and the strategy's proposals until no budget has a place left.

        Beside other workers, one trial at a time, and not leaving before the others' trials are finished: one of them
        may have died, and then its trial is queued again and somebody must be there to run it.
        """
        watched: set[int] = set()
        while True:
            trials = self._all_taken_up()
            waiting = sum(t.state == TrialState.WAITING for t in trials)
            running = [t for t in trials if t.state == TrialState.RUNNING]
            left = waiting or self.queue.places_left(trials)
            if left > 0:
                self.loop.run(left if self.single else 1)
            elif running:
                retry.watch(self._backend, [t for t in running if t.number not in watched])
                watched |= {t.number for t in running}
                time.sleep(self._pause)
                retry.retire_dead(self.study)
            else:
                return
            if self.runner.fatal is not None:
                raise self.runner.fatal

    def _all_taken_up(self) -> list[FrozenTrial]:
        """All trials, once those that were cut short and left behind are queued again.

        Beside other workers only what is left behind at a second look: whoever ended it may be about to queue it.
        """
        seen: set[int] = set()
        while lost := self.queue.left_behind(trials := self.queue.trials()):
            for trial in lost:
                if self.single or trial.number in seen:
                    retry.give_back(self.study, trial)
            if not self.single and not seen:
                time.sleep(self._pause)
            seen |= {trial.number for trial in lost}
        return trials

    def keep_scores(self) -> None:
        """Write every score to the folder's file, for those who read the study without its storage."""
        self.book.refresh()
        FileStore(self.place.folder / SCORES).replace(self.book.blocks())

    def _show(self, role: Role, trying: Candidate) -> None:
        if self.progress is None:
            return
        best = self.strategy.choice()
        done, left, seconds_left = self._standing()
        made = self.book.images_known - self._known_before
        self._at_most = min(self._at_most, made + left)
        proposed = max(0, self.loop.done - self._counted) if self.loop.done >= len(self.queue.first) else 0
        self._seconds_made += (made - self._made) * (trying.cost.seconds or 0.0) + proposed * TRIAL_SECONDS
        self._made, self._counted = made, self.loop.done
        self.progress(
            Progress(
                stage=role,
                trials_done=done,
                trials_total=max(self.queue.total, done),
                images_made=made,
                images_at_most=int(self._at_most),
                trying=trying,
                best=None if best is None else self.runner.by_plan_id[best],
                best_difference=None if best is None else self._mean_score(best),
                seconds_made=self._seconds_made,
                seconds_left=seconds_left,
            )
        )

    def _mean_score(self, plan: str) -> float:
        """Mean paired difference of a plan's score, in points."""
        return float(np.nanmean(self.book.known(plan) - self.book.known(self.book.baseline)))

    def _standing(self) -> tuple[int, int, float]:
        """Trials begun, images still to be made at most, and the seconds that these may take.

        To ask the storage costs as much as it takes to make some small images, so a process that works alone asks
        every few trials and counts its own in between.
        """
        now = self.loop.done // _ASK_EVERY
        if self._listed is None or self._listed[0] != now or not self.single:
            self._listed = now, self.loop.done, self.queue.trials()
        _, own, trials = self._listed
        begun = len(self.queue.begun(trials)) + self.loop.done - own
        return begun, *self.queue.work_left(trials)

    def result(self, interrupted: bool = False) -> SearchResult:
        """Everything scored so far."""
        self.book.refresh()
        known = self.runner.by_plan_id

        def scores(c: Candidate) -> PlanScores:
            return self.book.plan_scores(c.knobs, c.cost)

        trials, failed = self.queue.trials(), self.queue.failed()
        return SearchResult(
            baseline=scores(self.reference),
            plans={
                plan_id: scores(known.get(plan_id) or candidate(compile_plan(knobs), self.problem.price))
                for plan_id, knobs in self.book.plans.items()
            },
            images_made=self.book.images_made,
            trials=sum(t.state == TrialState.COMPLETE for t in trials),
            failed=tuple((known[plan].knobs.describe(), reason) for plan, reason in failed.items() if plan in known),
            interrupted=interrupted,
            own_trials=self.loop.done,
            searched=() if interrupted or self.place.join else self.strategy.searched(failed),
            strategy=self.strategy,
        )
