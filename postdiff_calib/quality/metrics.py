"""The metrics, one entry each in one list: everything that is to be known of a metric stands in its entry.

There are two kinds (``quality.metric``). A *quality* metric judges an image by itself, against its prompt: the CLIP
score, and whether the scene is right. A *fidelity* metric compares an image with the baseline's of the same prompt and
seed. Quality may stay the same, or rise, where fidelity is lost.

Per-prompt metrics return a number per image and are compared by paired differences; metrics of the set return one
number for all images. Images are (B, 3, H, W) float, values in [0, 1].

Evaluator, guards, objective, profile, report and terminal walk this list; none of them names a metric. Importing this
module imports neither torch nor numpy.

A scorer that a user brings along (``quality.scorers``) is a quality metric beside the list: its name says all that is
to be known of it, so a file that names it can be read where the scorer is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

from postdiff_calib.errors import ModelError
from postdiff_calib.quality.fidelity import PSNR_CAP, psnr, ssim
from postdiff_calib.quality.metric import DECIBELS, DISTANCE, SIMILARITY, Images, Metric

if TYPE_CHECKING:
    import numpy.typing as npt

#: The quality metric of an open_clip scorer, which a search maximises where no other scorer is named.
SCORE = "clip"
#: What the metric of a user's scorer may be called.
SCORER_NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
#: What the metrics of well-known scorers are called in text; that of any other is called by its name.
SCORER_LABELS = {
    "pickscore": "PickScore",
    "hpsv2": "HPSv2.1",
    "imagereward": "ImageReward",
    "hpsv3": "HPSv3",
    "vqascore": "VQAScore",
}


def _score(images: Images) -> list[float]:
    return images.scorer.score(images.images, images.prompts)


def _scene(images: Images) -> list[float]:
    if images.judge is None:
        raise ModelError(
            "metric scene", "this model has no judge of its scenes", "leave it out; the model shapes has one"
        )
    return images.judge.score(images.images, images.prompts)


def _cmmd(images: Images) -> list[float]:
    embed = getattr(images.scorer, "image_features", None)
    if embed is None:
        raise ModelError("metric cmmd", f"{images.scorer.name} has no embeddings", "take an open_clip scorer")
    first, second = (embed(part).numpy() for part in images.pair)
    return [_cmmd_of_set(first, second)[0]]


def _cmmd_of_set(features: npt.NDArray[Any], reference: npt.NDArray[Any]) -> tuple[float, float]:
    from postdiff_calib.quality.cmmd import paired_cmmd

    return paired_cmmd(features, reference)


def _lpips(images: Images) -> list[float]:
    from postdiff_calib.quality.lpips import installed

    return installed()(*images.pair)


def _lpips_weights() -> object:
    from postdiff_calib.quality.lpips import installed

    return installed()


METRICS: tuple[Metric, ...] = (
    Metric(SCORE, "CLIP score", "higher", "100 × cosine", _score, difference_unit="points", example=0.3),
    Metric(
        "scene",
        "scenes right",
        "higher",
        "% of scenes",
        _scene,
        digits=1,
        difference_unit="percentage points",
        highest=100.0,
        example=2,
        judged=True,
    ),
    Metric(
        "cmmd",
        "CMMD",
        "lower",
        "1000 × squared discrepancy",
        _cmmd,
        DISTANCE,
        digits=4,
        example=0.05,
        equal=0.0,
        of_set=_cmmd_of_set,
    ),
    Metric(
        "ssim",
        "SSIM",
        "higher",
        "similarity, 1 = equal",
        lambda images: ssim(*images.pair),
        SIMILARITY,
        digits=3,
        highest=1.0,
        example=0.8,
        equal=1.0,
    ),
    Metric(
        "psnr",
        "PSNR",
        "higher",
        "dB",
        lambda images: psnr(*images.pair),
        DECIBELS,
        digits=1,
        difference_unit="dB",
        highest=PSNR_CAP,
        example=25,
        equal=PSNR_CAP,
    ),
    Metric(
        "lpips",
        "LPIPS",
        "lower",
        "distance, 0 = equal",
        _lpips,
        DISTANCE,
        digits=3,
        example=0.2,
        equal=0.0,
        require=_lpips_weights,
    ),
)
_REGISTERED: list[Metric] = []


def metrics() -> tuple[Metric, ...]:
    """Every metric, the score first."""
    return (*METRICS, *_REGISTERED)


@contextmanager
def registered(*more: Metric) -> Iterator[None]:
    """Further metrics, for the length of the block: measured, guarded, improved, written and shown.

    Raises:
        ValueError: there is a metric of that name.
    """
    taken = {m.name for m in metrics()}
    for one in more:
        if one.name in taken:
            raise ValueError(f"there is a metric {one.name!r} already")
    _REGISTERED.extend(more)
    try:
        yield
    finally:
        for one in more:
            _REGISTERED.remove(one)


@lru_cache(maxsize=64)
def scorer_metric(name: str) -> Metric:
    """The quality metric of a user's scorer; its values are the scorer's own, turned round where lower is better."""
    return Metric(
        name, SCORER_LABELS.get(name, name), "higher", "score", _score, digits=3, unknown_scale=True, example=0.05
    )


def metric(name: str) -> Metric:
    """The metric of that name; one that is not in the list is a scorer's.

    Raises:
        KeyError: no metric can be called so; the message lists the names.
    """
    for candidate in metrics():
        if candidate.name == name:
            return candidate
    if SCORER_NAME.fullmatch(name):
        return scorer_metric(name)
    raise KeyError(f"no metric {name!r}; metrics are {', '.join(m.name for m in metrics())}")


def in_words(values: Mapping[str, float | None]) -> str:
    """Values by metric's name in a line, e.g. ``SSIM 0.750, PSNR 19.5 dB``; what was not measured is left out."""
    known = [(metric(name), value) for name, value in values.items() if value is not None]
    return ", ".join(f"{m.label} {m.show(value)} {m.difference_unit}".rstrip() for m, value in known)


def quality_metrics() -> tuple[Metric, ...]:
    """The metrics that judge an image against its prompt; a model's card lists those that need its own judge."""
    return tuple(m for m in metrics() if m.quality)


def comparisons() -> tuple[Metric, ...]:
    """The metrics that compare images with the baseline's, of single images and of the set."""
    return tuple(m for m in metrics() if not m.quality)


def fidelity_metrics() -> tuple[Metric, ...]:
    """The per-prompt comparisons with the baseline's images that this machine can compute."""
    return tuple(m for m in comparisons() if m.per_prompt and not absent(m))


def absent(m: Metric) -> ModelError | None:
    """Why this machine cannot compute a metric; None where it can."""
    try:
        m.require()
    except ModelError as error:
        return error
    return None


def examples(those: Sequence[Metric]) -> str:
    """Bounds that a user might ask for, e.g. ``cmmd=0.05 (at most), ssim=0.8 (at least)``."""
    return ", ".join(f"{m.bound} (at {'least' if m.direction == 'higher' else 'most'})" for m in those)


def directions() -> str:
    """The comparisons and which of their values are nearer, e.g. ``cmmd (lower is nearer) and ssim (higher)``."""
    groups = [
        f"{', '.join(m.name for m in members)} ({direction}"
        for direction, members in groupby(comparisons(), key=lambda m: m.direction)
    ]
    groups = [f"{group} is nearer)" if i == 0 else f"{group})" for i, group in enumerate(groups)]
    return groups[0] if len(groups) == 1 else f"{', '.join(groups[:-1])} and {groups[-1]}"
