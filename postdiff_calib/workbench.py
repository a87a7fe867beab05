"""A loaded model, a scorer and two prompt sets: what makes and scores pictures in every stage.

Calibration and its workers all build this one object, so that a score means the same in each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postdiff_calib.knobs import Knobs

if TYPE_CHECKING:
    from postdiff_calib.models.load import LoadedModel
    from postdiff_calib.prompts import PromptSet
    from postdiff_calib.quality.clip import ClipScorer
    from postdiff_calib.search.pictures import PictureEvaluator
    from postdiff_calib.search.space import SearchSpace

#: Latent sides up to this are small pictures, of which more go into a batch.
_SMALL_SIDE, _SMALL_BATCH, _LARGE_BATCH = 96, 10, 4


@dataclass(frozen=True)
class Workbench:
    """What makes and scores pictures.

    Args:
        loaded: the model.
        scorer: of pictures against prompts.
        calibration, held_out: the two disjoint prompt sets.
        seed: of calibration prompt 0; prompt i has seed + i, held-out prompts are counted on behind them.
        settings: keyword arguments of ``generate``: height, width, guidance_scale, batch_size, noise, latent_multiple.
    """

    loaded: LoadedModel
    scorer: ClipScorer
    calibration: PromptSet
    held_out: PromptSet
    seed: int
    settings: dict[str, Any]

    @cached_property
    def space(self) -> SearchSpace:
        """The knobs that a search may set."""
        from postdiff_calib.search.space import SearchSpace

        card = self.loaded.card
        return SearchSpace.from_card(card, latent_size=card.latent_size())

    @property
    def held_out_seed(self) -> int:
        """Seed of the first held-out prompt."""
        return self.seed + len(self.calibration)

    def evaluator(
        self,
        prompts: PromptSet,
        base_seed: int,
        on_images: Callable[[int], None] | None = None,
        folder: Path | None = None,
    ) -> PictureEvaluator:
        """Makes and scores the pictures of a prompt set.

        Args:
            prompts: the set.
            base_seed: seed of prompt 0.
            on_images: hears of every batch's size.
            folder: of the study: there the unaccelerated model's pictures are kept, and others are measured against
                them; without it, pictures are scored only.
        """
        from postdiff_calib.search.names import BASELINE
        from postdiff_calib.search.pictures import BaselinePictures, PictureEvaluator

        baseline = None
        if folder is not None:
            about = {"model": self.loaded.fingerprint, "dtype": self.loaded.dtype, **self._picture_settings}
            baseline = BaselinePictures(folder / BASELINE, Knobs(self.loaded.card.num_inference_steps), about)
        pipe = self.loaded.pipe
        return PictureEvaluator(pipe, self.scorer, prompts.prompts, base_seed, self.settings, on_images, baseline)

    @property
    def _picture_settings(self) -> dict[str, Any]:
        """What a picture depends on, of the settings."""
        return {key: value for key, value in self.settings.items() if key != "batch_size"}

    def fingerprint(self) -> dict[str, Any]:
        """What a score depends on; a study made with anything else is refused."""
        return {
            "model": self.loaded.fingerprint,
            "prompts": self.calibration.sha256,
            "held_out": self.held_out.sha256,
            "scorer": self.scorer.weights_sha256,
            "seed": self.seed,
            "dtype": self.loaded.dtype,
            **self._picture_settings,
        }


def generation_settings(loaded: LoadedModel, *, noise: str, batch_size: int = 0) -> dict[str, Any]:
    """How pictures of a model are made: keyword arguments of ``generate``; ``batch_size`` 0 suits the picture."""
    card = loaded.card
    small = max(card.latent_size()) <= _SMALL_SIDE
    return {
        "height": card.height,
        "width": card.width,
        "guidance_scale": card.guidance_scale,
        "batch_size": batch_size or (_SMALL_BATCH if small else _LARGE_BATCH),
        "noise": noise,
        "latent_multiple": card.latent_multiple,
    }
