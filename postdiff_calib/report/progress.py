"""Progress on a terminal: a live line where there is one, plain lines now and then where there is not.

Everything goes to standard error, so that standard output holds the result alone. The time left is ``TimeLeft``'s where
a job says how long its work should take, else that of equal units.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.text import Text

from postdiff_calib.progress import Progress, Silent
from postdiff_calib.report.console import make_console, print_line
from postdiff_calib.report.time_left import TimeLeft
from postdiff_calib.report.wording import duration

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
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        with _Bars(*columns, console=console) as bars:
            yield _Live(bars)
    else:
        yield _Plain(console)


class _Stage:
    """The stage in hand: how far it is and how long it still takes."""

    def __init__(self) -> None:
        self.name, self.total, self.done, self.detail = "", None, 0, ""  # type: str, int | None, int, str
        self.time = TimeLeft(time.monotonic())

    def begin(self, name: str, total: int | None) -> None:
        self.name, self.total, self.done, self.detail = name, total, 0, ""
        self.time.stage(time.monotonic())

    def count(self, count: int, detail: str | None, total: int | None) -> None:
        self.done += count
        self.total = self.total if total is None else total
        self.detail = self.detail if detail is None else detail

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.time.started

    def left(self) -> str:
        """The time left of the stage, and of the job where more comes after it; empty where nothing can be said."""
        now = time.monotonic()
        stage, job = self.time.of_stage(now), self.time.of_all(now)
        if stage is None and self.total and 0 < self.done < self.total:
            stage = self.elapsed / self.done * (self.total - self.done)
        if stage is None or (self.total and self.done >= self.total):
            return "" if job is None else f"{duration(job)} left in all"
        return f"{duration(stage)} left" + ("" if job is None else f", {duration(job)} in all")


class _Bars(Bars):
    """The bars with the remark of the last one below them, on a line of its own: it never crowds out the time."""

    detail = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.detail:
            yield Text(self.detail, style="dim")


class _Live(Silent):
    """One bar per stage."""

    def __init__(self, bars: _Bars) -> None:
        self.bars, self.now = bars, _Stage()
        self.task: TaskID | None = None

    def _finish(self) -> None:
        self.bars.detail = ""
        if self.task is not None:
            task = next(t for t in self.bars.tasks if t.id == self.task)
            self.bars.update(self.task, total=max(task.completed, 1), completed=max(task.completed, 1), left="")

    def stage(self, name: str, total: int | None = None) -> None:
        super().stage(name, total)
        self._finish()
        self.now.begin(name, total)
        self.task = self.bars.add_task(name, total=total, left="")

    def advance(self, count: int = 1, detail: str | None = None, total: int | None = None) -> None:
        self.now.count(count, detail, total)
        if self.task is not None:
            self.bars.update(self.task, advance=count, total=self.now.total, left=self.now.left())
        self.bars.detail = self.now.detail

    def work(self, made: float, left: float, later: float = 0.0) -> None:
        self.now.time.work(made, left, later)
        if self.task is not None:
            self.bars.update(self.task, left=self.now.left())

    def note(self, text: str) -> None:
        super().note(text)
        self.bars.console.print(f"[yellow]note[/yellow] {escape(text)}", highlight=False)


class _Plain(Silent):
    """A line when a stage begins and every few seconds after."""

    def __init__(self, console: Console) -> None:
        self.console, self.now = console, _Stage()
        self.last = time.monotonic()

    def _say(self, text: str) -> None:
        print_line(self.console, text)

    def _line(self) -> None:
        self.last, now = time.monotonic(), self.now
        of = f"/{now.total}" if now.total else ""
        left = f", about {text}" if (text := now.left()) else ""
        detail = f" · {now.detail}" if now.detail else ""
        self._say(f"{now.name}: {now.done}{of}, {duration(now.elapsed)}{left}{detail}")

    def stage(self, name: str, total: int | None = None) -> None:
        super().stage(name, total)
        if self.now.name and self.now.done:
            self._line()
        self.now.begin(name, total)
        self.last = time.monotonic()
        self._say(f"{name} …")

    def advance(self, count: int = 1, detail: str | None = None, total: int | None = None) -> None:
        self.now.count(count, detail, total)
        if time.monotonic() - self.last >= PLAIN_INTERVAL:
            self._line()

    def work(self, made: float, left: float, later: float = 0.0) -> None:
        self.now.time.work(made, left, later)

    def note(self, text: str) -> None:
        super().note(text)
        self._say(f"note: {text}")


class _Lines(Silent):
    """A ``Progress`` that gives lines to a function."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def stage(self, name: str, total: int | None = None) -> None:
        super().stage(name, total)
        self._say(name if total is None else f"{name} ({total})")

    def advance(self, count: int = 1, detail: str | None = None, total: int | None = None) -> None:
        """Too many for lines."""

    def note(self, text: str) -> None:
        super().note(text)
        self._say(text)


@contextmanager
def told_progress(progress: Progress | Callable[[str], None] | bool | None) -> Iterator[Progress]:
    """The ``Progress`` of a Python program: a bar (True), a function called with lines, or an object of its own."""
    if progress is True:
        with console_progress(quiet=False) as told:
            yield told
    elif progress is None or progress is False:
        yield Silent()
    elif isinstance(progress, bool) or not callable(progress):
        yield progress
    else:
        yield _Lines(progress)
