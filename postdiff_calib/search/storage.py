"""Opening a study: Optuna's storage, the fingerprint that guards it, and what a killed process left behind.

One process uses SQLite in the study's folder. Several workers share a server, usually PostgreSQL: scores then live in
the study's attributes, so that every host sees them, and heartbeats tell a dead worker's trial from a long one. One
process (the leader) makes the study; workers join it.
"""

from __future__ import annotations

import json
import uuid
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from sqlalchemy import event, make_url
from sqlalchemy.exc import SQLAlchemyError

from postdiff_calib.errors import OutputError, StudyError

STUDY_NAME = "postdiff"
#: Seconds between a worker's signs of life; after three without one its trial is given to another.
HEARTBEAT = 30
DATABASE, SCORES, HELD_OUT = "study.db", "scores.jsonl", "held_out.jsonl"


def open_study(
    folder: Path,
    storage: str | None,
    name: str,
    fingerprint: Mapping[str, Any],
    sampler: optuna.samplers.BaseSampler,
    *,
    fresh: bool = False,
    join: bool = False,
    heartbeat: int = HEARTBEAT,
) -> tuple[optuna.Study, optuna.storages.RDBStorage]:
    """Open the study, or make it; ``fresh`` drops what there is, ``join`` refuses to make one.

    Returns:
        The study and the storage behind it, which the caller closes with ``disconnect``.

    Raises:
        OutputError: the folder cannot be made.
        StudyError: the study was made under another fingerprint, or the storage cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"study folder {folder}", f"it cannot be made ({error.strerror})", "give another (--study)"
        ) from error
    if fresh and storage is None:
        for file in (DATABASE, *(f"{DATABASE}-{end}" for end in ("journal", "wal", "shm")), SCORES, HELD_OUT):
            (folder / file).unlink(missing_ok=True)
    url = storage or f"sqlite:///{folder / DATABASE}"
    pruner = optuna.pruners.NopPruner()
    backend = None
    try:
        backend = connect(url, heartbeat if storage else None)
        if fresh and storage is not None and name in optuna.get_all_study_names(backend):
            optuna.delete_study(study_name=name, storage=backend)
            (folder / HELD_OUT).unlink(missing_ok=True)
        if join:
            study = optuna.load_study(study_name=name, storage=backend, sampler=sampler, pruner=pruner)
        else:
            study = optuna.create_study(
                storage=backend,
                study_name=name,
                direction="maximize",
                sampler=sampler,
                pruner=pruner,
                load_if_exists=True,
            )
    except KeyError as error:
        disconnect(backend)
        raise StudyError(
            f"study {name!r} in {shown(url)}", "there is none", "start it with postdiff calibrate --storage"
        ) from error
    except ImportError as error:
        raise StudyError(
            f"storage {shown(url)}", f"its driver is not installed ({error.name})", "pip install 'postdiff[postgres]'"
        ) from error
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        disconnect(backend)
        raise StudyError(
            f"study in {shown(url)}",
            f"its storage cannot be used ({str(error).splitlines()[0]})",
            "check the folder or URL, or start anew (--fresh)",
        ) from error
    wanted = json.loads(json.dumps(dict(fingerprint)))
    known = study.user_attrs.get("fingerprint")
    if known is None:
        study.set_user_attr("fingerprint", wanted)
    elif known != wanted:
        disconnect(backend)
        raise StudyError(
            f"study {folder if storage is None else name}",
            f"it was made with other settings: {differences(known, wanted)}",
            "use those again, another folder (--study), or start anew (--fresh)",
        )
    return study, backend


def disconnect(storage: optuna.storages.RDBStorage | None) -> None:
    """Give back every connection to the database."""
    if storage is not None:
        storage.remove_session()
        storage.engine.dispose()


def shown(url: str) -> str:
    """A storage URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return "the given URL"


def connect(url: str, heartbeat: int | None = None) -> optuna.storages.RDBStorage:
    """Optuna's storage for a URL; with ``heartbeat`` seconds, trials of dead workers are queued again.

    On SQLite, commits go to a write-ahead log and do not wait for the disk one by one: a search makes some twenty per
    trial. A killed process loses nothing by that; after a power cut the last trials may be missing, not their scores.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats still count as such
        storage = optuna.storages.RDBStorage(
            url,
            engine_kwargs={"pool_pre_ping": True},
            heartbeat_interval=heartbeat,
            grace_period=None if heartbeat is None else 3 * heartbeat,
            heartbeat_stale_trial_callback=None
            if heartbeat is None
            else optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=None),
        )
    if storage.engine.dialect.name == "sqlite":

        def relax(connection: Any, record: Any) -> None:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")

        event.listen(storage.engine, "connect", relax)
        storage.engine.dispose()  # connections opened before are closed, so that every one in use is relaxed
    return storage


class StudyStore:
    """Blocks of scores as attributes of the study: every worker on every host sees them.

    Each block has a key of its own, so that writing one never touches another's.
    """

    _PREFIX = "scores:"

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._seen: set[str] = set()

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the blocks that came since the last call, whoever wrote them."""
        attributes = self._study.user_attrs
        for key in attributes.keys() - self._seen:
            if key.startswith(self._PREFIX):
                self._seen.add(key)
                yield attributes[key]

    def append(self, block: dict[str, Any]) -> None:
        """Store one block in a single transaction."""
        key = f"{self._PREFIX}{block['plan']}:{uuid.uuid4().hex}"
        try:
            self._study.set_user_attr(key, block)
        except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
            raise StudyError(
                "a block of scores", f"the storage did not take it ({str(error).splitlines()[0]})", "check the server"
            ) from error


def recover(study: optuna.Study) -> int:
    """Queue again the trials that a killed process left running; only for a storage that one process uses.

    Returns:
        How many there were. Their scored blocks are remembered, so that they go on where they were.
    """
    stale = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in stale:
        study.tell(trial.number, state=TrialState.FAIL)
        if "plan" in trial.user_attrs:
            study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
    return len(stale)


def differences(known: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> str:
    """Which entries differ, with both values: ``model.revision was 'a', now 'b'``."""
    found = []
    for name in sorted({*known, *wanted}):
        old, new = known.get(name), wanted.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            inner = differences(old, new, f"{prefix}{name}.")
            found += [inner] if inner else []
        elif old != new:
            found.append(f"{prefix}{name} was {old!r}, now {new!r}")
    return ", ".join(found)
