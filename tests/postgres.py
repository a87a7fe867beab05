"""A real PostgreSQL server for tests, from PyPI's pgserver; where it does not install, they are skipped."""

from __future__ import annotations

import contextlib
import warnings

import pytest


class Server:
    """A server that can go away and come back.

    Attributes:
        url: SQLAlchemy's.
    """

    def __init__(self, database) -> None:
        self._database = database
        self.url = database.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)

    def crash(self):
        """End it as a power cut would: no connection is closed in order."""
        from pgserver import pg_ctl

        pg_ctl(["stop", "-m", "immediate"], pgdata=self._database.pgdata, user=self._database.system_user)

    def come_back(self):
        """Start it again on the same data, at the same address."""
        self._database.ensure_postgres_running()


@contextlib.contextmanager
def server(folder):
    """Start a server with its data in ``folder``; yields it as a ``Server``, stops it in the end."""
    pytest.importorskip("psycopg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pgserver = pytest.importorskip("pgserver")
        database = pgserver.get_server(folder, cleanup_mode="delete")
    try:
        yield Server(database)
    finally:
        database.cleanup()


@contextlib.contextmanager
def running(folder):
    """``server``, of which only the URL is of interest."""
    with server(folder) as found:
        yield found.url
