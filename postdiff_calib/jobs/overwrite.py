"""An export replaces only what an export of the same study wrote, and nobody changed since.

The study's folder keeps the SHA-256 of each file that was exported from it. A file that is there and is not one of
these, a profile that ``calibrate`` wrote or that a person edited for one, is replaced only when that is asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from postdiff_calib.errors import OutputError, StudyError
from postdiff_calib.files import file_sha256, read_json, write_atomically

EXPORTED = "exported.json"


def refuse_overwrite(texts: Mapping[Path, str], study: Path) -> None:
    """Refuse to replace files that no export of this study wrote; those that would stay as they are may be there.

    Args:
        texts: what is to be written, by path.
        study: the study's folder.

    Raises:
        OutputError: naming the first.
    """
    known = _exported(study)
    for path, text in texts.items():
        if not path.exists():
            continue
        found = file_sha256(path)
        if found not in (known.get(os.path.realpath(path)), _sha256(text)):
            rule = "it is there already, and is not as an export of this study wrote it"
            raise OutputError(f"output {path}", rule, "name another (--out), or replace it (--force)")


def remember(texts: Mapping[Path, str], study: Path) -> None:
    """Keep what was written, so that a later export may replace it; a study that cannot be written is left alone."""
    known = _exported(study) | {os.path.realpath(path): _sha256(text) for path, text in texts.items()}
    with suppress(OutputError):
        write_atomically(study / EXPORTED, json.dumps(known, indent=1, sort_keys=True) + "\n")


def _exported(study: Path) -> dict[str, str]:
    """SHA-256 of the files that were exported, by absolute path; a damaged list is none."""
    path = study / EXPORTED
    if not path.exists():
        return {}
    try:
        found = read_json(path, f"study file {path}", StudyError, "delete it")
    except StudyError:
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
