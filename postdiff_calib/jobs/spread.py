"""How much the baseline's own metrics move when only the seed changes: the unit of objectives and of δ.

The baseline is run twice on some calibration prompts, with seeds that nothing else uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from postdiff_calib.cost.budget import PlanCost
from postdiff_calib.jobs.workbench import Workbench
from postdiff_calib.knobs import Knobs
from postdiff_calib.progress import Progress
from postdiff_calib.scores.names import OTHER_SEEDS
from postdiff_calib.scores.objective import Objective, make_objective, parse_per_metric, spread_of

#: Calibration prompts on which the baseline is run with two seeds more, and images stored at once.
SPREAD_PROMPTS, SPREAD_BLOCK = 30, 10


def measure_objective(
    folder: Path,
    bench: Workbench,
    progress: Progress,
    delta: Sequence[str] = (),
    weight: Sequence[str] = (),
    *,
    fresh: bool = False,
) -> Objective:
    """The objective of a study: its metrics with the spreads that are measured here.

    Args:
        folder: of the study; scores are kept there.
        bench: what makes and scores images.
        progress: called with each stage, each image and each note.
        delta, weight: as ``scores.objective.parse_per_metric`` reads them; scorers that judge beside have weight 0.
        fresh: measure anew.
    """
    import numpy as np

    from postdiff_calib.scores.book import ScoreBook
    from postdiff_calib.scores.store import FileStore

    n, knobs = min(SPREAD_PROMPTS, len(bench.calibration)), Knobs(bench.loaded.card.num_inference_steps)
    deltas = parse_per_metric("--delta", delta, bench.metrics)
    weights = {one.metric: 0.0 for one in bench.also} | parse_per_metric("--weight", weight, bench.metrics)
    twice = replace(bench.calibration, prompts=bench.calibration.prompts[:n] * 2)
    seed = bench.seed + len(bench.calibration) + len(bench.held_out)
    progress.stage("measuring the baseline's spread", 2 * n)
    folder.mkdir(parents=True, exist_ok=True)
    store = FileStore(folder / OTHER_SEEDS)
    if fresh:
        store.path.unlink(missing_ok=True)
    book = ScoreBook(bench.evaluator(twice, seed, progress.advance, note=progress.note), 2 * n, knobs, store)
    for start in range(0, 2 * n, SPREAD_BLOCK):
        book.scores(knobs, range(start, min(start + SPREAD_BLOCK, 2 * n)))
    baseline, spreads = book.plan_scores(knobs, PlanCost(0.0, 0.0)), {}
    for metric in bench.metrics:
        first, second = np.split(baseline.metric(metric), 2)
        both = np.isfinite(first) & np.isfinite(second)
        spreads[metric] = spread_of(first[both], second[both])
    return make_objective(spreads, deltas, weights)
