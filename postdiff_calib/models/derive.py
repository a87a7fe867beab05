"""A card for a model that has none, from its configurations."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from postdiff_calib.errors import ModelError
from postdiff_calib.models.card import Card, steps_up_to
from postdiff_calib.models.families import Family, denoiser_in, denoiser_of, family_of
from postdiff_calib.models.fingerprint import network_configs


def derive_card(pipe: Any, source: str) -> Card:
    """A card for a pipeline that has none, from its configurations and the defaults of its call.

    Raises:
        ModelError: it has neither a U-Net nor a transformer.
    """
    _, network = denoiser_in(pipe)
    if network is None:
        raise ModelError(f"model {source!r}", "it has neither a U-Net nor a transformer", "give a text-to-image model")
    config, kind = network.config, denoiser_of(getattr(network, "_orig_mod", network))
    family, packed = family_of(pipe), 4 if family_of(pipe).latents == "packed" else 1
    scale = int(getattr(pipe, "vae_scale_factor", 8))
    # Networks without a size of their own leave it to the pipeline, of 128 latent pixels where that has none either.
    size = config.get("sample_size") or getattr(pipe, "default_sample_size", 128)
    sides = size if isinstance(size, (list, tuple)) else (size,) * 2
    scale_name = next(iter(family.scale_arguments(2.0)))
    defaults = {name: p.default for name, p in inspect.signature(pipe.__call__).parameters.items()}
    steps = int(defaults.get("num_inference_steps") or 20)
    length = defaults.get("max_sequence_length") or min(getattr(pipe.tokenizer, "model_max_length", 77), 512)
    return Card(
        name=Path(source).name or source,
        hub_id=source,
        pipeline_class=type(pipe).__name__,
        height=int(sides[0]) * scale,
        width=int(sides[1]) * scale,
        networks=network_configs(pipe),
        num_inference_steps=steps,
        guidance_scale=float(defaults.get(scale_name) or 1.0),
        scheduler=type(pipe.scheduler).__name__,
        licence="unknown",
        vae_scale_factor=scale,
        latent_channels=int(config.in_channels) // packed,
        latent_multiple=kind.latent_multiple(config),
        step_range=steps_up_to(steps),
        text_length=family.text_tokens(pipe, int(length)),
        text_lengths=_text_lengths(pipe, family, int(length)),
        side_multiple=scale * kind.latent_multiple(config) if family.latents_first else 0,
        note="derived from the pipeline",
    )


def _text_lengths(pipe: Any, family: Family, longest: int) -> dict[str, int]:
    """Tokens that each text encoder gets, where there are several."""
    if len(family.text_encoders) < 2:
        return {}
    tokenizers = {role: getattr(pipe, role.replace("text_encoder", "tokenizer"), None) for role in family.text_encoders}
    return {role: min(longest, int(t.model_max_length)) for role, t in tokenizers.items() if t is not None}
