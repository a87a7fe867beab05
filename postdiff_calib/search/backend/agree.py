"""Whether a study's database and its score file tell the same story, and what is done where they do not.

Both are written as the search goes on, the scores first. A file that was cut, restored from a copy or deleted holds
fewer scores than finished trials had; what is missing is scored again, so that the search ends as it would have. Scores
that no trial asked for are used like all others.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from optuna.trial import TrialState

from postdiff_calib.progress import log_event
from postdiff_calib.quality.health import HealthError
from postdiff_calib.search.backend.queue import TrialQueue


def restore_scores(queue: TrialQueue, note: Callable[[str], None]) -> None:
    """Score again what finished trials had scored and the book lacks.

    Args:
        queue: the study's trials with the book.
        note: hears in a line each what does not agree.
    """
    book, runner = queue.book, queue.runner
    trials = queue.trials()
    asked = {str(t.user_attrs["plan"]) for t in trials if "plan" in t.user_attrs}
    unasked = set(book.plans) - asked - {book.baseline}
    if unasked:
        note(
            f"the study's database holds no trial of {len(unasked)} of {len(book.plans)} scored plans: "
            "it was changed or is an older copy; the scores are used"
        )
    had: dict[str, int] = {}
    for trial in trials:
        plan, outcome = trial.user_attrs.get("plan"), trial.user_attrs.get("outcome")
        if trial.state == TrialState.COMPLETE and plan in runner.by_plan_id and isinstance(outcome, dict):
            had[plan] = max(had.get(plan, 0), int(outcome.get("prompts", 0)))
    lost = {plan: n - int(np.isfinite(book.differences(plan)).sum()) for plan, n in had.items()}
    lost = {plan: n for plan, n in lost.items() if n > 0}
    if not lost:
        return
    note(
        f"{sum(lost.values())} scores of {len(lost)} plans that finished trials had are missing from the score file; "
        "they are made again"
    )
    log_event("fallback", what="missing scores are made again", plans=lost)
    for plan in lost:
        chosen = runner.by_plan_id[plan]
        # the baseline's on the prompts of which the plan's own score is still there, then both on the others
        alone = np.flatnonzero(np.isfinite(book.known(plan)) & ~np.isfinite(book.known(book.baseline)))
        size = runner.settings.block
        try:
            for start in range(0, len(alone), size):
                runner.score(runner.reference, "baseline", alone[start : start + size].tolist())
            for indices in runner.blocks(chosen, had[plan]):
                runner.score(runner.reference, "baseline", indices)
                runner.score(chosen, "explore", indices)
        except HealthError as error:
            note(f"{chosen.knobs.describe()} cannot be scored again: {error}")
