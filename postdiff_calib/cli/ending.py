"""How a command ends: the one place where errors become one line on standard error and an exit code.

Exit codes: 0 done, 1 an error in postdiff itself, 2 bad input, 3 a check failed, 130 stopped by Ctrl-C, 143 by SIGTERM,
which ends a command in the same orderly way; a second one ends it at once. Whatever goes wrong is one line: what was
given, the rule, what to do. ``--debug`` anywhere on the line adds the trace.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import typer

from postdiff_calib.errors import PostdiffError, one_line, reason_of
from postdiff_calib.files import without_passwords

_DEBUG = "--debug"
#: Exit codes of shells for SIGINT and SIGTERM.
_INTERRUPTED, _TERMINATED = 130, 143


def run(app: typer.Typer, argv: list[str] | None = None) -> NoReturn:
    """Run a command line and leave with its exit code.

    Args:
        app: the commands.
        argv: what follows the program's name; the process's own by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    debug = _DEBUG in arguments[:end]
    arguments = [word for i, word in enumerate(arguments) if word != _DEBUG or i >= end]
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal's encoding lacks is shown as an escape; it must not end a command.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    with _terminable() as signals:
        try:
            code = _run(app, arguments, debug)
        except BaseException as error:
            if isinstance(error, SystemExit):
                raise
            code = _told(error, arguments, debug)
    sys.exit(_TERMINATED if code == _INTERRUPTED and signals else code)


@contextmanager
def _terminable() -> Iterator[list[int]]:
    """SIGTERM is Ctrl-C for the length of the block; yields a list of those that came."""
    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # others get no signals
        yield came
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _run(app: typer.Typer, arguments: list[str], debug: bool) -> int:
    command = typer.main.get_command(app)
    try:
        with command.make_context("postdiff", list(arguments)) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as ended:
        return int(ended.exit_code)
    except OSError as error:
        if error.errno == errno.EPIPE:  # whoever read has gone; that is no error of ours
            _give_up_output()
            return 1
        if not _output_is_full(error):
            raise
        _give_up_output()
        return _line(f"standard output: it cannot be written ({reason_of(error)}); free space or write elsewhere", 2)
    return 0


def _told(error: BaseException, arguments: list[str], debug: bool) -> int:
    """Say in one line what ended the command; returns the exit code."""
    if debug:
        trace = "".join(traceback.format_exception(error))
        print(without_passwords(trace), file=sys.stderr, end="")
    if isinstance(error, PostdiffError):
        return _line(str(error), error.exit_code)
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return _line(f"stopped: {error}" if str(error) else "stopped", _INTERRUPTED)
    if hasattr(error, "format_message"):
        return _usage(error, arguments)
    from postdiff_calib.scores.memory import is_out_of_memory

    if is_out_of_memory(error):
        return _line("memory: there is not enough of it for this command; take smaller sizes or --batch-size 1", 2)
    where = traceback.extract_tb(error.__traceback__)
    place = f"{os.path.basename(where[-1].filename)}:{where[-1].lineno}" if where else "?"
    what = f"{type(error).__name__}: {reason_of(error)}" if str(error) else type(error).__name__
    return _line(
        f"unexpected {without_passwords(one_line(what))} ({place}): this is an error in postdiff; "
        f"report it to its maintainers with what {_DEBUG} prints",
        1,
    )


def _usage(error: Any, arguments: list[str]) -> int:
    """Say in one line what is wrong with an option or argument: its name and value, the rule, where to look."""
    context: Any = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "postdiff"
    if type(error).__name__ == "NoArgsIsHelpError":
        print(context.get_help(), file=sys.stderr)
        return 2
    names = getattr(getattr(error, "param", None), "opts", [])
    said = one_line(str(error.message)).rstrip(".").removeprefix("Value error, ").replace("Input should", "it must")
    given = _given(names, arguments)
    if not given or not str(error.message):
        said = one_line(error.format_message()).rstrip(".")
    where = command if command != "postdiff" else "the command line"
    return _line(f"{given or where}: {said}; see {command} --help", 2)


def _given(names: list[str], arguments: list[str]) -> str:
    """An option as it stands on the command line, with its value; empty where it is not there."""
    for i, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name in names and name.startswith("-"):
            return f"{name} {value if equals else ' '.join(arguments[i + 1 : i + 2])}"
    return ""


def _line(text: str, code: int) -> int:
    try:
        print(f"postdiff: {one_line(text)}", file=sys.stderr)
        sys.stderr.flush()
    except OSError:  # nobody hears it; the exit code says it
        pass
    return code


def _output_is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG, errno.EBADF) and error.filename is None


def _give_up_output() -> None:
    """What is left in the buffer must not fail once more when the process ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError):  # a stream without a file behind it
        pass
    finally:
        os.close(nowhere)
