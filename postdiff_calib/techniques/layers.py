"""Counting a network's layers, by which a run says what was left out."""

from __future__ import annotations

from typing import Any

from postdiff_calib.models.families import denoiser_of

_LAYER_LISTS = ("resnets", "attentions", "downsamplers", "upsamplers")


def count_layers(module: Any) -> int:
    """Layers in a U-Net block: resnets, attentions and samplers; 1 for anything without such lists."""
    lists = [getattr(module, name, None) for name in _LAYER_LISTS]
    if all(layers is None for layers in lists):
        return 1
    return sum(layer is not None for layers in lists if layers is not None for layer in layers)


def count_network_layers(network: Any) -> int:
    """The unit of ``summary``: a transformer's blocks, or the layers of a U-Net's down, middle and up blocks."""
    chain = denoiser_of(network).blocks(network)
    if chain:
        return len(chain)
    blocks = [*network.down_blocks, network.mid_block, *network.up_blocks]
    return sum(count_layers(block) for block in blocks if block is not None)
