"""Optuna's storage behind a URL: connecting, saying what is wrong with it in one line, and never its password."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from sqlalchemy import URL, create_engine, event, inspect, make_url
from sqlalchemy.exc import PendingRollbackError, SQLAlchemyError

from postdiff_calib.errors import PostdiffError, StudyError, one_line, reason_of
from postdiff_calib.progress import log_event
from postdiff_calib.scores.names import DAMAGED_DATABASE, DATABASE
from postdiff_calib.search.backend.address import shown, without_secrets
from postdiff_calib.search.backend.retry import give_back

#: Seconds between a worker's signs of life; after ``SILENCE`` times that without one its trial is given to another.
HEARTBEAT = 30
SILENCE = 3
#: Optuna's words for a study or trial that is not there.
_GONE = "Record does not exist"
#: Tables that every version of Optuna has, and that a study of ours needs.
_TABLES = frozenset(
    {"studies", "study_directions", "study_user_attributes", "trials", "trial_params", "trial_values"}
    | {"trial_user_attributes", "trial_system_attributes"}
)
#: Seconds a process waits for another's write to a SQLite file.
_SQLITE_PATIENCE = 60


def disconnect(storage: optuna.storages.RDBStorage | None) -> None:
    """Give back every connection to the database."""
    if storage is not None:
        storage.remove_session()
        storage.engine.dispose()


@contextmanager
def faults(url: str) -> Iterator[None]:
    """Turn a storage's faults into one line without its password.

    Raises:
        StudyError: the storage cannot be used, cannot be reached any more, or its study is gone.
    """
    given = f"study in {shown(url)}"
    try:
        yield
    except KeyError as error:
        if _GONE not in str(error):
            raise
        raise StudyError(given, "it was deleted in the meantime", "start again what should work on it") from error
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        # Optuna's own line says only that something went wrong; the database's says what.
        said = error.__cause__ or error
        reason = (str(said).splitlines() or ["no reason given"])[0]
        if isinstance(said, PendingRollbackError):  # which tells of what to do in a program
            reason = "the connection was lost"
        raise StudyError(
            given,
            f"its storage cannot be used ({without_secrets(reason, url)})",
            "check the folder or URL and give the same command again, or start anew (--fresh)",
        ) from error


def probe(url: str) -> None:
    """Find out early whether a storage can be used; nothing is made.

    Raises:
        StudyError: the URL cannot be read, its driver is missing, nobody answers, or its folder is not there.
    """
    with faults(url):
        disconnect(connect(url, make=False))
    database = make_url(url).database
    if (
        make_url(url).get_backend_name() == "sqlite"
        and database
        and not os.path.isdir(os.path.dirname(database) or ".")
    ):
        raise StudyError(f"study in {shown(url)}", "its folder is not there", "make the folder, or correct the URL")


@contextmanager
def reading(url: str) -> Iterator[None]:
    """Turn what Optuna raises on a row that it cannot read into one line; only around calls that read.

    Raises:
        StudyError: a row is damaged.
    """
    try:
        yield
    except PostdiffError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        if _GONE in str(error):
            raise
        raise _damaged(url, one_line(without_secrets(f"{type(error).__name__}: {reason_of(error)}", url))) from error


def require_readable(study: optuna.Study, url: str) -> None:
    """Read all of a study once, so that a damaged row is reported at the start and not in the middle of the work.

    Raises:
        StudyError: a row of it cannot be read, or holds something else than this search wrote.
    """
    with reading(url):
        attributes = [study.user_attrs, *(trial.user_attrs for trial in study.get_trials(deepcopy=False))]
        texts = [a[name] for a in attributes[1:] for name in ("plan", "role", "arm", "failed") if name in a]
        wrong = [text for text in texts if not isinstance(text, str)]
        wrong += [a["wanted"] for a in attributes[1:] if not isinstance(a.get("wanted", 0), int)]
    if wrong:
        raise _damaged(url, f"a trial holds {wrong[0]!r}")


def _damaged(url: str, reason: str) -> StudyError:
    return StudyError(f"study in {shown(url)}", f"a row of it is damaged ({reason})", "start anew (--fresh)")


def cause_behind(error: BaseException) -> BaseException | None:
    """The storage's fault, or the Ctrl-C, in whose handling ``error`` came up; None where there is none."""
    causes = (optuna.exceptions.StorageInternalError, SQLAlchemyError, KeyboardInterrupt)
    seen = error.__context__
    while seen is not None and not isinstance(seen, causes):
        seen = seen.__context__
    return seen


