"""A profile at work: check that it applies, then make images with it, optionally beside the baseline's."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postdiff_calib.accelerate.compiled import Compilation, compiled, count_kinds, parse_compile
from postdiff_calib.errors import OutputError, ProfileError
from postdiff_calib.files import replacing, require_writable, safe_name
from postdiff_calib.files.pixels import to_array
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.deployment import MODELS_OWN, DeploymentSettings
from postdiff_calib.plan import compile_plan
from postdiff_calib.profile import Profile, load_profile
from postdiff_calib.profile.deployment import baseline_with, deployment_facts, generation_with
from postdiff_calib.profile.match import mismatches
from postdiff_calib.prompts.draw import require_seed

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from postdiff_calib.generate.settings import GenerationSettings
    from postdiff_calib.models.load import LoadedModel


@dataclass(frozen=True)
class GenerateJob:
    """What ``postdiff generate`` was asked for; what ``deployment`` leaves out is the profile's."""

    prompts: tuple[str, ...]
    profile: Path
    baseline: bool
    out: Path
    seed: int
    device: str
    dtype: str
    override: bool
    compile: str = "off"
    deployment: DeploymentSettings = MODELS_OWN


@dataclass(frozen=True)
class GeneratedImage:
    """One image and where it was written; ``pair`` shows baseline and accelerated image side by side."""

    prompt: str
    seed: int
    path: str
    baseline: str | None
    pair: str | None


@dataclass(frozen=True)
class GenerateResult:
    """All images of a job and the measured seconds per image, including text encoding and decoding."""

    knobs: str
    images: tuple[GeneratedImage, ...]
    seconds_per_image: float
    baseline_seconds_per_image: float | None
    notes: tuple[str, ...]
    baseline: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def load_for(
    profile: Profile,
    *,
    device: str,
    dtype: str,
    override: bool,
    deployment: DeploymentSettings = MODELS_OWN,
) -> tuple[LoadedModel, tuple[str, ...]]:
    """Load the profile's model as it was calibrated and make sure that the profile applies to it.

    Args:
        profile: the profile.
        device, dtype: as for ``load_pipeline``.
        override: run in spite of differences.
        deployment: what was asked for in the place of the profile's own.

    Raises:
        ProfileError: it does not, and ``override`` is false.
    """
    from postdiff_calib.models.load import load_pipeline

    asked = [str(fact) for fact in deployment_facts(profile, deployment) if not fact.same]
    if asked and not override:
        raise _not_applicable(profile, asked)
    settings = deployment.over(profile.deployment)
    loaded = load_pipeline(profile.model_to_load, device=device, dtype=dtype, settings=settings)
    found = mismatches(profile.model, loaded)
    if found and not override:
        raise _not_applicable(profile, found)
    notes = (*loaded.notes, *(f"override: the pipeline differs in {what}" for what in (*asked, *found)))
    return loaded, notes


def _not_applicable(profile: Profile, found: list[str]) -> ProfileError:
    return ProfileError(
        f"profile for {profile.model.id}",
        f"this pipeline differs in {'; '.join(found)}",
        "calibrate this pipeline, or pass --override to run at your own risk",
    )


