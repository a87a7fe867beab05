"""Trials whose process died, fell silent or stepped back: queued again, with what they had scored.

Scores are kept block by block outside the trials, so a trial that is queued again makes only the images that are
still missing.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from postdiff_calib.progress import log_event


def recover(study: optuna.Study) -> int:
    """Put back in the queue the trials that a stopped process left running; only for a storage that one process uses.

    A trial keeps its number, and with it its place among the others and what it was proposed from; one that had not
    chosen its plan yet chooses it anew, from the same scores. So a search that was stopped ends like any other.

    Returns:
        How many there were. Their scored blocks are remembered, so that they go on where they were.
    """
    stale = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in stale:
        study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
        log_event("retry", number=trial.number, plan=trial.user_attrs.get("plan"), reason="its process was stopped")
    return len(stale)


class Left(BaseException):
    """Ends Optuna's loop with the trial in hand as it stands, for ``recover``; Optuna itself would count it as failed.

    Args:
        cause: what ended the work.
    """

    def __init__(self, cause: BaseException) -> None:
        super().__init__(cause)
        self.cause = cause


def cut_short_before(trial: FrozenTrial) -> list[int]:
    """The trials, by number, that this one takes up: its predecessors, the last of them last."""
    return list(trial.system_attrs.get("retry_history", []))


def has_begun(trial: FrozenTrial) -> bool:
    """Whether a trial has a plan for good: it was queued with one, or its worker kept its choice and began.

    The number of prompts it wants is stored then (``TrialRunner.begin``). Its worker may still step back from a choice
    that is stored without that number.
    """
    return "wanted" in trial.user_attrs or bool(trial.user_attrs.get("enqueued"))


def retire_dead(study: optuna.Study) -> None:
    """Queue again the trials of workers that gave no sign of life for too long."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)


def watch(storage: optuna.storages.RDBStorage, trials: Sequence[FrozenTrial]) -> None:
    """Give these running trials one sign of life in their workers' stead.

    Optuna never counts a trial as dead that had none: a worker killed between taking a trial and its first beat would
    be waited for without end. A living worker goes on beating; a dead one's trial is now due like any other.
    """
    for trial in trials:
        storage.record_heartbeat(trial._trial_id)


def give_back(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue again a trial that its process stopped working on, or that it died with.

    One that has not begun holds nothing yet: it is left as it is, and the next that begins is proposed its place.
    """
    if not has_begun(trial):
        return
    log_event("retry", number=trial.number, plan=trial.user_attrs["plan"], reason="its worker did not end it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # same plan, same wanted prompts, linked to it as Optuna links retries; a copy, since Optuna writes into it
        optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=None)(study, copy.deepcopy(trial))
