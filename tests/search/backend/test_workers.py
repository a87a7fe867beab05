"""Several worker processes on one real PostgreSQL server, one of them killed in the middle of a trial."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import optuna
import postgres
import pytest
from optuna.trial import TrialState
from synthetic_surface import SMALL, Surface, limit, loss, price

from postdiff_calib.errors import StudyError
from postdiff_calib.search.backend.retry import give_back
from postdiff_calib.search.backend.run import Problem, Search, StudyPlace, run_search
from postdiff_calib.search.backend.storage import connect, disconnect, read_record, shown
from postdiff_calib.search.settings import SearchSettings

N = 40
HERE = Path(__file__).parent
FINGERPRINT = {"model": "made up"}
SETTINGS = SearchSettings(n_trials=40)
#: Trials of a search within half the cost beside ``n_trials``: two plans of the step-reduction arm.
FEWER = 2
#: Little noise, so that every search should find the one best plan, though others are only slightly worse.
SURFACE = {"space": SMALL, "private": 0.0, "noise": 0.02}


def problem(surface=None):
    return Problem(SMALL, price, limit(0.5, SMALL), surface or Surface(N, **SURFACE), N)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with postgres.running(tmp_path_factory.mktemp("pg")) as url:
        yield url


def lead(folder, url, name):
    search = Search(problem(), SETTINGS, StudyPlace(folder, storage=url, study_name=name, heartbeat=1), FINGERPRINT)
    search.prepare()
    return search


def worker(folder, url, name, kill_after=None, rounds=40_000):
    script = f"""
        import hashlib, os, signal, sys
        sys.path[:0] = [{str(HERE)!r}, {str(HERE.parents[1])!r}]
        from pathlib import Path
        from test_workers import FINGERPRINT, N, SETTINGS, SURFACE, Surface, problem, run_search
        from postdiff_calib.search.backend.run import StudyPlace

        class Slow(Surface):
            def scores(self, knobs, indices):
                if len(self.calls) == {kill_after!r}:
                    os.kill(os.getpid(), signal.SIGKILL)
                hashlib.pbkdf2_hmac("sha256", b"takes", b"time", {rounds})
                return super().scores(knobs, indices)

        surface = Slow(N, **SURFACE)
        place = StudyPlace(Path({str(folder)!r}), {url!r}, {name!r}, join=True, heartbeat=1)
        run_search(problem(surface), SETTINGS, place, FINGERPRINT)
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


def regret(result):
    """True loss of the best finalist over the least there is."""
    allows = limit(0.5, SMALL).allows
    least = min(loss(c, 0.0) for c in SMALL.candidates(price) if allows(c.cost))
    return min(loss(f.candidate, 0.0) for f in result.searched[0].finalists) - least


@pytest.mark.slow
@pytest.mark.parametrize(("count", "kind"), [(2, "postgresql"), (4, "postgresql"), (6, "sqlite")])
def test_workers_share_trials_and_survive_a_kill(request, tmp_path, count, kind):
    url = request.getfixturevalue("server") if kind == "postgresql" else f"sqlite:///{tmp_path / 'shared.db'}"
    name, rounds = f"study{count}", 40_000 if kind == "postgresql" else 1  # a file under all the load there can be
    search = lead(tmp_path, url, name)
    processes = [worker(tmp_path, url, name, rounds=rounds) for _ in range(count - 1)]
    processes.append(worker(tmp_path, url, name, kill_after=3, rounds=rounds))
    with finished(processes) as outputs:
        assert processes[-1].returncode == -signal.SIGKILL, outputs[-1]
        for process, (_, errors) in zip(processes[:-1], outputs[:-1], strict=True):
            assert process.returncode == 0, errors
    trials = search.study.get_trials(deepcopy=False)
    states = [t.state.name for t in trials]
    assert states.count("COMPLETE") == SETTINGS.n_trials + FEWER
    # a worker that was too late to begin a trial steps back from it
    assert set(states) <= {"COMPLETE", "FAIL", "PRUNED"}
    dead = [t for t in trials if t.state.name == "FAIL"]
    # two who see it at the same moment may both queue its successor; the second of these is stepped back from
    retried = [t for t in trials if t.system_attrs.get("failed_trial") is not None and t.state.name != "PRUNED"]
    assert len(dead) == len(retried) == 1
    assert retried[0].user_attrs["plan"] == dead[0].user_attrs["plan"]
    result = search.result()
    assert result.baseline.n >= max(plan.n for plan in result.plans.values())
    # the three blocks that the killed worker had scored were kept: nobody made them again, save for the baseline's
    made = sum(int(out) for out, _ in outputs[:-1])
    kept = sum(plan.n for plan in result.plans.values())
    assert made < kept + (count - 1) * N
    search.close()
    alone = run_search(problem(), SETTINGS, StudyPlace(tmp_path / "alone"), FINGERPRINT)
    assert alone.trials == result.trials
    assert max(regret(result), regret(alone)) < 0.1


