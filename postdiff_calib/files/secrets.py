"""Addresses and texts without their passwords; where it is in doubt what the password is, more is left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: From the first colon behind ``scheme://user`` up to the last @ of the line: an unescaped @, slash or blank in a
#: password must not leave a part of it.
_PASSWORD = re.compile(r"(\w[\w+.-]*://[^\n@:]*):[^\n]*@")
#: ``password=`` and the like, ODBC's spellings and percent-encoded ones included, in an address or connection string.
_NAMED = re.compile(
    r"((?:password|passwd|passphrase|pwd|sslkey|secret|token)[^=&;\s]{0,20}?\s*(?:=|%3d)\s*)[^&\n]*", re.IGNORECASE
)
_ADDRESS = re.compile(r"\w[\w+.-]*://|odbc|\bDRIVER\s*=|[?&][^&=\s]*(?:passw|pwd)", re.IGNORECASE)


def without_passwords(value: Any) -> Any:
    """The same plain data with the password dropped from every address in it, e.g. ``postgresql://me:***@host/db``."""
    if isinstance(value, str):
        if not _ADDRESS.search(value):
            return value
        return _NAMED.sub(r"\1***", _PASSWORD.sub(r"\1:***@", value))
    if isinstance(value, Mapping):
        return {key: without_passwords(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_passwords(item) for item in value]
    return value
