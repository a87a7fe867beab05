"""Many processes from the command line: a leader and its workers on the embedded model, some of them killed."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import postgres
import pytest

from postdiff_calib.cli.main import main
from postdiff_calib.errors import StudyError
from postdiff_calib.jobs.worker import WorkerJob, run_worker
from postdiff_calib.profile import load_profile
from postdiff_calib.search.backend.database import connect, disconnect
from postdiff_calib.search.backend.storage import read_record
from postdiff_calib.study.record import Study, StudyRecord

#: The command as a process; a dead process is noticed after three seconds instead of ninety. Ctrl-C is heard even where
#: the tests themselves run in the background, where shells have it ignored.
COMMAND = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from postdiff_calib.search.backend import database; database.HEARTBEAT = 1; "
    "from postdiff_calib.jobs import devices as d; soon = 'from postdiff_calib.search.backend import database as b; '; "
    "d.COMMAND = (*d.COMMAND[:2], soon + 'b.HEARTBEAT = 1; ' + d.COMMAND[2], *d.COMMAND[3:]); "
    "from postdiff_calib.cli.main import main; main(sys.argv[1:])"
)
TRIALS = 6
CALIBRATE = [
    "calibrate",
    "--budget",
    "60%",
    "--num-prompts",
    "20",
    "--trials",
    str(TRIALS),
    "--device",
    "cpu",
    "--json",
]
PATIENCE = 900


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with postgres.running(tmp_path_factory.mktemp("pg")) as url:
        # the server asks for no password, but whoever gives one must never see it again
        yield url.replace("postgres:@", "postgres:sesame@")


def run(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main(list(argv))
    out = capsys.readouterr()
    return stop.value.code, out.out, out.err


class Processes:
    """Commands started by one test, all ended with it."""

    def __init__(self, folder):
        self.folder, self.all = folder, []

    def start(self, *argv):
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *argv],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "POSTDIFF_CACHE": str(self.folder / "cache")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.all.append(process)
        return process

    def end(self):
        for process in self.all:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def processes(tmp_path):
    found = Processes(tmp_path)
    yield found
    found.end()


def until(found, process):
    """Wait until ``found()`` is true; the process that should bring it about must be alive till then."""
    for _ in range(4 * PATIENCE):
        with contextlib.suppress(StudyError):
            if found():
                return
        assert process.poll() is None, process.communicate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.25)
    raise AssertionError("it never happened")


class Watched:
    """The study as its database has it."""

    def __init__(self, url, name):
        self.storage = connect(url)
        self.study = optuna.load_study(study_name=name, storage=self.storage)

    def trials(self):
        return self.study.get_trials(deepcopy=False)

    def in_hand(self, process):
        """The trial that a process works on, if it does and has its plan."""
        mine = [t for t in self.trials() if t.user_attrs.get("worker", "").endswith(f":{process.pid}")]
        return next((t for t in mine if t.state.name == "RUNNING" and "wanted" in t.user_attrs), None)

    def stop_in_mid_trial(self, process):
        """Freeze a process while it has a trial in hand; returns the trial's number."""
        held = []

        def frozen():
            if self.in_hand(process) is None:
                return False
            process.send_signal(signal.SIGSTOP)
            trial = self.in_hand(process)
            if trial is None:
                process.send_signal(signal.SIGCONT)
                return False
            held.append(trial.number)
            return True

        until(frozen, process)
        return held[0]

    def stop_between_writes(self, process, path):
        """The same where the study is in a SQLite file, which nobody could write if it were frozen in a write."""
        while True:
            number = self.stop_in_mid_trial(process)
            with contextlib.closing(sqlite3.connect(path, timeout=0)) as connection:
                try:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.rollback()
                    return number
                except sqlite3.OperationalError:
                    process.send_signal(signal.SIGCONT)


