"""Workers that a calibration starts itself: one that dies is named, all end with it, and nothing of theirs is lost."""

import contextlib
import signal
import subprocess
import sys

import pytest
from synthetic_surface import SMALL, Surface, limit, price

from postdiff_calib.errors import NoStudyYetError, StudyError, UsageError
from postdiff_calib.jobs import devices
from postdiff_calib.jobs.devices import LocalWorkers, workers_of
from postdiff_calib.jobs.job import CalibrateJob, parse_devices
from postdiff_calib.jobs.worker import POLL, awaited
from postdiff_calib.search.backend.run import Problem, StudyPlace, run_search
from postdiff_calib.search.settings import SearchSettings

#: A worker that does as its device says; what it is given stands in its arguments.
STAND_IN = """
import signal, sys
device = sys.argv[sys.argv.index("--device") + 1]
signal.signal(signal.SIGTERM, signal.SIG_IGN if device == "deaf" else lambda *_: sys.exit(143))
if device == "broken":
    print("loading", file=sys.stderr)
    sys.exit("postdiff: model 'x': it is not there")
if device == "killed":
    import os
    os.kill(os.getpid(), signal.SIGKILL)
if device in ("waiting", "deaf"):
    print("ready", flush=True)
    while True:
        signal.pause()
"""


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(devices, "COMMAND", (sys.executable, "-c", STAND_IN))
    monkeypatch.setattr(devices, "LAST_WORD", 1.0)


def workers(*names, storage="sqlite:///x.db"):
    notes = []
    return LocalWorkers(names, storage, "postdiff", notes.append), notes


def test_workers_that_die_are_named_and_the_others_are_not(stand_in):
    made, notes = workers("broken", "done", "killed")
    with made:
        made.start()
    assert sorted(notes) == sorted(made.died)
    assert sorted(notes) == [
        "the worker on broken died (exit code 1: model 'x': it is not there); the others go on",
        "the worker on killed died (signal 9); the others go on",
    ]


def test_all_end_with_the_calibration_also_one_that_does_not_hear(stand_in, monkeypatch):
    made, notes = workers("waiting", "deaf")
    seen = []
    popen = subprocess.Popen

    def heard(command, **options):
        process = popen(command, **{**options, "stdout": subprocess.PIPE})
        assert process.stdout.readline() == "ready\n"
        seen.append(process)
        return process

    monkeypatch.setattr(subprocess, "Popen", heard)
    with contextlib.suppress(KeyboardInterrupt), made:
        made.start()
        raise KeyboardInterrupt
    assert [process.returncode for process in seen] == [143, -signal.SIGKILL]
    assert notes == made.died == []  # they did as they were told


def test_without_further_devices_nothing_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    for job in (CalibrateJob(), CalibrateJob(devices=("cpu",)), CalibrateJob(storage="sqlite:///x.db")):
        with workers_of(job, print) as made:
            made.start()
        assert made.storage == job.storage


def test_several_devices_share_a_database_in_the_study(tmp_path):
    job = CalibrateJob(study=tmp_path / "s", devices=("cuda:0", "cuda:1", "cuda:1"))
    assert job.shared_storage == f"sqlite:///{tmp_path / 's' / 'workers.db'}"
    assert list(workers_of(job, print).devices) == ["cuda:1", "cuda:1"]
    given = CalibrateJob(devices=("cpu", "cpu"), storage="postgresql://db/x", study_name="mine")
    assert (workers_of(given, print).storage, workers_of(given, print).name) == ("postgresql://db/x", "mine")
    scored = CalibrateJob(devices=("cpu", "cpu"), scorer="command: x y", also=("a:b", "c:d"))
    assert workers_of(scored, print).options == ["--scorer", "command: x y", "--also", "a:b", "--also", "c:d"]


def test_devices_are_named_with_commas():
    assert parse_devices("cuda:0, cuda:1") == ("cuda:0", "cuda:1")
    with pytest.raises(UsageError, match="devices have commas between them"):
        parse_devices("cuda:0,,cuda:1")


def test_scores_of_one_process_are_shared_with_its_workers(tmp_path):
    few, n = SearchSettings(n_trials=5), 40
    surface = Surface(n, space=SMALL)

    def search(storage=None, **options):
        problem = Problem(SMALL, price, limit(0.5, SMALL), surface, n)
        return run_search(problem, few, StudyPlace(tmp_path, storage, heartbeat=1, **options), {"model": "made up"})

    alone = search()
    described = []
    url = f"sqlite:///{tmp_path / 'workers.db'}"
    shared = search(storage=url, described=lambda: described.append((tmp_path / "workers.db").exists()))
    assert described == [True]
    assert all(shared.plans[plan].n >= scores.n for plan, scores in alone.plans.items())
    # and one process goes on with what they have made
    again = search()
    assert all(again.plans[plan].n >= scores.n for plan, scores in shared.plans.items())
    made = [(knobs, i) for knobs, indices in surface.calls for i in indices]
    assert len(made) == len(set(made))


class Clock:
    def __init__(self):
        self.now = 0.0

    def pause(self, seconds):
        assert 0 <= seconds <= POLL
        self.now += max(seconds, 0.001)


def test_a_worker_waits_for_its_leader_so_long_and_no_longer():
    clock, looks = Clock(), []

    def read(after):
        looks.append(clock.now)
        if clock.now < after:
            raise NoStudyYetError("study 'x'", "there is none", "start it")
        return {"a": "record"}

    assert awaited(lambda: read(7.0), 10.0, lambda: clock.now, clock.pause) == {"a": "record"}
    assert looks == [0.0, 2.0, 4.0, 6.0, 8.0]
    clock.now = 0.0
    with pytest.raises(NoStudyYetError, match="there is none after 5 s; start it"):
        awaited(lambda: read(7.0), 5.0, lambda: clock.now, clock.pause)
    assert clock.now == pytest.approx(5.0)
    # without the option it looks once; another fault is not waited for
    clock.now = 0.0
    with pytest.raises(NoStudyYetError, match="there is none; start it"):
        awaited(lambda: read(7.0), 0.0, lambda: clock.now, clock.pause)

    def damaged():
        raise StudyError("study 'x'", "a row of it is damaged", "start anew")

    with pytest.raises(StudyError, match="damaged"):
        awaited(damaged, 10.0, lambda: clock.now, clock.pause)
    assert clock.now == 0.0
