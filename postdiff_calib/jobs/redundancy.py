"""Study A: how little a model's features change from one denoising step to the next (supplementary, figure 1).

Images are made by the baseline, a batch at a time, with hooks on the network's blocks and layers; the distances of each
batch are stored at once, so a stopped study goes on at the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postdiff_calib.errors import UsageError
from postdiff_calib.files import StudyLock
from postdiff_calib.jobs.paper_study import PaperStudyJob, Price, about_study, card_of, claim, price_of, set_up
from postdiff_calib.jobs.stopped import saying_what_is_kept
from postdiff_calib.knobs import Knobs
from postdiff_calib.progress import Progress, Silent
from postdiff_calib.scores.blocks import check_prompts, check_table
from postdiff_calib.scores.memory import is_out_of_memory, release_memory

if TYPE_CHECKING:
    from postdiff_calib.jobs.workbench import Workbench
    from postdiff_calib.models.card import Card
    from postdiff_calib.study.redundancy import Redundancy

KIND, VALUES = "redundancy", "distances.jsonl"
DEFAULT_PROMPTS = 50


@dataclass(frozen=True)
class RedundancyJob(PaperStudyJob):
    """What ``postdiff analyze redundancy`` was asked for; ``steps`` None is the model's own T."""

    steps: int | None = None

    def knobs(self, card: Card) -> Knobs:
        """The baseline at the steps that are asked for.

        Raises:
            UsageError: there is nothing to compare.
        """
        steps = self.steps or card.num_inference_steps
        if steps < 2:
            raise UsageError(f"-T {steps}", "neighbouring steps are compared", "take at least 2")
        return Knobs(steps)


@dataclass(frozen=True)
class RedundancyResult:
    """The distances, of which model at which T, and the folder."""

    model: str
    steps: int
    distances: Redundancy
    folder: Path

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        from postdiff_calib.study.paper_saw import REDUNDANCY

        return {
            "study": KIND,
            "model": self.model,
            "num_inference_steps": self.steps,
            **self.distances.as_dict(),
            "paper": REDUNDANCY,
        }


def price_redundancy(job: RedundancyJob) -> Price:
    """What the study costs; no image is made."""
    from postdiff_calib.cost.build import table_for_card

    card = card_of(job)
    count = job.num_prompts or DEFAULT_PROMPTS
    return price_of([(job.knobs(card), count)], table_for_card(card), card.num_inference_steps)


def run_redundancy(job: RedundancyJob, progress: Progress | None = None) -> RedundancyResult:
    """Measure the distances, or go on measuring them.

    Raises:
        PostdiffError: bad input, by one line; what was measured is kept.
    """
    from postdiff_calib.scores.store import FileStore

    progress, folder = progress or Silent(), job.folder(KIND)
    job.check_places(KIND, [VALUES])
    with saying_what_is_kept(folder, [VALUES], fresh=job.fresh), StudyLock(folder) as lock:
        bench, prompt_set = set_up(job, DEFAULT_PROMPTS, progress)
        knobs = job.knobs(bench.loaded.card)
        lock.take()
        about = {**about_study(KIND, bench, prompt_set), "num_inference_steps": knobs.num_inference_steps}
        claim(folder, about, [VALUES], fresh=job.fresh)
        store = FileStore(folder / VALUES, partial(_check, knobs.num_inference_steps, {}), "distances")
        rows = {i: row for block in store.read() for i, row in _by_prompt(block).items()}
        missing = [i for i in range(len(bench.held_out)) if i not in rows]
        progress.stage("measuring distances", len(missing))
        for block in _measured(bench, knobs, missing, progress):
            store.append(block)
            rows |= _by_prompt(block)
            progress.advance(len(block["prompts"]))
        return RedundancyResult(job.model, knobs.num_inference_steps, _together(rows, len(bench.held_out)), folder)


def _measured(bench: Workbench, knobs: Knobs, indices: list[int], progress: Progress) -> Iterator[dict[str, Any]]:
    """Distances of these prompts, a block a batch; one that does not fit into memory is halved."""
    import numpy as np

    from postdiff_calib.accelerate.distances import Distances, watched_blocks, watched_layers
    from postdiff_calib.accelerate.network import unwrapped
    from postdiff_calib.accelerate.observed import observed_steps
    from postdiff_calib.generate.images import generate
    from postdiff_calib.models.families import family_of

    pipe = bench.loaded.pipe
    network = unwrapped(getattr(pipe, family_of(pipe).denoiser))
    blocks, layers = watched_blocks(network), watched_layers(network)
    kinds: dict[str, list[int]] = {}
    for i, layer in enumerate(layers):
        kinds.setdefault(layer.kind, []).append(i + len(blocks))
    distances, done = Distances([*blocks, *layers]), 0
    with distances.watching(), observed_steps(pipe.scheduler, lambda _: distances.next_step()):
        while done < len(indices):
            settings, fits = bench.batch.within(bench.settings), True
            batch = indices[done : done + settings.batch_size]
            prompts, seeds = [bench.held_out.prompts[i] for i in batch], [bench.seed + i for i in batch]
            try:
                for _ in generate(pipe, knobs, prompts, seeds, settings):
                    pass
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or settings.batch_size == 1:
                    raise
                fits = False
            if not fits:  # only here is the failed batch's memory free, which the error held
                distances.forget()
                bench.batch.halve(settings, knobs.describe(), progress.note)
                release_memory()
                continue
            done += len(batch)
            l1, l2, relative_l2 = distances.taken(len(batch))
            yield {
                "blocks": [block.name for block in blocks],
                "kinds": {kind: len(where) for kind, where in kinds.items()},
                "prompts": batch,
                "relative_l1": np.round(l1[:, : len(blocks)], 6).tolist(),
                "l2": [[row[where].mean(0).tolist() for where in kinds.values()] for row in l2],
                "relative_l2": [[row[where].mean(0).tolist() for where in kinds.values()] for row in relative_l2],
            }


def _check(steps: int, first: dict[str, Any], block: Any) -> None:
    """Refuse a block that is none of distances at so many steps, or of other blocks and layers than the ``first`` one.

    Raises:
        ValueError: says what is wrong with it.
    """
    if not isinstance(block, dict):
        raise ValueError("it is no mapping")
    named = {name: block.get(name) for name in ("blocks", "kinds")}
    if not isinstance(named["blocks"], list) or not isinstance(named["kinds"], dict) or (first or named) != named:
        raise ValueError("its blocks and layers are not the network's")
    check_prompts(block.get("prompts"))
    for name, of in (("relative_l1", "blocks"), ("l2", "kinds"), ("relative_l2", "kinds")):
        check_table(name, block.get(name), (len(block["prompts"]), len(block[of]), steps - 1))
    first |= named


def _by_prompt(block: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {
        index: {
            "blocks": block["blocks"],
            "kinds": block["kinds"],
            **{name: block[name][j] for name in ("relative_l1", "l2", "relative_l2")},
        }
        for j, index in enumerate(block["prompts"])
    }


def _together(rows: dict[int, dict[str, Any]], count: int) -> Redundancy:
    import numpy as np

    from postdiff_calib.study.redundancy import Redundancy

    first = rows[0]

    def stacked(name: str) -> Any:
        return np.array([rows[i][name] for i in range(count)], dtype=np.float64)

    return Redundancy(
        tuple(first["blocks"]), dict(first["kinds"]), stacked("relative_l1"), stacked("l2"), stacked("relative_l2")
    )
