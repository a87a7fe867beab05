"""What of a storage's URL may be shown: never a password, and in doubt no more than scheme and host.

A URL is taken apart as SQLAlchemy does. Its parts are shown where they look like what they should be: a user, a host, a
database's name. Anything else (a password behind a semicolon, an ODBC string, a second @) means doubt. What a database
itself says of a fault is shown without any word of the URL that would not have been shown.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from sqlalchemy import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

#: A part that holds nothing but itself.
_PLAIN = re.compile(r"[\w.+-]*")
_PLAIN_PATH = re.compile(r"[\w./+-]*")
#: Options whose values are shown, where they are plain.
_OPEN_OPTIONS = frozenset(
    {"user", "host", "port", "dbname", "sslmode", "connect_timeout", "application_name", "timeout", "charset"}
)
_SECRETIVE = re.compile(r"pass|pwd|secret|token|key", re.IGNORECASE)
_WORD = re.compile(r"[^\s:/@?&=;{}\"'(),\[\]]+")
#: Words of a URL that name what is secret and are not.
_NAMES = frozenset({"password", "passwd", "pwd", "PWD", "PASSWORD", "Password", "Pwd", "sslpassword"})
#: A URL that cannot be taken apart.
UNREADABLE = "the given URL"


def shown(url: str) -> str:
    """A storage URL without its password; in doubt scheme and host, and one that cannot be read not at all."""
    try:
        parsed = make_url(url)
    except (SQLAlchemyError, ValueError):
        return UNREADABLE
    if parsed.get_backend_name() == "sqlite" and not (parsed.username or parsed.password or parsed.host):
        path = "…" if _SECRETIVE.search(parsed.database or "") and "=" in (parsed.database or "") else parsed.database
        return f"{parsed.drivername}:///{path or ''}{_options(parsed)}"
    user, host, database = (part or "" for part in (parsed.username, parsed.host, parsed.database))
    plain_host = bool(_PLAIN.fullmatch(host)) or bool(re.fullmatch(r"[0-9a-fA-F:.]+", host))
    if not (plain_host and _PLAIN.fullmatch(user) and _PLAIN_PATH.fullmatch(database)):
        sure = plain_host and url.count("@") == (parsed.username is not None)
        return f"{parsed.drivername}://{host if sure else ''}…"
    at = f"{user}{':***' if parsed.password is not None else ''}@" if user or parsed.password is not None else ""
    port = f":{parsed.port}" if parsed.port is not None else ""
    host = f"[{host}]" if ":" in host else host
    path = f"/{database}" if parsed.database is not None else ""
    return f"{parsed.drivername}://{at}{host}{port}{path}{_options(parsed)}"


def _options(parsed: URL) -> str:
    shown_options = []
    for name, value in parsed.query.items():
        text = ",".join(value) if isinstance(value, tuple) else value
        is_open = name in _OPEN_OPTIONS and _PLAIN_PATH.fullmatch(text)
        shown_options.append(f"{name if _PLAIN.fullmatch(name) else '***'}={text if is_open else '***'}")
    return f"?{'&'.join(shown_options)}" if shown_options else ""


def without_secrets(text: str, url: str) -> str:
    """What a database said, without any word of its URL that ``shown`` leaves out."""
    open_words = {word.lower() for word in _WORD.findall(shown(url))} | {"sqlite", "postgresql", "localhost"}
    hidden = {word for source in (url, unquote(url)) for word in _WORD.findall(source)} - _NAMES
    try:
        hidden.add(str(make_url(url).password or ""))
    except (SQLAlchemyError, ValueError):
        text = text.replace(url, "***")
    for word in sorted(hidden - {""}, key=len, reverse=True):
        if word.lower() not in open_words:
            # a short word is taken out where it stands alone, since its letters may be part of any other
            text = (
                text.replace(word, "***") if len(word) > 3 else re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", "***", text)
            )
    return text
