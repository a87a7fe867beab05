"""Runs of a long benchmark, kept as they end.

A run is a line of a JSONL file beside the result, so a stopped benchmark goes on where it was, and more runs can be
added at any time.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any

from postdiff_calib.files import write_atomically
from postdiff_calib.scores.store import FileStore

Run = dict[str, Any]


class Journal:
    """Runs by what identifies them.

    Args:
        out: the result; the journal lies beside it, with the suffix ``.jsonl``.
        identity: what identifies a run. A later run takes the place of an earlier one of the same identity.

    Attributes:
        runs: by identity.
    """

    def __init__(self, out: Path, identity: Callable[[Run], Hashable]) -> None:
        self.path, self._out, self._identity = out.with_suffix(".jsonl"), out, identity
        self.runs: dict[Hashable, Run] = {}
        self._store = FileStore(self.path, check=lambda run: None, what="runs")
        for run in self._store.read():
            self.runs[identity(run)] = run

    def __contains__(self, identity: Hashable) -> bool:
        return identity in self.runs

    def __getitem__(self, identity: Hashable) -> Run:
        return self.runs[identity]

    def add(self, run: Run) -> None:
        """Keep one run for good."""
        self.runs[self._identity(run)] = run
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._store.append(run)

    def write(self, *packages: str, key: Callable[[Run], Any] | None = None, **about: Any) -> None:
        """Write the result, as ``write_runs``; sorted by a key, or in the order in which runs ended where None."""
        runs = list(self.runs.values()) if key is None else sorted(self.runs.values(), key=key)
        write_runs(self._out, runs, *packages, **about)


def write_runs(out: Path, runs: Iterable[Run], *packages: str, **about: Any) -> None:
    """Write a result: the machine, versions of packages, further facts, and a line for every run.

    Args:
        out: where.
        runs: of the benchmark.
        packages: whose versions are told, None where one is not installed.
        about: further facts.
    """
    told = {"machine": platform.machine(), "cpus": os.cpu_count(), "python": platform.python_version()}
    told |= {name: version_of(name) for name in packages} | about
    lines = ",\n".join(json.dumps(run) for run in runs)
    write_atomically(out, f'{{"about": {json.dumps(told)},\n"runs": [\n{lines}\n]}}\n')


def recorded_runs(out: Path) -> list[Run]:
    """The runs of a result."""
    runs: list[Run] = json.loads(out.read_text())["runs"]
    return runs


def version_of(package: str) -> str | None:
    """The version of an installed package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
