"""A study's database that is damaged, of another Optuna, or no database: one line, at the start."""

import sqlite3

import pytest

from postdiff_calib.errors import StudyError
from postdiff_calib.scores.names import DATABASE
from postdiff_calib.search.backend.address import shown, without_secrets
from postdiff_calib.search.backend.database import connect, disconnect, probe
from postdiff_calib.search.backend.proposer import make_proposer
from postdiff_calib.search.backend.storage import StudyPlace, StudyStore, open_study, read_record, refuse_other_settings

FINGERPRINT = {"model": "a", "num_prompts": 3}


def make(folder):
    study, backend = open_study(StudyPlace(folder), FINGERPRINT, _random())
    for plan in ("p", "q"):
        study.enqueue_trial({}, user_attrs={"plan": plan, "role": "explore", "arm": "combined"})
    StudyStore.make(study, backend.engine)
    StudyStore(study, backend.engine).append({"plan": "p", "knobs": {}, "prompts": [], "scores": []})
    disconnect(backend)


def _random():
    import optuna

    return optuna.samplers.RandomSampler(seed=0)


def change(folder, statement):
    database = sqlite3.connect(folder / DATABASE)
    with database:
        database.execute(statement)
    database.close()


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("update trial_user_attributes set value_json = '{'", "a row of it is damaged"),
        ("update study_user_attributes set value_json = 'x' where key = 'fingerprint'", "a row of it is damaged"),
        ("update trials set state = 'LOST'", "a row of it is damaged"),
        ("update trial_user_attributes set value_json = '5' where key = 'plan'", "a trial holds 5"),
        ("update study_user_attributes set value_json = '5' where key = 'fingerprint'", "other settings"),
        ("update alembic_version set version_num = 'v1.3.0.a'", "tables are of another version of Optuna"),
    ],
)
def test_a_damaged_database_is_one_line(tmp_path, statement, says):
    make(tmp_path)
    change(tmp_path, statement)
    for call in (
        lambda: refuse_other_settings(StudyPlace(tmp_path), FINGERPRINT),
        lambda: open_study(StudyPlace(tmp_path), FINGERPRINT, _random()),
    ):
        with pytest.raises(StudyError) as caught:
            call()
        assert says in str(caught.value)
        assert "--fresh" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / DATABASE).write_text("hello, this is no database, but long enough to be one" * 20)
    with pytest.raises(StudyError, match="file is not a database"):
        refuse_other_settings(StudyPlace(tmp_path), FINGERPRINT)


def test_looking_early_makes_nothing(tmp_path):
    refuse_other_settings(StudyPlace(tmp_path), FINGERPRINT)
    refuse_other_settings(StudyPlace(tmp_path / "none"), FINGERPRINT)
    probe(f"sqlite:///{tmp_path / 'new.db'}")
    assert list(tmp_path.iterdir()) == []


def test_a_study_of_other_settings_is_known_before_it_is_opened(tmp_path):
    make(tmp_path)
    refuse_other_settings(StudyPlace(tmp_path), FINGERPRINT)
    refuse_other_settings(StudyPlace(tmp_path, study_name="another"), {"model": "b"})
    with pytest.raises(StudyError, match="model was 'a', now 'b'"):
        refuse_other_settings(StudyPlace(tmp_path), {**FINGERPRINT, "model": "b"})


def test_a_damaged_row_of_scores_names_the_row(tmp_path):
    make(tmp_path)
    change(tmp_path, "update postdiff_blocks set block = '{\"plan\": 5}'")
    backend = connect(f"sqlite:///{tmp_path / DATABASE}")
    import optuna

    study = optuna.load_study(study_name="postdiff", storage=backend)
    with pytest.raises(StudyError, match="row 1 of postdiff_blocks: not a block of scores"):
        list(StudyStore(study, backend.engine).read())
    disconnect(backend)


def test_a_worker_meets_damage_in_one_line(tmp_path):
    make(tmp_path)
    change(tmp_path, "update trial_user_attributes set value_json = '{'")
    with pytest.raises(StudyError, match="a row of it is damaged"):
        read_record(f"sqlite:///{tmp_path / DATABASE}", "postdiff")


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("postgresql+psycopg://me@host:5432/db", "postgresql+psycopg://me@host:5432/db"),
        ("postgresql://me:sesame@host/db", "postgresql://me:***@host/db"),
        ("postgresql://:sesame@host/db", "postgresql://:***@host/db"),
        ("postgresql://me:se same@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:ses/ame@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:se@same@host/db", "postgresql://…"),
        ("postgresql://me/sesame@host/db", "postgresql://…"),
        ("postgresql://me%3Asesame@host/db", "postgresql://host…"),
        ("postgresql://host/db:password=sesame", "postgresql://host…"),
        ("postgresql://host/db;password=sesame", "postgresql://host…"),
        ("postgresql://host/db password=sesame", "postgresql://host…"),
        ("postgresql://host/db?user=me&passwd=sesame", "postgresql://host/db?user=me&passwd=***"),
        ("mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dsesame", "mssql+pyodbc:///?odbc_connect=***"),
        ("mssql+pyodbc://DRIVER={x};PWD=sesame", "mssql+pyodbc://…"),
        ("postgresql://host:password=sesame/db", "the given URL"),
        ("postgresql://[::1]:5432/db", "postgresql://[::1]:5432/db"),
        ("sqlite:////home/me/a study/s.db", "sqlite:////home/me/a study/s.db"),
    ],
)
def test_of_an_address_no_more_is_shown_than_is_known_to_be_open(url, seen):
    assert shown(url) == seen
    said = without_secrets(f'connection to "{url}" failed: no password for se@same, ses/ame, sesame', url)
    hidden = ("sesame", "se@same", "se same", "ses/ame")
    assert not [part for part in hidden if part in url and part in said]


def test_make_proposer_takes_the_seeds_that_are_accepted():
    for name in ("tpe", "random"):
        assert make_proposer(name, 2**32 - 1, None, None) is not None