@pytest.mark.slow
def test_leader_and_workers_share_a_study_and_survive_kills(server, tmp_path, processes):
    common = ["--storage", server, "--name", "shared"]
    leading = [*CALIBRATE, *common, "--study", "study", "--out", "p.yaml"]
    joining = ["worker", *common, "--device", "cpu", "--json"]

    alone = processes.start(*CALIBRATE, "--study", "alone", "--out", "alone.yaml")
    assert alone.wait(PATIENCE) == 0, alone.communicate()

    # The leader makes the study and is killed in mid-trial.
    leader = processes.start(*leading)
    until(lambda: read_record(server, "shared"), leader)
    watched = Watched(server, "shared")
    dead = [watched.stop_in_mid_trial(leader)]
    leader.kill()
    assert leader.wait(PATIENCE) == -signal.SIGKILL

    # Two workers join what is left: one is killed in mid-trial, one is stopped with Ctrl-C.
    killed, stopped = processes.start(*joining), processes.start(*joining)
    dead.append(watched.stop_in_mid_trial(killed))
    killed.kill()
    assert killed.wait(PATIENCE) == -signal.SIGKILL
    given_back = watched.stop_in_mid_trial(stopped)
    stopped.send_signal(signal.SIGINT)
    stopped.send_signal(signal.SIGCONT)
    out, err = stopped.communicate(timeout=PATIENCE)
    assert stopped.returncode == 130, err
    assert json.loads(out)["interrupted"]

    # The same command takes over; another worker joins it and ends by itself.
    leader, worker = processes.start(*leading), processes.start(*joining)
    out, err = leader.communicate(timeout=PATIENCE)
    assert leader.returncode == 0, err
    worker_out, err = worker.communicate(timeout=PATIENCE)
    assert worker.returncode == 0, err
    report = json.loads(worker_out)
    assert report["study"] == "shared"
    assert report["latency_of"]

    # Every trial is accounted for: done, or cut short and done by its successor.
    trials = watched.trials()
    disconnect(watched.storage)
    asked = Study.load(tmp_path / "alone").record.trials
    assert [t.state.name for t in trials].count("COMPLETE") == asked == report_trials(trials)
    own = [t for t in trials if t.state.name == "COMPLETE" and t.user_attrs["limit"] == t.user_attrs["search"]]
    assert sum(t.user_attrs["arm"] != "step_reduction" for t in own) == TRIALS
    assert {t.state.name for t in trials} <= {"COMPLETE", "FAIL", "PRUNED"}
    for number in (*dead, given_back):
        assert trials[number].state.name == "FAIL"
        successor = next(t for t in trials if number in t.system_attrs.get("retry_history", []))
        assert successor.user_attrs["plan"] == trials[number].user_attrs["plan"]

    # The profile is written, and what was shared is what one process makes: the same scores for the same plans.
    assert json.loads(out)["profile"] == "p.yaml"
    shared, single = Study.load(tmp_path / "study"), Study.load(tmp_path / "alone")
    profile, other = load_profile(tmp_path / "p.yaml"), load_profile(tmp_path / "alone.yaml")
    assert profile.expected.confirmed
    both = 0
    for mine, theirs in zip(shared.scored(), single.scored(), strict=True):
        assert mine.baseline.n >= max(plan.n for plan in mine.plans)
        plans = {p.plan.plan_id: p.scores for p in [theirs.baseline, *theirs.plans]}
        for plan in [mine.baseline, *mine.plans]:
            if plan.plan.plan_id in plans:
                difference = plan.scores - plans[plan.plan.plan_id]
                both += int(np.isfinite(difference).sum())
                # batches are put together differently, which moves the last digits only
                assert np.nanmax(np.abs(difference), initial=0) < 0.05
    assert both > 30
    # Which plan wins may differ: workers propose from what others have scored by then. Both obey the budget.
    assert {profile.expected.cost.macs <= profile.budget.limit, other.expected.cost.macs <= other.budget.limit} == {
        True
    }

    # Nowhere is a password kept or shown.
    files = [path for path in tmp_path.rglob("*") if path.is_file() and "cache" not in path.parts]
    assert tmp_path / "study" / "scores.jsonl" in files
    assert not [path for path in files if b"sesame" in path.read_bytes()]
    assert "sesame" not in out + worker_out + err


