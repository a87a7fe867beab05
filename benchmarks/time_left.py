"""Is the time left that a calibration shows right? Records what a real run tells its progress, and replays it.

    python benchmarks/time_left.py [--out benchmarks/results/time_left.json]
    python benchmarks/time_left.py --replay benchmarks/results/time_left.json

The run is ``postdiff calibrate --model shapes --budget 60%`` on a study of its own. Each line of the table is a tenth
of the run: the time that was really left, and the time left that a terminal showed then.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console

from postdiff_calib.files import write_atomically
from postdiff_calib.report import progress as shown

RESULT = Path(__file__).parent / "results" / "time_left.json"
Event = list[Any]


class Recorder:
    """A progress that keeps every call with its second."""

    def __init__(self) -> None:
        self.start, self.events = time.monotonic(), list[Event]()

    def _keep(self, name: str, *given: Any) -> None:
        rounded = [round(value, 4) if isinstance(value, float) else value for value in given]
        self.events.append([round(time.monotonic() - self.start, 3), name, *rounded])

    def stage(self, name: str, total: int | None = None) -> None:  # noqa: D102
        self._keep("stage", name, total)

    def advance(self, count: int = 1, detail: str | None = None, total: int | None = None) -> None:  # noqa: D102
        self._keep("advance", count, None, total)

    def work(self, made: float, left: float, later: float = 0.0) -> None:  # noqa: D102
        self._keep("work", made, left, later)

    def note(self, text: str) -> None:  # noqa: D102
        self._keep("note", text)


def merged(events: list[Event], within: float = 0.25) -> list[Event]:
    """The events without counts that follow another within so many seconds: those are added to it."""
    found: list[Event] = []
    for event in events:
        before = found[-1] if found else None
        if before is not None and before[1] == event[1] == "advance" and event[0] - before[0] < within:
            before[2] += event[2]
        else:
            found.append(list(event))
    return found


def record() -> list[Event]:
    """The events of a calibration, the last at its end."""
    from postdiff_calib.jobs.calibrate import run_calibrate
    from postdiff_calib.jobs.job import CalibrateJob

    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder()
        run_calibrate(CalibrateJob(study=Path(folder) / "study", out=Path(folder) / "profile.yaml"), recorder)
        recorder.note("done")
    return merged(recorder.events)


def replay(events: list[Event]) -> list[tuple[float, float | None]]:
    """(seconds really left, seconds shown as left) after each event; None where nothing is shown."""
    found = []
    with (
        mock.patch.object(shown.time, "monotonic", return_value=0.0) as clock,
        shown.console_progress(quiet=False, console=Console(file=io.StringIO(), width=200)) as bar,
    ):
        for at, name, *given in events:
            clock.return_value = at
            getattr(bar, name)(*given)
            left = bar.now.time  # type: ignore[attr-defined]
            found.append((events[-1][0] - at, left.of_all(at) or left.of_stage(at)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--replay", type=Path, help="a recorded run, instead of making one")
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    if asked.replay is not None:
        events = json.loads(asked.replay.read_text(encoding="utf-8"))["events"]
    else:
        events = record()
        about = {"processor": platform.processor() or platform.machine(), "python": platform.python_version()}
        text = json.dumps({"command": "postdiff calibrate --model shapes --budget 60%", "machine": about})
        lines = ",\n".join(json.dumps(event, ensure_ascii=False) for event in events)
        write_atomically(asked.out, f'{text[:-1]}, "events": [\n{lines}\n]}}\n')
    found, end = replay(events), events[-1][0]
    print(f"{len(events)} events in {end:.0f} s")
    print("    part  really left  shown as left  ratio")
    for tenth in range(1, 10):
        really, said = next(pair for pair, event in zip(found, events, strict=True) if event[0] >= end * tenth / 10)
        print(f"{tenth:>6} /10 {really:>10.0f} s " + ("" if said is None else f"{said:>12.0f} s {said / really:>6.2f}"))
    ratios = [said / really for really, said in found if said is not None and 5 <= really <= 0.9 * end]
    print(f"from a tenth on until 5 s before the end: {min(ratios):.2f} to {max(ratios):.2f} of what was left")


if __name__ == "__main__":
    main()
