"""A real PostgreSQL server for tests, from PyPI's pgserver; where it does not install, they are skipped."""

from __future__ import annotations

import contextlib
import warnings

import pytest


@contextlib.contextmanager
def running(folder):
    """Start a server with its data in ``folder``; yields a SQLAlchemy URL, stops it in the end."""
    pytest.importorskip("psycopg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pgserver = pytest.importorskip("pgserver")
        database = pgserver.get_server(folder, cleanup_mode="delete")
    try:
        yield database.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    finally:
        database.cleanup()
