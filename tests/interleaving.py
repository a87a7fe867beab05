"""Workers on one study as threads of which one runs at a time: every call of the storage is a moment at which another
may go on, a process may be killed or interrupted, or the storage may fail before or after what it was asked for.

Which happens is drawn from a seed, so a schedule can be played again. What runs is the search itself and Optuna's own
loop and heartbeat; only the storage is in memory and who counts as dead is told to it. A killed worker's thread gets
no call through any more, as a killed process would not.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.trial import FrozenTrial, TrialState

from postdiff_calib.errors import StudyError
from postdiff_calib.scores.store import MemoryStore
from postdiff_calib.search.backend import run as backend_run
from postdiff_calib.search.backend.retry import give_back
from postdiff_calib.search.backend.run import Problem, Search, StudyPlace
from postdiff_calib.search.settings import SearchSettings

#: Names of the storage's calls that change something, beside those that read.
_WRITES = frozenset(
    {
        "create_new_trial",
        "set_trial_param",
        "set_trial_state_values",
        "set_trial_user_attr",
        "set_trial_system_attr",
        "set_study_user_attr",
    }
)
_READS = frozenset({"get_all_trials", "get_trial"})
#: Seconds after which a schedule counts as hanging, and moments after which it counts as endless.
PATIENCE, MOMENTS = 60, 200_000


class Killed(BaseException):
    """What a killed worker's thread ends by."""


@dataclass
class Worker:
    """One life of a worker: from its start to its end or its death."""

    name: str
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    thread: threading.Thread | None = None
    killed: bool = False
    interrupted: bool = False
    ended: BaseException | None = None
    done: bool = False


class Schedule:
    """Who goes on, who is killed and what fails, from a seed.

    Args:
        seed: of all draws.
        kill: chance of a kill at each moment.
        interrupt: chance of a Ctrl-C there.
        fail: chance that a call of the storage fails, half of them after it was done.
        silent: chance, at each look for dead workers, that a living one's trial is taken for a dead one's.
        faults: of all these at most.
    """

    def __init__(self, seed: int, *, kill: float, interrupt: float, fail: float, silent: float, faults: int) -> None:
        self.draw = random.Random(seed)
        self._kill, self._interrupt, self._fail, self._silent = kill, interrupt, fail, silent
        self.left = faults
        self._back = threading.Semaphore(0)
        self._local = threading.local()
        self.moments = 0

    def spend(self, chance: float) -> bool:
        """Whether one of the faults that are left happens now."""
        happens = self.left > 0 and self.draw.random() < chance
        self.left -= happens
        return happens

    def now(self) -> Worker:
        """Whose thread this is."""
        found: Worker = self._local.worker
        return found

    def start(self, worker: Worker, work: Callable[[], None]) -> None:
        """Begin a life; it waits for its first turn."""

        def live() -> None:
            self._local.worker = worker
            worker.turn.acquire()
            try:
                work()
                worker.done = True
            except BaseException as error:  # handed to the thread that plays the schedule
                worker.ended = error
            self._back.release()

        worker.thread = threading.Thread(target=live, daemon=True)
        worker.thread.start()

    def moment(self) -> None:
        """Let another go on; the worker comes back here when it is its turn, or never."""
        worker = self.now()
        if not worker.killed:
            self._back.release()
            worker.turn.acquire()
        if worker.killed:
            raise Killed
        if worker.interrupted:
            worker.interrupted = False
            raise KeyboardInterrupt

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """A call of the storage, between two moments."""
        self.moment()
        fails = self.spend(self._fail)
        if fails and self.draw.random() < 0.5:
            raise optuna.exceptions.StorageInternalError("the server is away")
        found = function(*args, **options)
        if fails:
            raise optuna.exceptions.StorageInternalError("the server went away")
        return found

    def silent(self) -> bool:
        """Whether a living worker is taken for dead."""
        return self.spend(self._silent)

    def step(self, workers: list[Worker]) -> Worker:
        """Let one of them go on to its next moment, or kill or interrupt it there.

        Raises:
            AssertionError: it hangs, or the schedule has no end.
        """
        self.moments += 1
        assert self.moments < MOMENTS, "the schedule has no end"
        worker = self.draw.choice(workers)
        worker.killed = worker.killed or self.spend(self._kill)
        worker.interrupted = self.spend(self._interrupt)
        worker.turn.release()
        assert self._back.acquire(timeout=PATIENCE), f"{worker.name} hangs"
        if worker.killed:  # what it does on its way out has no moments
            assert worker.thread is not None
            worker.thread.join(PATIENCE)
        return worker


