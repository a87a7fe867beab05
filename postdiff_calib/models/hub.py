"""Commits of the Hugging Face hub: what is downloaded is of a commit, since a branch moves.

A place on the hub is written ``owner/name@COMMIT``, where COMMIT is the whole hash, 40 digits of 0-9 and a-f. Where
none is named and the card has none, the newest one is looked up once and named from then on: in the study, in the
profile and in what follows from them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from postdiff_calib.errors import ModelError, UsageError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_commit(text: str) -> bool:
    """Whether a text is the whole hash of a commit."""
    return _COMMIT.fullmatch(text) is not None


def on_hub(place: str) -> bool:
    """Whether a place is ``owner/name`` or ``owner/name@COMMIT``, and nothing on this machine."""
    return not os.path.exists(place) and HUB_ID.fullmatch(place.partition("@")[0]) is not None and place[0] != "."


def require_commit(given: str, commit: str) -> str:
    """A commit that was named, as it is.

    Args:
        given: what was received, for the message.
        commit: the name.

    Raises:
        UsageError: it is a branch, a tag or a part of a hash.
    """
    if not is_commit(commit):
        rule = "a commit is named by its whole hash, 40 digits of 0-9 and a-f; branches and tags move"
        raise UsageError(given, rule, "name the commit")
    return commit


def split_commit(given: str, place: str) -> tuple[str, str | None]:
    """``owner/name@COMMIT`` as (``owner/name``, COMMIT); a place without a commit, or a path that is there, as it is.

    Raises:
        UsageError: what stands behind the @ is no commit.
    """
    name, at, commit = place.rpartition("@")
    if not at or os.path.exists(place) or "/" in commit:
        return place, None
    return name, require_commit(given, commit)


def pinned(given: str, place: str, commit: str | None = None, named: str | None = None) -> tuple[str, str]:
    """(repository, commit) of a place on the hub.

    Args:
        given: what was received, for the message.
        place: ``owner/name`` or ``owner/name@COMMIT``.
        commit: that is known already.
        named: how the user would name the commit, COMMIT left as a word; by default ``owner/name@COMMIT``.

    Raises:
        ModelError: no commit is named, and none can be looked up; the line says how to name one.
        UsageError: what is named is no commit.
    """
    repository, own = split_commit(given, place)
    found = own or commit or newest_commit(repository)
    if found is None:
        asked = named or f"{repository}@COMMIT"
        raise ModelError(
            given,
            f"no commit of {repository} is named, and neither this machine's cache nor the hub tells the newest",
            f"write {asked}, with its 40 digits, or give a local folder",
        )
    return repository, found


def newest_commit(repository: str) -> str | None:
    """The commit of a repository's main branch: the cache's, else, unless offline, the hub's; None where neither tells.

    Args:
        repository: ``owner/name``.
    """
    from huggingface_hub import constants

    return cached_commit(repository) or (None if constants.HF_HUB_OFFLINE else _told_by_hub(repository))


@lru_cache(maxsize=64)
def _told_by_hub(repository: str) -> str | None:
    from huggingface_hub import HfApi

    try:
        commit = HfApi().model_info(repository, timeout=10).sha
    except Exception:  # no network, no such repository, or one that needs a login
        return None
    return commit if commit and is_commit(commit) else None


def cached_commit(repository: str) -> str | None:
    """The commit of a repository that the hub's cache on this machine holds: that of its main branch, or the only one.

    Args:
        repository: ``owner/name``.
    """
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    try:
        found = [(folder / "refs" / "main").read_text(encoding="utf-8").strip()]
    except (OSError, ValueError):
        try:
            found = [path.name for path in (folder / "snapshots").iterdir()]
        except OSError:
            return None
    return found[0] if len(found) == 1 and is_commit(found[0]) else None


@contextmanager
def no_download() -> Iterator[None]:
    """Inside, the hub is not asked for anything, whichever library would: what is missing raises ``OSError``."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
