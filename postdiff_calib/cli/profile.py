"""``postdiff profile``: a profile readably, and the JSON Schema that every profile follows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def schema_command() -> None:
    """Print the JSON Schema of a profile.

    Example: postdiff profile schema > profile.schema.json
    """
    from postdiff_calib.profile import json_schema
    from postdiff_calib.report.json_output import print_document

    print_document(json_schema())


def show_command(
    file: Annotated[Path, typer.Argument(help="A profile.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print the profile as JSON.")] = False,
) -> None:
    """Print a profile readably; a faulty one fails with its line and key.

    Example: postdiff profile show profile.yaml
    """
    from postdiff_calib.profile import load_profile
    from postdiff_calib.report.terminal import print_profile

    print_profile(load_profile(file), as_json=as_json)
