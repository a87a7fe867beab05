"""Reading prompt sets: JSONL with provenance (our own format), plain lines, CSV, TSV, COCO captions, Parquet.

Our format is one JSON object a line. The first may be a header: an object without ``prompt``, whose ``source`` and
``licence`` say where the prompts come from. The others are ``{"prompt": "…"}``; ``"split": "held_out"`` marks the rows
that only confirmation may use, ``"category": "…"`` says what kind of prompt it is. Prompts are trimmed and their inner
white space is collapsed; empty ones and repeats (ignoring case) are dropped. Of a COCO captions file the first caption
of each image is taken, since its five captions say nearly the same. ``formats`` has the readers.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from postdiff_calib.errors import PromptError, one_line, reason_of
from postdiff_calib.files import file_sha256, undecodable_line
from postdiff_calib.prompts.formats import READERS, Columns, Row, Rows

#: Halves of characters, which JSON can spell and no file can hold.
_HALF = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class PromptSet:
    """Prompts and where they come from.

    Attributes:
        prompts: distinct prompts, in the file's order.
        sha256: plan id of ``prompts`` and ``held_out``; file format and header do not enter.
        source: where the prompts come from, as text.
        licence: SPDX identifier, or ``unknown``.
        name: the shipped set's name, or the file's stem.
        held_out: prompts the file reserves for confirmation; empty when it leaves the split to ``draw``.
        categories: prompt → what kind of prompt it is; those without one are not in it. Does not enter ``sha256``.
    """

    prompts: tuple[str, ...]
    sha256: str
    source: str = "unknown"
    licence: str = "unknown"
    name: str = "prompts"
    held_out: tuple[str, ...] = ()
    categories: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.prompts)

    def __getitem__(self, index: int) -> str:
        return self.prompts[index]

    def categories_of(self, prompts: Sequence[str]) -> tuple[str, ...]:
        """The category of each prompt, ``""`` for one without; empty where no prompt of the set has one."""
        return tuple(self.categories.get(prompt, "") for prompt in prompts) if self.categories else ()


def content_hash(prompts: Sequence[str], held_out: Sequence[str] = ()) -> str:
    """SHA-256 of the prompts in order (and of the held-out ones, where given), as 64 hexadecimal digits."""
    content = [list(prompts), list(held_out)] if held_out else list(prompts)
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


def shipped_sets() -> dict[str, Path]:
    """The sets that come with the package: name → file, in a source checkout and in an installed wheel alike."""
    installed = resources.files("postdiff_calib.prompts") / "sets"
    folder = Path(str(installed)) if installed.is_dir() else Path(__file__).parents[2] / "calib_sets"
    return {path.stem: path for path in sorted(folder.glob("*.jsonl"))}


def load_prompt_set(name_or_path: str | Path, columns: Columns | None = None) -> PromptSet:
    """Load a shipped set by name, or any supported file (.jsonl, .txt, .csv, .tsv, .json, .parquet).

    Args:
        name_or_path: the set.
        columns: which columns hold prompts and categories; the usual names by default.

    Raises:
        PromptError: no such set or file, no prompt in it, or a row that cannot be read (named by its line).
    """
    path = _find(name_or_path)
    header: dict[str, Any] = {}
    prompts: dict[str, str] = {}
    held_out: dict[str, str] = {}
    found: dict[str, str] = {}
    for text, split, category in read_rows(path, header, columns):
        (held_out if split == "held_out" else prompts).setdefault(text.casefold(), text)
        if category:
            found.setdefault(text, category)
    kept = tuple(text for key, text in prompts.items() if key not in held_out)
    if not kept:
        raise PromptError(f"prompt file {path}", "it holds no prompt", "put one prompt on each line")
    reserved = tuple(held_out.values())
    categories = {text: found[text] for text in (*kept, *reserved) if text in found}
    return PromptSet(kept, content_hash(kept, reserved), *_provenance(header, path), path.stem, reserved, categories)


class Corpus:
    """Captions in a file that may be larger than memory: each iteration reads it anew, row by row.

    Iterating gives the texts in order, trimmed, without empty ones; repeats are included, rows reserved for
    confirmation are not. COCO's .json is the exception: it is one value, so it is read whole, once, and kept.

    Args:
        name_or_path: a shipped set's name, or any supported file.
        columns: which columns hold prompts and categories; the usual names by default.

    Raises:
        PromptError: no such set or file; while iterating, a row that cannot be read (named by its line).
    """

    def __init__(self, name_or_path: str | Path, columns: Columns | None = None) -> None:
        self.path = _find(name_or_path)
        self._columns = columns
        self._header: dict[str, Any] = {}
        self._kept: list[Row] | None = None

    @property
    def name(self) -> str:
        """The file's stem."""
        return self.path.stem

    def __iter__(self) -> Iterator[str]:
        return (row.text for row in self._rows())

    def categories_of(self, texts: Sequence[str]) -> dict[str, str]:
        """Text → category of those of ``texts`` that have one; reads the file once more."""
        wanted, found = set(texts), dict[str, str]()
        for text, _, category in self._rows():
            if category and text in wanted:
                found.setdefault(text, category)
        return found

    def _rows(self) -> Rows:
        if self._kept is not None:
            yield from self._kept
            return
        rows: Rows = (row for row in read_rows(self.path, self._header, self._columns) if row.split != "held_out")
        if self.path.suffix.lower() == ".json":
            self._kept = list(rows)
            rows = iter(self._kept)
        yield from rows

    def provenance(self) -> dict[str, str]:
        """Source and licence as the file's header has them (once iterated), and the file's name and hash."""
        source, licence = _provenance(self._header, self.path)
        digest = file_sha256(self.path)
        return {"source": source, "licence": licence, "corpus": self.path.name, "corpus_sha256": digest}