@pytest.mark.slow
def test_workers_never_start_from_the_same_draw(server, tmp_path):
    search = lead(tmp_path, server, "starts")
    processes = [worker(tmp_path, server, "starts", rounds=200_000) for _ in range(2)]
    with finished(processes):
        pass
    explored = [
        t.user_attrs["plan"]
        for t in search.study.get_trials(deepcopy=False)
        if t.user_attrs.get("role") == "explore" and not t.user_attrs.get("enqueued")
    ]
    search.close()
    assert len(set(explored[:4])) == 4


@pytest.mark.slow
def test_joining_needs_a_study_with_the_same_fingerprint(server, tmp_path):
    with pytest.raises(StudyError, match="there is none; start it with postdiff calibrate"):
        run_search(problem(), SETTINGS, StudyPlace(tmp_path, storage=server, study_name="none", join=True), FINGERPRINT)
    lead(tmp_path, server, "other").close()
    with pytest.raises(StudyError, match="model was 'made up', now 'another'"):
        run_search(
            problem(),
            SETTINGS,
            StudyPlace(tmp_path, storage=server, study_name="other", join=True),
            {"model": "another"},
        )


def trials_of(url, name="postdiff"):
    storage = connect(url)
    try:
        return optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    finally:
        disconnect(storage)


class Disturbed(Surface):
    """Calls ``disturb`` once, before block number ``block``."""

    def __init__(self, block, disturb):
        super().__init__(N, **SURFACE)
        self.block, self.disturb = block, disturb

    def scores(self, knobs, indices):
        if len(self.calls) == self.block and self.disturb is not None:
            disturb, self.disturb = self.disturb, None
            disturb()
        return super().scores(knobs, indices)


def end_the_trial_in_hand(url, queued):
    """As another process would: it counts as failed, and its successor is queued so many times."""
    storage = connect(url, 1)
    study = optuna.load_study(study_name="postdiff", storage=storage)
    trial = next(t for t in study.get_trials() if t.state == TrialState.RUNNING)
    study.tell(trial.number, state=TrialState.FAIL)
    for _ in range(queued):
        give_back(study, trial)
    disconnect(storage)


