"""Two mappings of plain data → the entries in which they differ, as text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_HASH = re.compile("[0-9a-f]{64}")


def differences(known: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> str:
    """Which entries differ, with both values: ``model.revision was 'a', now 'b'``; empty where none does.

    Of two hashes it is only said that they differ: their digits tell nobody anything.
    """
    found = []
    for name in sorted({*known, *wanted}):
        old, new = known.get(name), wanted.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            inner = differences(old, new, f"{prefix}{name}.")
            found += [inner] if inner else []
        elif old != new and all(isinstance(value, str) and _HASH.fullmatch(value) for value in (old, new)):
            found.append(f"{prefix}{name} differs")
        elif old != new:
            found.append(f"{prefix}{name} was {old!r}, now {new!r}")
    return ", ".join(found)


#: What studies came to state of their pipeline after the first ones were made.
LATER_KEYS = frozenset({"configuration", "scheduler", "tokenizers"})


def differences_of_studies(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """As ``differences`` of two studies' fingerprints; what an older study does not state is no difference."""
    unstated = LATER_KEYS - known.keys()
    return differences(known, {name: value for name, value in wanted.items() if name not in unstated})
