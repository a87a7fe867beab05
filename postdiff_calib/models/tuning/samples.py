"""Images with captions to train on: a folder, WebDataset shards (.tar), Parquet files, or the embedded models' world.

Sample k is a function of (source, seed, k): every epoch is another permutation, so a stopped run goes on with the same
samples. What is read together (the row group of a Parquet file) stays together in an epoch, in random order.

Captions: beside an image a ``.txt`` of the same stem, or a row of ``metadata.jsonl`` with ``file_name``; in a shard
``.txt`` or ``.json`` of the same key; in Parquet a column. Columns and keys are found as prompt files are read.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any, Protocol

import numpy as np
import torch

from postdiff_calib.errors import PromptError, UsageError, reason_of
from postdiff_calib.prompts.formats import Columns, said

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
#: Columns that hold an image where it is not named ``image``, as shards in Parquet have it.
IMAGE_COLUMNS = ("image", "jpg", "png", "webp", "image_bytes")
METADATA = "metadata.jsonl"

#: An image as the file has it, and its caption.
CaptionedImage = tuple[Any, str]


class Source(Protocol):
    """Images in groups that are read together."""

    @property
    def groups(self) -> Sequence[int]:
        """Number of images in each."""

    def read(self, group: int, place: int) -> CaptionedImage:
        """An image, as bytes or a path, and its caption."""

    def facts(self) -> Iterator[object]:
        """What tells these images and captions from others: names, sizes and captions, without reading the images."""


@dataclass(frozen=True)
class FolderSource:
    """Image files with a caption each."""

    files: Sequence[tuple[Path, str]]

    @property
    def groups(self) -> Sequence[int]:  # noqa: D102
        return [len(self.files)]

    def read(self, group: int, place: int) -> CaptionedImage:  # noqa: D102
        return self.files[place]

    def facts(self) -> Iterator[object]:  # noqa: D102
        return ((path.name, path.stat().st_size, caption) for path, caption in self.files)


@dataclass(frozen=True)
class ShardSource:
    """Members of tar files: (file, offset, size) and a caption each."""

    members: Sequence[tuple[Path, int, int, str]]

    @property
    def groups(self) -> Sequence[int]:  # noqa: D102
        return [len(self.members)]

    def read(self, group: int, place: int) -> CaptionedImage:  # noqa: D102
        path, offset, size, caption = self.members[place]
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size), caption

    def facts(self) -> Iterator[object]:  # noqa: D102
        return ((path.name, *member) for path, *member in self.members)


class ParquetSource:
    """Rows of Parquet files; a row group is in memory at a time."""

    def __init__(self, files: Sequence[Path], columns: Columns) -> None:
        try:
            self._parquet = import_module("pyarrow.parquet")
        except ImportError as error:
            raise UsageError(
                f"data {files[0]}", "reading Parquet needs pyarrow", "pip install 'postdiff[parquet]'"
            ) from error
        self._places: list[tuple[Path, int, str, str]] = []
        self.groups: list[int] = []
        self._held: tuple[int, list[Any], list[Any]] | None = None
        for path in files:
            try:
                with self._parquet.ParquetFile(path) as file:
                    names = list(file.schema_arrow.names)
                    caption = names[columns.find(path, names)[0]]
                    image = next((name for name in IMAGE_COLUMNS if name in names), None)
                    if image is None:
                        raise PromptError(
                            f"data {path}",
                            f"its columns are {', '.join(names)}",
                            f"name the column of images one of {', '.join(IMAGE_COLUMNS)}",
                        )
                    for group in range(file.num_row_groups):
                        self._places.append((path, group, image, caption))
                        self.groups.append(file.metadata.row_group(group).num_rows)
            except (ValueError, OSError, RuntimeError) as error:
                if isinstance(error, PromptError):
                    raise
                raise PromptError(f"data {path}", f"not Parquet ({said(error)})", "check the file") from error

    def read(self, group: int, place: int) -> CaptionedImage:  # noqa: D102
        if self._held is None or self._held[0] != group:
            path, number, image, caption = self._places[group]
            with self._parquet.ParquetFile(path) as file:
                table = file.read_row_group(number, columns=[image, caption])
            self._held = (group, table.column(image).to_pylist(), table.column(caption).to_pylist())
        found, text = self._held[1][place], self._held[2][place]
        content = found.get("bytes") if isinstance(found, dict) else found
        if not isinstance(content, bytes) or not isinstance(text, str):
            path, number, _, _ = self._places[group]
            raise PromptError(
                f"data {path}, row {place} of group {number}", "it lacks the image's bytes or the caption", "drop it"
            )
        return content, text

    def facts(self) -> Iterator[object]:  # noqa: D102
        places = zip(self._places, self.groups, strict=True)
        return ((path.name, path.stat().st_size, *place, count) for (path, *place), count in places)


def open_source(path: Path, columns: Columns) -> Source:
    """What a folder, a ``.tar`` or a ``.parquet`` holds.

    Args:
        path: a folder of images, of shards or of Parquet files; or one shard or Parquet file.
        columns: the caption's column or key, where it has no usual name.

    Raises:
        PromptError: there is nothing there, or an image without a caption.
        UsageError: pyarrow is needed and not installed.
    """
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
    else:
        raise PromptError(f"data {path}", "there is no such file or folder", "give a folder of images with captions")
    by_ending = {ending: [p for p in files if p.suffix.lower() == ending] for ending in (".parquet", ".tar")}
    if by_ending[".parquet"]:
        source: Source = ParquetSource(by_ending[".parquet"], columns)
    elif by_ending[".tar"]:
        source = ShardSource([m for p in by_ending[".tar"] for m in _members(p, columns)])
    else:
        source = FolderSource(_folder(path, [p for p in files if p.suffix.lower() in IMAGE_ENDINGS], columns))
    if not sum(source.groups):
        raise PromptError(f"data {path}", "it holds no image with a caption", "see postdiff finetune --help")
    return source


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise PromptError(f"data {path}", f"it cannot be read ({reason_of(error)})", "write it as UTF-8") from error


def _caption(row: Any, columns: Columns, where: str) -> str:
    if not isinstance(row, dict):
        raise PromptError(where, "not a JSON object", 'write {"caption": "…"}')
    names = list(row)
    text = row[names[columns.find(Path(where), names)[0]]]
    if not isinstance(text, str):
        raise PromptError(where, "its caption is no text", 'write {"caption": "…"}')
    return text


def _folder(path: Path, images: Sequence[Path], columns: Columns) -> list[tuple[Path, str]]:
    captions: dict[Path, str] = {}
    for listed in sorted(path.rglob(METADATA)) if path.is_dir() else []:
        for number, line in enumerate(_text(listed).splitlines(), 1):
            where = f"{listed}, line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise PromptError(where, f"not JSON ({said(error)})", "write one JSON object a line") from error
            text = _caption(row, columns, where)
            captions[listed.parent / str(row.get("file_name"))] = text
    found, without = [], []
    for image in images:
        beside = image.with_suffix(".txt")
        if image in captions:
            found.append((image, captions[image]))
        elif beside.is_file():
            found.append((image, _text(beside).strip()))
        else:
            without.append(image)
    if without:
        raise PromptError(
            f"data {path}",
            f"{len(without)} of {len(images)} images have no caption, such as {without[0].name}",
            f"write {without[0].with_suffix('.txt').name} beside it, or a row of {METADATA}",
        )
    return found


def _members(path: Path, columns: Columns) -> list[tuple[Path, int, int, str]]:
    """Samples of one shard: members that share what stands before their name's first dot."""
    images: dict[str, tuple[int, int]] = {}
    captions: dict[str, str] = {}
    try:
        with tarfile.open(path) as shard:
            for member in shard:
                folder, _, name = member.name.rpartition("/")
                stem, dot, ending = name.partition(".")
                key, ending = f"{folder}/{stem}", f"{dot}{ending}".lower()
                if not member.isfile():
                    continue
                if ending in IMAGE_ENDINGS:
                    images[key] = (member.offset_data, member.size)
                elif ending in (".txt", ".json") and (content := shard.extractfile(member)) is not None:
                    text = content.read().decode("utf-8")
                    if ending == ".json":
                        captions.setdefault(key, _caption(json.loads(text), columns, f"{path}, {member.name}"))
                    else:
                        captions[key] = text.strip()
    except (tarfile.TarError, OSError, ValueError, RecursionError) as error:
        raise PromptError(f"data {path}", f"it is no shard of images ({reason_of(error)})", "check the file") from error
    without = [key for key in images if key not in captions]
    if without:
        raise PromptError(
            f"data {path}", f"{len(without)} of {len(images)} images have no caption", "add KEY.txt or KEY.json"
        )
    return [(path, *place, captions[key]) for key, place in images.items()]