@pytest.mark.slow
def test_a_calibration_starts_its_workers_names_one_that_dies_and_ends_all(tmp_path, processes):
    command = [*CALIBRATE, "--devices", "cpu,cpu,cpu", "--study", "study", "--out", "p.yaml"]
    command = [word for i, word in enumerate(command) if word != "--device" and command[i - 1] != "--device"]
    command[command.index("20")] = "10"
    url = f"sqlite:///{tmp_path / 'study' / 'workers.db'}"

    def workers_of(watched, leader):
        """Process ids of the workers that have a trial in hand."""
        running = [t for t in watched.trials() if t.state.name == "RUNNING" and "wanted" in t.user_attrs]
        found = {int(t.user_attrs["worker"].rpartition(":")[2]) for t in running if "worker" in t.user_attrs}
        return found - {leader.pid}

    def started_by(leader):
        """Process ids of the leader's workers, with a trial in hand or not."""
        children = Path(f"/proc/{leader.pid}/task/{leader.pid}/children").read_text().split()
        return {int(pid) for pid in children if b"worker" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")}

    # Ctrl-C in the leader ends its workers too; it stands still until they are at work, however long they take to load
    leader = processes.start(*command)
    until(lambda: read_record(url, "postdiff"), leader)
    watched = Watched(url, "postdiff")
    watched.stop_between_writes(leader, tmp_path / "study" / "workers.db")
    until(lambda: workers_of(watched, leader), leader)
    mine = workers_of(watched, leader)
    leader.send_signal(signal.SIGINT)
    leader.send_signal(signal.SIGCONT)
    _, err = leader.communicate(timeout=PATIENCE)
    assert leader.returncode == 130, err
    assert "the same command goes on" in err
    for pid in mine:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    # the same command goes on; a worker that is killed is named
    leader = processes.start(*command)
    until(lambda: started_by(leader), leader)
    os.kill(started_by(leader).pop(), signal.SIGKILL)
    _, err = leader.communicate(timeout=PATIENCE)
    assert leader.returncode == 0, err
    assert "the worker on cpu died (signal 9); the others go on" in err
    states = [t.state.name for t in watched.trials()]
    disconnect(watched.storage)
    study = Study.load(tmp_path / "study")
    assert states.count("COMPLETE") == study.record.trials
    assert set(states) <= {"COMPLETE", "FAIL", "PRUNED"}
    profile = load_profile(tmp_path / "p.yaml")
    assert profile.expected.confirmed
    assert profile.expected.cost.macs <= profile.budget.limit
    assert (tmp_path / "study" / "scores.jsonl").exists()


def report_trials(trials):
    """How many different (plan, role) were completed: none was done twice."""
    return len({(t.number, t.user_attrs["plan"]) for t in trials if t.state.name == "COMPLETE"})


def test_a_worker_before_its_leader_is_one_line(capsys, tmp_path):
    code, out, err = run(capsys, "worker", "--storage", f"sqlite:///{tmp_path / 'none.db'}", "--quiet")
    assert code == 2
    assert out == ""
    assert "there is none; start it with postdiff calibrate --storage" in err
    assert err.count("\n") == 1


def test_a_name_without_a_storage_is_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "calibrate", "--name", "mine", "--quiet")
    assert code == 2
    assert "add --storage" in err


@pytest.fixture(scope="module")
def led(tmp_path_factory):
    """A study in a shared SQLite file, made by one calibration."""
    from postdiff_calib.jobs.calibrate import run_calibrate
    from postdiff_calib.jobs.job import CalibrateJob

    folder = tmp_path_factory.mktemp("led")
    url = f"sqlite:///{folder / 'shared.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSTDIFF_CACHE", str(folder / "cache"))
        job = CalibrateJob(num_prompts=10, trials=3, out=folder / "p.yaml", study=folder / "study", storage=url)
        run_calibrate(job)
    return folder, url


@pytest.mark.slow
def test_a_worker_learns_all_from_the_record_and_finds_nothing_left(led, monkeypatch):
    folder, url = led
    monkeypatch.setenv("POSTDIFF_CACHE", str(folder / "cache"))
    result = run_worker(WorkerJob(url, device="cpu"))
    assert (result.trials, result.images, result.interrupted) == (0, 0, False)
    assert result.study_trials == Study.load(folder / "study").record.trials
    assert result.latency_of
    assert result.storage == url
    record = StudyRecord.from_dict(read_record(url, "postdiff"))
    assert record.calibration == Study.load(folder / "study").record.calibration


@pytest.mark.slow
def test_a_worker_on_another_footing_is_refused_by_what_differs(led):
    _, url = led
    with pytest.raises(StudyError, match="other scores: dtype was 'float32', now 'bfloat16'"):
        run_worker(WorkerJob(url, device="cpu", dtype="bfloat16"))
    with pytest.raises(StudyError, match="there is none"):
        run_worker(WorkerJob(url, study_name="another", device="cpu"))


@pytest.mark.slow
def test_a_folder_of_another_study_is_refused(led, monkeypatch):
    from postdiff_calib.jobs.calibrate import run_calibrate
    from postdiff_calib.jobs.job import CalibrateJob

    folder, _ = led
    monkeypatch.setenv("POSTDIFF_CACHE", str(folder / "cache"))
    job = CalibrateJob(num_prompts=10, trials=3, seed=1, out=folder / "q.yaml", study=folder / "study")
    with pytest.raises(StudyError, match="seed was 0, now 1"):
        run_calibrate(job)
    assert not (folder / "study" / "study.db").exists()
    assert Path(folder / "study" / "held_out.jsonl").exists()