def _provenance(header: dict[str, Any], path: Path) -> tuple[str, str]:
    return one_line(str(header.get("source", path.name))), one_line(str(header.get("licence", "unknown")))


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    shipped = shipped_sets()
    if str(name_or_path) in shipped:  # ./NAME is a file of that name
        return shipped[str(name_or_path)]
    if not os.path.isfile(path):
        if os.path.lexists(path) and not os.path.isdir(path):
            raise PromptError(f"prompt set {str(name_or_path)!r}", "it is not a regular file", "copy it to one")
        raise PromptError(
            f"prompt set {str(name_or_path)!r}",
            "there is no such file, nor a shipped set of that name",
            f"give a file, or one of: {', '.join(shipped) or 'none shipped'}",
        )
    if path.suffix.lower() not in READERS:
        raise PromptError(
            f"prompt file {path}", f"{path.suffix or 'a missing suffix'} is not read", f"use {', '.join(READERS)}"
        )
    return path


def read_rows(path: Path, header: dict[str, Any], columns: Columns | None = None) -> Rows:
    """Rows of a file, with white space collapsed and without empty texts; fills ``header``.

    Raises:
        PromptError: the file or one of its rows cannot be read.
    """
    number = 0
    try:
        for number, row in enumerate(READERS[path.suffix.lower()](path, header, columns or Columns()), 1):
            clean = " ".join(row.text.split())
            if not clean:
                continue
            if _HALF.search(clean + row.category):
                raise PromptError(
                    f"{path}, prompt {number}", "it holds half a character (a lone surrogate)", "write it as UTF-8"
                )
            yield row._replace(text=clean)
    except UnicodeDecodeError as error:
        where = f"{path}, line {undecodable_line(path)}"
        raise PromptError(where, f"it is not UTF-8 text ({error.reason})", "convert the file to UTF-8") from error
    except RecursionError as error:
        raise PromptError(f"prompt file {path}", "it is nested too deep", "write one caption a row") from error
    except OSError as error:
        raise PromptError(f"prompt file {path}", f"it cannot be read ({reason_of(error)})", "check the file") from error
