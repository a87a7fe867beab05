"""A leader and a worker on one study in PostgreSQL, of which either, or the server, is killed again and again.

Both are the commands themselves (see ``killing``). A kill comes after a random number of events of one of them, drawn
from a seed; whoever was killed, or ended because the server was away, is started again by the same command.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import optuna
from killing import WRITING, Calibration, Fuse, child
from postgres import Server

from postdiff_calib.errors import StudyError
from postdiff_calib.search.backend.retry import has_begun
from postdiff_calib.search.backend.storage import connect, disconnect, read_record

LEADER, WORKER, SERVER = "leader", "worker", "server"
NAME = "shared"
#: Evaluations at the study's own budget.
TRIALS = 12
#: A kill comes after so many events of a process at most: about a trial.
EVENTS = 24
#: Share of the kills that come whatever a process does, its start included; others wait until it has begun its work.
_EARLY = 0.2
_AT_WORK = frozenset({"searching", "judging the finalists", WRITING})
_LINE = re.compile(r"postdiff: (study in postgresql|a block of scores)[^\n]*\n")
#: Seconds between two looks at the processes, and how many without a change mean that one hangs.
_LOOK, _LOOKS = 0.05, 4000


@dataclass
class Running:
    """A process at work, with its fuse and the file that its standard error goes to."""

    process: Any
    fuse: Fuse
    log: Path


class SharedStudy(Calibration):
    """The study, and those who work on it.

    Args:
        folder: of everything.
        server: where the study is.

    Attributes:
        kills: who was killed, in order.
        ends: how often each ended with each exit code.
    """

    def __init__(self, folder: Path, server: Server, *options: str) -> None:
        joined = ["--storage", server.url, "--name", NAME]
        super().__init__(folder, "--trials", str(TRIALS), *joined, *options)
        self.server = server
        self._joins = ["worker", *joined, "--device", "cpu", "--quiet"]
        self._at_work: dict[str, Running] = {}
        self.kills: list[str] = []
        self.ends: Counter[tuple[str, int]] = Counter()
        self._looks = self._events = 0

    def chain(self, kills: int, seed: int) -> None:
        """Kill so many times, then let all go on to their end.

        Raises:
            AssertionError: somebody hangs, or ends otherwise than done, killed or by one line about the storage.
        """
        draw = random.Random(seed)
        try:
            self._start(LEADER)
            while not (self._at_work[LEADER].fuse.stage == "searching" and self._described()):
                self._look()
            while len(self.kills) < kills and not self._done(LEADER):
                self._tend()
                self._kill(draw)
            while not (self._done(LEADER) and self._done(WORKER)):
                self._tend()
                self._look()
        finally:
            for running in self._at_work.values():
                running.process.kill()
                running.process.join()

    def frozen_trials(self) -> list[Any]:
        """Every trial of the study, as Optuna has it."""
        storage = connect(self.server.url)
        try:
            found: list[Any] = optuna.load_study(study_name=NAME, storage=storage).get_trials(deepcopy=False)
            return found
        finally:
            disconnect(storage)

    def _done(self, who: str) -> bool:
        return self.ends[who, 0] > 0

    def _described(self) -> bool:
        with contextlib.suppress(StudyError):
            return bool(read_record(self.server.url, NAME))
        return False

    def _start(self, who: str) -> None:
        fuse, log = self.fuse(), self.folder.parent / f"{self.folder.name}-{who}-{self.ends.total()}.log"
        argv = self._argv if who == LEADER else self._joins
        process = self._children.Process(target=child, args=(argv, self.folder, None, self.out, log, fuse))
        process.start()
        self._at_work[who] = Running(process, fuse, log)

    def _tend(self) -> None:
        """Start again what neither runs nor is done."""
        if not self.server.is_running():
            self.server.come_back()
        for who in (LEADER, WORKER):
            if who not in self._at_work and not self._done(who):
                self._start(who)

    def _kill(self, draw: random.Random) -> None:
        """Light a fuse and wait until it has burnt down, or its process has ended otherwise."""
        victim, events, early = draw.choice((LEADER, WORKER, SERVER)), draw.randint(1, EVENTS), draw.random() < _EARLY
        holder = draw.choice((LEADER, WORKER)) if victim == SERVER else victim
        if not early:
            self._wait_for_all()
        if holder not in self._at_work:  # it is done
            return
        running = self._at_work[holder]
        running.fuse.light(events, self.server.process if victim == SERVER else 0)
        while running.fuse.burning and holder in self._at_work:
            self._look()
        if not running.fuse.burning:
            self.kills.append(victim)
        while victim == holder and holder in self._at_work:
            self._look()

    def _wait_for_all(self) -> None:
        """Let those at work stand still until those that start are at work too: a kill must find both."""
        while not all(running.fuse.stage in _AT_WORK for running in self._at_work.values()):
            for running in self._at_work.values():
                running.fuse.hold(running.fuse.stage in _AT_WORK)
            self._tend()
            self._look()
        for running in self._at_work.values():
            running.fuse.hold(False)

    def _look(self) -> None:
        """Wait a little, and note who has ended and how."""
        wait([running.process.sentinel for running in self._at_work.values()], _LOOK)
        for who, running in list(self._at_work.items()):
            code = running.process.exitcode
            if code is not None:
                del self._at_work[who]
                self.ends[who, code] += 1
                said = running.log.with_suffix(".err").read_text()
                # a server that went away is told in one line
                assert code in (0, -signal.SIGKILL) or (code == 2 and _LINE.fullmatch(said)), (who, code, said)
        events = self.ends.total() + sum(running.fuse.events for running in self._at_work.values())
        self._looks, self._events = (self._looks + 1 if events == self._events else 0), events
        if self._looks > _LOOKS:
            for running in self._at_work.values():
                os.kill(running.process.pid, signal.SIGUSR1)
                wait([running.process.sentinel], 1)
            stands = {who: running.log.with_suffix(".err").read_text() for who, running in self._at_work.items()}
            raise AssertionError(f"nothing happens any more after {self.kills}: {stands}")


def unaccounted(trials: Sequence[Any]) -> list[Any]:
    """The trials of which nobody knows what became: neither done, nor stepped back from, nor taken up by another.

    One that failed before it had begun its plan holds nothing; another is proposed in its place, and they are counted.
    """
    taken_up = {number for t in trials for number in t.system_attrs.get("retry_history", [])}
    known = {"COMPLETE", "PRUNED"}

    def lost(trial: Any) -> bool:
        return not (trial.state.name == "FAIL" and (trial.number in taken_up or not has_begun(trial)))

    return [t for t in trials if t.state.name not in known and lost(t)]
