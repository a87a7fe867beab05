"""What ``--json`` prints: plain data for scripts, named by a schema that ``docs/json.md`` describes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from postdiff_calib.files import finite

#: Every form of output; each has a section in ``docs/json.md``.
Kind = Literal[
    "calibrate",
    "calibrate-dry-run",
    "worker",
    "export",
    "compare",
    "compare-profiles",
    "generate",
    "verify",
    "judge",
    "cost",
    "cost-grid",
    "cost-modules",
    "ablate",
    "redundancy",
    "prompt-sizes",
    "methods",
    "finetune",
    "finetune-price",
    "fid",
    "study-price",
    "models",
    "scorers",
    "profile",
]
#: Of every form; a key that goes or changes its meaning raises it.
VERSION = 1
#: What steers a terminal, beside what JSON escapes by itself.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def with_schema(kind: Kind, data: Mapping[str, Any]) -> dict[str, Any]:
    """Data with its schema first, e.g. ``postdiff.cost/1``."""
    return {"schema": f"postdiff.{kind}/{VERSION}", **data}


def print_json(kind: Kind, data: Mapping[str, Any]) -> None:
    """Data on standard output, with its schema first."""
    print_document(with_schema(kind, data))


def print_document(data: Mapping[str, Any]) -> None:
    """A document that has a format of its own, such as a JSON Schema, on standard output."""
    text = json.dumps(finite(data), indent=2, ensure_ascii=False)
    # json itself escapes what lies below a blank, and no more than that.
    print(_UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text))
