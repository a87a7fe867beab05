"""The consoles that results and progress are written to: what is shown never steers the terminal.

Profiles, prompts and studies are files of others. Whatever text of them is printed, escape sequences and the like stand
in it as ``\\x1b``; rich's own colours and cursor movements are added behind that.
"""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

from postdiff_calib.errors import printable


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
    """A console on standard output or error; ``width`` in characters where it is no terminal."""
    console = Console(stderr=stderr)
    if width is not None and not console.is_terminal:
        console = Console(stderr=stderr, width=width)
    console.push_render_hook(_Escape())
    return console
