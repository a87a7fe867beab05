"""Several worker processes on one real PostgreSQL server, one of them killed in the middle of a trial."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import optuna
import pytest
from synthetic_surface import SMALL, Surface, limit, price

from postdiff_calib.errors import StudyError
from postdiff_calib.search import select
from postdiff_calib.search.storage import connect, disconnect, shown
from postdiff_calib.search.strategy import SearchSettings
from postdiff_calib.search.study import Problem, Search, run_search

N = 40
HERE = Path(__file__).parent
FINGERPRINT = {"model": "made up"}
SETTINGS = SearchSettings(n_trials=24, finalists=6)


def problem(surface=None):
    return Problem(SMALL, price, limit(0.5, SMALL), surface or Surface(N, space=SMALL, private=0.0), N)


@pytest.fixture(autouse=True)
def _connections_of_ended_threads():
    """Optuna's heartbeat threads leave connections to the garbage collector; collect them where they are expected."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("psycopg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pgserver = pytest.importorskip("pgserver")
        database = pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="delete")
    yield database.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    database.cleanup()


def lead(folder, url, name):
    search = Search(problem(), SETTINGS, folder, FINGERPRINT, storage=url, study_name=name, heartbeat=1)
    search.prepare()
    return search


def worker(folder, url, name, kill_after=None, delay=0.02):
    script = f"""
        import os, signal, sys, threading
        sys.path.insert(0, {str(HERE)!r})
        from pathlib import Path
        from test_workers import FINGERPRINT, N, SETTINGS, SMALL, Surface, problem, run_search

        class Slow(Surface):
            def scores(self, knobs, indices):
                if len(self.calls) == {kill_after!r}:
                    os.kill(os.getpid(), signal.SIGKILL)
                threading.Event().wait({delay})
                return super().scores(knobs, indices)

        surface = Slow(N, space=SMALL, private=0.0)
        run_search(problem(surface), SETTINGS, Path({str(folder)!r}), FINGERPRINT, storage={url!r},
                   study_name={name!r}, join=True, heartbeat=1)
        print(surface.images)
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def finished(processes):
    try:
        yield [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def winner(result):
    allows = limit(0.5, SMALL).allows
    return select.best(result.plans.values(), result.baseline, allows=allows)[0]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_workers_share_trials_and_survive_a_kill(server, tmp_path, count):
    name = f"study{count}"
    search = lead(tmp_path, server, name)
    processes = [worker(tmp_path, server, name) for _ in range(count - 1)]
    processes.append(worker(tmp_path, server, name, kill_after=3))
    with finished(processes) as outputs:
        assert processes[-1].returncode == -signal.SIGKILL, outputs[-1]
        for process, (_, errors) in zip(processes[:-1], outputs[:-1], strict=True):
            assert process.returncode == 0, errors
    trials = search.study.get_trials(deepcopy=False)
    states = [t.state.name for t in trials]
    assert states.count("COMPLETE") == SETTINGS.n_trials
    # a worker that was too late to begin a trial steps back from it
    assert set(states) <= {"COMPLETE", "FAIL", "PRUNED"}
    dead = [t for t in trials if t.state.name == "FAIL"]
    retried = [t for t in trials if t.system_attrs.get("failed_trial") is not None]
    assert len(dead) == len(retried) == 1
    assert retried[0].user_attrs["plan"] == dead[0].user_attrs["plan"]
    result = search.result()
    assert result.baseline.complete
    # the three blocks that the killed worker had scored were kept: nobody made them again, save for the baseline's
    made = sum(int(out) for out, _ in outputs[:-1])
    kept = sum(plan.n for plan in result.plans.values())
    assert made < kept + (count - 1) * N
    search.close()
    alone = run_search(problem(), SETTINGS, tmp_path / "alone", FINGERPRINT)
    together = select.compare(winner(result).scores, winner(alone).scores)
    assert winner(result).knobs == winner(alone).knobs or together.low <= 0 <= together.high


@pytest.mark.slow
def test_workers_never_start_from_the_same_draw(server, tmp_path):
    search = lead(tmp_path, server, "starts")
    processes = [worker(tmp_path, server, "starts", delay=0.1) for _ in range(2)]
    with finished(processes):
        pass
    explored = [
        t.user_attrs["plan"]
        for t in search.study.get_trials(deepcopy=False)
        if t.user_attrs["role"] == "explore" and not t.user_attrs.get("enqueued")
    ]
    search.close()
    assert len(set(explored[:4])) == 4


@pytest.mark.slow
def test_joining_needs_a_study_with_the_same_fingerprint(server, tmp_path):
    with pytest.raises(StudyError, match="there is none; start it with postdiff calibrate"):
        run_search(problem(), SETTINGS, tmp_path, FINGERPRINT, storage=server, study_name="none", join=True)
    lead(tmp_path, server, "other").close()
    with pytest.raises(StudyError, match="model was 'made up', now 'another'"):
        run_search(problem(), SETTINGS, tmp_path, {"model": "another"}, storage=server, study_name="other", join=True)


def test_an_unreachable_server_is_one_line_without_the_password(tmp_path):
    pytest.importorskip("psycopg")
    url = "postgresql+psycopg://user:secret@127.0.0.1:1/postdiff"
    with pytest.raises(StudyError) as caught:
        run_search(problem(), SETTINGS, tmp_path, FINGERPRINT, storage=url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert shown("not a url") == "the given URL"


def test_a_shared_sqlite_file_keeps_scores_in_the_study(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    few = SearchSettings(n_trials=5)
    surface = Surface(N, space=SMALL)
    result = run_search(problem(surface), few, tmp_path, FINGERPRINT, storage=url, heartbeat=1)
    assert result.baseline.complete
    assert not (tmp_path / "scores.jsonl").exists()
    again = run_search(problem(surface), few, tmp_path, FINGERPRINT, storage=url, heartbeat=1)
    assert again.images_made == 0
    assert {c: p.n for c, p in again.plans.items()} == {c: p.n for c, p in result.plans.items()}
    storage = connect(url)
    assert optuna.load_study(study_name="postdiff", storage=storage).user_attrs["fingerprint"]["num_prompts"] == N
    disconnect(storage)
