"""Where blocks of scores are kept: a file that a kill cannot damage, or memory.

File format, one JSON object a line: ``{"plan": hash, "knobs": {…}, "prompts": [indices], "scores": [numbers]}``, and
what ``measured`` adds to it. A last line that a kill cut short is ignored and overwritten by the next append. Other
values of prompts, such as distances, are kept in files of the same kind.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from postdiff_calib.errors import OutputError, StudyError, reason_of
from postdiff_calib.files import write_atomically
from postdiff_calib.scores.blocks import check_block


class ScoreStore(Protocol):
    """Where blocks of scores are kept."""

    def read(self) -> Iterator[dict[str, Any]]:
        """Every block kept since the last call of ``read``."""
        ...

    def append(self, block: dict[str, Any]) -> None:
        """Keep one block for good before returning."""
        ...


class FileStore:
    """Blocks as lines of a file, safe to kill at any moment and safe to share by processes of one host.

    Args:
        path: of the file; it need not be there yet.
        check: raises ValueError where plain data is no block of this file.
        what: the values are, for messages.
    """

    def __init__(self, path: Path, check: Callable[[Any], None] = check_block, what: str = "scores") -> None:
        self.path, self._check, self._what = path, check, what
        self._offset = self._lines = 0

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the whole lines that came since the last call."""
        with self._opened() as file:
            if file is None:
                return
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # cut short by a kill, or being written at this moment
                self._offset += len(line)
                self._lines += 1
                try:
                    block = json.loads(line)
                except ValueError:
                    # A cut line that a later append completed: its scores are simply not known.
                    continue
                except RecursionError:
                    block = None
                try:
                    self._check(block)
                except ValueError as error:
                    given = f"{self.path}, line {self._lines}"
                    remedy = f"remove the line, whose {self._what} are then made again, or start anew (--fresh)"
                    raise StudyError(given, f"not a block of {self._what} ({error})", remedy) from error
                yield block

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO | None]:
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            yield None
            return
        except OSError as error:
            raise StudyError(
                f"score file {self.path}", f"it cannot be read ({reason_of(error)})", "check the study folder"
            ) from error
        with file:
            yield file

    def append(self, block: dict[str, Any]) -> None:
        """Write one line and flush it to the device."""
        line = json.dumps(block).encode() + b"\n"
        try:
            with self.path.open("a+b") as file:
                end = file.seek(0, os.SEEK_END)
                if end:
                    file.seek(end - 1)
                    if file.read(1) != b"\n":
                        line = b"\n" + line
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"score file {self.path}", f"it cannot be written ({error.strerror})", "check the study folder"
            ) from error

    def replace(self, blocks: Iterable[dict[str, Any]]) -> None:
        """Write these blocks instead of what the file holds, whole or not at all."""
        write_atomically(self.path, "".join(json.dumps(block) + "\n" for block in blocks))


class MemoryStore:
    """Blocks in memory only, for tests and simulations."""

    def __init__(self) -> None:
        self.blocks: list[dict[str, Any]] = []

    def read(self) -> Iterator[dict[str, Any]]:
        """Nothing: a book knows what it appended."""
        return iter(())

    def append(self, block: dict[str, Any]) -> None:
        """Keep the block in memory."""
        self.blocks.append(block)
