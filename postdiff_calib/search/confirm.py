"""Confirmation: the finalists and the unaccelerated model on prompts that the search never saw.

The best of many noisy means is flattered by its noise; held-out prompts are not. The winner is chosen there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from postdiff_calib.search.evaluate import Evaluator, FileStore, ScoreBook
from postdiff_calib.search.names import HELD_OUT
from postdiff_calib.search.select import PlanScores


def confirm(
    evaluator: Evaluator,
    num_prompts: int,
    plans: Sequence[PlanScores],
    baseline: PlanScores,
    folder: Path,
    *,
    block: int = 10,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[PlanScores, list[PlanScores]]:
    """Score the best plans and the baseline on the held-out prompts; resumable like the search.

    Args:
        evaluator: of the held-out prompts.
        num_prompts: how many they are.
        plans: finalists, usually the best 3 to 5 by ``select.best`` and the best of each arm.
        baseline: the unaccelerated model.
        folder: the study's folder; scores are kept in ``held_out.jsonl``.
        block: prompts stored at once.
        progress: called with (pictures done, pictures in all) after every block.

    Returns:
        The baseline and the plans, in the given order, with their held-out scores and measures.
    """
    book = ScoreBook(evaluator, num_prompts, baseline.knobs, FileStore(folder / HELD_OUT))
    unique = {p.plan.content: p for p in [baseline, *plans]}
    done, total = 0, len(unique) * num_prompts
    for plan in unique.values():
        for start in range(0, num_prompts, block):
            indices = list(range(start, min(start + block, num_prompts)))
            book.scores(plan.knobs, indices)
            done += len(indices)
            if progress is not None:
                progress(done, total)

    def scored(plan: PlanScores) -> PlanScores:
        return book.plan_scores(plan.knobs, plan.cost)

    return scored(baseline), [scored(plan) for plan in plans]
