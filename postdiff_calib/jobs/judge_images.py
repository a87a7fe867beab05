"""Images of a set-up, scored as a plan's are and compared with the baseline's, and kept in a file of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postdiff_calib.cost.budget import PlanCost
from postdiff_calib.errors import StudyError
from postdiff_calib.files import parse_json
from postdiff_calib.jobs.workbench import Workbench
from postdiff_calib.knobs import Knobs
from postdiff_calib.progress import Progress
from postdiff_calib.scores.evaluator import BaselineImages, ImageEvaluator
from postdiff_calib.scores.measured import Embeddings, Measured
from postdiff_calib.scores.select import PlanScores

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from postdiff_calib.scores.store import FileStore

Make = Callable[[Sequence[str], Sequence[int]], Iterator["torch.Tensor"]]


class SetUpEvaluator(ImageEvaluator):
    """As ``ImageEvaluator``, of images that a set-up makes.

    Args:
        bench: what scores them.
        folder: of the study, where the baseline's images are.
        progress: hears of every batch.
        kept: where the first prompts' images are kept.
        shown: of so many prompts.
    """

    def __init__(self, bench: Workbench, folder: Path, progress: Progress, kept: BaselineImages, shown: int) -> None:
        like = bench.evaluator(bench.held_out, bench.held_out_seed, progress.advance, folder, progress.note)
        super().__init__(
            like.pipe,
            like.scorer,
            like.prompts,
            like.base_seed,
            like.settings,
            like.on_images,
            like.baseline,
            like.judge,
            like.note,
            like.batch,
            like.also,
        )
        self._stock = Knobs(bench.loaded.card.num_inference_steps)
        self._kept, self._shown = kept, shown
        self._with_setup: Make | None = None

    def with_setup(self, make: Make) -> None:
        """Images come from ``make`` from here on."""
        self._with_setup = make

    def make(self, knobs: Knobs, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[torch.Tensor]:
        """The set-up's images; those of the first prompts are kept."""
        assert self._with_setup is not None
        done = 0
        for images in self._with_setup(prompts, seeds):
            own = [j for j in range(len(images)) if seeds[done + j] < self.base_seed + self._shown]
            if own:
                texts, numbers = [prompts[done + j] for j in own], [seeds[done + j] for j in own]
                self._kept.save(images[own], texts, numbers)
            done += len(images)
            yield images

    def is_baseline(self, knobs: Knobs) -> bool:
        """Never: a set-up is compared with the baseline's images even where it changes nothing."""
        return False

    def _reference(self, baseline: BaselineImages, prompts: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        for prompt, seed in zip(prompts, seeds, strict=True):
            if baseline.load(prompt, seed) is None:  # the pipeline is not the baseline's now, so it cannot make it
                path = baseline.path(prompt, seed)
                raise StudyError(f"image {path}", "the baseline's image is gone", "start anew (--fresh)")
        return super()._reference(baseline, prompts, seeds)

    def fill(self, store: FileStore, key: str, wanted: Sequence[int]) -> None:
        """Score what a store does not hold yet, a batch at a time; each is stored at once.

        Raises:
            PlanError: the images are broken or do not fit into memory.
        """
        have = kept_scores(store, len(self.prompts))
        missing, size = [i for i in wanted if i not in have], self.settings.batch_size
        for first in range(0, len(missing), size):
            batch = missing[first : first + size]
            made = self.measured(self._stock, batch)
            made.check(batch, "this set-up")
            store.append({"plan": key, "knobs": self._stock.as_dict(), "prompts": batch, **made.as_block()})


class KeptScores:
    """What a store holds of one set-up, by prompt."""

    def __init__(self, num_prompts: int) -> None:
        self._n = num_prompts
        self._blocks: list[tuple[Sequence[int], Measured]] = []
        self._known: set[int] = set()

    def add(self, indices: Sequence[int], measured: Measured) -> None:
        """Take in a block."""
        self._blocks.append((indices, measured))
        self._known.update(indices)

    def __contains__(self, index: int) -> bool:
        return index in self._known

    def plan_scores(self, knobs: Knobs) -> PlanScores:
        """All of it as a plan's scores; the knobs stand for the set-up."""
        import numpy as np

        scores = np.full(self._n, math.nan)
        measures: dict[str, npt.NDArray[np.float64]] = {}
        features: Embeddings | None = None
        for indices, found in self._blocks:
            where = list(indices)
            scores[where] = found.scores
            for name, values in found.measures.items():
                measures.setdefault(name, np.full(self._n, math.nan))[where] = values
            if found.features is not None:
                if features is None:
                    features = np.full((self._n, found.features.shape[1]), math.nan, np.float16)
                features[where] = found.features
        return PlanScores(knobs, PlanCost(0.0, 0.0), scores, measures, features)


def kept_scores(store: FileStore, num_prompts: int) -> KeptScores:
    """What a store's file holds, read from its beginning."""
    from postdiff_calib.scores.store import FileStore

    found = KeptScores(num_prompts)
    for block in FileStore(store.path).read():
        if any(index >= num_prompts for index in block["prompts"]):
            rule = f"scores of prompt {max(block['prompts'])}, and there are {num_prompts} prompts"
            raise StudyError(f"score file {store.path}", rule, "use the study's own number, or start anew (--fresh)")
        found.add(block["prompts"], Measured.from_block(block))
    return found


def known_seconds(path: Path) -> dict[str, Any]:
    """What was timed already, by set-up's key: seconds per image of every call; what is damaged is timed again."""
    with suppress(OSError, ValueError):
        known = parse_json(path.read_bytes())
        if isinstance(known, dict):
            return {key: timed for key, timed in known.items() if _is_timed(timed)}
    return {}


def _is_timed(timed: Any) -> bool:
    if not isinstance(timed, dict) or type(timed.get("batch_size")) is not int:
        return False
    rows = [timed.get(name) for name in ("seconds", "baseline_seconds")]
    return all(
        isinstance(row, list) and row and all(type(value) in (int, float) and value > 0 for value in row)
        for row in rows
    )
