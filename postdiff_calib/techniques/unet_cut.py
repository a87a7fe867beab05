"""Where a cache branch cuts a U-Net in two: what runs on every step, and what a cached step skips.

``cache_branch`` b names the boundary as the published DeepCache package numbers it: block b // 3 counted from the
shallowest, layer b % 3 inside it. Branch 0 runs conv_in and the last layer of the last up block; 1 adds the first down
layer and one more up layer; 2 runs all layers of the shallowest level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from postdiff_calib.errors import UnsupportedError

_UNET_BLOCKS = {"DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"}


@dataclass(frozen=True)
class Cut:
    """One branch of one U-Net.

    Attributes:
        skipped: (module, ``down``, ``layer`` or ``attention``) of all that a cached step does not run.
        boundary: the module whose output is kept.
        skip_live: for each skip connection, conv_in first, whether a cached step computes it.
        middle_live: a cached step uses what is added to the middle block's output (the boundary is the middle block).
        partial_up: the up block of which a cached step skips some layers and runs others, or None.
    """

    skipped: list[tuple[Any, str]]
    boundary: Any
    skip_live: list[bool]
    middle_live: bool
    partial_up: Any


def cut_of(network: Any, branch: int) -> Cut:
    """Where a branch cuts a U-Net.

    Raises:
        UnsupportedError: the network has no such branch, or blocks of an unknown kind.
    """
    downs, ups, middle = list(network.down_blocks), list(network.up_blocks)[::-1], network.mid_block
    for block in downs + ups:
        if type(block).__name__ not in _UNET_BLOCKS:
            raise UnsupportedError(
                f"U-Net block {type(block).__name__}",
                f"block caching knows {', '.join(sorted(_UNET_BLOCKS))}",
                "set cache_interval=1 for this model",
            )
    depth, layer = divmod(branch, 3)
    if depth >= len(ups) or layer >= len(ups[depth].resnets) or (_boundary_is_middle(ups, branch) and middle is None):
        valid = [b for b in range(3 * len(ups)) if b % 3 < len(ups[b // 3].resnets)]
        valid = [b for b in valid if middle is not None or not _boundary_is_middle(ups, b)]
        raise UnsupportedError(
            f"cache_branch={branch}",
            f"this U-Net has branches {', '.join(map(str, valid))}",
            f"take {max((b for b in valid if b < branch), default=valid[0])}, the nearest below",
        )

    shallow, up_layers = downs[depth], len(ups[depth].resnets)
    skipped: list[tuple[Any, str]] = [(block, "down") for block in downs[depth + 1 :]]
    if layer == 0:
        skipped.append((shallow, "down"))
    else:
        skipped += [(resnet, "layer") for resnet in shallow.resnets[layer:]]
        skipped += [(attention, "attention") for attention in list(getattr(shallow, "attentions", []))[layer:]]
        skipped += [(sampler, "layer") for sampler in shallow.downsamplers or []]
    # Up layers are numbered from the last to run: those above ``layer`` are skipped, the nearest is the boundary.
    resnets = list(ups[depth].resnets)[: up_layers - layer - 1]
    attentions = list(getattr(ups[depth], "attentions", []))[: len(resnets)]
    outer: list[tuple[Any, str]] = [(block, "layer") for block in ups[depth + 1 :]]
    if middle is not None:
        outer.append((middle, "layer"))
    if resnets:
        boundary = attentions.pop() if attentions else resnets.pop()
        skipped += [(resnet, "layer") for resnet in resnets]
        skipped += [(attention, "attention") for attention in attentions]
    else:
        boundary = outer.pop(0)[0]
    skipped += outer

    skip_live = [True]
    for i, block in enumerate(downs):
        outputs = len(block.resnets) + (block.downsamplers is not None)
        skip_live += [i < depth or (i == depth and position < layer) for position in range(outputs)]
    partial_up = ups[depth] if layer < up_layers - 1 else None
    return Cut(skipped, boundary, skip_live, boundary is middle, partial_up)


def _boundary_is_middle(ups: list[Any], branch: int) -> bool:
    """True when even the deepest up block runs on cached steps, so that the middle block's output is what is kept."""
    depth, layer = divmod(branch, 3)
    return depth == len(ups) - 1 and layer == len(ups[depth].resnets) - 1
