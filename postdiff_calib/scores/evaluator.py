"""The real evaluator: images by the attached pipeline that a deployment runs, checked, then scored.

The seed of prompt i is the base seed + i in every plan (common random numbers), so scores are paired. The same images
are compared with the baseline's of the same prompt and seed, whose images are kept as PNG files; both are
taken in 8 bits, as a deployment would write them, so that equal images are equal.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from postdiff_calib.errors import PlanError, PostdiffError, one_line, reason_of
from postdiff_calib.files import replacing
from postdiff_calib.files.pixels import rounded, to_array
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.progress import log_event
from postdiff_calib.scores.measured import Measured
from postdiff_calib.scores.memory import BatchSize, is_out_of_memory, release_memory

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from postdiff_calib.models.shapes.judge import SceneJudge
    from postdiff_calib.quality.clip import ClipScorer
    from postdiff_calib.quality.metric import Metric
    from postdiff_calib.quality.scorer import Scorer

#: Key of the note in a kept PNG file that holds the hash of its pixels.
_NOTE = "postdiff pixels"


def _digest(pixels: npt.NDArray[np.uint8]) -> str:
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


class BaselineImages:
    """The baseline's images, one PNG file each, shared by all processes that use the folder.

    A file's name tells the seed and a hash of all that the image depends on, so a file is never taken for another's. A
    note within it has a hash of its pixels: an image that something else has written there is made anew.

    Args:
        folder: where the files are.
        knobs: the baseline.
        about: what images depend on besides prompt, seed and plan (model, dtype, size …): plain JSON values.
    """

    def __init__(self, folder: Path, knobs: Knobs, about: Mapping[str, Any]) -> None:
        self.folder, self.knobs = folder, knobs
        self.plan_id = compile_plan(knobs).plan_id
        self._about = json.dumps([self.plan_id, dict(about)], sort_keys=True)

    def path(self, prompt: str, seed: int) -> Path:
        """Where the image of a prompt and seed is, or would be."""
        key = hashlib.sha256(f"{self._about}\n{seed}\n{prompt}".encode()).hexdigest()[:16]
        return self.folder / f"{seed:06d}-{key}.png"

    def save(self, images: torch.Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> None:
        """Keep images (B, 3, H, W) in [0, 1]; each file is written whole or not at all.

        Raises:
            OutputError: the folder cannot be made or written.
        """
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        for image, prompt, seed in zip(images, prompts, seeds, strict=True):
            path, pixels, note = self.path(prompt, seed), to_array(image), PngInfo()
            note.add_text(_NOTE, _digest(pixels))
            with replacing(path, f"image {path}", "check the study folder") as temporary:
                # little compression: the file is written once and read for every plan
                Image.fromarray(pixels).save(temporary, format="PNG", compress_level=1, pnginfo=note)

    def load(self, prompt: str, seed: int) -> torch.Tensor | None:
        """An image, (3, H, W) in [0, 1]; None when it is not there, not whole, or not the one that was saved."""
        import numpy as np
        import torch
        from PIL import Image

        try:
            with Image.open(self.path(prompt, seed)) as file:
                pixels, note = np.array(file.convert("RGB")), file.info.get(_NOTE)
        except (OSError, SyntaxError, ValueError):  # Pillow raises all three on a damaged file
            return None
        if note != _digest(pixels):
            return None
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


@dataclass(eq=False)
class ImageEvaluator:
    """Makes and scores the images of a prompt set.

    Args:
        pipe: the stock pipeline.
        scorer: of images against prompts.
        prompts: the prompt set.
        base_seed: seed of prompt 0.
        settings: how images are made, whatever the plan.
        on_images: called with the number of images after every batch.
        baseline: the baseline's images, for SSIM, PSNR and LPIPS; without them there are none of these.
        judge: of scenes; where there is one, every image of every plan is judged, the baseline's own included.
        note: hears in a line each what a person should know.
        batch: how many images fit into memory at a time; found here where a batch does not fit.
        also: further scorers, which judge every image too.
    """

    pipe: Any
    scorer: Scorer
    prompts: Sequence[str]
    base_seed: int
    settings: GenerationSettings
    on_images: Callable[[int], None] | None = None
    baseline: BaselineImages | None = None
    judge: SceneJudge | None = None
    note: Callable[[str], None] = lambda _: None
    batch: BatchSize = field(default_factory=BatchSize)
    also: Sequence[Scorer] = ()

    def scores(self, knobs: Knobs, indices: Sequence[int]) -> list[float]:
        """One score per index.

        Raises:
            HealthError: images are constant, saturated or not finite.
        """
        return list(self.measured(knobs, indices).scores)

    def measured(self, knobs: Knobs, indices: Sequence[int]) -> Measured:
        """Scores, other measures, and embeddings; a batch in memory at a time.

        Measures are the other quality metrics, those of a judge where there is one, and the fidelity metrics, against
        the baseline's images, where these are kept.

        Raises:
            PlanError: images are constant, saturated or not finite, do not fit into memory even one at a time, or
                cannot be scored.
            OutputError: the baseline's images cannot be kept.
        """
        import numpy as np

        prompts = [self.prompts[i] for i in indices]
        seeds = [self.base_seed + i for i in indices]
        parts: list[Measured] = []
        done = 0
        while done < len(prompts):
            try:
                for images in self.make(knobs, prompts[done:], seeds[done:]):
                    batch = slice(done, done + len(images))
                    parts.append(self._measure(knobs, images, prompts[batch], seeds[batch]))
                    done += len(images)
                    if self.on_images is not None:
                        self.on_images(len(images))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self.batch.halve(self.settings, knobs.describe(), self.note)
            if done < len(prompts):
                release_memory()
        features = [part.features for part in parts if part.features is not None]
        return Measured(
            [score for part in parts for score in part.scores],
            {name: [value for part in parts for value in part.measures[name]] for name in self._measure_names},
            np.concatenate(features) if features else None,
        )

    def make(self, knobs: Knobs, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[torch.Tensor]:
        """Images (b, 3, H, W) in [0, 1] of prompts and their seeds, a batch at a time."""
        from postdiff_calib.generate.images import generate

        return generate(self.pipe, knobs, prompts, seeds, self._now)

    @property
    def _now(self) -> GenerationSettings:
        """The settings, with no more images at a time than fit into memory."""
        return self.batch.within(self.settings)

    @property
    def _measure_names(self) -> list[str]:
        return [m.name for m in (*self._judged, *self._fidelity)] + [one.metric for one in self._by_name]

    @property
    def _by_name(self) -> tuple[Scorer, ...]:
        """The scorers whose scores are measures of their own name: all but one whose metric is the score itself."""
        from postdiff_calib.quality.metrics import SCORE

        return (*((self.scorer,) if getattr(self.scorer, "metric", SCORE) != SCORE else ()), *self.also)

    @property
    def _judged(self) -> tuple[Metric, ...]:
        """The quality metrics beside the score."""
        from postdiff_calib.quality.metrics import SCORE, quality_metrics

        return tuple(m for m in quality_metrics() if m.name != SCORE and (self.judge is not None or not m.judged))

    def _measure(self, knobs: Knobs, images: torch.Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> Measured:
        """Everything about one batch; a scorer that fails once is asked again."""
        from postdiff_calib.quality.health import check_health

        check_health(images, prompts)
        found = self._tried(knobs, images, prompts, seeds)
        if isinstance(found, Exception):
            self.note(f"scoring images of {knobs.describe()} failed ({_said(found)}); trying once more")
            log_event("retry", knobs=knobs.describe(), reason=_said(found))
            found = self._tried(knobs, images, prompts, seeds)
        if isinstance(found, Exception):
            rule = f"its images cannot be scored ({_said(found)}, twice)"
            raise PlanError(knobs.describe(), rule, "check the scorer and the device") from found
        return found

    def _tried(
        self, knobs: Knobs, images: torch.Tensor, prompts: Sequence[str], seeds: Sequence[int]
    ) -> Measured | Exception:
        """As ``_ask``, or the error of a scorer that failed; an error that another try cannot mend is raised."""
        try:
            return self._ask(knobs, images, prompts, seeds)
        except PostdiffError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return error

    def _ask(self, knobs: Knobs, images: torch.Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> Measured:
        """The scores, the other measures and the embeddings of one batch."""
        import numpy as np

        features = None
        embed = getattr(self.scorer, "image_features", None)
        if embed is None:
            scores = self.scorer.score(images, prompts)
        else:
            embedded = embed(images)
            scores = cast("ClipScorer", self.scorer).score_features(embedded, prompts)
            features = embedded.numpy().astype(np.float16)
        measured = self._judge(self._judged, images, prompts)
        measured |= self._compare(self._fidelity, knobs, images, prompts, seeds)
        for one in self._by_name:
            measured[one.metric] = scores if one is self.scorer else one.score(images, prompts)
        return Measured(scores, measured, features)

    @cached_property
    def _fidelity(self) -> tuple[Metric, ...]:
        """The comparisons with the baseline's images, where these are kept."""
        from postdiff_calib.quality.metrics import fidelity_metrics

        return fidelity_metrics() if self.baseline is not None else ()

    def _judge(self, metrics: Sequence[Metric], images: torch.Tensor, prompts: Sequence[str]) -> dict[str, list[float]]:
        """Each quality metric of a batch beside the score."""
        from postdiff_calib.quality.metric import Images

        batch = Images(images, None, prompts, self.scorer, self.judge)
        return {m.name: m.function(batch) for m in metrics}

    def _compare(
        self,
        metrics: Sequence[Metric],
        knobs: Knobs,
        images: torch.Tensor,
        prompts: Sequence[str],
        seeds: Sequence[int],
    ) -> dict[str, list[float]]:
        """Each metric of a batch; the baseline's own images are kept, and equal to themselves."""
        from postdiff_calib.quality.metric import Images

        if self.baseline is None:
            return {}
        if self.is_baseline(knobs):
            self.baseline.save(images, prompts, seeds)
            return {m.name: [m.equal] * len(images) for m in metrics if m.equal is not None}
        batch = Images(rounded(images), self._reference(self.baseline, prompts, seeds), prompts, self.scorer)
        return {m.name: m.function(batch) for m in metrics}

    def seconds_to_score(self) -> float:
        """Seconds that an image takes to be scored by every metric: measured on a batch of noise, once warm.

        Raises:
            ScorerError: a scorer failed.
        """
        import torch

        from postdiff_calib.quality.metric import Images
        from postdiff_calib.quality.metrics import fidelity_metrics

        prompts = list(self.prompts[: self.settings.batch_size])
        shape = (len(prompts), 3, self.settings.height, self.settings.width)
        noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        batch, metrics = Images(noise, noise, prompts, self.scorer, self.judge), (*self._judged, *fidelity_metrics())
        for _ in range(2):
            began = time.perf_counter()
            for scorer in (self.scorer, *self.also):
                scorer.score(noise, prompts)
            for m in metrics:
                m.function(batch)
            taken = time.perf_counter() - began
        return taken / len(prompts)

    def is_baseline(self, knobs: Knobs) -> bool:
        """Whether the images are the baseline's own."""
        return self.baseline is not None and compile_plan(knobs).plan_id == self.baseline.plan_id

    def _reference(self, baseline: BaselineImages, prompts: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        """The baseline's images; those that this host does not have are made anew, with the same seed."""
        import torch

        from postdiff_calib.generate.images import generate

        kept = [baseline.load(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        absent = [i for i, found in enumerate(kept) if found is None]
        if absent:
            again, numbers = [prompts[i] for i in absent], [seeds[i] for i in absent]
            made = torch.cat(list(generate(self.pipe, baseline.knobs, again, numbers, self._now)))
            baseline.save(made, again, numbers)
            for i, image in zip(absent, made, strict=True):
                kept[i] = rounded(image)
        return torch.stack([found for found in kept if found is not None])


def _said(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {reason_of(error)}")