def run_generate(job: GenerateJob) -> GenerateResult:
    """Make one image per prompt with the profile's settings, and with ``baseline`` the baseline too.

    Raises:
        HealthError: an image is black, saturated or not finite; nothing is written then.
        PostdiffError: other bad input, by one line.
    """
    from postdiff_calib.quality.health import check_health

    require_seed(job.seed, len(job.prompts))
    if os.path.lexists(job.out) and not os.path.isdir(job.out):
        raise OutputError(f"output {job.out}", "it is not a folder", "give a folder for the images (--out)")
    require_writable(job.out, f"output {job.out}")
    profile, mode = load_profile(job.profile), parse_compile(job.compile)
    loaded, notes = load_for(
        profile, device=job.device, dtype=job.dtype, override=job.override, deployment=job.deployment
    )
    settings = generation_with(profile, job.deployment)
    seeds = [job.seed + i for i in range(len(job.prompts))]

    baseline = Knobs(loaded.card.num_inference_steps)
    reference, reference_seconds = None, None
    made = functools.partial(_made, loaded.pipe, settings, job.prompts, seeds)
    with compiled(loaded.pipe, mode, count_kinds(map(compile_plan, (profile.knobs, baseline)))) as compilation:
        # Compared seconds are of warm calls alone, and nothing is compiled while the clock runs.
        for knobs in (profile.knobs, baseline)[: 2 if job.baseline else int(mode != "off")]:
            _warm(made, knobs, len(seeds), settings.batch_size)
        images, seconds = _timed(made, profile.knobs)
        check_health(images, job.prompts)
        if job.baseline:
            reference, reference_seconds = _timed(made, baseline)
            check_health(reference, job.prompts)
        notes += _about_compilation(profile, compilation)
    written = tuple(
        _write(job.out, prompt, seed, images[i], None if reference is None else reference[i])
        for i, (prompt, seed) in enumerate(zip(job.prompts, seeds, strict=True))
    )
    told = baseline_with(profile, job.deployment)
    return GenerateResult(profile.knobs.describe(), written, seconds, reference_seconds, notes, told)


def _made(
    pipe: Any,
    settings: GenerationSettings,
    prompts: Sequence[str],
    seeds: Sequence[int],
    knobs: Knobs,
    part: slice = slice(None),
) -> torch.Tensor:
    """Images (N, 3, H, W) of all prompts, or of a part of them."""
    import torch

    from postdiff_calib.generate.images import generate

    return torch.cat(list(generate(pipe, knobs, prompts[part], seeds[part], settings)))


def _warm(made: Callable[..., torch.Tensor], knobs: Knobs, number: int, batch_size: int) -> None:
    """One untimed call of each size of batch, whole batches and the rest: it loads, tunes and compiles."""
    for first in sorted({0, number // batch_size * batch_size} - {number}):
        made(knobs, slice(first, first + batch_size))


def _timed(made: Callable[..., torch.Tensor], knobs: Knobs) -> tuple[torch.Tensor, float]:
    """Images of all prompts, and the seconds of each."""
    start = time.perf_counter()
    images = made(knobs)
    return images, (time.perf_counter() - start) / len(images)


def _about_compilation(profile: Profile, compilation: Compilation) -> tuple[str, ...]:
    """What was compiled, and where the profile's seconds are of a network that was compiled otherwise."""
    stated, mode = profile.environment.compile, compilation.mode
    other = () if stated in (None, mode) else (f"the profile's seconds are of --compile {stated}, this run is {mode}",)
    return (*other, *((compilation.describe(),) if mode != "off" else ()))


def to_image(image: torch.Tensor) -> Image.Image:
    """An image of ``generate``, (3, H, W) in [0, 1], as an 8-bit image."""
    from PIL import Image

    return Image.fromarray(to_array(image))


def _save(image: Image.Image, path: Path) -> None:
    """Write a PNG file whole or not at all."""
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")


def _write(out: Path, prompt: str, seed: int, image: torch.Tensor, reference: torch.Tensor | None) -> GeneratedImage:
    from PIL import Image

    stem = f"{seed:05d}-{safe_name(prompt.lower()[:60], '', also='').strip('-')}"
    path, baseline, pair = out / f"{stem}.png", None, None
    ours = to_image(image)
    _save(ours, path)
    if reference is not None:
        baseline, pair = out / f"{stem}.baseline.png", out / f"{stem}.pair.png"
        stock = to_image(reference)
        _save(stock, baseline)
        sheet = Image.new("RGB", (stock.width + ours.width + 4, ours.height), "white")
        sheet.paste(stock, (0, 0))
        sheet.paste(ours, (stock.width + 4, 0))
        _save(sheet, pair)
    return GeneratedImage(prompt, seed, str(path), str(baseline) if baseline else None, str(pair) if pair else None)
