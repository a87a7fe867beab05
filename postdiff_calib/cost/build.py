"""Cost tables for a card (no weights, offline) and for a loaded model (measured if asked)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from postdiff_calib.cost.meter import Meter
from postdiff_calib.cost.setting import Setting
from postdiff_calib.cost.table import CostTable
from postdiff_calib.models.card import Card
from postdiff_calib.models.families import family_named
from postdiff_calib.progress import Progress

if TYPE_CHECKING:
    from postdiff_calib.models.load import LoadedModel


def table_for_card(
    card: Card,
    *,
    height: int | None = None,
    width: int | None = None,
    guidance_scale: float | None = None,
    control: Sequence[Mapping[str, Any]] = (),
) -> CostTable:
    """Prices in MACs from a card's configurations, without weights.

    Args:
        card: the model.
        height, width: image size in pixels; the card's by default.
        guidance_scale: 1 or less switches guidance off; the card's by default.
        control: configurations of control networks that run before the denoiser.

    Raises:
        ModelError: a size that the model does not make.
    """
    from postdiff_calib.cost.networks import is_guided_by_batch

    height, width = height or card.height, width or card.width
    latent = card.latent_size(height, width)
    config = card.network_config(card.denoiser_role)
    guides = is_guided_by_batch(config, card.guidance_scale if guidance_scale is None else guidance_scale)
    return CostTable(
        model=card.name,
        height=height,
        width=width,
        latent=latent,
        latent_multiple=card.latent_multiple,
        guides=guides,
        meter=Meter(config, card.text_length, control),
        macs_text_encoder=count_text_encoders(card, guides),
        macs_vae_decoder=count_vae_decoder(card, latent),
    )


def count_text_encoders(card: Card, guides: bool) -> int:
    """MACs of encoding one image's prompt, and the empty negative prompt where the pipeline encodes one (``full``)."""
    from postdiff_calib.cost.macs import count
    from postdiff_calib.cost.networks import build, text_inputs

    family = family_named(card.pipeline_class)
    sequences = 2 if guides and (family is None or family.encodes_empty_text) else 1
    total = 0
    for role in card.networks:
        if role.startswith("text_encoder"):
            network = build(card.network_config(role))
            inputs = text_inputs(1, card.text_lengths.get(role, card.text_length))
            total += _count_once(count, network, inputs)
    return sequences * total


def _count_once(count: Callable[..., Any], network: Any, inputs: dict[str, Any]) -> int:
    return int(count(lambda: network(**inputs))[""].full)


def count_vae_decoder(card: Card, latent: tuple[int, int]) -> int:
    """MACs of decoding one latent to an image (``full``)."""
    import torch

    from postdiff_calib.cost.macs import count
    from postdiff_calib.cost.networks import build

    config = card.network_config("vae")
    vae = build(config)
    frames = (1,) if "temperal_downsample" in config else ()  # an image is a film of one frame to some
    sample = torch.zeros((1, card.latent_channels, *frames, *latent), device="meta")
    return count(lambda: vae.decode(sample))[""].full


def build_cost_table(
    loaded: LoadedModel,
    setting: Setting,
    *,
    measure: bool,
    refresh: bool = False,
    progress: Progress | None = None,
) -> CostTable:
    """Prices of a loaded model: MACs by counting, seconds by measuring its real accelerated pipeline.

    Args:
        loaded: the model.
        setting: how the deployment will call it; seconds are per image at its batch size.
        measure: measure seconds; otherwise prices are in MACs alone.
        refresh: measure again even if this machine has measured this model before.
        progress: is given the stage and its rounds.

    Raises:
        ModelError: a size that the model does not make.
    """
    from dataclasses import replace

    from postdiff_calib.models.fingerprint import control_configs, network_configs

    card = replace(loaded.card, networks=network_configs(loaded.pipe))
    control = control_configs(loaded.pipe)
    table = table_for_card(
        card,
        height=setting.height,
        width=setting.width,
        guidance_scale=setting.guidance_scale,
        control=control,
    )
    if measure:
        from postdiff_calib.cost.latency import measured_latency

        table.latency = measured_latency(loaded, table, setting, refresh=refresh, progress=progress)
    return table