def connect(url: str, heartbeat: int | None = None, *, make: bool = True) -> optuna.storages.RDBStorage | None:
    """Optuna's storage for a URL; with ``heartbeat`` seconds, trials of dead workers are queued again.

    On SQLite, commits go to a write-ahead log and do not wait for the disk one by one: a search makes some twenty per
    trial. A killed process loses nothing by that; after a power cut the last trials may be missing, not their scores.

    Args:
        url: SQLAlchemy's; ``postgresql://`` alone means psycopg, the driver that postdiff installs.
        heartbeat: seconds; None for a storage that one process uses.
        make: make Optuna's tables where they are missing; otherwise None is returned there.

    Raises:
        StudyError: the URL cannot be read.
    """
    try:
        parsed = make_url(url)
    except (SQLAlchemyError, ValueError) as error:
        raise StudyError(
            "the storage URL", "it cannot be read", "such as postgresql+psycopg://user:password@host/database"
        ) from error
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    try:
        return _open(parsed, heartbeat) if make or _has_tables(parsed) else None
    except ImportError as error:
        missing = error.__cause__ if isinstance(error.__cause__, ImportError) else error
        raise StudyError(
            f"study in {shown(url)}",
            f"its driver is not installed ({missing.name or missing})",
            "pip install 'postdiff[postgres]'",
        ) from error
    except RuntimeError as error:  # Optuna's, about tables of another version
        raise StudyError(
            f"study in {shown(url)}",
            "its tables are of another version of Optuna",
            "convert a copy of it with 'optuna storage upgrade', or start anew (--fresh)",
        ) from error


def _open(url: URL, heartbeat: int | None) -> optuna.storages.RDBStorage:
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.get_backend_name() == "sqlite":
        options["connect_args"] = {"timeout": _SQLITE_PATIENCE}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats still count as such
        storage = _Storage(
            url.render_as_string(hide_password=False),
            engine_kwargs=options,
            heartbeat_interval=heartbeat,
            grace_period=None if heartbeat is None else SILENCE * heartbeat,
            heartbeat_stale_trial_callback=None if heartbeat is None else give_back,
        )
    if url.get_backend_name() == "sqlite":
        _tune_sqlite(storage.engine, shared=heartbeat is not None)
    return storage


def _has_tables(url: URL) -> bool:
    """Whether Optuna's tables are there; looking must not make a database."""
    if url.get_backend_name() == "sqlite" and not os.path.isfile(url.database or ""):
        return False
    engine = create_engine(url)
    try:
        # the last that Optuna makes: whoever comes in before it would make the rest beside the leader, and break both
        return inspect(engine).has_table("alembic_version")
    finally:
        engine.dispose()


def lacking_tables(path: Path) -> list[str]:
    """The tables that a study's own database had and lacks; empty where it is whole, or not there.

    Args:
        path: of a SQLite file.
    """
    if not path.is_file():
        return []
    engine = create_engine(f"sqlite:///{path}")
    try:
        found = set(inspect(engine).get_table_names())
    finally:
        engine.dispose()
    # the version is the last table that is made: without it, a killed process had not made them all yet
    return sorted(_TABLES - found) if "alembic_version" in found else []


def set_aside_damaged(folder: Path, note: Callable[[str], None]) -> None:
    """Move a study's own database away where it lacks tables; Optuna would make them anew without a word.

    What is left in the others would then be taken for new trials'. The scores are in a file of their own.

    Args:
        folder: the study's.
        note: hears what was done, as a line.
    """
    path = folder / DATABASE
    if lacking := lacking_tables(path):
        for end in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.replace(f"{path}{end}", f"{folder / DAMAGED_DATABASE}{end}")
        log_event("fallback", what="the trials are run anew with the scores that there are", lacking=lacking)
        note(
            f"{path} lacks its {'table' if len(lacking) == 1 else 'tables'} {', '.join(lacking)}: "
            f"it is kept as {DAMAGED_DATABASE}, and the trials are run anew with the scores that there are"
        )


def _tune_sqlite(engine: Any, *, shared: bool) -> None:
    def relax(connection: Any, record: Any) -> None:
        if shared:
            connection.isolation_level = None  # the driver's own BEGIN would come too late; see below
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    event.listen(engine, "connect", relax)
    if shared:
        # SQLite locks no rows: a transaction that reads before it writes fails when another wrote in between, and two
        # workers could take the same trial. Taking the write lock at once makes each wait its turn.
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    engine.dispose()  # connections opened before are closed, so that every one in use is tuned


class _Storage(optuna.storages.RDBStorage):  # type: ignore[misc]  # Optuna is untyped to our checker
    """Optuna's storage, with a heartbeat that outlives an outage of the server and leaves no connection behind."""

    def record_heartbeat(self, trial_id: int) -> None:
        """The heartbeat of a trial; one that does not get through is not the end, several are."""
        try:
            super().record_heartbeat(trial_id)
        except (optuna.exceptions.StorageInternalError, SQLAlchemyError):
            pass
        finally:
            self.remove_session()  # Optuna beats from a thread per trial, each with a session of its own
