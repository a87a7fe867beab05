"""Plain files: YAML read with its line numbers, text written whole or not at all, addresses without their passwords."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from postdiff_calib.errors import OutputError, ProfileError

# Up to the last @ of the word: a password with an unescaped @ must not survive in part.
_PASSWORD = re.compile(r"(\w[\w+.-]*://[^\s/@:]*):\S*@")
_QUERY_PASSWORD = re.compile(r"([?&][^&=\s]*(?:password|passwd|pwd)[^&=\s]*=)[^&\s]*", re.IGNORECASE)


def read_yaml(text: str, name: str) -> tuple[Any, Any]:
    """YAML or JSON text as (plain data, tree); ``line_of`` finds lines in the tree.

    Raises:
        ProfileError: it is neither; ``name`` stands for the file in the message.
    """
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        try:
            return json.loads(text), tree  # YAML 1.1 would read JSON's 1e-05 as text
        except ValueError:
            return yaml.safe_load(text), tree
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise ProfileError(f"{name}{line}", f"not valid YAML ({problem})", "correct the file") from error


def line_of(tree: Any, location: tuple[Any, ...]) -> int:
    """Line number (from 1) of the deepest part of ``location`` that exists in the YAML tree."""
    node, line = tree, 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = [(k, v) for k, v in node.value if k.value == str(part)]
            if not found:
                break
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def write_atomically(path: str | Path, text: str) -> Path:
    """Write text by way of a temporary file in the same folder.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as f:
                f.write(text)
                f.flush()
                os.fsync(f.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(
            f"output {path}", f"it cannot be written ({error.strerror})", "choose another path"
        ) from error
    return path


def without_passwords(value: Any) -> Any:
    """The same plain data with the password dropped from every address in it, e.g. ``postgresql://me:***@host/db``."""
    if isinstance(value, str):
        return _QUERY_PASSWORD.sub(r"\1***", _PASSWORD.sub(r"\1:***@", value))
    if isinstance(value, Mapping):
        return {key: without_passwords(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_passwords(item) for item in value]
    return value
