"""The image that a run is heading for, step by step: the clean estimate x̂0 of every step, decoded.

Source: PostDiff, arXiv 2508.06160, figure 3 and supplementary figure 6, which score it at every step. Low-resolution
steps give small images. Runs are those of an accelerated pipeline; its images are the same bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from postdiff_calib.accelerate.layout import spatial
from postdiff_calib.accelerate.observed import observed_steps
from postdiff_calib.accelerate.schedulers import predicted, switch_of
from postdiff_calib.errors import UnsupportedError
from postdiff_calib.models.families import family_of


class Estimates:
    """Decodes the clean estimate of each step of a pipeline's runs.

    Args:
        pipe: a pipeline of a supported family.
        latent: full latent (height, width).

    Raises:
        UnsupportedError: the scheduler's clean estimate is not known, or its latents are scaled channel by channel.
    """

    def __init__(self, pipe: Any, latent: tuple[int, int]) -> None:
        self.pipe, self.latent, self.layout = pipe, latent, family_of(pipe).latents
        self.switch = switch_of(pipe.scheduler)
        config = pipe.vae.config
        if getattr(config, "scaling_factor", None) is None or getattr(config, "latents_mean", None) is not None:
            raise UnsupportedError(
                f"--trace with {type(pipe.vae).__name__}",
                "estimates are decoded where latents have one scaling factor",
                "leave --trace out",
            )

    def images(self, given: dict[str, Any], index: int) -> torch.Tensor:
        """Images (B, 3, h, w) in [0, 1] of the clean estimate before step ``index`` is taken.

        Args:
            given: the arguments of ``scheduler.step`` by name.
            index: of the step.
        """
        sample, output = given["sample"], given["model_output"]
        size = self._size(sample)
        sample, output = (spatial(part, size, self.layout) for part in (sample, output))
        levels = self.switch.levels(self.pipe.scheduler, index)
        clean, _ = predicted(self.pipe.scheduler, self.switch, levels, output, given["timestep"], sample)
        vae, config = self.pipe.vae, self.pipe.vae.config
        latents = clean / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)
        decoded = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
        images: torch.Tensor = (decoded.float() / 2 + 0.5).clamp(0, 1).cpu()
        return images

    def _size(self, sample: torch.Tensor) -> tuple[int, int]:
        if self.layout != "packed":
            return int(sample.shape[-2]), int(sample.shape[-1])
        height, width = self.latent
        scale = math.sqrt(4 * sample.shape[1] / (height * width))
        return 2 * round(height * scale / 2), 2 * round(width * scale / 2)


def step_scores(
    estimates: Estimates, runs: Iterator[torch.Tensor], prompts: Sequence[str], scorer: Any, steps: int
) -> list[list[float]]:
    """CLIP score of the clean estimate of every step: a list of T numbers for each prompt.

    Args:
        estimates: of the pipeline that makes the runs.
        runs: batches of images, in the order of the prompts, as ``generate`` yields them.
        prompts: N prompts.
        scorer: scores images against prompts.
        steps: T.
    """
    rows: list[list[float]] = []
    columns: list[torch.Tensor] = []

    def hear(given: dict[str, Any]) -> None:
        columns.append(estimates.images(given, len(columns)))

    with observed_steps(estimates.pipe.scheduler, hear):
        for images in runs:
            own = prompts[len(rows) : len(rows) + len(images)]
            if len(columns) != steps:
                raise RuntimeError(f"{len(columns)} steps of {steps} were heard")
            scores = [scorer.score(column, own) for column in columns]
            rows += [list(row) for row in zip(*scores, strict=True)]
            columns.clear()
    return rows
