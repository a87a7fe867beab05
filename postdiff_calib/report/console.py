"""The consoles that results and progress are written to: what is shown never steers the terminal.

Profiles, prompts and studies are files of others. Whatever text of them is printed, escape sequences and the like stand
in it as ``\\x1b``; rich's own colours and cursor movements are added behind that.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Collection, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from postdiff_calib.errors import printable

#: Wider than any table.
_ANY_WIDTH = 10_000
#: A table that is wider than the console by more than this has cells in too many lines to be read.
_WRAPPED = 1.2


class _Shown:
    """A renderable whose text is made printable."""

    def __init__(self, inner: ConsoleRenderable) -> None:
        self.inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.inner, options):
            yield segment if segment.control else Segment(printable(segment.text, keep="\n"), segment.style)


class _Escape(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Shown(renderable) for renderable in renderables]


def make_console(width: int | None = None, *, stderr: bool = False) -> Console:
    """A console on standard output or error; ``width`` in characters where it is no terminal and none is asked for.

    A width is asked for by the environment's ``COLUMNS``.
    """
    console = Console(stderr=stderr)
    if width is not None and not console.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        console = Console(stderr=stderr, width=width)
    console.push_render_hook(_Escape())
    return console


def print_line(console: Console, text: str) -> None:
    """A line of plain text that is never broken: a path in it can be copied whole."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def print_table(console: Console, table: Table, *, plain: Collection[str] = (), most: float = _WRAPPED) -> None:
    """A table whole: as it is where it fits the console with few cells wrapped, else a block of lines per row.

    A block has the row's first cell, then the other cells under it, each behind its column's heading; no cell is cut,
    and none is broken where it fits on a line.

    Args:
        console: where to.
        table: of text; a row whose first cell is empty belongs to the one above it.
        plain: headings of columns whose cells speak for themselves.
        most: how much wider than the console it may be, and still be wrapped as a table.
    """
    columns = [[_text(cell) for cell in column.cells] for column in table.columns]
    headings = [_text(column.header) if table.show_header else Text() for column in table.columns]
    natural = Measurement.get(console, console.options.update(max_width=_ANY_WIDTH), table).maximum
    # what no column may be narrower than: a whole cell where it is not to be wrapped, else its longest word
    whole = [max(cell.cell_len for cell in (heading, *cells)) for heading, cells in zip(headings, columns, strict=True)]
    words = [
        max((cell_len(word) for cell in (heading, *cells) for word in cell.plain.split()), default=0)
        for heading, cells in zip(headings, columns, strict=True)
    ]
    saved = sum(w - n for w, n, column in zip(whole, words, table.columns, strict=True) if not column.no_wrap)
    if natural - saved <= console.width and natural <= most * console.width:
        console.print(table, highlight=False)
        return
    if table.title:
        console.print(_text(table.title), highlight=False, style="italic")
    for number in range(table.row_count):
        first, *others = [column[number] for column in columns]
        if first.plain:
            console.print(Text.assemble((first.plain, "bold")), highlight=False)
        pairs = [
            cell.plain if heading.plain in plain else f"{heading.plain} {cell.plain}".strip()
            for heading, cell in zip(headings[1:], others, strict=True)
            if cell.plain
        ]
        for i, line in enumerate(_lines(pairs, console.width - 4)):
            console.print(f"{'    ' if i else '  '}{line}", highlight=False, markup=False)
    if table.caption:
        console.print(_text(table.caption), highlight=False, style="dim italic")


def _lines(pairs: Sequence[str], width: int) -> list[str]:
    """Texts put side by side where they fit; one that is wider than a line is wrapped between words."""
    lines: list[str] = []
    for pair in pairs:
        if lines and len(lines[-1]) + 3 + len(pair) <= width:
            lines[-1] += f"   {pair}"
        else:
            lines += textwrap.wrap(pair, width, subsequent_indent="  ", break_on_hyphens=False) or [""]
    return lines


def _text(cell: RenderableType) -> Text:
    return cell if isinstance(cell, Text) else Text.from_markup(str(cell))
