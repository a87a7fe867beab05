"""Progress on a terminal: a live line where there is one, plain lines now and then where there is not.

Everything goes to standard error, so that standard output holds the result alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from postdiff_calib.progress import Progress, Silent
from postdiff_calib.report.console import make_console

#: Seconds between plain lines.
PLAIN_INTERVAL = 10.0


@contextmanager
def console_progress(quiet: bool, console: Console | None = None) -> Iterator[Progress]:
    """Progress for the command line: nothing when quiet, a live view on a terminal, plain lines elsewhere."""
    console = console or make_console(stderr=True)
    if quiet:
        yield Silent()
    elif console.is_terminal:
        columns = (
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[detail]}"),
        )
        with Bars(*columns, console=console) as bars:
            yield _Live(bars)
    else:
        yield _Plain(console)


class _Live:
    """One bar per stage."""

    def __init__(self, bars: Bars) -> None:
        self.bars = bars
        self.task: TaskID | None = None

    def _finish(self) -> None:
        if self.task is not None:
            task = next(t for t in self.bars.tasks if t.id == self.task)
            self.bars.update(self.task, total=max(task.completed, 1), completed=max(task.completed, 1))

    def stage(self, name: str, total: int | None = None) -> None:
        self._finish()
        self.task = self.bars.add_task(name, total=total, detail="")

    def advance(self, count: int = 1, detail: str | None = None, total: int | None = None) -> None:
        if self.task is not None:
            self.bars.advance(self.task, count)
            if total is not None:
                self.bars.update(self.task, total=total)
            if detail is not None:
                self.bars.update(self.task, detail=detail)

    def note(self, text: str) -> None:
        self.bars.console.print(f"[yellow]note[/yellow] {escape(text)}", highlight=False)


class _Plain:
    """A line when a stage begins and every few seconds after."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.name, self.total, self.done, self.detail = "", None, 0, ""  # type: str, int | None, int, str
        self.start = self.last = time.monotonic()

    def _line(self) -> None:
        self.last = time.monotonic()
        elapsed = self.last - self.start
        of = f"/{self.total}" if self.total else ""
        left = ""
        if self.total and 0 < self.done < self.total:
            left = f", about {elapsed / self.done * (self.total - self.done):.0f} s left"
        detail = f" · {self.detail}" if self.detail else ""
        self.console.print(
            f"{self.name}: {self.done}{of}, {elapsed:.0f} s{left}{detail}", highlight=False, markup=False
        )

    def stage(self, name: str, total: int | None = None) -> None:
        if self.name and self.done:
            self._line()
        self.name, self.total, self.done, self.detail = name, total, 0, ""
        self.start = self.last = time.monotonic()
        self.console.print(f"{name} …", highlight=False, markup=False)

    def advance(self, count: int = 1, detail: str | None = None, total: int | None = None) -> None:
        self.done += count
        self.total = self.total if total is None else total
        self.detail = self.detail if detail is None else detail
        if time.monotonic() - self.last >= PLAIN_INTERVAL:
            self._line()

    def note(self, text: str) -> None:
        self.console.print(f"note: {text}", highlight=False, markup=False)


class _Lines:
    """A ``Progress`` that gives lines to a function."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def stage(self, name: str, total: int | None = None) -> None:
        self._say(name if total is None else f"{name} ({total})")

    def advance(self, count: int = 1, detail: str | None = None, total: int | None = None) -> None:
        """Too many for lines."""

    def note(self, text: str) -> None:
        self._say(text)


@contextmanager
def told_progress(progress: Progress | Callable[[str], None] | bool | None) -> Iterator[Progress]:
    """What a Python program is told by: a progress bar (True), lines to a function, or an object of its own."""
    if progress is True:
        with console_progress(quiet=False) as told:
            yield told
    elif progress is None or progress is False:
        yield Silent()
    elif isinstance(progress, bool) or not callable(progress):
        yield progress
    else:
        yield _Lines(progress)
