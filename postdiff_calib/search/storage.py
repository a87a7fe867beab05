"""Opening a study: Optuna's storage, the fingerprint that guards it, and what a killed process left behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from postdiff_calib.errors import OutputError, StudyError

STUDY_NAME = "postdiff"
DATABASE, SCORES, HELD_OUT = "study.db", "scores.jsonl", "held_out.jsonl"


def open_study(
    folder: Path,
    storage: str | None,
    name: str,
    fingerprint: Mapping[str, Any],
    sampler: optuna.samplers.BaseSampler,
    *,
    fresh: bool = False,
) -> optuna.Study:
    """Open the study, or make it; ``fresh`` drops what there is.

    Raises:
        OutputError: the folder cannot be made.
        StudyError: the study was made under another fingerprint, or the storage cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"study folder {folder}", f"it cannot be made ({error.strerror})", "give another (--study)"
        ) from error
    if fresh:
        _drop(folder, storage, name)
    try:
        study = optuna.create_study(
            storage=connect(storage or f"sqlite:///{folder / DATABASE}"),
            study_name=name,
            direction="maximize",
            sampler=sampler,
            pruner=optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        raise StudyError(
            f"study in {storage or folder / DATABASE}",
            f"its storage cannot be used ({str(error).splitlines()[0]})",
            "check the folder or URL, or start anew (--fresh)",
        ) from error
    wanted = json.loads(json.dumps(dict(fingerprint)))
    known = study.user_attrs.get("fingerprint")
    if known is None:
        study.set_user_attr("fingerprint", wanted)
    elif known != wanted:
        raise StudyError(
            f"study {folder}",
            f"it was made with other settings: {differences(known, wanted)}",
            "use those again, another folder (--study), or start anew (--fresh)",
        )
    return study


def connect(url: str) -> optuna.storages.RDBStorage:
    """Optuna's storage for a URL.

    On SQLite, commits go to a write-ahead log and do not wait for the disk one by one: a search makes some twenty per
    trial. A killed process loses nothing by that; after a power cut the last trials may be missing, not their scores.
    """
    storage = optuna.storages.RDBStorage(url)
    if storage.engine.dialect.name == "sqlite":

        def relax(connection: Any, record: Any) -> None:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")

        event.listen(storage.engine, "connect", relax)
        storage.engine.dispose()  # connections opened before are closed, so that every one in use is relaxed
    return storage


def _drop(folder: Path, storage: str | None, name: str) -> None:
    names = [SCORES, HELD_OUT]
    if storage is None:
        names += [DATABASE, *(f"{DATABASE}-{end}" for end in ("journal", "wal", "shm"))]
    elif name in optuna.get_all_study_names(storage):
        optuna.delete_study(study_name=name, storage=storage)
    for file in names:
        (folder / file).unlink(missing_ok=True)


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
