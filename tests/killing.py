"""``postdiff calibrate`` as a child process that ends itself, by a real signal, at a moment that is told by events.

Events are what a run does that another could find half done: progress (a stage, a batch of images), files (before the
content is forced to the device, before a file is moved to its place and after), transactions (before and after a
commit). They are numbered within each stage, so a moment is the same in every run on the same state, however fast the
machine is. Children are forked from a server that has imported everything, so one costs no start-up.

The search space is cut down to some twenty plans, which are soon priced; everything else is the command itself.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import yaml

#: What a run is killed in; the first and the last are not stages of the progress.
START, WRITING = "starting", "writing the profile"
STAGES = (
    START,
    "loading the model",
    "measuring kinds of step",
    "pricing every plan",
    "measuring the baseline's spread",
    "searching",
    "judging the finalists",
    WRITING,
)
OPTIONS = ("--model", "shapes", "--budget", "60%", "--num-prompts", "10", "--trials", "3", "--device", "cpu", "--quiet")
#: Seconds after which a child counts as hanging.
PATIENCE = 600
_FEWER = {
    "num_inference_steps": (4, 8, 12, 16, 20),
    "low_res_fraction": (0.0, 0.4),
    "low_res_scale": (0.5,),
    "cache_interval": (1, 2, 3),
    "guidance_fraction": (1.0,),
}


@dataclass(frozen=True)
class Moment:
    """Event ``number`` (from 1) of a stage, at which the run gets ``signal``."""

    stage: str
    number: int
    signal: int = signal.SIGKILL


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit code (−9 for SIGKILL), what it printed, and how many events each stage had."""

    code: int
    out: str
    err: str
    events: dict[str, int]


class Fuse:
    """Ends a process after some more events of a child; the parent may light it while the child runs.

    Args:
        context: of ``multiprocessing``, by which the child is made.
    """

    def __init__(self, context: Any) -> None:
        self._left, self._target, self._kind = (context.RawValue("i", 0) for _ in range(3))
        self._seen, self._stage = (context.RawValue("i", 0) for _ in range(2))
        self._gate, self._held = context.Lock(), False

    @property
    def events(self) -> int:
        """How many have happened."""
        return int(self._seen.value)

    @property
    def burning(self) -> bool:
        """Whether the signal is still to come."""
        return bool(self._left.value)

    @property
    def stage(self) -> str:
        """In what the child was when the last event happened."""
        return STAGES[self._stage.value]

    def light(self, events: int, target: int = 0, kind: int = signal.SIGKILL) -> None:
        """Send a signal after so many events, to the process of a number, or by default to the child itself."""
        self._target.value, self._kind.value = target, kind
        self._left.value = events

    def hold(self, held: bool) -> None:
        """Let the child stand still at its next images, alive, or let it go on."""
        if held and not self._held:
            self._gate.acquire()
        elif self._held and not held:
            self._gate.release()
        self._held = held

    def stand(self) -> None:
        """Wait while the child is held."""
        with self._gate:
            pass

    def burn(self, stage: str) -> None:
        """One event has happened."""
        self._seen.value += 1
        if stage in STAGES:
            self._stage.value = STAGES.index(stage)
        if self._left.value > 0:
            self._left.value -= 1
            if self._left.value == 0:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._target.value or os.getpid(), self._kind.value)


class Counter:
    """The child's progress; counts events and ends the process at its moment, or what its fuse says."""

    def __init__(self, moment: Moment | None, out: Path, log: Path, fuse: Fuse | None = None) -> None:
        self.moment, self.out, self.log, self.fuse = moment, os.path.realpath(out), log, fuse
        self.now, self.counts = START, dict.fromkeys(STAGES, 0)

    def event(self) -> None:
        if self.fuse is not None:
            self.fuse.burn(self.now)
        self.counts[self.now] = self.counts.get(self.now, 0) + 1
        if self.moment is not None and (self.now, self.counts[self.now]) == (self.moment.stage, self.moment.number):
            os.kill(os.getpid(), self.moment.signal)

    def stage(self, name: str, total: int | None = None) -> None:
        self.now = name
        self.event()

    def advance(self, count: int = 1, detail: str | None = None, total: int | None = None) -> None:
        self.event()
        if self.fuse is not None:
            self.fuse.stand()

    def note(self, text: str) -> None:
        pass

    def install(self) -> None:
        """Count what the process does to files and to the database, too."""
        from sqlalchemy import event
        from sqlalchemy.engine import Engine

        fsync, move = os.fsync, os.replace

        def forced(handle: int) -> None:
            self.event()
            fsync(handle)

        def moved(source: Any, target: Any) -> None:
            before = self.now
            if str(target) == self.out:
                self.now = WRITING
            self.event()
            move(source, target)
            self.event()
            self.now = before

        os.fsync, os.replace = forced, moved
        event.listen(Engine, "commit", lambda connection: self.event())

        def after(session: Any) -> None:
            self.event()

        from sqlalchemy.orm import Session

        event.listen(Session, "after_commit", after)


