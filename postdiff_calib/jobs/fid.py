"""FID of a folder of images against another folder, or against the embedded models' own images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from postdiff_calib.errors import UsageError

if TYPE_CHECKING:
    import torch

    from postdiff_calib.quality.fid import Fid

#: The reference that is no folder.
OWN = "own"


@dataclass(frozen=True)
class FidJob:
    """What ``postdiff fid`` was asked for.

    Attributes:
        images: folder of the images.
        reference: folder of real ones, or ``own``: as many images of the embedded models' recipe.
        features: ``clip``, of the scorer, or ``inception``.
        model: a card's name, whose scorer it is.
        scorer: another scorer's name.
        seed: of the subsets and of the recipe's images.
        device: where the features are computed.
    """

    images: Path
    reference: str = OWN
    features: Literal["clip", "inception"] = "clip"
    model: str = "shapes"
    scorer: str | None = None
    seed: int = 0
    device: str = "auto"


def reference_images(reference: str, model: str, count: int, seed: int) -> Iterable[torch.Tensor]:
    """Batches of the reference's images, (B, 3, H, W) in [0, 1].

    Args:
        reference: a folder, or ``own``.
        model: a card's name.
        count: of the recipe's own images.
        seed: of these.

    Raises:
        PromptError: no such folder, or fewer than 2,048 images in it.
        UsageError: the model has no images of its own.
    """
    from postdiff_calib.models.cards import CARDS
    from postdiff_calib.quality.fid import batches_of, image_files, own_images

    if reference != OWN:
        return batches_of(image_files(Path(reference)))
    if not any(card.name == model and card.embedded for card in CARDS):
        raise UsageError(f"reference {OWN}", f"{model} has no images of its own", "give a folder of real images")
    return own_images(count, seed)


def run_fid(job: FidJob) -> Fid:
    """FID, and FID∞.

    Raises:
        PromptError: no such folder, or fewer than 2,048 images in one.
        ModelError: no such card, device, scorer or weights, or an image that cannot be read.
        UsageError: the model has no images of its own.
    """
    from postdiff_calib.models.load import pick_device
    from postdiff_calib.quality.fid import batches_of, fid_of, image_files

    files = image_files(job.images)
    real = reference_images(job.reference, job.model, len(files), job.seed)
    embed, name = _embedder(job, pick_device(job.device))
    return fid_of(embed(batches_of(files)), embed(real), name, job.seed)


def _embedder(job: FidJob, device: str) -> tuple[Callable[[Iterable[torch.Tensor]], Any], str]:
    """What makes features of batches of images, and what it is called."""
    if job.features == "inception":
        from postdiff_calib.quality.inception import Inception

        return Inception(device=device), "Inception features"
    from postdiff_calib.models.cards import get_card
    from postdiff_calib.quality.clip import ClipScorer
    from postdiff_calib.quality.fid import clip_features

    scorer = ClipScorer(job.scorer or get_card(job.model).scorer, device=device)
    return lambda batches: clip_features(scorer, batches), f"features of {scorer.name}"
