"""Opening a study: Optuna's storage, the fingerprint that guards it, and what a killed process left behind.

One process uses SQLite in the study's folder. Several workers share a server, usually PostgreSQL (or, on one host, a
SQLite file): scores then live in a table of the same database, so that every host sees them, and heartbeats tell a dead
worker's trial from a long one. One process (the leader) makes the study; workers join it. A URL's password is neither
shown nor kept.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from sqlalchemy import Column, Integer, MetaData, String, Table, Text, delete, insert, select
from sqlalchemy.exc import SQLAlchemyError

from postdiff_calib.errors import NoStudyYetError, OutputError, StudyError, reason_of
from postdiff_calib.files.differences import differences_of_studies
from postdiff_calib.progress import log_event
from postdiff_calib.scores.blocks import check_block
from postdiff_calib.scores.names import (
    BASELINE,
    BASELINE_FILES,
    DATABASE,
    HELD_OUT,
    RECORD_ATTRIBUTE,
    SCORES,
    STUDY_NAME,
)
from postdiff_calib.scores.store import ScoreStore
from postdiff_calib.search.backend.address import shown
from postdiff_calib.search.backend.database import (
    HEARTBEAT,
    connect,
    disconnect,
    faults,
    lacking_tables,
    reading,
    require_readable,
)

__all__ = ["HEARTBEAT", "StudyPlace", "StudyStore", "connect", "disconnect", "open_study", "read_record", "shown"]

_DATABASE_FILES = (DATABASE, *(f"{DATABASE}-{end}" for end in ("journal", "wal", "shm")))
_BLOCKS_ATTRIBUTE = "blocks"
_BLOCKS = Table(
    "postdiff_blocks",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("study", String(32), index=True),
    Column("block", Text),
)


@dataclass(frozen=True)
class StudyPlace:
    """Where a search is kept, and with whom it is shared.

    Attributes:
        folder: the study's folder, made when missing; a worker uses none.
        storage: Optuna storage URL that workers share; SQLite in the folder by default, for one process.
        study_name: of the Optuna study.
        fresh: drop what is there and start anew.
        join: work on a study that a leader has made with the same arguments, instead of making it.
        heartbeat: seconds between two heartbeats of a worker, with a storage.
        record: plain data kept with the study, from which workers learn what it is about.
        store: where scores are kept; by default a file in the folder, or the storage where one is given.
        described: called by the leader once workers can join.
    """

    folder: Path
    storage: str | None = None
    study_name: str = STUDY_NAME
    fresh: bool = False
    join: bool = False
    heartbeat: int = HEARTBEAT
    record: Mapping[str, Any] | None = None
    store: ScoreStore | None = None
    described: Callable[[], None] = lambda: None

    @property
    def single(self) -> bool:
        """Whether one process works alone."""
        return self.storage is None

    @property
    def url(self) -> str:
        """Of the storage."""
        return self.storage or f"sqlite:///{self.folder / DATABASE}"


def open_study(
    place: StudyPlace, fingerprint: Mapping[str, Any], proposer: optuna.samplers.BaseSampler
) -> tuple[optuna.Study, optuna.storages.RDBStorage]:
    """Open the study, or make it; a worker (``join``) makes none.

    Returns:
        The study and the storage behind it, which the caller closes with ``disconnect``.

    Raises:
        OutputError: the folder cannot be made.
        StudyError: the study was made under another fingerprint, there is none to join, or the storage cannot be used.
    """
    storage, name, url = place.storage, place.study_name, place.url
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not place.join:
        _make_folder(place.folder)
    if place.fresh:
        _drop(place.folder, (SCORES, HELD_OUT) if storage else (*_DATABASE_FILES, SCORES, HELD_OUT))
    pruner = optuna.pruners.NopPruner()
    with faults(url):
        backend = connect(url, None if place.single else place.heartbeat, make=not place.join)
        if backend is None:
            raise _no_study(url, name)
        try:
            if place.join:
                study = _load(url, name, backend, sampler=proposer, pruner=pruner)
            else:
                if place.fresh and storage is not None and name in optuna.get_all_study_names(backend):
                    _drop_study(optuna.load_study(study_name=name, storage=backend), backend)
                study = optuna.create_study(
                    storage=backend,
                    study_name=name,
                    direction="maximize",
                    sampler=proposer,
                    pruner=pruner,
                    load_if_exists=True,
                )
                if storage is not None:
                    StudyStore.make(study, backend.engine)
            require_readable(study, url)
            wanted = json.loads(json.dumps(dict(fingerprint)))
            known = study.user_attrs.get("fingerprint")
            if known is None:
                study.set_user_attr("fingerprint", wanted)
            else:
                _require_same(place.folder if place.single else None, name, known, wanted)
                states = Counter(trial.state.name.lower() for trial in study.get_trials(deepcopy=False))
                log_event("join" if place.join else "resume", study=name, trials=dict(states))
        except BaseException:
            disconnect(backend)
            raise
    return study, backend


def _require_same(folder: Path | None, name: str, known: Any, wanted: Mapping[str, Any]) -> None:
    if other := differences_of_studies(known if isinstance(known, dict) else {}, wanted):
        raise StudyError(
            f"study {repr(name) if folder is None else folder}",
            f"it was made with other settings: {other}",
            f"use those again, another {'name (--name)' if folder is None else 'folder (--study)'}, "
            "or start anew (--fresh)",
        )


def refuse_other_settings(place: StudyPlace, fingerprint: Mapping[str, Any]) -> None:
    """Refuse early what ``open_study`` would refuse; nothing is made.

    Args:
        place: where the study is kept.
        fingerprint: as for ``open_study``, with ``num_prompts``.

    Raises:
        StudyError: there is a study made under another fingerprint, or the storage cannot be used or read.
    """
    url, name = place.url, place.study_name
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with faults(url):
        if place.single and lacking_tables(place.folder / DATABASE):
            return  # it is set aside when the study is opened
        backend = connect(url, make=False)
        try:
            with reading(url):
                if backend is None or name not in optuna.get_all_study_names(backend):
                    return
                study = optuna.load_study(study_name=name, storage=backend)
            require_readable(study, url)
            known = study.user_attrs.get("fingerprint")
        finally:
            disconnect(backend)
    if known is not None:
        _require_same(place.folder if place.single else None, name, known, json.loads(json.dumps(dict(fingerprint))))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"study folder {folder}", f"it cannot be made ({error.strerror})", "give another (--study)"
        ) from error


def _drop(folder: Path, files: Iterable[str]) -> None:
    for path in (*(folder / file for file in files), *(folder / BASELINE).glob(BASELINE_FILES)):
        path.unlink(missing_ok=True)


def _drop_study(study: optuna.Study, backend: optuna.storages.RDBStorage) -> None:
    StudyStore.make(study, backend.engine)
    StudyStore(study, backend.engine).clear()
    optuna.delete_study(study_name=study.study_name, storage=backend)


def _load(url: str, name: str, backend: optuna.storages.RDBStorage, **options: Any) -> optuna.Study:
    try:
        return optuna.load_study(study_name=name, storage=backend, **options)
    except KeyError as error:
        raise _no_study(url, name) from error


def _no_study(url: str, name: str) -> NoStudyYetError:
    remedy = "start it with postdiff calibrate --storage"
    return NoStudyYetError(f"study {name!r} in {shown(url)}", "there is none", remedy)


def read_record(url: str, name: str) -> Any:
    """What the leader wrote about the study, as plain data.

    Raises:
        StudyError: there is no such study (yet), or the storage cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with faults(url):
        backend = connect(url, make=False)
        if backend is None:
            raise _no_study(url, name)
        try:
            study = _load(url, name, backend)
            require_readable(study, url)
            record = study.user_attrs.get(RECORD_ATTRIBUTE)
        finally:
            disconnect(backend)
    if record is None:
        raise NoStudyYetError(
            f"study {name!r} in {shown(url)}", "its leader has not described it yet", "start the worker again"
        )
    return record


