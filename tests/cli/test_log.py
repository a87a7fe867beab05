"""``--log-file`` and ``-v``: every event a line of JSON, no password in any, no file spoilt by it."""

import io
import json
import logging
import os

import pytest
from rich.console import Console
from synthetic_surface import SMALL, Surface, limit, price

from postdiff_calib.cli.log import Log
from postdiff_calib.cli.main import main
from postdiff_calib.errors import OutputError, PlanError, StudyError
from postdiff_calib.files.log import JsonLines, PlainLines, listening
from postdiff_calib.progress import LOGGER, Silent, log_event
from postdiff_calib.report.progress import console_progress
from postdiff_calib.search.backend.run import Problem, run_search
from postdiff_calib.search.backend.storage import StudyPlace
from postdiff_calib.search.settings import SearchSettings

N = 20
FEW = SearchSettings(n_trials=4)


def events(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def kinds(path):
    return [event["event"] for event in events(path)]


def run(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main(list(argv))
    out = capsys.readouterr()
    return stop.value.code, out.out, out.err


def search(folder, surface, **options):
    problem = Problem(SMALL, price, limit(0.5, SMALL), surface, N)
    return run_search(problem, FEW, StudyPlace(folder), {"model": "made up"}, **options)


def test_a_line_holds_when_who_and_what(tmp_path):
    path = tmp_path / "new" / "run.jsonl"
    before = LOGGER.level, list(LOGGER.handlers)
    with listening(JsonLines(path)):
        log_event("trial", number=3, value=float("nan"), knobs="T=8 \x1b[31m\u202e", prompts=[1, 2], best=None)
    log_event("trial", number=4)
    assert (LOGGER.level, LOGGER.handlers) == before
    (line,) = path.read_text().splitlines()
    assert line.isascii()
    found = json.loads(line)
    assert found.pop("time").endswith("+00:00")
    assert found == {
        "process": os.getpid(), "event": "trial", "number": 3, "value": None, "knobs": "T=8 \x1b[31m\u202e",
        "prompts": [1, 2], "best": None,
    }  # fmt: skip


def test_stages_and_notes_are_events_however_they_are_shown(tmp_path):
    path, consoles = tmp_path / "run.jsonl", [Console(file=io.StringIO(), force_terminal=t) for t in (True, False)]
    with listening(JsonLines(path)):
        for progress in (console_progress(True), *(console_progress(False, console) for console in consoles)):
            with progress as told:
                told.stage("searching", 3)
                told.note("two at a time")
        Silent().note("alone")
    assert kinds(path) == [*["stage", "note"] * 3, "note"]
    assert {e["text"] for e in events(path) if e["event"] == "note"} == {"two at a time", "alone"}


def test_handlers_that_other_packages_set_up_get_nothing(tmp_path, capsys):
    others = logging.StreamHandler()
    logging.getLogger().addHandler(others)
    try:
        with Log(tmp_path / "run.jsonl").of("verify"):
            log_event("note", text="sesame")
    finally:
        logging.getLogger().removeHandler(others)
    assert capsys.readouterr().err == ""
    assert LOGGER.propagate


def test_lines_are_added_behind_a_cut_one(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text('{"event": "start"}\n{"event": "tri')
    with Log(path).of("verify"):
        log_event("check", outcome="passed")
    assert path.read_text().splitlines()[:2] == ['{"event": "start"}', '{"event": "tri']
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()[2:]] == ["start", "check", "end"]


def test_a_search_tells_its_trials_and_blocks_and_what_it_resumes(tmp_path):
    path = tmp_path / "run.jsonl"

    class Stops(Surface):
        def scores(self, knobs, indices):
            if len(self.calls) == 3:
                raise KeyboardInterrupt
            return super().scores(knobs, indices)

    with listening(JsonLines(path)):
        assert search(tmp_path, Stops(N)).interrupted
        first = events(path)
        result = search(tmp_path, Surface(N))
    rest = events(path)[len(first) :]
    (begun,) = {e["number"] for e in first if e["event"] == "trial"} - done(first)
    assert rest[0] == rest[0] | {"event": "resume", "study": "postdiff"}
    assert rest[0]["trials"]["running"] == 1
    assert rest[1] == rest[1] | {"event": "retry", "number": begun, "reason": "its process was stopped"}
    assert done(rest) & done(first) == set()
    assert len(done(first) | done(rest)) == result.trials
    made = sum(len(e["prompts"]) for e in [*first, *rest] if e["event"] == "block")
    assert made == sum(plan.n for plan in result.plans.values())


def done(found):
    """Numbers of the trials that are done."""
    return {e["number"] for e in found if e["event"] == "trial" and e["state"] == "done"}


def test_a_failed_plan_is_told_with_its_reason(tmp_path):
    path = tmp_path / "run.jsonl"

    class Fails(Surface):
        def scores(self, knobs, indices):
            if knobs != SMALL.baseline and knobs.num_inference_steps < SMALL.baseline.num_inference_steps:
                raise PlanError(knobs.describe(), "its images are broken", "take another")
            return super().scores(knobs, indices)

    with listening(JsonLines(path)):
        result = search(tmp_path, Fails(N))
    told = {(e["knobs"], e["reason"]) for e in events(path) if e["event"] == "failed plan"}
    assert told == set(result.failed)
    assert told


PASSWORDS = [
    "postgresql://me:sesame@127.0.0.1:1/db", "postgresql://:sesame@127.0.0.1:1/db",
    "postgresql://me:se same@127.0.0.1:1/db",
    "postgresql://me:ses/ame@127.0.0.1:1/db", "postgresql://me:se@same@127.0.0.1:1/db",
    "postgresql://127.0.0.1:1/db:password=sesame", "postgresql://127.0.0.1:1/db;password=sesame",
    "postgresql://127.0.0.1:1/db password=sesame", "postgresql://127.0.0.1:1/db?user=me&password=sesame",
    "postgresql://me%3Asesame@127.0.0.1:1/db", "postgresql://127.0.0.1:password=sesame/db",
    "mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dsesame", "mssql+pyodbc://DRIVER={x};PWD=sesame",
]  # fmt: skip


@pytest.mark.parametrize("url", PASSWORDS)
@pytest.mark.parametrize("command", ["worker", "calibrate"])
def test_no_password_gets_into_the_log(tmp_path, monkeypatch, capsys, command, url):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, command, "--storage", url, "--log-file", "run.jsonl", "-v", "--quiet")
    assert (code, out) == (2, "")
    assert kinds(tmp_path / "run.jsonl") == ["start", "error"]
    said = events(tmp_path / "run.jsonl")[1]
    assert said["exit_code"] == 2
    assert f"postdiff: {said['text']}\n" == err.splitlines(keepends=True)[-1] or "***" in said["text"]
    for secret in ("sesame", "se same", "ses/ame", "se@same"):
        assert secret not in err
        assert secret not in (tmp_path / "run.jsonl").read_text()


@pytest.mark.parametrize("url", PASSWORDS)
def test_a_text_that_names_the_password_is_logged_without_it(tmp_path, capsys, url):
    path = tmp_path / "run.jsonl"
    with Log(path, shown=True).of("worker", storage=url, quiet=True):
        log_event("note", text=f'connection to "{url}" failed', nested=[{"url": url}])
    shown = path.read_text() + capsys.readouterr().err
    for secret in ("sesame", "se same", "ses/ame", "se@same"):
        assert secret not in shown


def test_v_shows_events_and_what_is_shown_anyway_once(capsys):
    with Log(shown=True).of("verify"):
        Silent().note("shown by the progress")
        log_event("trial", number=3, knobs="T=8 \x1b[31m")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ", 1)[1].split()[0] for line in lines] == ["start", "trial", "end"]
    assert r"trial number=3, knobs=T=8 \x1b[31m" in lines[1]


def test_a_full_disk_ends_the_log_and_not_the_run(tmp_path, capsys, monkeypatch):
    path = tmp_path / "run.jsonl"

    def full(*_):
        raise OSError(28, "No space left on device")

    with Log(path).of("verify"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            log_event("check", name="a")
        log_event("check", name="b")
    assert kinds(path) == ["start"]
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "cannot be written any more (No space left on device); nothing else is lost" in err


def test_how_a_command_ended_is_its_last_event(tmp_path):
    for error, kind in (
        (KeyboardInterrupt("kept"), "stop"),
        (StudyError("a", "b", "c"), "error"),
        (ValueError(), "error"),
    ):
        with pytest.raises(type(error)), Log(tmp_path / "run.jsonl").of("verify"):
            raise error
        assert kinds(tmp_path / "run.jsonl")[-1] == kind


@pytest.mark.parametrize(
    ("argv", "job"),
    [
        (["ablate", "--steps", "8"], "ablate.run_ablation"),
        (["analyze", "redundancy"], "redundancy.run_redundancy"),
        (["compare-methods"], "methods.run_methods"),
        (["finetune"], "finetune.run_finetune"),
        (["judge", "--with", "T=4"], "judge.run_judge"),
    ],
)
def test_every_study_can_be_logged(tmp_path, capsys, monkeypatch, argv, job):
    def stop(*given):
        raise StudyError("study s", "it fails", "mend it")

    monkeypatch.setattr(f"postdiff_calib.jobs.{job}", stop)
    path = tmp_path / "run.jsonl"
    code, _, said = run(capsys, *argv, "--log-file", str(path), "-v", "--quiet")
    (start, error) = events(path)
    assert (code, start["event"], error["text"]) == (2, "start", "study s: it fails; mend it")
    assert start["command"] == " ".join(word for word in argv[:2] if word.isalpha() or word == "compare-methods")
    assert "error text=study s" in said


def test_what_would_be_spoilt_is_refused(tmp_path):
    taken, empty, fifo = tmp_path / "notes.txt", tmp_path / "empty", tmp_path / "fifo"
    taken.write_text("mine\n")
    empty.write_text("")
    os.mkfifo(fifo)
    (tmp_path / "link").symlink_to(tmp_path / "p.yaml")
    for path, files, rule in (
        (taken, {}, "it is there and no log"),
        (tmp_path, {}, "it is a folder"),
        (fifo, {}, "it is a FIFO"),
        (empty, {"inputs": [empty]}, "it is an input of this command"),
        (tmp_path / "p.yaml", {"outputs": [tmp_path / "p.yaml"]}, "it is an output of this command"),
        (tmp_path / "link", {"outputs": [tmp_path / "p.yaml"]}, "it is an output of this command"),
        (tmp_path / "scores.jsonl", {"study": tmp_path}, "it is a file of the study"),
    ):
        with pytest.raises(OutputError, match=rule), Log(path).of("calibrate", **files):
            pass
    assert taken.read_text() == "mine\n"
    assert not (tmp_path / "p.yaml").exists()
    assert all(not isinstance(handler, (JsonLines, PlainLines)) for handler in LOGGER.handlers)
    assert LOGGER.level == logging.NOTSET
