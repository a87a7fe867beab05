"""The report's images: which prompts, made by the accelerated pipeline as they were scored, kept as PNG files.

An image is made from its plan, its prompt's seed and the study's own settings; it is the one that was scored, up to
the float rounding of another batch. Files are named by prompt set, prompt, plan and a hash of what scores depend on, so
that a study begun anew never shows an old image.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from postdiff_calib.errors import StudyError
from postdiff_calib.files import replacing
from postdiff_calib.files.pixels import to_array
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.profile.match import weights_fact
from postdiff_calib.progress import Progress

if TYPE_CHECKING:
    import torch

    from postdiff_calib.models.load import LoadedModel
    from postdiff_calib.study.record import Study

Group = Literal["best", "median", "worst"]

#: Prompts shown of each group.
SHOWN = 3
FOLDER = "images"
#: Sides up to this are kept as they are (PNG, sharp pixels); larger images become JPEG thumbnails of that side.
_SMALL_SIDE, _THUMBNAIL = 128, 384


@dataclass(frozen=True)
class Example:
    """A prompt to show: its place in the prompt set and why it is shown."""

    group: Group
    index: int


def choose(differences: npt.NDArray[np.float64], count: int = SHOWN) -> list[Example]:
    """The best, median and worst prompts by difference, ``count`` each where there are enough; none twice.

    Args:
        differences: (N,) score minus the baseline's, NaN where a prompt was not scored.
        count: prompts a group.
    """
    known = np.flatnonzero(np.isfinite(differences))
    order = [int(i) for i in known[np.argsort(differences[known], kind="stable")]]
    worst = order[:count]
    best = order[max(len(worst), len(order) - count) :][::-1]
    between = order[len(worst) : len(order) - len(best)]
    start = max(0, (len(between) - count) // 2)
    groups: dict[Group, list[int]] = {"best": best, "median": between[start : start + count], "worst": worst}
    return [Example(group, index) for group, indices in groups.items() for index in indices]


@dataclass(frozen=True)
class Album:
    """Images of some prompts of a study's set, made once and kept in its folder.

    Args:
        study: the study.
        held_out: prompts are of the held-out set, else of the calibration set.
        device: where missing images are made: ``auto``, ``cpu``, ``cuda`` …
        loaded: the study's model, where it is loaded already.
    """

    study: Study
    held_out: bool
    device: str = "auto"
    loaded: LoadedModel | None = None

    def path(self, knobs: Knobs, index: int) -> Path:
        """Where the image of a prompt under a plan is kept."""
        facts = json.dumps(dict(self.study.record.fingerprint), sort_keys=True).encode()
        key = hashlib.sha256(facts).hexdigest()[:8]
        name = f"{'held-out' if self.held_out else 'calibration'}-{index:05d}-{compile_plan(knobs).plan_id}-{key}.png"
        return self.study.folder / FOLDER / name

    def make(self, plans: Sequence[Knobs], indices: Sequence[int], progress: Progress) -> None:
        """Make what is missing; the model is loaded only if something is.

        Raises:
            StudyError: the model is not the one that was scored any more.
            ModelError: it cannot be loaded.
            OutputError: the study's folder cannot be written.
        """
        missing = [(knobs, [i for i in indices if not self.path(knobs, i).exists()]) for knobs in plans]
        missing = [(knobs, wanted) for knobs, wanted in missing if wanted]
        if not missing:
            return
        from postdiff_calib.generate.images import generate
        from postdiff_calib.models.load import load_pipeline

        record = self.study.record
        loaded = self.loaded
        if loaded is None:
            progress.stage("loading the model")
            loaded = load_pipeline(
                record.model_to_load, device=self.device, dtype=record.model.dtype, settings=record.asked.deployment
            )
        weights = weights_fact(record.model, loaded)
        if not weights.same:
            raise StudyError(
                f"model {record.asked.model}",
                f"its {weights.what} ({weights.found}) are not the scored ones ({weights.wanted})",
                "bring those back, or leave the images out (--no-images)",
            )
        prompts = record.held_out if self.held_out else record.calibration
        first_seed = record.held_out_seed if self.held_out else record.seed
        progress.stage("making images", sum(len(wanted) for _, wanted in missing))
        for knobs, wanted in missing:
            texts, seeds = [prompts[i] for i in wanted], [first_seed + i for i in wanted]
            left = iter(wanted)
            for images in generate(loaded.pipe, knobs, texts, seeds, record.settings):
                for image in images:
                    _save(image, self.path(knobs, next(left)))
                progress.advance(len(images))

    def image(self, knobs: Knobs, index: int) -> Any:
        """A kept image, as Pillow reads it.

        Raises:
            StudyError: the file is not an image.
        """
        from PIL import Image

        path = self.path(knobs, index)
        try:
            with Image.open(path) as opened:
                return opened.convert("RGB")
        except OSError as error:
            raise StudyError(f"image {path}", "it cannot be read", "delete it; it is made again") from error

    def data_uri(self, knobs: Knobs, index: int) -> tuple[str, int, int]:
        """A kept image for embedding in a page, and its width and height there.

        Raises:
            StudyError: the file is not an image.
        """
        from PIL import Image

        shown = self.image(knobs, index)
        buffer, kind = io.BytesIO(), "png"
        if max(shown.size) <= _SMALL_SIDE:
            shown.save(buffer, "PNG", optimize=True)
        else:
            kind = "jpeg"
            shown.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
            shown.save(buffer, "JPEG", quality=85, optimize=True)
        return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}", *shown.size


def _save(image: torch.Tensor, path: Path) -> None:
    """Write one image, (3, H, W) in [0, 1], whole or not at all."""
    from PIL import Image

    remedy = "make the study folder writable, or leave the images out (--no-images)"
    with replacing(path, f"image {path}", remedy) as temporary:
        Image.fromarray(to_array(image)).save(temporary, "PNG")
