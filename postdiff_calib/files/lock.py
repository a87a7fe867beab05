"""One process at a time works on a study's folder: a lock that ends with its process, however that ends.

The operating system holds the lock, so a killed process leaves none behind; the file that it is on stays, and names the
process that has it or had it last.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from postdiff_calib.errors import OutputError, StudyError, reason_of
from postdiff_calib.files.write import remove_leftovers

LOCK = "study.lock"


class StudyLock:
    """The lock on a study's folder; leaving the block gives it back.

    Args:
        folder: the study's; it need not be there yet.
        inside: folders of it in which a killed process may have left a file half written.
    """

    def __init__(self, folder: Path, inside: tuple[str, ...] = ()) -> None:
        self.folder, self._inside = folder, inside
        self._lock: FileLock | None = None

    def take(self, *, make: bool = True) -> None:
        """Take the lock, where it is not held yet, and remove what killed writers left half written.

        Args:
            make: make the folder where it is missing; otherwise nothing is done there.

        Raises:
            StudyError: another process has the lock; the line names it.
            OutputError: the folder or its lock file cannot be made.
        """
        if self._lock is not None or not (make or self.folder.is_dir()):
            return
        path = self.folder / LOCK
        before = _holder(path)
        lock = FileLock(path, timeout=0)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            path.write_text(f"process {os.getpid()} on {platform.node() or 'this host'}\n", encoding="utf-8")
        except Timeout as error:
            raise StudyError(
                f"study folder {self.folder}",
                f"{_holder(path) or before or 'another process'} is working on it",
                "wait for it or stop it, or give another folder (--study); postdiff worker joins a shared study",
            ) from error
        except OSError as error:
            lock.release()
            raise OutputError(
                f"study folder {self.folder}", f"it cannot be locked ({reason_of(error)})", "give another (--study)"
            ) from error
        self._lock = lock
        remove_leftovers(self.folder, *(self.folder / name for name in self._inside))

    def __enter__(self) -> StudyLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _holder(path: Path) -> str:
    """What the lock file says of the process that has it; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:200].strip()
    except OSError:
        return ""
