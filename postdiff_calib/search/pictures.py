"""The real evaluator: pictures by the attached pipeline that a deployment runs, checked, then scored by CLIP.

The seed of prompt i is the base seed + i in every plan (common random numbers), so scores are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from postdiff_calib.knobs import Knobs

if TYPE_CHECKING:
    from postdiff_calib.quality.clip import ClipScorer


class PictureEvaluator:
    """Makes and scores the pictures of a prompt set.

    Args:
        pipe: the stock pipeline.
        scorer: the CLIP scorer.
        prompts: the prompt set.
        base_seed: seed of prompt 0.
        settings: keyword arguments of ``generate``: height, width, guidance_scale, batch_size, noise, latent_multiple.
        on_images: called with the number of pictures after every batch.
    """

    def __init__(
        self,
        pipe: Any,
        scorer: ClipScorer,
        prompts: Sequence[str],
        base_seed: int,
        settings: dict[str, Any],
        on_images: Callable[[int], None] | None = None,
    ) -> None:
        self.pipe, self.scorer, self.prompts, self.base_seed = pipe, scorer, prompts, base_seed
        self.settings, self.on_images = settings, on_images

    def scores(self, knobs: Knobs, indices: Sequence[int]) -> list[float]:
        """One CLIP score (100 × cosine) per index.

        Raises:
            HealthError: pictures are constant, saturated or not finite.
        """
        from postdiff_calib.generate import generate
        from postdiff_calib.quality.health import check_health

        prompts = [self.prompts[i] for i in indices]
        seeds = [self.base_seed + i for i in indices]
        scores: list[float] = []
        for images in generate(self.pipe, knobs, prompts, seeds, **self.settings):
            batch = prompts[len(scores) : len(scores) + len(images)]
            check_health(images, batch)
            scores += self.scorer.score(images, batch)
            if self.on_images is not None:
                self.on_images(len(images))
        return scores
