"""Text, YAML and JSON of unknown origin: read with bounds, and refused in one line that names the place.

A file is read up to a limit of bytes. YAML's anchors, aliases and merge keys are refused, since a few lines of them
grow to gigabytes; so are duplicate keys, keys that are not text, deep nesting, and numbers that are not finite or
longer than 64 bits. JSON is held to the same rules.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from postdiff_calib.errors import PostdiffError, ProfileError, reason_of

#: Most bytes of a profile. The largest that was ever written has 30 kB.
YAML_BYTES = 1 << 20
#: Most bytes of a study's record or a latency table. Their size grows with prompts and kinds of step, to a few MB.
JSON_BYTES = 256 << 20
#: Deepest nesting; a profile has 6 levels.
DEPTH = 32
#: Most bits of a whole number.
BITS = 64
_DIGITS = 20
# libyaml's parser is 50 times faster; it is in every wheel of PyYAML.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _RuleError(ValueError):
    """What is refused, and at which line (from 1; 0 where unknown)."""

    def __init__(self, rule: str, line: int = 0) -> None:
        super().__init__(rule)
        self.rule, self.line = rule, line


def read_text(path: Path, given: str, error: type[PostdiffError], remedy: str, limit: int = YAML_BYTES) -> str:
    """A UTF-8 file as text, at most ``limit`` bytes of it.

    Args:
        path: the file.
        given: what it is, for the message.
        error: raised where it cannot be read.
        remedy: what to do where there is no such file.
        limit: in bytes; a larger file is refused without reading it all.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(limit + 1)
    except (OSError, ValueError) as problem:
        raise error(given, f"it cannot be read ({reason_of(problem)})", remedy) from problem
    if len(raw) > limit:
        raise error(given, f"it is larger than {limit >> 20} MB, which no such file is", remedy)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = raw.count(b"\n", 0, problem.start) + 1
        raise error(f"{given}, line {line}", f"it is not text ({problem.reason})", "save it as UTF-8") from problem


def undecodable_line(path: Path) -> int:
    """Number (from 1) of the first line that is not UTF-8; 0 where there is none."""
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 0


def parse_json(text: str | bytes) -> Any:
    """JSON by the rules of this module.

    Raises:
        ValueError: it is not JSON, or breaks a rule; the message says which.
    """
    try:
        data = json.loads(text, object_pairs_hook=_distinct, parse_constant=_no_constant, parse_int=_integer)
        _check_data(data, 0)
    except RecursionError:
        raise _RuleError(f"it is nested more than {DEPTH} levels deep") from None
    return data


def finite(data: Any) -> Any:
    """Plain data with None where a number is not finite, which JSON cannot say."""
    if isinstance(data, Mapping):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def read_json(path: Path, given: str, error: type[PostdiffError], remedy: str) -> Any:
    """A JSON file by the rules of this module; what is wrong with it is one line under ``given``."""
    text = read_text(path, given, error, remedy, JSON_BYTES)
    try:
        return parse_json(text)
    except _RuleError as problem:
        raise error(given, problem.rule, remedy) from problem
    except json.JSONDecodeError as problem:
        where = f"{problem.msg} at line {problem.lineno}"
        raise error(given, f"it is not JSON ({where})", remedy) from problem


def _distinct(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _RuleError(f"the key {key!r} is given twice")
        found[key] = value
    return found


def _no_constant(text: str) -> NoReturn:
    raise _RuleError(f"numbers must be finite, not {text}")


def _integer(text: str) -> int:
    if len(text) > _DIGITS:
        raise _RuleError(f"whole numbers have {BITS} bits at most, not {len(text)} digits")
    return int(text)


def read_yaml(text: str, name: str) -> tuple[Any, Any]:
    """YAML or JSON text as (plain data, tree); ``line_of`` finds lines in the tree.

    Raises:
        ProfileError: it is neither, or breaks a rule of this module; ``name`` stands for the file in the message.
    """
    if len(text) > YAML_BYTES:
        raise ProfileError(name, f"it is larger than {YAML_BYTES >> 20} MB, which no profile is", "give a profile")
    try:
        _check_events(text)
        loader = _Loader(text)
        try:
            tree = loader.get_single_node()
            _check_keys(tree)
            try:
                return parse_json(text), tree  # YAML 1.1 would read JSON's 1e-05 as text
            except json.JSONDecodeError:
                data = None if tree is None else loader.construct_document(tree)
        finally:
            loader.dispose()
        _check_data(data, 0, finite=False)  # which key it is that is not finite, the profile's own check tells
        return data, tree
    except _RuleError as error:
        line = f", line {error.line}" if error.line else ""
        raise ProfileError(f"{name}{line}", error.rule, "correct the file") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be parsed"
        raise ProfileError(f"{name}{line}", f"not valid YAML ({problem})", "correct the file") from error


def _check_events(text: str) -> None:
    """Refuse what must not be expanded, before anything is."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = (event.start_mark.line if event.start_mark else 0) + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _RuleError("anchors and aliases of YAML are not read", line)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEPTH:
                raise _RuleError(f"it is nested more than {DEPTH} levels deep", line)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _check_keys(node: Any) -> None:
    """Refuse keys that are not text or come twice, and whole numbers that are too long to be turned into one."""
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:int" and len(node.value) > _DIGITS:
        raise _RuleError(f"whole numbers have {BITS} bits at most", node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys(item)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            given = f"{key.value!r:.40}" if isinstance(key, yaml.ScalarNode) else "a list or mapping"
            raise _RuleError(f"a key must be text, not {given}", line)
        if key.value in seen:
            raise _RuleError(f"the key {key.value!r} is given twice", line)
        seen.add(key.value)
        _check_keys(value)


def _check_data(data: Any, depth: int, finite: bool = True) -> None:
    if depth > DEPTH:
        raise _RuleError(f"it is nested more than {DEPTH} levels deep")
    if isinstance(data, dict):
        for value in data.values():
            _check_data(value, depth + 1, finite)
    elif isinstance(data, list):
        for value in data:
            _check_data(value, depth + 1, finite)
    elif finite and isinstance(data, float) and not math.isfinite(data):
        raise _RuleError(f"numbers must be finite, not {data}")
    elif isinstance(data, int) and data.bit_length() > BITS:
        raise _RuleError(f"whole numbers have {BITS} bits at most")


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
