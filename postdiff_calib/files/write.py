"""The one way a file is written: beside its place under a name of its own, then moved there in one step.

A reader sees the old file or the new one, never half of one, and a failure leaves nothing behind. Links are followed,
an existing file keeps its mode, and a new one gets what the umask leaves. Only regular files are replaced: a device or
a FIFO as an output is refused, and so are inputs and the files of a study.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from postdiff_calib.errors import OutputError, reason_of

#: Names of the files in a study's folder, and what shows that a folder is one.
STUDY_FILES = frozenset({"study.json", "study.db", "study.damaged.db", "study.lock", "exported.json"}) | {
    "scores.jsonl",
    "held_out.jsonl",
    "other_seeds.jsonl",
    "about.json",
    "distances.jsonl",
    "traces.jsonl",
    "seconds.json",
    "state.safetensors",
}
#: The same of files whose names tell what is judged or compared.
_STUDY_PATTERNS = ("setup-*.jsonl", "scores-*.jsonl")
_STUDY_SIGNS = ("study.json", "study.db", "study.lock", "about.json")
#: Folders of images in a study's folder.
_STUDY_FOLDERS = ("baseline", "images")
#: Most bytes of a name that is made from a text; file systems take 255, and an ending comes behind it.
_NAME_BYTES = 120
_NAME_MAX = 255
#: Endings that matplotlib draws to without a display; without one it is PNG.
_DRAWN = frozenset({"", ".png", ".svg", ".svgz", ".pdf", ".ps", ".eps", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"})
_CANNOT = "choose another path"
#: Name of a file while it is written: beginning and end.
_BEGIN, _END = ".postdiff-", ".tmp"


@contextmanager
def replacing(path: str | Path, given: str | None = None, remedy: str = _CANNOT) -> Iterator[Path]:
    """A temporary path in the same folder; what the block wrote there takes the place of ``path`` when it ends.

    Args:
        path: the file to write; its folder is made.
        given: what it is, for the message; ``output PATH`` by default.
        remedy: what to do when it cannot be written.

    Raises:
        OutputError: the folder cannot be made or written, or ``path`` is there and no regular file.
    """
    given = given or f"output {path}"
    try:
        target = Path(os.path.realpath(path))
        mode = _mode_of(target, given, remedy)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary, handle = _temporary(target.parent)
        try:
            try:
                if mode is not None:
                    os.chmod(temporary, mode)
                yield temporary
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        raise OutputError(given, f"it cannot be written ({reason_of(error)})", remedy) from error


def _temporary(folder: Path) -> tuple[Path, int]:
    """A new file in a folder, locked as long as its process lives or the handle is open; its path and handle."""
    while True:
        path = folder / f"{_BEGIN}{secrets.token_hex(8)}{_END}"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        # whoever cleared up between the two lines took the file for a leftover: another is made
        if _locked(handle) is not False and path.exists():
            return path, handle
        os.close(handle)


def _locked(handle: int) -> bool | None:
    """Lock an open file; False where another process has it, None where that cannot be told."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # not every system and file system knows such locks
        return None
    return True


def remove_leftovers(*folders: Path, shared: bool = False) -> None:
    """Remove what killed processes left half written.

    Args:
        folders: where.
        shared: others may write there now: what it cannot be told of that nobody writes it is left alone.
    """
    for folder in folders:
        for path in folder.glob(f"{_BEGIN}*{_END}"):
            with suppress(OSError):
                if _abandoned(path, otherwise=not shared):
                    path.unlink()


def _abandoned(path: Path, *, otherwise: bool) -> bool:
    """Whether the process that wrote a temporary file is gone; ``otherwise`` where that cannot be told."""
    handle = os.open(path, os.O_WRONLY)
    try:
        locked = _locked(handle)
    finally:
        os.close(handle)
    return otherwise if locked is None else locked


def _mode_of(target: Path, given: str, remedy: str) -> int | None:
    """Permissions of the file that is replaced; None where there is none."""
    try:
        found = os.stat(target)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise OutputError(given, f"it is {_kind(found.st_mode)}, not a regular file", remedy)
    return stat.S_IMODE(found.st_mode)


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"))
    return next((name for is_kind, name in kinds if is_kind(mode)), "a device")


