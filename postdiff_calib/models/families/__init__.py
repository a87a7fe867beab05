"""Pipeline families, one file each, and the one explicit list of them.

A family is found by the pipeline's class name along its method resolution order, a denoiser by its network's, so no
diffusers class has to be imported. Source of the differences: the pipelines of diffusers 0.42.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from postdiff_calib.errors import UnsupportedError
from postdiff_calib.models.families import (
    flux,
    latent_consistency,
    pixart,
    qwen_image,
    sana,
    stable_diffusion,
    stable_diffusion_3,
    stable_diffusion_xl,
    z_image,
)
from postdiff_calib.models.families.family import Call, Denoiser, Family

__all__ = [
    "DENOISERS",
    "DENOISER_ROLES",
    "FAMILIES",
    "NETWORK_ROLES",
    "TEXT_ROLES",
    "Call",
    "Denoiser",
    "Family",
    "call_arguments",
    "denoiser_in",
    "denoiser_of",
    "family_named",
    "family_of",
    "for_each",
]

FAMILIES: tuple[Family, ...] = (
    *stable_diffusion.FAMILIES,
    *stable_diffusion_xl.FAMILIES,
    *latent_consistency.FAMILIES,
    *pixart.FAMILIES,
    *stable_diffusion_3.FAMILIES,
    *sana.FAMILIES,
    *flux.FAMILIES,
    *qwen_image.FAMILIES,
    *z_image.FAMILIES,
)
DENOISERS: tuple[Denoiser, ...] = tuple({id(family.network): family.network for family in FAMILIES}.values())
#: Attributes that hold a denoiser, or a text encoder, in some pipeline; in order of appearance.
DENOISER_ROLES: tuple[str, ...] = tuple(dict.fromkeys(family.denoiser for family in FAMILIES))
TEXT_ROLES: tuple[str, ...] = tuple(dict.fromkeys(role for family in FAMILIES for role in family.text_encoders))
#: All networks of a pipeline, in the order in which they are fingerprinted.
NETWORK_ROLES: tuple[str, ...] = (*DENOISER_ROLES, *TEXT_ROLES, "vae")


def family_named(pipeline_class: str) -> Family | None:
    """The family of a pipeline class by its name; None where there is none."""
    return next((family for family in FAMILIES if family.pipeline_class == pipeline_class), None)


def family_of(pipe: Any) -> Family:
    """The family of a pipeline object.

    Raises:
        UnsupportedError: its class is none of ``FAMILIES`` nor derived from one.
    """
    names = [cls.__name__ for cls in type(pipe).__mro__]
    for name in names:
        family = family_named(name)
        if family is not None:
            return family
    raise UnsupportedError(
        f"pipeline {names[0]}",
        f"accelerated pipelines are {', '.join(family.pipeline_class for family in FAMILIES)}",
        "load the model into one of these, e.g. with AutoPipelineForText2Image",
    )


def denoiser_of(network: Any) -> Denoiser:
    """What is known of a denoising network.

    Args:
        network: the module itself, not ``torch.compile``'s wrapper, or the name of its class.

    Raises:
        UnsupportedError: its class is that of no family.
    """
    names = [network] if isinstance(network, str) else [cls.__name__ for cls in type(network).__mro__]
    for name in names:
        for denoiser in DENOISERS:
            if name in denoiser.classes:
                return denoiser
    known = ", ".join(denoiser.classes[0] for denoiser in DENOISERS)
    raise UnsupportedError(
        f"denoiser class {names[0]!r}",
        f"denoisers of supported pipelines are {known}",
        "take a model with one",
    )


def denoiser_in(pipe: Any) -> tuple[str, Any]:
    """(role, network) of a pipeline's denoiser, whatever its class; ("", None) where it has none."""
    for role in DENOISER_ROLES:
        network = getattr(pipe, role, None)
        if network is not None:
            return role, network
    return "", None


def call_arguments(pipe: Any, height: int, width: int, guidance_scale: float) -> dict[str, Any]:
    """The arguments of a pipeline's call that set size and guidance; a text among them is for each prompt."""
    return {"height": height, "width": width, **family_of(pipe).scale_arguments(guidance_scale)}


def for_each(arguments: Mapping[str, Any], prompts: int) -> dict[str, Any]:
    """Arguments of a call for so many prompts: a text is given once for each."""
    return {name: [value] * prompts if isinstance(value, str) else value for name, value in arguments.items()}
