"""A scorer in a process of its own, for packages whose pins fight ours; ``docs/scorers.md`` documents the protocol.

The process reads and writes JSON, an object a line. First it says who it is:
``{"postdiff_scorer": 1, "fingerprint": "…", "direction": "higher"}``; then it answers requests
``{"id": 1, "images": ["/…/0.png", …], "prompts": ["…", …]}`` by ``{"id": 1, "scores": [0.4, …]}``. Lines that are no
such object are passed over, since packages print. Images are PNG files that last until the answer.

A process that ends, answers wrongly or not in time is started anew once for a request; then the error names its last
line.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import queue
import shlex
import subprocess
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from postdiff_calib.errors import ModelError, ScorerError, one_line, reason_of
from postdiff_calib.files import file_sha256
from postdiff_calib.files.pixels import to_array

if TYPE_CHECKING:
    import torch

PROTOCOL = 1
#: Seconds that loading, and a batch, may take; a process may ask for other times for its batches.
START_LIMIT, BATCH_LIMIT, LONGEST = 1800.0, 300.0, 86_400.0
#: How often a request is put: once more after a crash.
_TRIES = 2


class CommandScorer:
    """A scorer that a command runs.

    Args:
        name: ``command: PROGRAM ARGUMENTS…``, split as a shell does; no shell runs.
        metric: name of the metric that its scores are.
        start_limit: seconds within which it must say who it is.

    Attributes:
        direction: which of its values are better; ``score`` turns the others round.
        fingerprint: hash of what the process says of itself and of the files that its command names.

    Raises:
        ModelError: it cannot be started, or does not say who it is.
    """

    def __init__(self, name: str, metric: str, start_limit: float = START_LIMIT) -> None:
        self.name, self.metric, self._start_limit = name, metric, start_limit
        self._command = command_of(name)
        self._child: _Child | None = None
        self._count = 0
        try:
            said = self._start()
        except _ChildError as error:
            self.close()
            raise ModelError(self._given, str(error), "run the command by hand; see docs/scorers.md") from error
        self.direction: Literal["higher", "lower"] = said["direction"]
        self._limit = said["timeout"]
        files = [file_sha256(part) for part in self._command[1:] if os.path.isfile(part)]
        about = json.dumps([said["fingerprint"], said["direction"], files])
        self.fingerprint = hashlib.sha256(about.encode()).hexdigest()

    @property
    def _given(self) -> str:
        return f"scorer {self.name!r}"

    def _start(self) -> dict[str, Any]:
        self.close()
        self._child = _Child(self._command)
        return self._child.hello(self._start_limit)

    def score(self, images: torch.Tensor, prompts: Sequence[str]) -> list[float]:
        """A score of each image, more is better.

        Args:
            images: (B, 3, H, W) float, values in [0, 1].
            prompts: B prompts.

        Raises:
            ScorerError: the process failed twice, or answered by what are no B finite numbers.
        """
        if not len(prompts):
            return []
        sign = 1.0 if self.direction == "higher" else -1.0
        with tempfile.TemporaryDirectory(prefix="postdiff-scorer-") as folder:
            paths = _saved(images, Path(folder))
            return [sign * value for value in self._asked(paths, list(prompts))]

    def _asked(self, paths: list[str], prompts: list[str]) -> list[float]:
        failed: _ChildError | None = None
        for _ in range(_TRIES):
            try:
                if self._child is None or failed is not None:
                    self._start()
                self._count += 1
                request = {"id": self._count, "images": paths, "prompts": prompts}
                assert self._child is not None
                return self._child.ask(request, self._limit)
            except _ChildError as error:
                failed = error
        self.close()
        raise ScorerError(self._given, f"it failed twice: {failed}", "mend it, then the same command goes on")

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.close()
            self._child = None


def command_of(name: str) -> list[str]:
    """Program and arguments of ``command: …``.

    Raises:
        ModelError: there is none, or its quotes do not match.
    """
    try:
        parts = shlex.split(name.partition(":")[2])
    except ValueError as error:
        raise ModelError(f"scorer {name!r}", f"it cannot be split ({error})", "close its quotes") from error
    if not parts:
        raise ModelError(f"scorer {name!r}", "it names no program", "such as 'command: /venv/bin/python my_scorer.py'")
    return parts


def _saved(images: torch.Tensor, folder: Path) -> list[str]:
    from PIL import Image

    paths = []
    for i, image in enumerate(images):
        path = folder / f"{i}.png"
        Image.fromarray(to_array(image)).save(path, compress_level=1)
        paths.append(str(path))
    return paths


class _ChildError(Exception):
    """What is wrong with the process, in words that follow its name."""


class _Child:
    """One run of the command: its pipes, and the last lines that it wrote."""

    def __init__(self, command: Sequence[str]) -> None:
        pipe = subprocess.PIPE
        try:
            # a session of its own: Ctrl-C is for the job, which decides what becomes of the scorer
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
        except (OSError, ValueError) as error:
            raise _ChildError(f"{command[0]} cannot be started ({reason_of(error)})") from error
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._last: dict[str, deque[str]] = {"errors": deque(maxlen=1), "output": deque(maxlen=1)}
        threads = (self._read_answers, self._process.stdout), (self._read_errors, self._process.stderr)
        self._threads = [threading.Thread(target=read, args=(file,), daemon=True) for read, file in threads]
        for thread in self._threads:
            thread.start()
        self._finish = weakref.finalize(self, _end, self._process)

    def _read_answers(self, file: IO[bytes]) -> None:
        for line in file:
            text = line.decode("utf-8", "replace").strip()
            try:
                said = json.loads(text)
            except (ValueError, RecursionError):
                said = None
            if isinstance(said, dict):
                self._answers.put(said)
            elif text:
                self._last["output"].append(text)
        self._answers.put(None)

    def _read_errors(self, file: IO[bytes]) -> None:
        for line in file:
            if text := line.decode("utf-8", "replace").strip():
                self._last["errors"].append(text)

    def hello(self, limit: float) -> dict[str, Any]:
        """What the process says of itself."""
        said = self._next(lambda found: "postdiff_scorer" in found, limit, "it did not say who it is")
        if said["postdiff_scorer"] != PROTOCOL:
            raise _ChildError(f"it speaks protocol {said['postdiff_scorer']!r}, this postdiff {PROTOCOL}")
        direction, timeout = said.get("direction", "higher"), said.get("timeout", BATCH_LIMIT)
        if direction not in ("higher", "lower"):
            raise _ChildError(f"its direction is {direction!r}, neither 'higher' nor 'lower'")
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= LONGEST:
            raise _ChildError(f"its timeout is {timeout!r}, not seconds above 0 and up to {LONGEST:g}")
        return {"direction": direction, "timeout": float(timeout), "fingerprint": str(said.get("fingerprint", ""))}

    def ask(self, request: dict[str, Any], limit: float) -> list[float]:
        """The scores that answer a request."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError) as error:
            raise self._ended("it does not listen any more") from error
        said = self._next(lambda found: found.get("id") == request["id"], limit, "it did not answer")
        if "error" in said:
            raise _ChildError(f"it says: {one_line(str(said['error']))}")
        scores, count = said.get("scores"), len(request["prompts"])
        if not isinstance(scores, list) or len(scores) != count or not all(map(_finite, scores)):
            raise _ChildError(f"its answer is not {count} finite numbers: {one_line(str(scores))[:100]}")
        return [float(value) for value in scores]

    def _next(self, fits: Any, limit: float, otherwise: str) -> dict[str, Any]:
        until = time.monotonic() + limit
        while True:
            try:
                said = self._answers.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise _ChildError(f"{otherwise} within {limit:g} s{self._said()}") from None
            if said is None:
                raise self._ended(otherwise)
            if fits(said):
                return said

    def _ended(self, otherwise: str) -> _ChildError:
        """The process closed its output: how it ended, with its last line."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        for thread in self._threads:
            thread.join(timeout=5)
        code = self._process.poll()
        how = otherwise if code is None else f"it ended with code {code}"
        return _ChildError(f"{how}{self._said()}")

    def _said(self) -> str:
        last = self._last["errors"] or self._last["output"]
        return f"; its last line: {one_line(last[-1])[:300]}" if last else ""

    def close(self) -> None:
        """End the process and give back its pipes."""
        self._finish()
        for thread in self._threads:
            thread.join(timeout=5)
        for file in (self._process.stdout, self._process.stderr):
            if file is not None:
                file.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()
    try:
        process.wait(timeout=0.2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
