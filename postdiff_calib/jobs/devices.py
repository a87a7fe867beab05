"""Workers of one host, a process for each further device of ``calibrate --devices``, on the study's own database.

The calibration itself is the leader and works on the first device. Its workers are started once it has described the
study, take trials from the same queue as ``postdiff worker`` does, and end by themselves when none is left. One that
dies is named and the rest go on; its trial is queued again. They end with the calibration, however that ends.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from postdiff_calib.errors import one_line
from postdiff_calib.jobs.job import CalibrateJob

#: A worker as a process; what it is to do follows.
COMMAND = (sys.executable, "-c", "from postdiff_calib.cli.main import main; main()", "worker", "--quiet")
#: Seconds that workers have to end by themselves when no trial is left, and to give their trial back when stopped.
LAST_TRIAL, LAST_WORD = 120.0, 30.0


@dataclass
class LocalWorkers:
    """The worker processes of a calibration, as a context that none of them outlives.

    Args:
        devices: one for each worker.
        storage, name: of the study; without a storage it is not shared, and there is no worker.
        note: hears of each worker that died, from a thread of its own.
        options: of each worker, beside these.

    Attributes:
        died: the same lines.
    """

    devices: Sequence[str]
    storage: str | None
    name: str
    note: Callable[[str], None]
    options: Sequence[str] = ()
    died: list[str] = field(default_factory=list)
    _processes: list[subprocess.Popen[str]] = field(default_factory=list)
    _watchers: list[threading.Thread] = field(default_factory=list)
    _stopping: bool = False

    def start(self) -> None:
        """Start them; the study must have been described, so that none joins what the folder held before."""
        if self.storage is None:
            return
        for device in self.devices:
            command = [*COMMAND, "--storage", self.storage, "--name", self.name, "--device", device, *self.options]
            # In a session of their own: Ctrl-C on the terminal is the leader's alone, which passes it on once.
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
            )
            watcher = threading.Thread(target=self._watch, args=(device, process), daemon=True)
            self._processes.append(process)
            self._watchers.append(watcher)
            watcher.start()

    def _watch(self, device: str, process: subprocess.Popen[str]) -> None:
        _, said = process.communicate()
        if process.returncode == 0 or self._stopping:
            return
        code = process.returncode
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        last = one_line(said.strip().rpartition("\n")[2]).removeprefix("postdiff: ")
        line = f"the worker on {device} died ({how}{f': {last}' if last else ''}); the others go on"
        self.died.append(line)
        self.note(line)

    def stop(self) -> None:
        """Tell all that run to give their trial back and end, and see that they do."""
        self._stopping = True
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        self._await(LAST_WORD)
        for process in self._processes:
            if process.poll() is None:
                process.kill()
        self._await(LAST_WORD)

    def _await(self, seconds: float) -> None:
        for watcher in self._watchers:
            watcher.join(seconds)

    def __enter__(self) -> LocalWorkers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._await(LAST_TRIAL)
        self.stop()


def workers_of(job: CalibrateJob, note: Callable[[str], None]) -> LocalWorkers:
    """The processes that share a calibration's work on this host: none where one device or none is named."""
    # A worker runs a scorer that is code only where its own command line names it.
    scorers = [
        *(["--scorer", job.scorer] if job.scorer is not None else []),
        *(w for a in job.also for w in ("--also", a)),
    ]
    return LocalWorkers(job.devices[1:], job.shared_storage, job.study_name, note, scorers)
