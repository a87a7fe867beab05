"""``--log-file`` and ``-v``: what happens during a long command, kept as lines of JSON or shown as it happens."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postdiff_calib.cli.shared import Shared, option
from postdiff_calib.errors import OutputError, PostdiffError, one_line
from postdiff_calib.files import refuse_output
from postdiff_calib.files.log import JsonLines, PlainLines, listening, refuse_foreign
from postdiff_calib.progress import log_event


@dataclass(frozen=True)
class Log:
    """Where a command's events go.

    Attributes:
        path: a file of JSON lines, to which they are added; None for none.
        shown: on standard error too.
    """

    path: Path | None = None
    shown: bool = False

    @contextmanager
    def of(
        self,
        command: str,
        *,
        inputs: Iterable[str | Path] = (),
        outputs: Iterable[Path] = (),
        study: Path | None = None,
        storage: str | None = None,
        quiet: bool = False,
    ) -> Iterator[None]:
        """Log a command from its start to its end, however it ends.

        Args:
            command: its name.
            inputs, study: as for ``refuse_output``.
            outputs: what the command writes itself.
            storage: the URL of a database: no word of it is logged that may be a secret.
            quiet: stages and notes are not shown otherwise, so ``-v`` shows them.

        Raises:
            OutputError: the file is an input, an output or a study's own, no log, or cannot be written.
        """
        from importlib.metadata import version

        clean = _cleaner(storage)
        handlers: list[logging.Handler] = []
        if self.path is not None:
            for output in outputs:
                if os.path.realpath(output) == os.path.realpath(self.path):
                    given, rule = f"log file {self.path}", "it is an output of this command, too"
                    raise OutputError(given, rule, "choose another path")
            refuse_output(self.path, inputs=inputs, study=study, what="log file")
            refuse_foreign(self.path)
            handlers.append(JsonLines(self.path, clean))
        if self.shown:
            handlers.append(PlainLines(clean, frozenset() if quiet else frozenset({"stage", "note"})))
        with listening(*handlers):
            log_event("start", command=command, version=version("postdiff"), directory=os.getcwd())
            try:
                yield
            except KeyboardInterrupt as error:
                log_event("stop", text=str(error))
                raise
            except PostdiffError as error:
                log_event("error", text=str(error), exit_code=error.exit_code)
                raise
            except Exception as error:
                log_event("error", text=one_line(f"{type(error).__name__}: {error}"), exit_code=1)
                raise
            log_event("end", command=command)


def _cleaner(storage: str | None) -> Callable[[str], str] | None:
    if storage is None:
        return None
    from postdiff_calib.search.backend.address import without_secrets

    return lambda text: without_secrets(text, storage)


def with_log(command: Callable[..., None]) -> Shared:
    """The command with ``--log-file`` and ``-v`` as options, as ``Log`` in ``log``."""
    return Shared(command, "log", _options, _log)


def _options() -> list[inspect.Parameter]:
    what = "Add every event (trial, block, retry, note …) to this file, as lines of JSON."
    return [
        option("log_file", Path | None, None, "--log-file", what),
        option("verbose", bool, False, "-v", "Show every event."),
    ]


def _log(values: Mapping[str, Any]) -> Log:
    return Log(values["log_file"], values["verbose"])
