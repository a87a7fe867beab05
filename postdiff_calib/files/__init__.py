"""Plain files: read with bounds and line numbers, written whole or not at all, addresses without their passwords.

| module | what |
| --- | --- |
| ``parse`` | text, YAML and JSON of unknown origin: bounded in size, depth and numbers |
| ``differences`` | the entries in which two mappings differ, as text |
| ``write`` | one way to write a file, which paths are accepted as outputs, names that are safe in paths |
| ``lock`` | one process at a time on a study's folder |
| ``secrets`` | addresses and texts without their passwords |
| ``pixels`` | images in 8 bits, as a file has them, and the endings of their files |
"""

from postdiff_calib.files.lock import StudyLock
from postdiff_calib.files.parse import finite, line_of, parse_json, read_json, read_text, read_yaml, undecodable_line
from postdiff_calib.files.pixels import refuse_image
from postdiff_calib.files.secrets import without_passwords
from postdiff_calib.files.write import (
    file_sha256,
    refuse_output,
    refuse_result,
    remove_leftovers,
    replacing,
    require_writable,
    safe_name,
    save_figure,
    write_atomically,
)

__all__ = [
    "StudyLock",
    "file_sha256",
    "finite",
    "line_of",
    "parse_json",
    "read_json",
    "read_text",
    "read_yaml",
    "refuse_image",
    "refuse_output",
    "refuse_result",
    "remove_leftovers",
    "replacing",
    "require_writable",
    "safe_name",
    "save_figure",
    "undecodable_line",
    "without_passwords",
    "write_atomically",
]
