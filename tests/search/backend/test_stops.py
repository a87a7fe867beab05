"""A search that is stopped at any moment ends, once resumed, as one that never was: same plans, same trials."""

import shutil
import sqlite3
from contextlib import closing, contextmanager, suppress

import numpy as np
import optuna
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine
from synthetic_surface import SMALL, Surface, limit, price

from postdiff_calib.scores.names import SCORES
from postdiff_calib.search.backend.run import Problem, StudyPlace, run_search
from postdiff_calib.search.backend.storage import refuse_other_settings
from postdiff_calib.search.strategy import SearchSettings

N = 40
SETTINGS = SearchSettings(n_trials=6, further_trials=2)
FURTHER = (limit(0.35, SMALL), limit(0.8, SMALL))


class Killed(BaseException):
    """Stands for SIGKILL: nobody handles it, and what was not stored at that moment is lost.

    Where it strikes inside Optuna's own handler, that one fails with an ``UnboundLocalError``.
    """


def search(folder, **more):
    problem = Problem(SMALL, price, limit(0.5, SMALL), Surface(N, space=SMALL), N, further=FURTHER)
    return run_search(problem, SETTINGS, StudyPlace(folder), {"model": "made up"}, **more)


@contextmanager
def counted(stop_at=None, stop=None):
    """Count transactions; the one of number ``stop_at`` is not stored, and ``stop`` is raised in its place."""
    count = [0]

    def on_commit(connection):
        count[0] += 1
        if count[0] == stop_at:
            raise stop

    event.listen(Engine, "commit", on_commit)
    try:
        yield count
    finally:
        event.remove(Engine, "commit", on_commit)


def trials(folder):
    study = optuna.load_study(study_name="postdiff", storage=f"sqlite:///{folder / 'study.db'}")
    return [
        (t.state.name, t.user_attrs["plan"], t.user_attrs["limit"], t.user_attrs["role"], t.user_attrs["outcome"])
        for t in study.get_trials(deepcopy=False)
    ]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    with counted() as count:
        result = search(folder)
    return folder, result, count[0]


@pytest.fixture
def unplanned(tmp_path, monkeypatch):
    """A study that was killed in its ninth trial, once that had its knobs and before it had its plan."""
    from optuna import Trial

    store = Trial.set_user_attr

    def cut(trial, name, value):
        if trial.number == 8 and name == "search":
            raise Killed
        store(trial, name, value)

    monkeypatch.setattr(Trial, "set_user_attr", cut)
    with pytest.raises(Killed):
        search(tmp_path)
    monkeypatch.setattr(Trial, "set_user_attr", store)
    return tmp_path


def same(folder, result, straight):
    for plan_id, p in straight[1].plans.items():
        np.testing.assert_array_equal(result.plans[plan_id].scores, p.scores)
    assert list(result.plans) == list(straight[1].plans)
    assert result.searched == straight[1].searched
    assert trials(folder) == trials(straight[0])


#: Moments as shares of the whole: while trials are queued, in the own budget's trials, in the further budgets' trials.
MOMENTS = [0.91]
MORE = [0.02, 0.52, 0.14, 0.08, 0.2, 0.3, 0.41, 0.515, 0.525, 0.53, 0.535, 0.6, 0.7, 0.8, 0.88, 0.95, 0.99]


@pytest.mark.parametrize("stop", [Killed, KeyboardInterrupt])
@pytest.mark.parametrize("moment", [*MOMENTS, *(pytest.param(m, marks=pytest.mark.slow) for m in MORE)])
def test_a_stop_at_any_moment_changes_nothing(tmp_path, straight, moment, stop):
    # a stop before the search has begun reaches whoever called it
    with counted(round(moment * straight[2]), stop), suppress(Killed, KeyboardInterrupt, UnboundLocalError):
        assert search(tmp_path).interrupted
    same(tmp_path, search(tmp_path), straight)


def test_a_trial_killed_before_its_plan_was_stored_is_planned_anew_from_the_same_scores(unplanned, straight):
    same(unplanned, search(unplanned), straight)


@pytest.mark.slow
def test_many_kills_in_a_row_change_nothing(tmp_path, straight):
    """A trial that is killed between any two of the things that are stored about it keeps its place."""
    for count in range(20, 60, 5):
        with counted(count, Killed), suppress(Killed, UnboundLocalError):
            search(tmp_path)
    same(tmp_path, search(tmp_path), straight)


@pytest.mark.parametrize("kept", [0.5, pytest.param(0.0, marks=pytest.mark.slow)])
def test_scores_that_were_lost_are_made_again_and_it_is_said(tmp_path, straight, kept):
    shutil.copytree(straight[0], tmp_path, dirs_exist_ok=True)
    lines = (tmp_path / SCORES).read_bytes().splitlines(keepends=True)
    (tmp_path / SCORES).write_bytes(b"".join(lines[: int(kept * len(lines))]) + (b'{"plan": "cut' if kept else b""))
    said = []
    again = search(tmp_path, note=said.append)
    *kept_lines, lost_line = said
    assert [line.startswith("this study goes on: 13 trials and ") for line in kept_lines] == [True] * bool(kept)
    assert "are missing from the score file; they are made again" in lost_line
    assert again.images_made == sum(p.n for p in again.plans.values()) or kept
    same(tmp_path, again, straight)
    assert search(tmp_path, note=said.append).images_made == 0
    made = sum(p.n for p in again.plans.values())
    assert said[1 + len(kept_lines) :] == [f"this study goes on: 13 trials and {made} images of its search are kept"]


def test_scores_that_no_trial_asked_for_are_used_and_it_is_said(tmp_path, straight):
    shutil.copytree(straight[0], tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("study.db*"):
        path.unlink()
    said = []
    search(tmp_path, note=said.append)
    assert said[0].startswith("this study goes on: 0 trials and ")
    assert len(said) == 2
    assert "the study's database holds no trial of " in said[1]


@pytest.mark.parametrize("tables", [["trials"], ["studies", "trial_user_attributes"]])
def test_a_database_that_lost_tables_is_kept_and_it_is_said_what_is_done_anew(tmp_path, straight, heard, tables):
    shutil.copytree(straight[0], tmp_path, dirs_exist_ok=True)
    with closing(sqlite3.connect(tmp_path / "study.db")) as database:
        for table in tables:
            database.execute(f"drop table {table}")
        database.commit()
    refuse_other_settings(StudyPlace(tmp_path), {"model": "made up", "num_prompts": N})
    said = []
    again = search(tmp_path, note=said.append)
    assert f"study.db lacks its {'tables' if tables[1:] else 'table'} {', '.join(tables)}: it is kept as" in said[0]
    assert heard.count("fallback") == 1
    # nothing that was scored is scored again, and no row of the old trials is taken for one of the new ones
    for plan_id, p in straight[1].plans.items():
        known = np.isfinite(p.scores)
        np.testing.assert_array_equal(again.plans[plan_id].scores[known], p.scores[known])
    assert again.images_made == sum(p.n for p in again.plans.values()) - sum(p.n for p in straight[1].plans.values())
    assert {(state, plan is not None) for state, plan, *_ in trials(tmp_path)} == {("COMPLETE", True)}
    assert len(trials(tmp_path)) == len(trials(straight[0]))
    with closing(sqlite3.connect(tmp_path / "study.damaged.db")) as database:
        assert not {name for (name,) in database.execute("select name from sqlite_master")} & set(tables)
    assert search(tmp_path, note=said.append).images_made == 0
    assert not any("lacks" in line for line in said[1:])
