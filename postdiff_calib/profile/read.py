"""Reading a profile: what is wrong with it is one line that names the file, the line and the key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from postdiff_calib.errors import KnobError, ProfileError
from postdiff_calib.files import line_of, read_text, read_yaml
from postdiff_calib.profile.document import Profile
from postdiff_calib.profile.earlier import SCHEMA_VERSION, current, written_at


def load_profile(path: str | Path) -> Profile:
    """Read and check a profile.

    Args:
        path: a YAML file as ``postdiff calibrate`` writes it.

    Raises:
        ProfileError: no such file, not YAML, or not a valid profile; names file, line and key.
    """
    path = Path(path)
    return parse_profile(read_text(path, f"profile {path}", ProfileError, "give a profile's path"), str(path))


def parse_profile(text: str, name: str = "profile") -> Profile:
    """Check the text of a profile; ``name`` stands for it in error messages."""
    data, tree = read_yaml(text, name)
    if not isinstance(data, dict):
        raise ProfileError(name, "a profile is a mapping of sections", "write one with 'postdiff calibrate'")
    version = data.get("schema_version")
    if isinstance(version, int) and not isinstance(version, bool) and not 1 <= version <= SCHEMA_VERSION:
        where = f"{name}, line {line_of(tree, ('schema_version',))}, schema_version: {version}"
        remedy = "upgrade postdiff" if version > SCHEMA_VERSION else "export the profile again"
        raise ProfileError(where, f"this postdiff reads up to {SCHEMA_VERSION}, from 1 on", remedy)
    try:
        # JSON mode: lists for tuples and whole numbers for floats are fine, strings for numbers are not.
        return Profile.model_validate_json(json.dumps(current(data)))
    except (ValidationError, TypeError, ValueError) as error:
        raise _explain(error, tree, name, version) from error


def _explain(error: Exception, tree: Any, name: str, version: Any) -> ProfileError:
    if not isinstance(error, ValidationError):
        return ProfileError(name, f"it holds a value that profiles do not use ({error})", "correct the file")
    first = error.errors()[0]
    location = written_at(tuple(first["loc"]), version)
    key = ".".join(str(part) for part in location) or "profile"
    where = f"{name}, line {line_of(tree, location)}, {key}"
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, KnobError):
        return ProfileError(f"{where}: {cause.given}", cause.rule, cause.remedy)
    if first["type"] == "extra_forbidden":
        return ProfileError(where, "unknown key", "remove it or correct its name")
    if first["type"] == "missing":
        return ProfileError(where, "this key is missing", "add it, or export the profile again")
    given = f" (given: {first['input']!r})" if not isinstance(first["input"], (dict, list)) else ""
    return ProfileError(where, f"{first['msg'].removeprefix('Value error, ')}{given}", "correct the value")
