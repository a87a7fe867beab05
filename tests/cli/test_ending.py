"""How commands end: one line and a code for what is expected, one line and where to report it for what is not."""

import io
import os
import subprocess
import sys

import pytest
import typer

from postdiff_calib.cli.ending import run
from postdiff_calib.errors import CheckError, OutputError


def ended(capsys, fault, *argv):
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

    @app.callback()
    def everything() -> None:
        pass

    @app.command("work")
    def work(count: int = typer.Option(1, "--count", min=1)) -> None:
        if fault is not None:
            raise fault

    with pytest.raises(SystemExit) as stop:
        run(app, list(argv or ("work",)))
    out = capsys.readouterr()
    return stop.value.code, out.out, out.err


def test_what_is_unexpected_is_one_line_that_says_where_to_report_it(capsys):
    code, out, err = ended(capsys, RuntimeError("first\nsecond \x1b[31m"))
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert err.startswith("postdiff: unexpected RuntimeError: first (test_ending.py:")
    assert "report it" in err
    assert "--debug" in err


def test_debug_shows_the_trace_without_passwords(capsys):
    fault = RuntimeError("postgresql://me:sesame@host/db")
    for argv in (("work", "--debug"), ("--debug", "work")):
        code, _, err = ended(capsys, fault, *argv)
        assert code == 1
        assert "Traceback (most recent call last)" in err
        assert "sesame" not in err
    assert "sesame" not in ended(capsys, fault)[2]


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        (OutputError("a", "b", "c"), 2, "postdiff: a: b; c\n"),
        (CheckError("a", "b", "c"), 3, "postdiff: a: b; c\n"),
        (KeyboardInterrupt(), 130, "postdiff: stopped\n"),
        (MemoryError(), 2, "not enough"),
        (RecursionError("maximum recursion depth exceeded"), 1, "unexpected RecursionError"),
        (typer.Exit(130), 130, ""),
        (None, 0, ""),
    ],
)
def test_every_ending_has_its_code(capsys, fault, code, says):
    found, out, err = ended(capsys, fault)
    assert (found, out) == (code, "")
    assert says in err
    assert err.count("\n") <= 1


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("work", "--count", "0"), "--count 0: it must be greater than or equal to 1; see postdiff work --help"),
        (("work", "--count=x"), "--count x: it must be a valid integer"),
        (("work", "--cuont", "3"), "No such option: --cuont"),
        (("rest",), "No such command 'rest'"),
        (("work", "a\x1bb"), r"a\x1bb"),
    ],
)
def test_a_wrong_option_is_one_line(capsys, argv, says):
    code, out, err = ended(capsys, None, *argv)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


def test_a_full_output_is_one_line(capsys, monkeypatch):
    class Full(io.StringIO):
        def flush(self):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    code, _, err = ended(capsys, None)
    assert code == 2
    assert err == (
        "postdiff: standard output: it cannot be written (No space left on device); free space or write elsewhere\n"
    )


COMMAND = "import sys; from postdiff_calib.cli.main import main; main(sys.argv[1:])"


def in_process(*argv, stdout=subprocess.PIPE, **variables):
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *argv],
        env={**os.environ, **variables},
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_an_encoding_without_the_signs_is_no_error(encoding):
    done = in_process("models", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"shapes" in done.stdout


def test_a_device_that_is_full():
    with open("/dev/full", "wb") as full:
        done = in_process("models", stdout=full)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"No space left on device" in done.stderr


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    from pathlib import Path

    from postdiff_calib.cost.store import cache_folder

    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("POSTDIFF_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    with pytest.raises(OutputError, match="set POSTDIFF_CACHE"):
        cache_folder()