class StudyStore:
    """Blocks of scores in a table beside Optuna's: every worker on every host sees them, and reads each one once.

    Args:
        study: Optuna's study; its attribute ``blocks`` names its rows.
        engine: SQLAlchemy's, of the same database.
    """

    def __init__(self, study: optuna.Study, engine: Any) -> None:
        self._engine = engine
        self._rows = _BLOCKS.c.study == study.user_attrs[_BLOCKS_ATTRIBUTE]
        self._name = study.user_attrs[_BLOCKS_ATTRIBUTE]
        self._seen: set[int] = set()

    @staticmethod
    def make(study: optuna.Study, engine: Any) -> None:
        """Make the table, and name the study's rows, where that is not done."""
        _BLOCKS.create(engine, checkfirst=True)
        if _BLOCKS_ATTRIBUTE not in study.user_attrs:
            study.set_user_attr(_BLOCKS_ATTRIBUTE, uuid.uuid4().hex)

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the blocks that came since the last call, whoever wrote them."""
        with self._engine.connect() as connection:
            # A block with a lower number may come to light after a higher one, so numbers are compared one by one.
            new = {row.id for row in connection.execute(select(_BLOCKS.c.id).where(self._rows))} - self._seen
            if not new:
                return
            wanted = self._rows & (_BLOCKS.c.id >= min(new))
            rows = connection.execute(select(_BLOCKS.c.id, _BLOCKS.c.block).where(wanted).order_by(_BLOCKS.c.id)).all()
        for row in rows:
            if row.id not in self._seen:
                self._seen.add(row.id)
                try:
                    block = json.loads(row.block)
                    check_block(block)
                except (ValueError, TypeError, RecursionError) as error:
                    raise StudyError(
                        f"row {row.id} of {_BLOCKS.name}",
                        f"not a block of scores ({reason_of(error)})",
                        "delete the row, whose scores are then made again, or start anew (--fresh)",
                    ) from error
                yield block

    def append(self, block: dict[str, Any]) -> None:
        """Store one block in a single transaction."""
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(_BLOCKS).values(study=self._name, block=json.dumps(block)))
        except SQLAlchemyError as error:
            raise StudyError(
                "a block of scores",
                f"the storage did not take it ({type(error.__cause__ or error).__name__})",
                "check the server and give the same command again; what is stored is kept",
            ) from error

    def clear(self) -> None:
        """Drop all blocks."""
        with self._engine.begin() as connection:
            connection.execute(delete(_BLOCKS).where(self._rows))
