"""Cards of rectified-flow transformers.

Configurations of Stable Diffusion 3 and Sana are those of diffusers' ``scripts/convert_sd3_to_diffusers.py``,
``convert_sana_to_diffusers.py`` and ``convert_dcae_to_diffusers.py``; steps and guidance scales are those of the
examples on the models' own pages; Z-Image's are its pipeline's own defaults.
"""

from __future__ import annotations

from dataclasses import replace

from postdiff_calib.models.card import Card

FLOW_EULER = "FlowMatchEulerDiscreteScheduler"

_SD3_TEXT = {
    "text_encoder": "clip-l-projection_text",
    "text_encoder_2": "openclip-g_text",
    "text_encoder_3": "t5-xxl_text",
}
_SD3_MEDIUM = Card(
    name="sd3-medium",
    hub_id="stabilityai/stable-diffusion-3-medium-diffusers",
    pipeline_class="StableDiffusion3Pipeline",
    height=1024,
    width=1024,
    networks={"transformer": "sd3-medium_transformer", **_SD3_TEXT, "vae": "sd3_vae"},
    num_inference_steps=28,
    guidance_scale=7.0,
    scheduler=FLOW_EULER,
    licence="stabilityai-ai-community",
    latent_channels=16,
    latent_multiple=2,
    step_range=(4, 28),
    # CLIP's 77 tokens and T5's 256, one behind the other.
    text_length=333,
    text_lengths={"text_encoder": 77, "text_encoder_2": 77, "text_encoder_3": 256},
    side_multiple=16,
    note="free for organisations with less than a million dollars of revenue a year",
)
_SD3_5_LARGE = replace(
    _SD3_MEDIUM,
    name="sd35-large",
    hub_id="stabilityai/stable-diffusion-3.5-large",
    networks={**_SD3_MEDIUM.networks, "transformer": "sd35-large_transformer"},
    guidance_scale=3.5,
)
_SD3_5_MEDIUM = replace(
    _SD3_MEDIUM,
    name="sd35-medium",
    hub_id="stabilityai/stable-diffusion-3.5-medium",
    networks={**_SD3_MEDIUM.networks, "transformer": "sd35-medium_transformer"},
    num_inference_steps=40,
    guidance_scale=4.5,
    step_range=(4, 40),
)

_SANA = Card(
    name="sana-1600m",
    hub_id="Efficient-Large-Model/Sana_1600M_1024px_diffusers",
    pipeline_class="SanaPipeline",
    height=1024,
    width=1024,
    networks={"transformer": "sana-1600m_transformer", "text_encoder": "gemma-2-2b_text", "vae": "dc-ae_vae"},
    guidance_scale=4.5,
    licence="nvidia-nscl-v2-custom",
    vae_scale_factor=32,
    latent_channels=32,
    latent_multiple=1,
    text_length=300,
    # The pipeline puts an instruction of some 230 tokens before every prompt.
    text_lengths={"text_encoder": 528},
    note="its weights are for research and other non-commercial use",
)

_FLUX_DEV = Card(
    name="flux-dev",
    hub_id="black-forest-labs/FLUX.1-dev",
    pipeline_class="FluxPipeline",
    height=1024,
    width=1024,
    networks={
        "transformer": "flux-dev_transformer",
        "text_encoder": "clip-l_text",
        "text_encoder_2": "t5-xxl_text",
        "vae": "flux_vae",
    },
    num_inference_steps=50,
    guidance_scale=3.5,
    scheduler=FLOW_EULER,
    licence="flux-1-dev-non-commercial",
    latent_channels=16,
    latent_multiple=2,
    step_range=(4, 50),
    text_length=512,
    text_lengths={"text_encoder": 77},
    side_multiple=16,
    note="its weights are for non-commercial use; the guidance scale is an input of its network",
)
_FLUX_SCHNELL = replace(
    _FLUX_DEV,
    name="flux-schnell",
    hub_id="black-forest-labs/FLUX.1-schnell",
    networks={**_FLUX_DEV.networks, "transformer": "flux-schnell_transformer"},
    num_inference_steps=4,
    guidance_scale=0.0,
    licence="apache-2.0",
    step_range=(1, 8),
    note="distilled to a few steps without guidance",
)

_QWEN_IMAGE = Card(
    name="qwen-image",
    hub_id="Qwen/Qwen-Image",
    pipeline_class="QwenImagePipeline",
    height=1328,
    width=1328,
    networks={"transformer": "qwen-image_transformer", "text_encoder": "qwen2.5-vl-7b_text", "vae": "qwen-image_vae"},
    num_inference_steps=50,
    guidance_scale=4.0,
    scheduler=FLOW_EULER,
    licence="apache-2.0",
    latent_channels=16,
    latent_multiple=2,
    step_range=(4, 50),
    # Texts are as long as they are; the template puts 34 tokens before each.
    text_length=64,
    text_lengths={"text_encoder": 98},
    side_multiple=16,
    note="prices are for prompts of 64 tokens; the guidance scale is its true_cfg_scale",
)
_Z_IMAGE = Card(
    name="z-image",
    hub_id="Tongyi-MAI/Z-Image",
    pipeline_class="ZImagePipeline",
    height=1024,
    width=1024,
    networks={"transformer": "z-image_transformer", "text_encoder": "qwen3-4b_text", "vae": "flux_vae"},
    num_inference_steps=50,
    guidance_scale=5.0,
    scheduler=FLOW_EULER,
    licence="apache-2.0",
    latent_channels=16,
    latent_multiple=2,
    step_range=(4, 50),
    # Texts are as long as they are, in multiples of 32; the text encoder gets them padded.
    text_length=64,
    text_lengths={"text_encoder": 512},
    side_multiple=16,
    note="prices are for prompts of 33 to 64 tokens",
)
_Z_IMAGE_TURBO = replace(
    _Z_IMAGE,
    name="z-image-turbo",
    hub_id="Tongyi-MAI/Z-Image-Turbo",
    num_inference_steps=8,
    guidance_scale=0.0,
    step_range=(1, 9),
    note="distilled to 8 steps without guidance; prices are for prompts of 33 to 64 tokens",
)

FLOW_CARDS = (
    *(_SD3_MEDIUM, _SD3_5_MEDIUM, _SD3_5_LARGE),
    *(_SANA, _FLUX_DEV, _FLUX_SCHNELL, _QWEN_IMAGE, _Z_IMAGE, _Z_IMAGE_TURBO),
)
