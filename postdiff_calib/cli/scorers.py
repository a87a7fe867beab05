"""``postdiff scorers``: which scorers there are, and what is missing for those that cannot be used here."""

from __future__ import annotations

from typing import Annotated

import typer


def scorers_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the scorers that --scorer and --also take, and whether this machine has them; nothing is fetched.

    Example: postdiff scorers
    """
    from postdiff_calib.quality.listed import listed
    from postdiff_calib.report.scorers import print_scorers

    print_scorers(listed(), as_json=as_json)
