"""How a deployment runs its model, as far as it was asked for.

Size, steps, guidance, scheduler, negative prompt and batch size. What is left out is the model's own.
``generate.settings.GenerationSettings`` is what this comes to for a model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from postdiff_calib.errors import ModelError, UnsupportedError, UsageError
from postdiff_calib.models.card import MAX_SIDE, Card, steps_up_to
from postdiff_calib.models.families import family_named
from postdiff_calib.models.local_files import check_vae, check_variant
from postdiff_calib.models.lora import check_loras, parse_lora
from postdiff_calib.models.scheduler import check_scheduler_choice, require_known, wanted_scheduler
from postdiff_calib.models.single_file import card_of_kind, is_single_file, kind_of

_CONSTANTS = {"True": True, "False": False, "None": None}


@dataclass(frozen=True)
class DeploymentSettings:
    """What a user asked for about how images are made; None is the model's own.

    Args:
        height, width: image size in pixels.
        num_inference_steps: T of the baseline and upper end of the search, 1 to 1000.
        guidance_scale: w ≥ 0, as the pipeline takes it; 1 or less is no guidance.
        scheduler: a class of ``models.scheduler.SCHEDULERS``.
        scheduler_config: arguments of that class, or of the model's own, as (name, value).
        negative_prompt: one for all images.
        batch_size: images per call, at least 1; None suits their size.
        loras: as ``lora.parse_lora`` reads them, merged in this order.
        vae: folder, or ``owner/name@COMMIT`` on the hub, of an autoencoder in the place of the model's own.
        variant: of the model's files, such as ``fp16``.
        revision: commit of a model on the hub.

    Raises:
        UsageError: a value out of its range, or an unknown scheduler.
    """

    height: int | None = None
    width: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    scheduler: str | None = None
    scheduler_config: tuple[tuple[str, Any], ...] = ()
    negative_prompt: str | None = None
    batch_size: int | None = None
    loras: tuple[str, ...] = ()
    vae: str | None = None
    variant: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        for name, flag, highest in (
            ("height", "--height", None),
            ("width", "--width", None),
            ("num_inference_steps", "--steps", 1000),
            ("batch_size", "--batch-size", None),
        ):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1 or value > (highest or value):
                rule = f"it must be a whole number from 1 to {highest}" if highest else "it must be at least 1"
                raise UsageError(f"{flag} {value}", rule, "leave it out for the model's own")
        scale = self.guidance_scale
        if scale is not None:
            if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 <= scale < math.inf:
                rule = "it must be a number of at least 0"
                raise UsageError(f"--guidance-scale {scale}", rule, "leave it out for the model's own")
            object.__setattr__(self, "guidance_scale", float(scale))
        if self.scheduler is not None:
            require_known(self.scheduler)
        for text in self.loras:
            parse_lora(text)

    @property
    def asked(self) -> dict[str, Any]:
        """What was asked for, as plain data without what was not; ``from_dict`` is its inverse."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) not in (None, ())}
        if self.loras:
            found["loras"] = list(self.loras)
        return {**found, **({"scheduler_config": dict(self.scheduler_config)} if self.scheduler_config else {})}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DeploymentSettings:
        """Rebuild from ``asked``'s data.

        Raises:
            UsageError: a value is refused.
            TypeError: an unknown name.
        """
        config = tuple(dict(data.get("scheduler_config") or {}).items())
        return cls(**{**data, "scheduler_config": config, "loras": tuple(data.get("loras") or ())})

    def over(self, other: DeploymentSettings) -> DeploymentSettings:
        """These settings, and what they leave out as ``other`` has it.

        Another scheduler than ``other``'s does not take over the configuration of that one.
        """
        found = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) not in (None, ())}
        merged = replace(other, **found)
        if self.scheduler is not None and self.scheduler != other.scheduler and not self.scheduler_config:
            merged = replace(merged, scheduler_config=())
        return merged

    def card(self, card: Card) -> Card:
        """The card with these settings in the place of its own.

        Raises:
            ModelError: a size that the model does not make.
            UnsupportedError: a negative prompt for a model without guidance, or a scheduler that does not fit.
            UsageError: a setting that the scheduler's class does not take.
        """
        self.check_classes(card.pipeline_class, card.shipped_scheduler or card.scheduler, card)
        if self.variant is not None:
            check_variant(card.hub_id, self.variant)  # an embedded model is a folder too
        names = ("height", "width", "guidance_scale", "scheduler")
        changes = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if (steps := self.num_inference_steps) is not None:
            changes |= {"num_inference_steps": steps, "step_range": steps_up_to(steps, card.step_range[0])}
        found = replace(card, **changes)
        found.latent_size()
        if self.negative_prompt is not None:
            self._check_negative_prompt(found.pipeline_class, found.guidance_scale)
        return found

    def check_model(self, model: str) -> None:
        """Refuse what does not fit a model on this machine, as far as its files say so without their weights.

        Args:
            model: a pipeline's folder or a checkpoint in one file; of anything else, nothing is known.

        Raises:
            ModelError: no such file, or none of a model; a size, LoRA, autoencoder or variant that does not fit it.
            UnsupportedError, UsageError: as of ``check_classes``; a variant of one file.
        """
        if self.variant is not None:
            check_variant(model, self.variant)
        if is_single_file(model):
            self.card(card_of_kind(kind_of(model)))
        try:
            index = json.loads((Path(model) / "model_index.json").read_text(encoding="utf-8"))
            pipeline_class, (_, scheduler) = str(index["_class_name"]), index["scheduler"]
        except (OSError, ValueError, LookupError, TypeError):
            return
        self.check_classes(pipeline_class, str(scheduler))
        self.check_size(model)

    def check_size(self, folder: str) -> None:
        """Refuse a size that a local model's autoencoder does not make, before its weights are read.

        Args:
            folder: of the model; nothing is known of one that is no local folder, or has no such configuration.

        Raises:
            ModelError: a side is no multiple of the autoencoder's factor.
        """
        try:
            config = json.loads((Path(folder) / "vae" / "config.json").read_text(encoding="utf-8"))
            unit = 2 ** (len(config["block_out_channels"]) - 1)
        except (OSError, ValueError, LookupError, TypeError):
            return
        for flag, side in (("--height", self.height), ("--width", self.width)):
            if side is not None and (side % unit or side > MAX_SIDE):
                near = min(max(1, round(side / unit)), MAX_SIDE // unit) * unit
                rule = f"{folder} makes images whose sides are multiples of {unit}, up to {MAX_SIDE}"
                raise ModelError(f"{flag} {side}", rule, f"take {near}")

    def check_classes(self, pipeline_class: str, scheduler: str, card: Card | None = None) -> None:
        """Refuse what does not fit a model's classes, before its weights are read.

        Args:
            pipeline_class: class of the pipeline.
            scheduler: class of the scheduler in the model's files.
            card: the model's card, if it has one.

        Raises:
            ModelError: a LoRA or an autoencoder that is not there, or is on the hub and no commit of it is known.
            UnsupportedError: a negative prompt for a model without guidance, or a scheduler that does not fit.
            UsageError: a setting that the scheduler's class does not take.
        """
        if self.negative_prompt is not None:
            own = card.guidance_scale if card is not None else None
            self._check_negative_prompt(pipeline_class, own if self.guidance_scale is None else self.guidance_scale)
        check_loras(self.loras, pipeline_class)
        if self.vae is not None:
            check_vae(self.vae)
        if self.scheduler is not None or self.scheduler_config:
            wanted = wanted_scheduler(scheduler, card, self.scheduler)
            check_scheduler_choice(scheduler, wanted, dict(self.scheduler_config))

    def _check_negative_prompt(self, pipeline_class: str, scale: float | None) -> None:
        """Refuse a negative prompt that would do nothing; a guidance scale of None is not known yet."""
        family = family_named(pipeline_class)
        if family is None:
            return
        kind, given = family.network, f"--negative-prompt {self.negative_prompt!r}"
        if not (family.guides and kind.guides_by_default):
            raise UnsupportedError(given, f"{pipeline_class} takes none: it has no unconditional half", "leave it out")
        if scale is not None and scale <= kind.guided_above:
            rule = f"it does nothing at guidance {scale:g}, where there is no unconditional half"
            remedy = f"leave it out, or take a --guidance-scale above {kind.guided_above:g}"
            raise UnsupportedError(given, rule, remedy)


#: Nothing was asked for.
MODELS_OWN = DeploymentSettings()


def parse_scheduler_config(texts: Sequence[str]) -> tuple[tuple[str, Any], ...]:
    """Options ``key=value`` as (key, value): numbers, true, false and null are read as such, all else is text.

    Raises:
        UsageError: it is no such pair, or a key is given twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        given = f"--scheduler-config {text}"
        if not equals or not name.isidentifier():
            raise UsageError(given, "it is KEY=VALUE", "write such as use_karras_sigmas=true")
        if name in found:
            raise UsageError(given, f"{name} is given twice", "leave one out")
        try:
            found[name] = _CONSTANTS[value] if value in _CONSTANTS else json.loads(value)
        except ValueError:
            found[name] = value
        if isinstance(found[name], (list, dict)) or (isinstance(found[name], float) and not math.isfinite(found[name])):
            raise UsageError(given, "it must be a finite number, true, false, null or a word", "correct the value")
    return tuple(found.items())


def describe_baseline(steps: int | None, card: Card | Any, negative_prompt: str | None = None) -> str:
    """The baseline in one line, e.g. ``baseline: 30 steps DPMSolverMultistepScheduler, guidance 6, 768×768``.

    Args:
        steps: T of the baseline; None where an older profile does not state it.
        card: has ``scheduler``, ``guidance_scale``, ``height`` and ``width``: a card, or a profile's model section.
        negative_prompt: named where there is one.
    """
    first = f"{steps} steps " if steps is not None else ""
    said = f"baseline: {first}{card.scheduler}, guidance {card.guidance_scale:g}, {card.height}×{card.width}"
    return said + (f", negative prompt {negative_prompt!r}" if negative_prompt is not None else "")
