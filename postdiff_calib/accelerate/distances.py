"""How far the outputs of a network's blocks and layers move from one denoising step to the next.

Source: PostDiff, arXiv 2508.06160, supplementary material A. Symbols: F_i(x_t) output of block i at step t; t counts
down, so F_i(x_t) is the earlier of two outputs. Relative L1 distance: ‖F_i(x_t) − F_i(x_{t−1})‖₁ / ‖F_i(x_t)‖₁. L2
distance: ‖F_i(x_t) − F_i(x_{t−1})‖₂ of a layer, averaged over layers of a type; since that grows with a layer's size,
it is also given relative to ‖F_i(x_t)‖₂.

Of each watched module one output is kept, that of the step before. Where guidance takes two calls of the network in a
step, the first one, which is the conditional one, counts; where it takes one call with two halves, their mean counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from postdiff_calib.models.families import denoiser_of

Array = npt.NDArray[np.float64]

#: Lists of a U-Net's blocks in the order in which they run; the middle block is between them.
_DOWN, _MIDDLE, _UP = "down_blocks", "mid_block", "up_blocks"
#: Parts of a U-Net's block that hold its convolutions.
_CONVOLVING = frozenset({"resnets", "downsamplers", "upsamplers"})
#: Names under which transformers of diffusers hold the feed-forward part for the image.
_FEED_FORWARD = frozenset({"ff", "img_mlp", "feed_forward"})


@dataclass(frozen=True)
class Watched:
    """A module whose output is compared from step to step.

    Attributes:
        name: as the network names it.
        kind: ``block``, or the type of layer.
        module: the module.
        last: of an output of several parts, the image's is the last one; else the first.
    """

    name: str
    kind: str
    module: Any
    last: bool = False


def watched_blocks(network: Any) -> list[Watched]:
    """A network's blocks, in the order in which they run."""
    kind = denoiser_of(network)
    if kind.chains:
        return [
            Watched(f"{chain}.{i}", "block", block, last=kind.block_output == "encoder, hidden")
            for chain in kind.chains
            for i, block in enumerate(getattr(network, chain))
        ]
    found = [Watched(f"{_DOWN}.{i}", "block", block) for i, block in enumerate(network.down_blocks)]
    if network.mid_block is not None:
        found.append(Watched(_MIDDLE, "block", network.mid_block))
    return found + [Watched(f"{_UP}.{i}", "block", block) for i, block in enumerate(network.up_blocks)]


def watched_layers(network: Any) -> list[Watched]:
    """The layers inside the blocks by type: attention, convolution, feed-forward.

    Attention is ``self-attention``, ``cross-attention``, or ``joint attention`` in networks where image and text attend
    together.
    """
    kind = denoiser_of(network)
    crossing = {id(module) for module in kind.cross_attention(network)}
    found: list[Watched] = []
    for block in watched_blocks(network):
        for inner, module in block.module.named_modules(prefix=block.name):
            parts = inner.split(".")
            if any(inner.startswith(f"{one.name}.") for one in found):
                continue  # inside a layer that is watched
            if id(module) in crossing:
                found.append(Watched(inner, "cross-attention", module))
            elif type(module).__name__.endswith("Attention"):
                found.append(Watched(inner, "self-attention" if crossing else "joint attention", module))
            elif parts[-1] in _FEED_FORWARD:
                found.append(Watched(inner, "feed-forward", module))
            elif isinstance(module, torch.nn.Conv2d) and _CONVOLVING & set(parts):
                found.append(Watched(inner, "convolution", module))
    return found


class Distances:
    """Compares outputs of modules from step to step, for the length of ``watching``.

    Args:
        watched: the modules.
    """

    def __init__(self, watched: Sequence[Watched]) -> None:
        self.watched = tuple(watched)
        self._step = 0
        self._seen: dict[int, int] = {}
        self._before: dict[int, torch.Tensor] = {}
        self._sums: dict[int, list[torch.Tensor]] = {}

    @contextmanager
    def watching(self) -> Iterator[Distances]:
        """Hooks are on the modules inside the block; afterwards none is, and no tensor is kept."""
        handles = [one.module.register_forward_hook(self._hook(i)) for i, one in enumerate(self.watched)]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()
            self.forget()

    def next_step(self) -> None:
        """The scheduler has taken a step."""
        self._step += 1

    def forget(self) -> None:
        """Drop everything; the next output is that of a first step."""
        self._step = 0
        for kept in (self._seen, self._before, self._sums):
            kept.clear()

    def _hook(self, i: int) -> Any:
        def after(module: Any, args: Any, output: Any) -> None:
            if self._seen.get(i) == self._step:
                return
            self._seen[i] = self._step
            self._compare(i, self._image_part(output, self.watched[i].last))

        return after

    @staticmethod
    def _image_part(output: Any, last: bool) -> torch.Tensor:
        if isinstance(output, (tuple, list)):
            output = output[-1 if last else 0]
        now: torch.Tensor = output.detach()
        return now

    def _compare(self, i: int, output: torch.Tensor) -> None:
        now, before = output.clone(), self._before.get(i)
        self._before[i] = now
        if before is None:
            return
        if before.shape != now.shape:
            sums = torch.full((4, len(now)), torch.nan)
        else:
            was, difference = before.float().flatten(1), now.float().flatten(1) - before.float().flatten(1)
            sums = torch.stack([difference.abs().sum(1), was.abs().sum(1), difference.norm(dim=1), was.norm(dim=1)])
        self._sums.setdefault(i, []).append(sums)

    def taken(self, images: int) -> tuple[Array, Array, Array]:
        """What the run that has ended came to; then everything is dropped.

        Args:
            images: b, images of the run; entries of a batch are theirs in turn.

        Returns:
            Relative L1, L2 and relative L2 distances, (b, modules, T − 1) each; 0 / 0 counts as 0.
        """
        rows = [torch.stack(self._sums[i]).cpu().double().numpy() for i in range(len(self.watched))]
        sums = np.stack(rows)  # (modules, T − 1, 4, entries)
        sums = sums.reshape(*sums.shape[:3], -1, images)  # halves of guidance, images
        self.forget()

        def relative(part: Array, whole: Array) -> Array:
            return np.divide(part, whole, out=np.zeros_like(part), where=(whole != 0) | np.isnan(part))

        l1, l2 = (relative(sums[:, :, j], sums[:, :, j + 1]).mean(2) for j in (0, 2))
        return l1.transpose(2, 0, 1), sums[:, :, 2].mean(2).transpose(2, 0, 1), l2.transpose(2, 0, 1)
