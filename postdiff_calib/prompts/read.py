"""Reading prompt sets: JSONL with provenance (our own format), plain lines, CSV, COCO captions, Parquet.

Our format is one JSON object a line. The first may be a header: an object without ``prompt``, whose ``source`` and
``licence`` say where the prompts come from. The others are ``{"prompt": "…"}``; ``"split": "held_out"`` marks the rows
that only confirmation may use. Prompts are trimmed and their inner white space is collapsed; empty ones and repeats
(ignoring case) are dropped. Of a COCO captions file the first caption of each image is taken, since its five captions
say nearly the same.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from postdiff_calib.errors import PromptError, one_line, reason_of
from postdiff_calib.files import file_sha256, undecodable_line

#: Halves of characters, which JSON can spell and no file can hold.
_HALF = re.compile("[\ud800-\udfff]")
#: Column names that hold a caption in CSV and Parquet files, in order of preference.
COLUMNS: tuple[str, ...] = ("prompt", "caption", "text")


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
    """

    prompts: tuple[str, ...]
    sha256: str
    source: str = "unknown"
    licence: str = "unknown"
    name: str = "prompts"
    held_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.prompts)

    def __getitem__(self, index: int) -> str:
        return self.prompts[index]


def content_hash(prompts: Sequence[str], held_out: Sequence[str] = ()) -> str:
    """SHA-256 of the prompts in order (and of the held-out ones, where given), as 64 hexadecimal digits."""
    content = [list(prompts), list(held_out)] if held_out else list(prompts)
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


def shipped_sets() -> dict[str, Path]:
    """The sets that come with the package: name → file, in a source checkout and in an installed wheel alike."""
    installed = resources.files("postdiff_calib.prompts") / "sets"
    folder = Path(str(installed)) if installed.is_dir() else Path(__file__).parents[2] / "calib_sets"
    return {path.stem: path for path in sorted(folder.glob("*.jsonl"))}


def load_prompt_set(name_or_path: str | Path) -> PromptSet:
    """Load a shipped set by name, or any supported file (.jsonl, .txt, .csv, .json, .parquet).

    Raises:
        PromptError: no such set or file, no prompt in it, or a row that cannot be read (named by its line).
    """
    path = _find(name_or_path)
    header: dict[str, Any] = {}
    prompts: dict[str, str] = {}
    held_out: dict[str, str] = {}
    for text, split in read_rows(path, header):
        (held_out if split == "held_out" else prompts).setdefault(text.casefold(), text)
    kept = tuple(text for key, text in prompts.items() if key not in held_out)
    if not kept:
        raise PromptError(f"prompt file {path}", "it holds no prompt", "put one prompt on each line")
    reserved = tuple(held_out.values())
    return PromptSet(kept, content_hash(kept, reserved), *_provenance(header, path), path.stem, reserved)


class Corpus:
    """Captions in a file that may be larger than memory: each iteration reads it anew, row by row.

    Iterating gives the texts in order, trimmed, without empty ones; repeats are included, rows reserved for
    confirmation are not. COCO's .json is the exception: it is one value, so it is read whole, once, and kept.

    Args:
        name_or_path: a shipped set's name, or any supported file.

    Raises:
        PromptError: no such set or file; while iterating, a row that cannot be read (named by its line).
    """

    def __init__(self, name_or_path: str | Path) -> None:
        self.path = _find(name_or_path)
        self._header: dict[str, Any] = {}
        self._kept: list[str] | None = None

    @property
    def name(self) -> str:
        """The file's stem."""
        return self.path.stem

    def __iter__(self) -> Iterator[str]:
        if self._kept is not None:
            yield from self._kept
            return
        rows: Iterator[str] = (text for text, split in read_rows(self.path, self._header) if split != "held_out")
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


def read_rows(path: Path, header: dict[str, Any]) -> Rows:
    """Texts of a file, with white space collapsed and without empty ones, and their splits; fills ``header``.

    Raises:
        PromptError: the file or one of its rows cannot be read.
    """
    number = 0
    try:
        for number, (text, split) in enumerate(READERS[path.suffix.lower()](path, header), 1):
            clean = " ".join(text.split())
            if not clean:
                continue
            if _HALF.search(clean):
                raise PromptError(
                    f"{path}, prompt {number}", "it holds half a character (a lone surrogate)", "write it as UTF-8"
                )
            yield clean, split
    except UnicodeDecodeError as error:
        where = f"{path}, line {undecodable_line(path)}"
        raise PromptError(where, f"it is not UTF-8 text ({error.reason})", "convert the file to UTF-8") from error
    except RecursionError as error:
        raise PromptError(f"prompt file {path}", "it is nested too deep", "write one caption a row") from error
    except OSError as error:
        raise PromptError(f"prompt file {path}", f"it cannot be read ({reason_of(error)})", "check the file") from error


