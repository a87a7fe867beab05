"""One process's part in Optuna's loop over trials, and what may go wrong between a trial's begin and its end.

Optuna runs a trial, then stores how it ended. In between the process may be interrupted, the storage may be lost, and
others may take this process for dead and its trial for theirs. Optuna answers each of these with an error of its own;
here they become what happened.
"""

from __future__ import annotations

import optuna

from postdiff_calib.errors import PostdiffError
from postdiff_calib.search.backend import database, retry
from postdiff_calib.search.backend.queue import TrialQueue
from postdiff_calib.search.backend.trial import TrialRunner


class TrialLoop:
    """Runs trials of a study in this process.

    Args:
        study: Optuna's study.
        queue: says which trials there are.
        runner: does what a trial is for.
        single: no other process works on the study.

    Attributes:
        done: trials that this process has finished.
    """

    def __init__(self, study: optuna.Study, queue: TrialQueue, runner: TrialRunner, *, single: bool) -> None:
        self.study, self.queue, self.runner, self.single = study, queue, runner, single
        self.done = 0
        self._trial_is_lost = self._stopping = False
        self._number: int | None = None
        self._fault: BaseException | None = None

    def run(self, count: int) -> None:
        """Run so many trials; a plan whose images are broken ends its trial alone.

        Raises:
            PostdiffError: nothing can be stored or scored any more (``TrialRunner.fatal``).
            KeyboardInterrupt: after Ctrl-C; the trial in hand is given back.
            StorageInternalError, SQLAlchemyError: the storage is lost.
        """
        self._number, self._fault, self._trial_is_lost = None, None, False
        try:
            self.study.optimize(self._objective, n_trials=count, catch=(PostdiffError,))
        except retry.Left as left:
            raise left.cause from left.cause.__cause__
        except (UnboundLocalError, AssertionError, ValueError, optuna.exceptions.UpdateFinishedTrialError) as error:
            # Optuna's, when it is interrupted or loses the storage while a trial ends: say that instead.
            found = self.runner.fatal or database.cause_behind(error)
            # Optuna's, too, when a trial is already finished: a process that was silent for too long (a sleeping
            # laptop) comes back to a trial that others have been given. Its blocks are kept, and it goes on with the
            # next.
            lost = self._trial_is_lost or (self._fault is None and self._is_lost(self._number))
            if found is None and not lost:
                found = self._fault or error
            if found is not None:
                raise found from found.__cause__  # what the database said
        if self._stopping:
            raise KeyboardInterrupt

    def _is_lost(self, number: int | None) -> bool:
        """Whether a trial of this process was ended by others, who took the process for dead."""
        return not self.single and number is not None and not self.queue.is_running(number)

    def _objective(self, trial: optuna.Trial) -> float:
        self._number, self._fault, self._trial_is_lost = trial.number, None, False
        try:
            if not self.single and self.queue.surplus(trial):
                raise optuna.TrialPruned  # others began the last trials while this worker was deciding to begin one
            taken = self.runner.take(trial)
            if not self.single and self.queue.crowded(trial):
                raise optuna.TrialPruned
            value = self.runner.run(trial, taken)
        except optuna.TrialPruned:
            raise
        except BaseException as error:
            self._fault = error
            self._trial_is_lost = isinstance(error, optuna.exceptions.UpdateFinishedTrialError)
            if self.single and (self.runner.fatal is not None or not isinstance(error, PostdiffError)):
                raise retry.Left(error) from None
            if isinstance(error, KeyboardInterrupt):
                self._stopping = True
                if self.queue.is_running(trial.number):
                    retry.give_back(self.study, self.queue.trials()[trial.number])
            raise
        finally:
            self._trial_is_lost = self._trial_is_lost or self._is_lost(trial.number)
        self.done += not self._trial_is_lost
        return value