def child(argv: list[str], folder: Path, moment: Moment | None, out: Path, log: Path, fuse: Fuse | None = None) -> None:
    """What a child does; never returns normally. SIGUSR1 writes where it stands to its standard error."""
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(log.with_suffix(f".{name}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    faulthandler.register(signal.SIGUSR1)
    os.chdir(folder)
    os.environ["POSTDIFF_CACHE"] = str(folder / "cache")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    counter = Counter(moment, out, log, fuse)
    _patch(counter)
    from postdiff_calib.cli.main import main

    counter.install()
    try:
        counter.event()
        main(argv)
    finally:
        log.write_text(json.dumps(counter.counts))
        sys.stdout.flush()


def _patch(counter: Counter) -> None:
    """Few plans, and the counter as progress."""
    import postdiff_calib.report.progress
    from postdiff_calib.search.space import SearchSpace

    whole = SearchSpace.from_card.__func__  # type: ignore[attr-defined]

    def few(cls: Any, *args: Any, **options: Any) -> SearchSpace:
        found = whole(cls, *args, **options)
        return replace(found, given={**found.given, **_FEWER})

    SearchSpace.from_card = classmethod(few)  # type: ignore[method-assign, assignment]

    @contextlib.contextmanager
    def counting(quiet: bool, console: Any = None) -> Iterator[Counter]:
        yield counter

    postdiff_calib.report.progress.console_progress = counting  # type: ignore[assignment]


def _children() -> Any:
    """The context by which children are made, its server running."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killing_preload"])
    # The server imports what it preloads by its own path, and says nothing where it does not find it.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


class Calibration:
    """One study, on which runs of the same command are started one after another.

    Args:
        folder: of everything: ``study``, ``p.yaml``, ``cache``.
        options: of the command, beside ``OPTIONS``, which they overrule.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.study, self.out = folder, folder / "study", folder / "p.yaml"
        folder.mkdir(parents=True, exist_ok=True)
        self._argv = ["calibrate", *OPTIONS, "--study", str(self.study), "--out", str(self.out), *options]
        self._children = _children()

    def fuse(self) -> Fuse:
        """A fuse for a run."""
        return Fuse(self._children)

    def run(self, moment: Moment | None = None, fuse: Fuse | None = None) -> Ended:
        """Run the command until it ends by itself, at a moment, or when a fuse has burnt down."""
        log = self.folder.parent / f"{self.folder.name}.log"
        log.unlink(missing_ok=True)
        process = self._children.Process(target=child, args=(self._argv, self.folder, moment, self.out, log, fuse))
        process.start()
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise AssertionError(f"it hung, with {moment}")
        said = [log.with_suffix(end).read_text() for end in (".out", ".err")]
        return Ended(process.exitcode, *said, json.loads(log.read_text()) if log.exists() else {})

    def profile(self) -> dict[str, Any]:
        """The profile without its times and its folder."""
        data = yaml.safe_load(self.out.read_text())
        data["evidence"]["study"] = ""
        del data["times"]
        return data

    def files(self) -> list[str]:
        """Everything in the study's folder, and what is beside ``--out``."""
        inside = [str(path.relative_to(self.folder)) for path in self.study.rglob("*")]
        return sorted([*inside, *(path.name for path in self.folder.iterdir())])

    def leftovers(self) -> list[Path]:
        """Files half written, anywhere."""
        return [path for path in self.folder.rglob("*") if path.name.startswith(".")]

    def database(self) -> str:
        """What SQLite says of a copy of the database; ``ok`` where it is intact or not there yet."""
        if not (self.study / "study.db").exists():
            return "ok"
        copy = self.folder.parent / f"{self.folder.name}.copy"
        copy.mkdir(exist_ok=True)
        for path in self.study.glob("study.db*"):
            shutil.copy(path, copy)
        with contextlib.closing(sqlite3.connect(copy / "study.db")) as connection:
            said: str = connection.execute("PRAGMA integrity_check").fetchone()[0]
        shutil.rmtree(copy)
        return said

    def trials(self) -> list[Any]:
        """State, plan, limit, role and outcome of every trial but what depends on the clock."""
        import optuna

        from postdiff_calib.search.backend.database import connect, disconnect

        storage = connect(f"sqlite:///{self.study / 'study.db'}")
        try:
            study = optuna.load_study(study_name="postdiff", storage=storage)
            names = ("plan", "limit", "role")
            return [
                (t.state.name, [t.user_attrs[name] for name in names], t.user_attrs["outcome"]["prompts"], t.value)
                for t in study.get_trials(deepcopy=False)
            ]
        finally:
            disconnect(storage)