class Samples(torch.utils.data.Dataset[tuple[torch.Tensor, str]]):
    """Sample number → image (3, H, W) in [0, 1] and caption, without end.

    Args:
        source: the images.
        seed: of the order.
        height, width: in pixels; an image is scaled to cover them and cut around its centre.
    """

    def __init__(self, source: Source, seed: int, height: int, width: int) -> None:
        self.source, self.height, self.width = source, height, width
        self.count = sum(source.groups)
        self.seed = seed
        self._order: tuple[int, np.ndarray[Any, Any], np.ndarray[Any, Any]] | None = None

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of what the images and captions are."""
        digest = hashlib.sha256()
        for fact in self.source.facts():
            digest.update(f"{fact!r}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:16]

    def order(self, epoch: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Groups and places in them, in the order of an epoch."""
        if self._order is None or self._order[0] != epoch:
            rng, sizes = np.random.default_rng([self.seed, epoch]), self.source.groups
            shuffled = rng.permutation(len(sizes))
            groups = np.concatenate([np.full(sizes[g], g) for g in shuffled])
            self._order = (epoch, groups, np.concatenate([rng.permutation(sizes[g]) for g in shuffled]))
        return self._order[1:]

    def __getitem__(self, number: int) -> tuple[torch.Tensor, str]:
        from PIL import Image, ImageOps

        groups, places = self.order(number // self.count)
        at = number % self.count
        try:
            content, caption = self.source.read(int(groups[at]), int(places[at]))
        except (OSError, ValueError, RuntimeError) as error:  # pyarrow raises all three
            given = f"sample {at} of the data"
            raise PromptError(given, f"it cannot be read ({reason_of(error)})", "check the files") from error
        try:
            with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as file:
                image = ImageOps.fit(file.convert("RGB"), (self.width, self.height), Image.Resampling.LANCZOS)
        except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three on a damaged file
            what = "an image" if isinstance(content, bytes) else f"image {content}"
            raise PromptError(
                what, f"it cannot be read ({reason_of(error)})", f"drop it; caption: {caption}"
            ) from error
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255, caption


class WorldSamples(torch.utils.data.Dataset[tuple[torch.Tensor, str]]):
    """The embedded models' own images: every sample is a new scene, drawn by its recipe."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __getitem__(self, number: int) -> tuple[torch.Tensor, str]:
        from postdiff_calib.models.shapes.drawing import render
        from postdiff_calib.models.shapes.world import sample_scene

        rng = Random(f"{self.seed}/finetune/{number}")
        scene = sample_scene(rng)
        return render([scene], seed=rng.randrange(2**31))[0], scene.caption()
