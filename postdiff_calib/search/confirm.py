"""Confirmation: the finalists and the baseline on prompts that the search never saw.

The best of many noisy means is flattered by its noise; held-out prompts are not. The winner is chosen there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from postdiff_calib.errors import PlanError
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.scores.book import Evaluator, ScoreBook
from postdiff_calib.scores.names import HELD_OUT
from postdiff_calib.scores.store import FileStore


def confirm(
    evaluator: Evaluator,
    num_prompts: int,
    plans: Sequence[Knobs],
    baseline: Knobs,
    folder: Path,
    *,
    block: int = 10,
    begin: Callable[[Knobs], None] = lambda _: None,
) -> dict[str, str]:
    """Score the finalists and the baseline on the held-out prompts; resumable like the search.

    Args:
        evaluator: of the held-out prompts.
        num_prompts: how many they are.
        plans: the finalists.
        baseline: the baseline.
        folder: the study's folder; scores are kept in ``held_out.jsonl``.
        block: prompts stored at once.
        begin: hears of each plan, the baseline first, before its images.

    Returns:
        Plans whose images are broken or cannot be scored, with the reason, by plan id; the others are scored on
        every prompt of which the baseline's own image is sound.

    Raises:
        StudyError: too many of the baseline's own images are broken.
        PlanError: the baseline cannot be scored.
    """
    book = ScoreBook(evaluator, num_prompts, baseline, FileStore(folder / HELD_OUT))
    blocks = [list(range(start, min(start + block, num_prompts))) for start in range(0, num_prompts, block)]
    broken: dict[str, str] = {}
    for knobs in [baseline, *plans]:
        plan = compile_plan(knobs).plan_id
        begin(knobs)
        try:
            for indices in blocks:
                book.scores(knobs, indices)
        except PlanError as error:
            if plan == book.baseline:
                raise
            broken[plan] = str(error)
    return broken
