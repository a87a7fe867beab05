"""The formats of prompt files: JSONL (our own), plain lines, CSV, TSV, JSON (COCO captions among it) and Parquet.

Every reader yields ``Row``: text, split, category. Where a format has columns (keys, in JSON), the text's is the one
that ``Columns`` names, else the first of ``COLUMNS``; the category's is the one named, else ``category``, else there is
none. Names are compared exactly first, then without case. So PartiPrompts' TSV (Prompt, Category, Challenge, Note) and
COCO's captions are read as they are.

In a TSV each line is a row and quotes belong to the text, as PartiPrompts writes it; a cell that is wrapped in quotes,
with its own doubled, as spreadsheets write it, loses them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from postdiff_calib.errors import PromptError, reason_of

#: Columns that hold a caption where none is named, in order of preference, and the one that holds its category.
COLUMNS: tuple[str, ...] = ("prompt", "caption", "text")
CATEGORY = "category"
#: Most characters of a category: it heads a row of a table.
LONGEST_CATEGORY = 60


class Row(NamedTuple):
    """A prompt as a file has it; ``split`` and ``category`` are empty where the file says nothing."""

    text: str
    split: str = ""
    category: str = ""


@dataclass(frozen=True)
class Columns:
    """Which columns hold the prompts and their categories; None looks for the usual names (see module)."""

    text: str | None = None
    category: str | None = None

    def refuse_without_columns(self, path: Path, why: str) -> None:
        """Refuse a named column where the file has none.

        Raises:
            PromptError: one is named.
        """
        for option, name in (("--column", self.text), ("--category", self.category)):
            if name is not None:
                raise PromptError(f"{option} {name!r}", f"{path} {why}", "leave it out")

    def find(self, path: Path, names: Sequence[str]) -> tuple[int, int | None]:
        """Places of the text and of the category (None: there is none) among a file's columns.

        Raises:
            PromptError: a named column is not there or stands there twice, none holds prompts, or both are the same.
        """
        category = self._place(path, names, "--category", self.category)
        if category is None:
            category = next(iter(_places(names, CATEGORY)), None)
        text = self._place(path, names, "--column", self.text)
        if text is None:
            text = next((place for name in COLUMNS for place in _places(names, name)), None)
        if text is None:
            raise PromptError(
                f"prompt file {path}",
                f"its columns are {', '.join(names) or 'none'}",
                f"name the column of prompts one of {', '.join(COLUMNS)}, or give its name with --column",
            )
        if text == category and self.category is not None:
            raise PromptError(f"--category {self.category!r}", "that column holds the prompts", "name another")
        return text, None if text == category else category

    @staticmethod
    def _place(path: Path, names: Sequence[str], option: str, name: str | None) -> int | None:
        if name is None:
            return None
        places = _places(names, name)
        if len(places) == 1:
            return places[0]
        given = f"{option} {name!r}"
        if places:
            raise PromptError(given, f"{path} has {len(places)} columns of that name", "rename one of them")
        raise PromptError(given, f"{path} has the columns {', '.join(names) or '(none)'}", "name one of these")

    def label(self, value: Any, place: str) -> str:
        """A cell as a category; empty where it says nothing.

        Raises:
            PromptError: the column was named, and the cell holds no short text.
        """
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        found = " ".join(value.split()) if isinstance(value, str) else ""
        if self.category is not None and not 0 < len(found) <= LONGEST_CATEGORY:
            said = f"{len(found)} characters" if found else "no text"
            raise PromptError(
                f"{place}",
                f"{said} under {self.category!r} (--category)",
                f"give every row a category of 1 to {LONGEST_CATEGORY} characters",
            )
        return found if len(found) <= LONGEST_CATEGORY else ""


def _places(names: Sequence[str], wanted: str) -> list[int]:
    """Where a name stands: written just so, else whatever its case."""
    exact = [place for place, name in enumerate(names) if name == wanted]
    plain = wanted.strip().casefold()
    return exact or [place for place, name in enumerate(names) if name.strip().casefold() == plain]


#: What a reader yields.
Rows = Iterator[Row]


def said(error: BaseException) -> str:
    """What an error says, without what it is about."""
    return getattr(error, "msg", None) or reason_of(error)


def bad_row(path: Path, line: int, found: str, remedy: str) -> PromptError:
    """The error of a row, named by its line."""
    return PromptError(f"{path}, line {line}", found, remedy)


def _read_jsonl(path: Path, header: dict[str, Any], columns: Columns) -> Rows:
    column, category, wanted = "", None, columns.text or COLUMNS[0]
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise bad_row(path, number, f"not JSON ({said(error)})", "write one JSON object a line") from error
            if not isinstance(row, dict):
                raise bad_row(path, number, "not a JSON object", 'write {"prompt": "…"}')
            if not column:
                names = list(row)
                if not any(_places(names, name) for name in ([columns.text] if columns.text else COLUMNS)):
                    if number == 1:
                        header.update(row)
                        continue
                    raise bad_row(path, number, f"no text under {wanted!r}", f'write {{"{wanted}": "…"}}')
                text_place, category_place = columns.find(path, names)
                column, category = names[text_place], None if category_place is None else names[category_place]
            text, split = row.get(column), row.get("split", "calibration")
            if not isinstance(text, str):
                raise bad_row(path, number, f"no text under {column!r}", f'write {{"{column}": "…"}}')
            if split not in ("calibration", "held_out"):
                raise bad_row(path, number, f"split is {split!r}", "it is calibration or held_out")
            label = "" if category is None else columns.label(row.get(category), f"{path}, line {number}")
            yield Row(text, split, label)


def _read_lines(path: Path, header: dict[str, Any], columns: Columns) -> Rows:
    columns.refuse_without_columns(path, "holds a prompt a line, without columns")
    with path.open(encoding="utf-8-sig") as lines:
        for line in lines:
            yield Row(line)


def _cells(path: Path, numbered: Iterator[tuple[int, list[str]]], columns: Columns) -> Rows:
    """Rows of a table whose first line names its columns."""
    names = [name.strip() for name in next(numbered, (0, []))[1]]
    text, category = columns.find(path, names)
    for line, row in numbered:
        if not row:
            continue
        if len(row) <= max(text, category or 0):
            raise bad_row(path, line, f"{len(row)} columns", f"the header has {len(names)}")
        label = "" if category is None else columns.label(row[category], f"{path}, line {line}")
        yield Row(row[text], "", label)


def _read_csv(path: Path, header: dict[str, Any], columns: Columns) -> Rows:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            yield from _cells(path, ((rows.line_num, row) for row in rows), columns)
        except csv.Error as error:
            raise bad_row(path, rows.line_num, f"not CSV ({error})", "quote texts that hold commas") from error


def _read_tsv(path: Path, header: dict[str, Any], columns: Columns) -> Rows:
    def split(line: str) -> list[str]:
        return [_unquoted(cell) for cell in line.rstrip("\r\n").split("\t")] if line.strip() else []

    with path.open(encoding="utf-8-sig", newline="\n") as lines:
        yield from _cells(path, ((number, split(line)) for number, line in enumerate(lines, 1)), columns)


def _unquoted(cell: str) -> str:
    """A cell without the quotes of a spreadsheet; those of the text stay."""
    inner = cell[1:-1]
    wrapped = len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if wrapped else cell


def _read_json(path: Path, header: dict[str, Any], columns: Columns) -> Rows:
    remedy = 'expected COCO captions {"annotations": [{"image_id": 1, "caption": "…"}]}, or a list of texts'
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise bad_row(path, error.lineno, f"not JSON ({error.msg})", remedy) from error
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise PromptError(f"prompt file {path}", f"not JSON ({said(error)})", remedy) from error
    if isinstance(content, dict):
        content = content.get("annotations")
    if not isinstance(content, list):
        raise PromptError(f"prompt file {path}", "it has no list of captions", remedy)
    if content and isinstance(content[0], str):
        columns.refuse_without_columns(path, "holds a list of texts, without columns")
    column, category = "caption", None
    if content and isinstance(content[0], dict):
        names = list(content[0])
        usual = Columns(columns.text or ("caption" if "caption" in names else None), columns.category)
        if usual.text or usual.category or any(_places(names, name) for name in COLUMNS):
            text_place, category_place = usual.find(path, names)
            column, category = names[text_place], None if category_place is None else names[category_place]
    images: set[int | str] = set()
    for number, row in enumerate(content, 1):
        text = row.get(column) if isinstance(row, dict) else row
        if not isinstance(text, str):
            raise PromptError(f"{path}, caption {number}", "it holds no text", remedy)
        image = row.get("image_id") if isinstance(row, dict) else None
        if image is not None:
            if isinstance(image, bool) or not isinstance(image, (int, str)):
                raise PromptError(f"{path}, caption {number}", "its image_id is neither a number nor text", remedy)
            if image in images:
                continue
            images.add(image)
        value = row.get(category) if isinstance(row, dict) and category is not None else None
        yield Row(text, "", "" if category is None else columns.label(value, f"{path}, caption {number}"))


def _read_parquet(path: Path, header: dict[str, Any], columns: Columns) -> Rows:
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
            names = list(file.schema_arrow.names)
            text_place, category_place = columns.find(path, names)
            column, category = names[text_place], None if category_place is None else names[category_place]
            row = 0
            for batch in file.iter_batches(columns=[column] if category is None else [column, category]):
                texts = batch.column(column).to_pylist()
                labels = [None] * len(texts) if category is None else batch.column(category).to_pylist()
                for text, value in zip(texts, labels, strict=True):
                    row += 1
                    if text is not None and not isinstance(text, str):
                        raise PromptError(f"{path}, row {row}", f"no text under {column!r}", "name another column so")
                    label = "" if category is None else columns.label(value, f"{path}, row {row}")
                    yield Row(text or "", "", label)
    except (ValueError, TypeError, LookupError, NotImplementedError, RuntimeError) as error:
        # pyarrow's errors for a damaged file derive from these
        raise PromptError(f"prompt file {path}", f"not Parquet ({said(error)})", "check the file") from error


READERS: dict[str, Callable[[Path, dict[str, Any], Columns], Rows]] = {
    ".jsonl": _read_jsonl,
    ".txt": _read_lines,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