#: What a reader yields: the text, and its split (``""`` where the format has none).
Rows = Iterator[tuple[str, str]]


def _said(error: BaseException) -> str:
    """What an error says, without what it is about."""
    return getattr(error, "msg", None) or reason_of(error)


def _bad_row(path: Path, line: int, found: str, remedy: str) -> PromptError:
    return PromptError(f"{path}, line {line}", found, remedy)


def _read_jsonl(path: Path, header: dict[str, Any]) -> Rows:
    column = ""
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise _bad_row(path, number, f"not JSON ({_said(error)})", "write one JSON object a line") from error
            if not isinstance(row, dict):
                raise _bad_row(path, number, "not a JSON object", 'write {"prompt": "…"}')
            if not column:
                column = next((name for name in COLUMNS if name in row), "")
                if not column and number == 1:
                    header.update(row)
                    continue
                column = column or COLUMNS[0]
            text, split = row.get(column), row.get("split", "calibration")
            if not isinstance(text, str):
                raise _bad_row(path, number, f"no text under {column!r}", f'write {{"{column}": "…"}}')
            if split not in ("calibration", "held_out"):
                raise _bad_row(path, number, f"split is {split!r}", "it is calibration or held_out")
            yield text, split


def _read_lines(path: Path, header: dict[str, Any]) -> Rows:
    with path.open(encoding="utf-8-sig") as lines:
        for line in lines:
            yield line, ""


def _read_csv(path: Path, header: dict[str, Any]) -> Rows:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            names = [name.strip().lower() for name in next(rows, [])]
            column = _caption_column(path, names)
            for row in rows:
                if not row:
                    continue
                if len(row) <= column:
                    raise _bad_row(path, rows.line_num, f"{len(row)} columns", f"the header has {len(names)}")
                yield row[column], ""
        except csv.Error as error:
            raise _bad_row(path, rows.line_num, f"not CSV ({error})", "quote texts that hold commas") from error


def _caption_column(path: Path, names: Sequence[str]) -> int:
    for name in COLUMNS:
        if name in names:
            return list(names).index(name)
    raise PromptError(
        f"prompt file {path}",
        f"its columns are {', '.join(names) or 'none'}",
        f"name the column of prompts one of {', '.join(COLUMNS)}",
    )


def _read_json(path: Path, header: dict[str, Any]) -> Rows:
    remedy = 'expected COCO captions {"annotations": [{"image_id": 1, "caption": "…"}]}, or a list of texts'
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise _bad_row(path, error.lineno, f"not JSON ({error.msg})", remedy) from error
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise PromptError(f"prompt file {path}", f"not JSON ({_said(error)})", remedy) from error
    if isinstance(content, dict):
        content = content.get("annotations")
    if not isinstance(content, list):
        raise PromptError(f"prompt file {path}", "it has no list of captions", remedy)
    images: set[int | str] = set()
    for number, row in enumerate(content, 1):
        text = row.get("caption") if isinstance(row, dict) else row
        if not isinstance(text, str):
            raise PromptError(f"{path}, caption {number}", "it holds no text", remedy)
        image = row.get("image_id") if isinstance(row, dict) else None
        if image is not None:
            if isinstance(image, bool) or not isinstance(image, (int, str)):
                raise PromptError(f"{path}, caption {number}", "its image_id is neither a number nor text", remedy)
            if image in images:
                continue
            images.add(image)
        yield text, ""


def _read_parquet(path: Path, header: dict[str, Any]) -> Rows:
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError as error:
        raise PromptError(
            f"prompt file {path}",
            "reading Parquet needs pyarrow",
            "pip install 'postdiff[parquet]', or convert the file to .jsonl",
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            column = names[_caption_column(path, [name.lower() for name in names])]
            row = 0
            for batch in file.iter_batches(columns=[column]):
                for text in batch.column(0).to_pylist():
                    row += 1
                    if text is not None and not isinstance(text, str):
                        raise PromptError(f"{path}, row {row}", f"no text under {column!r}", "name another column so")
                    yield text or "", ""
    except (ValueError, TypeError, LookupError, NotImplementedError, RuntimeError) as error:
        # pyarrow's errors for a damaged file derive from these
        raise PromptError(f"prompt file {path}", f"not Parquet ({_said(error)})", "check the file") from error


READERS: dict[str, Callable[[Path, dict[str, Any]], Rows]] = {
    ".jsonl": _read_jsonl,
    ".txt": _read_lines,
    ".csv": _read_csv,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