def write_atomically(path: str | Path, content: str | bytes, given: str | None = None, remedy: str = _CANNOT) -> Path:
    """Write text (as UTF-8) or bytes whole or not at all; see ``replacing``.

    Raises:
        OutputError: it cannot be written.
    """
    path = Path(path)
    with replacing(path, given, remedy) as temporary:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def save_figure(figure: Any, path: Path, dpi: int) -> None:
    """Write a figure of matplotlib in the format of the path's ending, PNG where it has none.

    Raises:
        OutputError: it cannot be written, or the ending is of no format that can be drawn.
    """
    ending = path.suffix.removeprefix(".").lower() or "png"
    kinds = figure.canvas.get_supported_filetypes()
    if ending not in kinds:
        rule = f"it cannot be written (no image's ending is {path.suffix})"
        raise OutputError(f"plot {path}", rule, "name a .png or .svg file")
    _require_folder(path, f"plot {path}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=ending, dpi=dpi)
    write_atomically(path, buffer.getvalue(), f"plot {path}", "name another .png or .svg file")


def refuse_output(
    path: Path, *, inputs: Iterable[str | Path] = (), study: Path | None = None, what: str = "output"
) -> None:
    """Refuse, before anything is computed, an output that could not be written or would destroy something.

    Args:
        path: where a file is to be written.
        inputs: files that the same command reads.
        study: the folder of the study that the command works on; it need not be there yet.
        what: ``output``, ``plot`` …, for the message.

    Raises:
        OutputError: it is a folder, a device or a FIFO, an input, or a study's own file, or cannot be written.
    """
    given = f"{what} {path}"
    example = "give a file's path" + {"output": ", such as profile.yaml", "plot": ", such as plot.png"}.get(what, "")
    if not path.name or os.path.isdir(path):
        raise OutputError(given, "it is a folder", example)
    try:
        _mode_of(path, given, _CANNOT)
        same = [source for source in inputs if os.path.exists(source) and _same(path, Path(source))]
    except (OSError, ValueError) as error:
        raise OutputError(given, f"it cannot be written ({reason_of(error)})", _CANNOT) from error
    if same:
        raise OutputError(given, f"it is an input of this command ({same[0]})", _CANNOT)
    target = Path(os.path.realpath(path))
    of = None if study is None else Path(os.path.realpath(study))
    own = target.name in STUDY_FILES or any(target.match(pattern) for pattern in _STUDY_PATTERNS)
    if own and _is_study(target.parent, of):
        raise OutputError(given, f"it is a file of the study in {target.parent}", _CANNOT)
    for folder in target.parents:
        if folder.name in _STUDY_FOLDERS and _is_study(folder.parent, of):
            raise OutputError(given, f"it is among the images of the study in {folder.parent}", _CANNOT)
    if what == "plot":
        _require_folder(path, given)
        if path.suffix.lower() not in _DRAWN:
            rule = f"it cannot be written (no image's ending is {path.suffix})"
            raise OutputError(given, rule, "name a .png or .svg file")
    require_writable(path.parent, given)
    _check_names(path, given)


def refuse_result(path: Path, *, inputs: Iterable[str | Path] = (), study: Path | None = None) -> None:
    """``refuse_output`` for a result as JSON and the plot of the same name that is drawn beside it.

    Raises:
        OutputError: as ``refuse_output`` of either, or both would be one file.
    """
    refuse_output(path, inputs=inputs, study=study)
    if path.suffix.lower() == ".png":
        raise OutputError(f"output {path}", "the plot beside it has that name", "name the result, such as result.json")
    refuse_output(path.with_suffix(".png"), inputs=inputs, study=study)


def _is_study(folder: Path, known: Path | None) -> bool:
    return folder == known or any(os.path.lexists(folder / sign) for sign in _STUDY_SIGNS)


def _require_folder(path: Path, given: str) -> None:
    if not os.path.isdir(path.parent):
        raise OutputError(given, f"it cannot be written (there is no folder {path.parent})", "make it, or name another")


def _same(path: Path, other: Path) -> bool:
    return os.path.exists(path) and os.path.samefile(path, other)


def require_writable(folder: Path, given: str, remedy: str = _CANNOT) -> None:
    """Refuse a folder in which no file can be made; one that is not there yet is judged by where it would be made.

    Nothing is left behind: the file that is tried has no name that anything else could have.

    Raises:
        OutputError: no file can be made there.
    """
    try:
        _check_names(folder, given, remedy)
        existing = folder
        while not _present(existing) and existing != existing.parent:
            existing = existing.parent
        with tempfile.TemporaryFile(dir=existing):
            pass
    except (OSError, ValueError) as error:
        raise OutputError(given, f"it cannot be written ({reason_of(error)})", remedy) from error


def _present(path: Path) -> bool:
    """Whether there is something; unlike ``exists``, what cannot be looked at is an error."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True


def _check_names(path: Path, given: str, remedy: str = _CANNOT) -> None:
    if any(len(os.fsencode(part)) > _NAME_MAX for part in path.parts):
        raise OutputError(given, f"a name in it is longer than {_NAME_MAX} bytes", remedy)


def safe_name(text: str, otherwise: str, also: str = "-_.") -> str:
    """A text as one part of a path: letters, digits and ``also`` kept, all else a dash; never ``..`` or hidden.

    Args:
        text: anything.
        otherwise: where nothing is left.
        also: further characters that are kept.

    Returns:
        At most 120 bytes; a longer text ends in a hash, so that two of them do not share a name.
    """
    name = "".join(c if c.isalnum() or c in also else "-" for c in text)
    if not name.strip(".-"):
        return otherwise
    if name.startswith("."):
        name = f"-{name[1:]}"
    raw = name.encode("utf-8")
    if len(raw) <= _NAME_BYTES:
        return name
    kept = raw[: _NAME_BYTES - 9].decode("utf-8", "ignore")
    return f"{kept}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's content as 64 hexadecimal digits, a megabyte in memory at a time.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for part in iter(lambda: file.read(1 << 20), b""):
            digest.update(part)
    return digest.hexdigest()
