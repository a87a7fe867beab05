"""A user's own Python function, named on the command line: ``module:function`` or ``path/to/file.py:function``.

Naming it is the user's consent to run it. Modules are looked for in the current folder too, behind all other places.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import marshal
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from postdiff_calib.errors import UsageError, one_line, reason_of


@dataclass(frozen=True)
class NamedFunction:
    """A function with what it is known by.

    Args:
        function: callable.
        name: its own.
        fingerprint: SHA-256 of the file that it was read from, and its name in there.
    """

    function: Callable[..., Any]
    name: str
    fingerprint: str


def names_function(text: str) -> bool:
    """Whether a text has the form ``module:function`` or ``file.py:function``."""
    place, colon, name = text.rpartition(":")
    if not colon or not name.isidentifier():
        return False
    return place.endswith(".py") or all(part.isidentifier() for part in place.split("."))


def load_function(text: str, option: str) -> NamedFunction:
    """The function that a text names.

    Args:
        text: ``module:function`` or ``file.py:function``.
        option: as on the command line, for messages.

    Raises:
        UsageError: no such form, no such file, module or function, or the module cannot be imported.
    """
    given, example = f"{option} {text}", "such as my_module:my_function or my_file.py:my_function"
    if not names_function(text):
        raise UsageError(given, "a function is named MODULE:FUNCTION", example)
    place, _, name = text.rpartition(":")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else _imported(place)
    except FileNotFoundError as error:
        raise UsageError(given, f"there is no file {place}", example) from error
    except Exception as error:  # a user's module may raise anything
        reason = one_line(f"{type(error).__name__}: {reason_of(error)}")
        raise UsageError(given, f"{place} cannot be imported ({reason})", "correct it") from error
    function = getattr(module, name, None)
    if not callable(function):
        rule = f"{place} has no function {name}" if function is None else f"{name} in {place} is no function"
        raise UsageError(given, rule, example)
    return NamedFunction(function, name, fingerprint_of(function, module))


def fingerprint_of(function: Callable[..., Any], module: ModuleType | None = None) -> str:
    """SHA-256 of a function's name and of the file that its module was read from.

    A notebook is no file: there it is of the function's own text, or of its bytecode where no text is known.
    """
    module = module or sys.modules.get(getattr(function, "__module__", "") or "")
    source = getattr(module, "__file__", None)
    digest = hashlib.sha256(str(getattr(function, "__qualname__", type(function).__qualname__)).encode())
    if source and os.path.isfile(source):
        digest.update(Path(source).read_bytes())
    else:
        digest.update(_text_of(function))
    return digest.hexdigest()


def _text_of(function: Callable[..., Any]) -> bytes:
    """The text of a function, or of a callable object's class; where there is none, its bytecode or nothing."""
    try:
        return inspect.getsource(function if inspect.isroutine(function) else type(function)).encode()
    except (OSError, TypeError):
        code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
        return b"" if code is None else marshal.dumps(code)


def _from_file(path: Path) -> ModuleType:
    if not os.path.isfile(path):
        raise FileNotFoundError(path)
    spec = importlib.util.spec_from_file_location(f"_postdiff_named_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _imported(name: str) -> ModuleType:
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    finally:
        if added:
            sys.path.remove(here)