def test_ctrl_c_gives_the_trial_back_with_its_blocks(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"

    def interrupt():
        raise KeyboardInterrupt

    few = SearchSettings(n_trials=6, explore_prompts=30)
    search = Search(problem(), few, StudyPlace(tmp_path, storage=url, heartbeat=1), FINGERPRINT)
    search.prepare()
    surface = Disturbed(2, interrupt)
    stopped = run_search(problem(surface), few, StudyPlace(tmp_path, storage=url, join=True, heartbeat=1), FINGERPRINT)
    assert stopped.interrupted
    assert stopped.own_trials == 0
    given_back = [t for t in search.queue.trials() if t.system_attrs.get("failed_trial") == 0]
    assert [t.state.name for t in given_back] == ["WAITING"]
    assert given_back[0].user_attrs["plan"] == search.reference.plan_id
    other = Surface(N, **SURFACE)
    rest = run_search(problem(other), few, StudyPlace(tmp_path, storage=url, join=True, heartbeat=1), FINGERPRINT)
    assert rest.own_trials == rest.trials == 6 + FEWER
    # the two blocks of the baseline that the stopped worker had scored were not made again
    assert sum(len(indices) for knobs, indices in other.calls if knobs == SMALL.baseline) == rest.baseline.n - 20
    search.close()


def test_a_worker_that_lost_its_trial_while_asleep_goes_on_with_the_next(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    few = SearchSettings(n_trials=5)

    surface = Disturbed(6, lambda: end_the_trial_in_hand(url, queued=1))
    result = run_search(problem(surface), few, StudyPlace(tmp_path, storage=url, heartbeat=1), FINGERPRINT)
    assert not result.interrupted
    assert result.trials == result.own_trials == 5 + FEWER
    assert [t.state.name for t in trials_of(url)].count("FAIL") == 1
    assert surface.images == sum(plan.n for plan in result.plans.values())


@pytest.mark.parametrize("queued_by", [0, 1, 2])
def test_a_trial_cut_short_is_taken_up_once_by_however_many_it_was_queued(tmp_path, queued_by):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    few = SearchSettings(n_trials=5)

    surface = Disturbed(6, lambda: end_the_trial_in_hand(url, queued_by))
    result = run_search(problem(surface), few, StudyPlace(tmp_path, storage=url, heartbeat=1), FINGERPRINT)
    assert result.trials == result.own_trials == 5 + FEWER
    trials = trials_of(url)
    (dead,) = (t for t in trials if t.state == TrialState.FAIL)
    heirs = [t for t in trials if dead.number in t.system_attrs.get("retry_history", [])]
    assert [t.state.name for t in heirs] == ["COMPLETE", "PRUNED"][: max(1, queued_by)]
    assert {t.user_attrs["plan"] for t in heirs} == {dead.user_attrs["plan"]}
    assert surface.images == sum(plan.n for plan in result.plans.values())


@pytest.fixture
def frail(tmp_path_factory):
    with postgres.server(tmp_path_factory.mktemp("frail")) as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["while a block is made", "once a block is stored"])
def test_a_server_that_goes_away_ends_the_search_in_one_line_and_costs_at_most_a_block(frail, tmp_path, moment):
    few = SearchSettings(n_trials=6)
    lost = few.block if moment == "while a block is made" else 0
    surface = Disturbed(5, frail.crash if lost else None)

    def watch(progress):
        if not lost and progress.images_made == 5 * few.block:
            frail.crash()

    with pytest.raises(StudyError, match="give the same command again") as caught:
        run_search(
            problem(surface), few, StudyPlace(tmp_path, storage=frail.url, heartbeat=1), FINGERPRINT, progress=watch
        )
    assert "\n" not in str(caught.value)
    frail.come_back()
    again = Surface(N, **SURFACE)
    result = run_search(problem(again), few, StudyPlace(tmp_path, storage=frail.url, heartbeat=1), FINGERPRINT)
    assert result.trials == 6 + FEWER
    assert surface.images + again.images == sum(plan.n for plan in result.plans.values()) + lost


@pytest.mark.slow
def test_a_server_that_restarts_while_images_are_made_is_not_noticed(frail, tmp_path):
    def restart():
        frail.crash()
        frail.come_back()

    few = SearchSettings(n_trials=6)
    surface = Disturbed(5, restart)
    result = run_search(problem(surface), few, StudyPlace(tmp_path, storage=frail.url, heartbeat=1), FINGERPRINT)
    assert result.trials == 6 + FEWER
    assert surface.images == sum(plan.n for plan in result.plans.values())


def test_a_trial_whose_worker_died_before_its_first_sign_of_life_is_not_waited_for(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    few = SearchSettings(n_trials=4)
    search = Search(problem(), few, StudyPlace(tmp_path, storage=url, heartbeat=1), FINGERPRINT)
    search.prepare()
    with pytest.warns(UserWarning, match="Heartbeat"):
        lost = search.study.ask()
    search.close()
    result = run_search(problem(), few, StudyPlace(tmp_path, storage=url, join=True, heartbeat=1), FINGERPRINT)
    assert result.trials == 4 + FEWER
    assert trials_of(url)[lost.number].state == TrialState.FAIL


@pytest.mark.slow
def test_processes_of_one_host_share_a_sqlite_file(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    search = lead(tmp_path, url, "lite")
    processes = [worker(tmp_path, url, "lite") for _ in range(3)]
    with finished(processes) as outputs:
        for process, (_, errors) in zip(processes, outputs, strict=True):
            assert process.returncode == 0, errors
    states = [t.state.name for t in search.queue.trials()]
    assert states.count("COMPLETE") == SETTINGS.n_trials + FEWER
    assert set(states) <= {"COMPLETE", "PRUNED"}
    search.close()


@pytest.mark.slow
def test_further_budgets_are_searched_with_the_workers(server, tmp_path):
    few = SearchSettings(n_trials=6, further_trials=3)
    further = (limit(0.35, SMALL), limit(0.8, SMALL))
    wide = Problem(SMALL, price, limit(0.5, SMALL), Surface(N, **SURFACE), N, further=further)
    search = Search(wide, few, StudyPlace(tmp_path, storage=server, study_name="wide", heartbeat=1), FINGERPRINT)
    result = search.run()
    own = [t for t in search.queue.trials() if not t.user_attrs.get("enqueued")]
    at = [sum(t.user_attrs["limit"][2] == step.value for t in own) for step in further]
    search.close()
    assert at == [3, 3]
    assert all(t.state == TrialState.COMPLETE for t in own)
    assert len(result.searched) == 3
    joined = run_search(
        wide, few, StudyPlace(tmp_path, storage=server, study_name="wide", join=True, heartbeat=1), FINGERPRINT
    )
    assert joined.own_trials == joined.images_made == 0
    assert joined.searched == ()
    assert joined.plans.keys() == result.plans.keys()


def test_joining_makes_no_database(tmp_path):
    url = f"sqlite:///{tmp_path / 'none.db'}"
    with pytest.raises(StudyError, match="there is none; start it with postdiff calibrate --storage"):
        read_record(url, "postdiff")
    with pytest.raises(StudyError, match="there is none"):
        run_search(problem(), SETTINGS, StudyPlace(tmp_path / "folder", storage=url, join=True), FINGERPRINT)
    assert list(tmp_path.iterdir()) == []


def test_the_record_is_there_once_the_first_trials_are_queued(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    search = Search(
        problem(), SETTINGS, StudyPlace(tmp_path, storage=url, heartbeat=1, record={"job": {"seed": 1}}), FINGERPRINT
    )
    with pytest.raises(StudyError, match="leader has not described it yet"):
        read_record(url, "postdiff")
    search.prepare()
    assert read_record(url, "postdiff") == {"job": {"seed": 1}}
    search.close()


def test_fresh_drops_a_shared_studys_scores(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    few = SearchSettings(n_trials=3)
    first = run_search(problem(), few, StudyPlace(tmp_path, storage=url, heartbeat=1), FINGERPRINT)
    surface = Surface(N, **SURFACE)
    other = {"model": "another"}
    with pytest.raises(StudyError, match=r"another name \(--name\)"):
        run_search(problem(surface), few, StudyPlace(tmp_path, storage=url, heartbeat=1), other)
    again = run_search(problem(surface), few, StudyPlace(tmp_path, storage=url, heartbeat=1, fresh=True), other)
    assert again.images_made == surface.images == first.images_made


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("postgresql://u:secret@127.0.0.1:1/db", "postgresql://u:***@127.0.0.1:1/db"),
        ("postgresql://127.0.0.1:1/db?user=u&password=secret", "postgresql://127.0.0.1:1/db?user=u&password=***"),
        ("postgresql://u:secret@host:port/db", "the given URL"),
        ("not a url: secret", "the given URL"),
    ],
)
def test_passwords_are_not_shown(tmp_path, url, seen):
    pytest.importorskip("psycopg")
    assert shown(url) == seen
    with pytest.raises(StudyError) as caught:
        run_search(problem(), SETTINGS, StudyPlace(tmp_path, storage=url), FINGERPRINT)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unreachable_server_is_one_line_without_the_password(tmp_path):
    pytest.importorskip("psycopg")
    url = "postgresql+psycopg://user:secret@127.0.0.1:1/postdiff"
    with pytest.raises(StudyError) as caught:
        run_search(problem(), SETTINGS, StudyPlace(tmp_path, storage=url), FINGERPRINT)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert shown("not a url") == "the given URL"


def test_a_shared_sqlite_file_keeps_scores_in_the_study(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    few = SearchSettings(n_trials=5)
    surface = Surface(N, space=SMALL)
    result = run_search(problem(surface), few, StudyPlace(tmp_path, storage=url, heartbeat=1), FINGERPRINT)
    assert result.baseline.n >= max(plan.n for plan in result.plans.values())
    kept = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert {b["plan"]: len(b["prompts"]) for b in kept} == {c: p.n for c, p in result.plans.items()}
    again = run_search(problem(surface), few, StudyPlace(tmp_path, storage=url, heartbeat=1), FINGERPRINT)
    assert again.images_made == 0
    assert {c: p.n for c, p in again.plans.items()} == {c: p.n for c, p in result.plans.items()}
    storage = connect(url)
    assert optuna.load_study(study_name="postdiff", storage=storage).user_attrs["fingerprint"]["num_prompts"] == N
    disconnect(storage)
