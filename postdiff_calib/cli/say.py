"""Lines on standard output that hold text of others: a path, a model's name, a device's."""

from __future__ import annotations

import typer

from postdiff_calib.errors import printable


def say(text: str) -> None:
    """Print a line in which nothing steers the terminal."""
    typer.echo(printable(text, keep="\n"))
