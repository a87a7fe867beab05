"""The log of a run: every event as a line of JSON in a file, or as plain text on standard error.

A line is ``{"time": ISO 8601 in UTC, "process": its number, "event": kind, …}`` with what the event tells; see
``progress.log_event``. Lines are appended, each by one write, so a killed process loses none and several may share a
file. No line holds a password: addresses are masked, and the words of the address that a command was given besides.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from postdiff_calib.errors import OutputError, one_line, reason_of
from postdiff_calib.files.secrets import without_passwords
from postdiff_calib.progress import LOGGER

_Clean = Callable[[str], str]


@contextmanager
def listening(*handlers: logging.Handler) -> Iterator[None]:
    """Send every event to these for the length of the block, and to these alone.

    Packages that set up Python's logging for their own sake would show events too, and not as they are meant to be.
    """
    level, propagate = LOGGER.level, LOGGER.propagate
    for handler in handlers:
        LOGGER.addHandler(handler)
    if handlers:
        LOGGER.setLevel(logging.INFO)
        LOGGER.propagate = False
    try:
        yield
    finally:
        LOGGER.setLevel(level)
        LOGGER.propagate = propagate
        for handler in handlers:
            LOGGER.removeHandler(handler)
            handler.close()


def refuse_foreign(path: Path) -> None:
    """Refuse to append to a file that is no log.

    Raises:
        OutputError: it is not empty, and its first line is not one of a log; or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            first = file.readline(1 << 16)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise OutputError(
            f"log file {path}", f"it cannot be read ({reason_of(error)})", "choose another path"
        ) from error
    try:
        known = not first or "event" in json.loads(first)
    except (ValueError, TypeError, RecursionError):
        known = False
    if not known:
        raise OutputError(f"log file {path}", "it is there and no log, and lines are only added", "choose another path")


class _Events(logging.Handler):
    """What is common to both: the facts of an event, cleaned."""

    def __init__(self, clean: _Clean | None = None) -> None:
        super().__init__(logging.INFO)
        self._clean = clean or (lambda text: text)

    def _facts(self, record: logging.LogRecord) -> dict[str, Any]:
        cleaned: dict[str, Any] = self._plain(getattr(record, "facts", {"text": record.getMessage()}))
        return cleaned

    def _plain(self, value: Any) -> Any:
        """As plain data that JSON knows, each text without a password in it."""
        if isinstance(value, Mapping):
            return {str(key): self._plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._plain(item) for item in value]
        if isinstance(value, bool) or value is None or isinstance(value, int):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        return without_passwords(self._clean(str(value)))


class JsonLines(_Events):
    """Appends events to a file; where that fails, it says so once and the run goes on without a log.

    Args:
        path: of the file; it and its folder are made.
        clean: takes words out of a text that must not be kept.

    Raises:
        OutputError: it cannot be opened.
    """

    def __init__(self, path: Path, clean: _Clean | None = None) -> None:
        super().__init__(clean)
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: int | None = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            self._torn = self._ends_torn(self._file)
        except (OSError, ValueError) as error:
            given, rule = f"log file {path}", f"it cannot be written ({reason_of(error)})"
            raise OutputError(given, rule, "choose another path") from error

    @staticmethod
    def _ends_torn(file: int) -> bool:
        """Whether the last line was cut, as by a full disk."""
        size = os.fstat(file).st_size
        return size > 0 and os.pread(file, 1, size - 1) != b"\n"

    def emit(self, record: logging.LogRecord) -> None:
        """Append one line."""
        if self._file is None:
            return
        when = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        about = {"time": when, "process": record.process, "event": getattr(record, "kind", "message")}
        line = json.dumps({**about, **self._facts(record)}, allow_nan=False) + "\n"
        try:
            os.write(self._file, (("\n" if self._torn else "") + line).encode())
            self._torn = False
        except OSError as error:
            self.close()
            said = f"note: log file {self.path} cannot be written any more ({reason_of(error)}); nothing else is lost"
            print(one_line(said), file=sys.stderr)

    def close(self) -> None:
        """Close the file."""
        if getattr(self, "_file", None) is not None:
            file, self._file = self._file, None
            os.close(file)  # type: ignore[arg-type]
        super().close()


class PlainLines(_Events):
    """Events on standard error, a line each.

    Args:
        clean: as for ``JsonLines``.
        leave_out: kinds that are shown anyway.
    """

    def __init__(self, clean: _Clean | None = None, leave_out: frozenset[str] = frozenset()) -> None:
        super().__init__(clean)
        self._leave_out = leave_out

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line; asked for now, since a live view stands in for standard error while it is shown."""
        kind = getattr(record, "kind", "message")
        if kind in self._leave_out:
            return
        facts = self._facts(record)
        said = ", ".join(f"{name}={value}" for name, value in facts.items() if value is not None)
        when = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        with suppress(OSError):  # nobody reads it
            print(one_line(f"{when} {kind} {said}".rstrip()), file=sys.stderr)
