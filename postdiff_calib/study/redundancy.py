"""What distances between neighbouring steps say: which blocks and which steps are the cheapest to reuse.

Source: PostDiff, arXiv 2508.06160, supplementary material A. Distance j (0 … T − 2) is between steps j and j + 1: what
reusing step j's output on step j + 1 would be wrong by. Symbols: N prompts, B blocks, K types of layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]

#: How many of the cheapest and of the dearest blocks and steps are named.
NAMED = 3


@dataclass(frozen=True)
class Mean:
    """A mean over prompts with its 95 % interval (Student's t)."""

    mean: float
    low: float
    high: float


def mean_of(values: Array) -> Mean:
    """The mean of (N,) values; the interval is the mean itself where there is one value."""
    mean = float(values.mean())
    if len(values) < 2:
        return Mean(mean, mean, mean)
    reach = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Mean(mean, mean - reach, mean + reach)


@dataclass(frozen=True, eq=False)
class Redundancy:
    """Distances of a model's features between neighbouring steps.

    Attributes:
        blocks: names of the blocks in the order in which they run.
        kinds: types of layer, with how many layers there are of each.
        relative_l1: (N, B, T − 1).
        l2, relative_l2: (N, K, T − 1), means over the layers of a type.
    """

    blocks: tuple[str, ...]
    kinds: dict[str, int]
    relative_l1: Array
    l2: Array
    relative_l2: Array

    @property
    def num_prompts(self) -> int:
        """N."""
        return len(self.relative_l1)

    @property
    def heat(self) -> Array:
        """Mean relative L1 distance by block and step, (B, T − 1)."""
        heat: Array = self.relative_l1.mean(0)
        return heat

    def block_means(self) -> dict[str, Mean]:
        """Mean over all steps of each block."""
        return {name: mean_of(self.relative_l1[:, i].mean(1)) for i, name in enumerate(self.blocks)}

    def step_means(self) -> dict[int, Mean]:
        """Mean over all blocks by the step on which an output would be reused, 1 … T − 1 (0 is the first step)."""
        return {j + 1: mean_of(self.relative_l1[:, :, j].mean(1)) for j in range(self.relative_l1.shape[2])}

    def kind_means(self) -> dict[str, tuple[Mean, Mean]]:
        """Mean L2 and mean relative L2 distance of each type of layer over all steps."""
        return {
            kind: (mean_of(self.l2[:, i].mean(1)), mean_of(self.relative_l2[:, i].mean(1)))
            for i, kind in enumerate(self.kinds)
        }

    def summary(self) -> list[str]:
        """Which blocks and steps are the cheapest to reuse and which the dearest, a sentence each."""
        blocks, steps = self.block_means(), self.step_means()
        by_block = sorted(blocks, key=lambda name: blocks[name].mean)
        by_step = sorted(steps, key=lambda step: steps[step].mean)
        kinds = {kind: relative.mean for kind, (_, relative) in self.kind_means().items()}
        by_kind = sorted(kinds, key=lambda kind: kinds[kind])
        return [
            f"Blocks that are the cheapest to reuse: {_named(by_block[:NAMED], blocks)}; "
            f"the dearest: {_named(by_block[::-1][:1], blocks)}.",
            f"Steps (0 is the first) that are the cheapest to reuse on: {_named(by_step[:NAMED], steps)}; "
            f"the dearest: {_named(by_step[::-1][:NAMED], steps)}.",
            "Layers, from those that change least: "
            + ", ".join(f"{kind} ({100 * kinds[kind]:.0f} %)" for kind in by_kind)
            + ".",
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "num_prompts": self.num_prompts,
            "relative_l1": {name: self.heat[i].tolist() for i, name in enumerate(self.blocks)},
            "blocks": {name: vars(mean) for name, mean in self.block_means().items()},
            "steps": {str(step): vars(mean) for step, mean in self.step_means().items()},
            "layers": {
                kind: {
                    "count": count,
                    "l2": self.l2[:, i].mean(0).tolist(),
                    "relative_l2": self.relative_l2[:, i].mean(0).tolist(),
                }
                for i, (kind, count) in enumerate(self.kinds.items())
            },
            "summary": self.summary(),
        }


def _named(names: Sequence[Any], means: dict[Any, Mean]) -> str:
    return ", ".join(f"{name} ({100 * means[name].mean:.0f} %)" for name in names)
