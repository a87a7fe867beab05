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

    @property
    def process(self):
        """The number of its first process."""
        return self._database.get_pid()

    def is_running(self):
        import psutil

        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process).status() != psutil.STATUS_ZOMBIE
        return False

    def come_back(self):
        """Start it again on the same data, at the same address; what a killed one left behind goes first."""
        if not self.is_running():
            self._clear_up()
        self._database.ensure_postgres_running()

    def _clear_up(self):
        """End the processes of a server whose first one was killed, and remove its locks.

        Its processes would spoil the data of the next one. Its locks name a process that may still be on the system's
        list, dead, and then count as held.
        """
        import psutil

        for process in psutil.process_iter(["name"]):
            with contextlib.suppress(psutil.Error):
                if process.info["name"] == "postgres" and process.cwd() == str(self._database.pgdata):
                    process.kill()
                    process.wait(10)
        sockets = self._database.get_postmaster_info().socket_dir or self._database.pgdata
        for lock in (self._database.pgdata / "postmaster.pid", *sockets.glob(".s.PGSQL.*")):
            lock.unlink(missing_ok=True)


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
