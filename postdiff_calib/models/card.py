"""What a model card is: one supported model as data; ``cards`` lists them.

Sizes are in pixels (height, width) or latent pixels (multiples); β ranges are PostDiff's, arXiv 2508.06160.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from postdiff_calib.errors import KnobError, ModelError
from postdiff_calib.knobs import Knobs, names, settled, table
from postdiff_calib.models.families import DENOISER_ROLES, Denoiser, denoiser_of, family_named
from postdiff_calib.plan import compile_plan
from postdiff_calib.techniques import admit

DPM = "DPMSolverMultistepScheduler"
LOW_RES_SCALES = (0.375, 0.5, 0.625, 0.75, 0.875)
#: Longest side of an image in pixels. Networks are trained for a sixteenth of it, and beyond it sizes overflow.
MAX_SIDE = 16384
#: Where T is searched from, of a baseline of many steps.
LOWEST_STEPS = 4
VIT_B_32 = "ViT-B-32::laion2b_s34b_b79k"


def steps_up_to(steps: int, lowest: int = LOWEST_STEPS) -> tuple[int, int]:
    """Lowest and highest T of the search for a baseline of ``steps``.

    Args:
        steps: T of the baseline.
        lowest: where a longer one's search begins; a short one's begins at a quarter of its steps, or step reduction
            would have no plan within the budgets that are asked for.
    """
    return min(lowest, max(1, steps // 4)), steps


@dataclass(frozen=True)
class Card:
    """One model that postdiff knows.

    Attributes:
        name: short name, as given to ``--model``.
        hub_id: repository on the Hugging Face hub, or a local directory.
        revision: commit hash; None where none is known, so that the user names it.
        pipeline_class: diffusers class that runs it.
        height, width: native image size in pixels.
        num_inference_steps: default T, the baseline's.
        guidance_scale: default scale of classifier-free guidance.
        scheduler: scheduler class that postdiff runs it with.
        licence: of the weights.
        vae_scale_factor: image side over latent side.
        latent_channels: C of the latent (B, C, H, W).
        latent_multiple: low-resolution latent sides are multiples of this.
        step_range: lowest and highest T of the search, both included.
        low_res_scales: β values of the search.
        scorer: open_clip model, ``name::weights`` or ``local-dir:/path``.
        metrics: quality metrics that it can be measured by, by their names in ``quality.METRICS``.
        prompt_set: name of the calibration set that goes with it.
        num_prompts: how many of its prompts a calibration draws by default (the paper's appendix D: 500 suffice).
        text_length: tokens of a padded prompt, as the denoiser gets them.
        text_lengths: tokens that a text encoder gets, by its role, where they are others.
        side_multiple: image sides are multiples of this; 0 where it is ``vae_scale_factor``.
        networks: role (``unet`` or ``transformer``, ``text_encoder``, ``text_encoder_2``, ``vae``) to configuration:
            a name in ``configs/``, the path of a JSON file, or the configuration itself.
        shipped_scheduler: the checkpoint's own scheduler where that differs.
        unet_hub_id: repository that replaces the pipeline's U-Net; its commit is named by the user.
        embedded: it is one of this package's own, and ``hub_id`` the folder of its weights.
        train: the command that makes the weights, of a model of this package that may come without them.
        note: one sentence that a user should know.
    """

    name: str
    hub_id: str
    pipeline_class: str
    height: int
    width: int
    networks: Mapping[str, str | Mapping[str, Any]] = field(hash=False, repr=False)
    num_inference_steps: int = 20
    guidance_scale: float = 7.5
    revision: str | None = None
    scheduler: str = DPM
    licence: str = "creativeml-openrail-m"
    vae_scale_factor: int = 8
    latent_channels: int = 4
    latent_multiple: int = 8
    step_range: tuple[int, int] = (LOWEST_STEPS, 20)
    low_res_scales: tuple[float, ...] = LOW_RES_SCALES
    scorer: str = VIT_B_32
    metrics: tuple[str, ...] = ("clip",)
    prompt_set: str = "broad"
    num_prompts: int = 500
    text_length: int = 77
    shipped_scheduler: str | None = None
    unet_hub_id: str | None = None
    note: str = ""
    text_lengths: Mapping[str, int] = field(default_factory=dict, hash=False)
    side_multiple: int = 0
    embedded: bool = False
    train: str = ""

    def __post_init__(self) -> None:
        for name in ("networks", "text_lengths"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def available(self) -> bool:
        """False for a model of this package whose weights are not there."""
        return not self.embedded or Path(self.hub_id).is_dir()

    def require(self) -> None:
        """Refuse a model of this package whose weights are not there.

        Raises:
            ModelError: it is one.
        """
        if not self.available:
            remedy = f"train them: {self.train}" if self.train else "reinstall postdiff, or train them"
            raise ModelError(f"model {self.name!r}", f"its weights are not in {self.hub_id}", remedy)

    @property
    def knobs(self) -> frozenset[str]:
        """Fields of ``Knobs`` that do something for this model."""
        kind = self.denoiser
        lacks = kind.lacks
        if "cross_attention_cache" in lacks and not (
            kind.guides_by_default and self.guidance_scale > kind.guided_above
        ):
            # Neither a half to drop nor cross-attention to keep.
            lacks |= {"guidance_fraction"}
        return names() - lacks

    def settled(self, values: Mapping[str, Any]) -> Knobs:
        """Knobs from values by field, as ``knobs.settled`` has it, for this model.

        Raises:
            KnobError: one of the values is refused, or does nothing for this model.
            UnsupportedError: ``enable`` would refuse the plan on any pipeline of this class.
        """
        found = settled(values, self.num_inference_steps, names() - self.knobs)
        if (family := family_named(self.pipeline_class)) is not None:
            plan = compile_plan(found)
            admit(plan.knobs, plan.steps, family)
        for row in table():
            value = values.get(row.field)
            if row.field not in self.knobs and value not in (None, row.neutral, row.idle):
                raise KnobError(
                    f"{row.field}={value} with {self.name}",
                    f"it does nothing for this model, whose knobs are {', '.join(sorted(self.knobs))}",
                    f"leave {row.flag} out",
                )
        return found

    @property
    def denoiser(self) -> Denoiser:
        """What is known of the class of its network."""
        family = family_named(self.pipeline_class)
        return family.network if family else denoiser_of(self.network_config(self.denoiser_role)["_class_name"])

    @property
    def denoiser_role(self) -> str:
        """The pipeline component that is called once per step, such as ``unet`` or ``transformer``."""
        return next((role for role in DENOISER_ROLES[::-1] if role in self.networks), DENOISER_ROLES[0])

    def latent_size(self, height: int | None = None, width: int | None = None) -> tuple[int, int]:
        """Latent (height, width) of an image size in pixels; the native one by default.

        Raises:
            ModelError: a side is not a positive multiple of what the model accepts.
        """
        height, width = height or self.height, width or self.width
        if max(height, width) > MAX_SIDE:
            raise ModelError(
                f"size {height}×{width}",
                f"a side has at most {MAX_SIDE} pixels",
                f"take {self.name}'s own, {self.height}×{self.width}",
            )
        unit = self.side_multiple or self.vae_scale_factor
        if min(height, width) <= 0 or height % unit or width % unit:
            near = [max(1, int(side / unit + 0.5)) * unit for side in (height, width)]
            raise ModelError(
                f"size {height}×{width}",
                f"{self.name} makes images whose sides are multiples of {unit}",
                f"take {near[0]}×{near[1]}",
            )
        return height // self.vae_scale_factor, width // self.vae_scale_factor

    def network_config(self, role: str) -> dict[str, Any]:
        """The configuration of one network, as diffusers or transformers write it.

        Raises:
            ModelError: the card has no such network, or its file is missing.
        """
        if role not in self.networks:
            raise ModelError(
                f"network {role!r} of {self.name}", f"it has {', '.join(self.networks)}", "name one of these"
            )
        self.require()
        config = self.networks[role]
        return _read_config(config) if isinstance(config, str) else dict(config)


def _read_config(name: str) -> dict[str, Any]:
    resource = Path(name) if Path(name).is_absolute() else files("postdiff_calib.models") / "configs" / f"{name}.json"
    try:
        config: dict[str, Any] = json.loads(resource.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(
            f"configuration {name}", f"it cannot be read ({error.strerror})", "reinstall postdiff, or check the folder"
        ) from error
    return config