class Shared(BaseStorage, BaseHeartbeat):
    """One storage in memory for all, in which each call is a moment of the schedule."""

    def __init__(self, schedule: Schedule) -> None:
        self.memory, self.schedule = InMemoryStorage(), schedule
        self._owners: dict[int, Worker] = {}

    def record_heartbeat(self, trial_id: int) -> None:
        """Nothing: the schedule knows who lives."""

    def get_heartbeat_interval(self) -> int | None:
        return 1

    def get_heartbeat_stale_trial_callback(self) -> Callable[[optuna.Study, FrozenTrial], None] | None:
        return give_back

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        running = self.memory.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,))
        found = []
        for trial in running:
            owner = self._owners[trial._trial_id]
            dead = owner.killed or owner.done or owner.ended is not None
            if dead or (owner is not self.schedule.now() and self.schedule.silent()):
                found.append(trial._trial_id)
        return found

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        def create() -> int:
            number: int = self.memory.create_new_trial(study_id, template_trial)
            self._owners[number] = self.schedule.now()
            return number

        found: int = self.schedule.call(create)
        return found

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Any = None) -> bool:
        def change() -> bool:
            changed: bool = self.memory.set_trial_state_values(trial_id, state, values)
            if changed and state == TrialState.RUNNING:
                self._owners[trial_id] = self.schedule.now()
            return changed

        return bool(self.schedule.call(change))

    def remove_session(self) -> None:
        """There are no connections."""


def _passed_on(name: str) -> Any:
    def call(self: Shared, *args: Any, **options: Any) -> Any:
        function = getattr(self.memory, name)
        if name in _WRITES | _READS:
            return self.schedule.call(function, *args, **options)
        return function(*args, **options)

    return call


for _name in sorted(set(Shared.__abstractmethods__) | {"get_trial_number_from_id", "get_n_trials"}):
    setattr(Shared, _name, _passed_on(_name))
Shared.__abstractmethods__ = frozenset()


class Scores(MemoryStore):
    """The scores that all share; each block is a moment."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self._schedule = schedule

    def read(self) -> Iterator[dict[str, Any]]:
        """All blocks, for a worker that begins."""
        return iter(list(self.blocks))

    def append(self, block: dict[str, Any]) -> None:
        """Keep the block, unless a kill comes first."""
        self._schedule.moment()
        super().append(block)


class SharedSearch:
    """A search that a leader and workers share, each started again by the same command when it was cut short.

    Args:
        problem: what is searched.
        settings: how.
        schedule: of those who work.
        workers: beside the leader.
    """

    def __init__(self, problem: Problem, settings: SearchSettings, schedule: Schedule, workers: int = 1) -> None:
        self.problem, self.settings, self.schedule = problem, settings, schedule
        self.storage, self.scores = Shared(schedule), Scores(schedule)
        self._names = ["leader", *(f"worker {n}" for n in range(1, workers + 1))]
        self.limits: list[list[str | float]] = []

    def trials(self) -> list[FrozenTrial]:
        """Every trial, as the storage has it."""
        found: list[FrozenTrial] = self.storage.memory.get_all_trials(0, deepcopy=False)
        return found

    def play(self, monkeypatch: Any) -> None:
        """Let all go on until each has come to its end.

        Raises:
            AssertionError: one hangs, or ends otherwise than done, killed, interrupted or by the storage's fault.
        """
        monkeypatch.setattr(backend_run, "open_study", self._open)
        monkeypatch.setattr(backend_run.database, "disconnect", lambda storage: None)
        monkeypatch.setattr(backend_run.time, "sleep", lambda seconds: self.schedule.moment())
        optuna.logging.set_verbosity(optuna.logging.CRITICAL)
        alive: dict[str, Worker] = {}
        done: set[str] = set()
        while len(done) < len(self._names):
            for name in self._names:
                if name not in alive and name not in done and (name == "leader" or self.limits):
                    alive[name] = Worker(name)
                    self.schedule.start(alive[name], lambda name=name: self._work(name == "leader"))
            worker = self.schedule.step(list(alive.values()))
            if worker.done or worker.ended is not None:
                del alive[worker.name]
                expected = optuna.exceptions.StorageInternalError | StudyError | KeyboardInterrupt
                assert worker.done or worker.killed or isinstance(worker.ended, expected), repr(worker.ended)
                done |= {worker.name} if worker.done else set()

    def _open(self, place: StudyPlace, fingerprint: Any, proposer: Any) -> tuple[optuna.Study, Any]:
        study = optuna.create_study(
            storage=self.storage, study_name="shared", direction="maximize", sampler=proposer, load_if_exists=True
        )
        return study, self.storage

    def _work(self, leads: bool) -> None:
        place = StudyPlace(Path(), storage="memory", store=self.scores, join=not leads)
        search = Search(self.problem, self.settings, place, {"model": "made up"})
        self.planned, limits = search.queue.planned, search.runner.limits
        self.first = search.queue.first
        if leads:
            search.prepare()
            self.limits = list(limits)
            search._optimize()
        else:
            search._optimize()
