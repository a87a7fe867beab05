"""A pipeline object that is in memory already, as a loaded model: with whatever is loaded into it, a LoRA too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from postdiff_calib.errors import ModelError, UnsupportedError, UsageError
from postdiff_calib.models.card import Card
from postdiff_calib.models.deployment import MODELS_OWN, DeploymentSettings
from postdiff_calib.models.derive import derive_card
from postdiff_calib.models.families import denoiser_in, family_of
from postdiff_calib.models.fingerprint import fingerprint_pipeline
from postdiff_calib.models.load import LoadedModel
from postdiff_calib.models.place import card_of
from postdiff_calib.models.scheduler import SCHEDULERS


def live_model(pipe: Any, settings: DeploymentSettings = MODELS_OWN) -> LoadedModel:
    """A live pipeline as ``load_pipeline`` would give it; the object itself is left as it is.

    Its card is the known one where it was loaded from a known place, else derived from the pipeline. The fingerprint is
    of the weights as they are in memory, adapters included.

    Args:
        pipe: a pipeline of a supported class, from text alone to images.
        settings: of the deployment; the scheduler is the pipeline's own.

    Raises:
        UnsupportedError: its class or its scheduler is not supported, or it needs more than a prompt.
        UsageError: settings name a scheduler.
        ModelError: a size that the model does not make.
    """
    family, kind = family_of(pipe), type(pipe).__name__
    if family.control or family.partial_schedule:
        plain = family.without_control if family.control else "the text-to-image pipeline of this model"
        raise UnsupportedError(f"pipeline {kind}", "its images need more than a prompt", f"calibrate {plain}")
    if settings.scheduler is not None or settings.scheduler_config:
        raise UsageError("scheduler", "a live pipeline runs with its own", "set pipe.scheduler before the call")
    scheduler = type(pipe.scheduler).__name__
    if scheduler not in SCHEDULERS:
        raise UnsupportedError(
            f"scheduler {scheduler}",
            f"schedulers are {', '.join(SCHEDULERS)}",
            "replace it: pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)",
        )
    source = str(pipe.config.get("_name_or_path") or kind)
    card = replace(_known(source, pipe) or derive_card(pipe, source), scheduler=scheduler)
    _, network = denoiser_in(pipe)
    return LoadedModel(
        pipe=pipe,
        card=card if settings == MODELS_OWN else settings.card(replace(card, shipped_scheduler=None)),
        source=source,
        revision="",
        notes=(),
        fingerprint=fingerprint_pipeline(pipe),
        device=str(getattr(pipe, "_execution_device", pipe.device)),
        dtype=str(network.dtype).removeprefix("torch."),
    )


def _known(source: str, pipe: Any) -> Card | None:
    """The card of the place that a pipeline was loaded from; None where there is none, or it is of another class."""
    try:
        card = card_of(source)
    except ModelError:
        return None
    return card if card is not None and card.pipeline_class == type(pipe).__name__ else None
