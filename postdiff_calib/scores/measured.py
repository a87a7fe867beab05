"""What an evaluator tells of a block of images: scores, other measures, embeddings.

In a store's block they are ``"scores": [numbers]``, ``"measures": {name: [numbers]}`` and ``"features"``, the (n, D)
unit embeddings as base64 of little-endian float16, row by row. The last two are left out where nothing was measured.
A component of a unit vector in float16 is off by 0.0005 at most, which moves no CMMD by a digit that is shown.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from postdiff_calib.errors import PlanError

Embeddings = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Measured:
    """Scores of n images, and what else was measured on them.

    Args:
        scores: n numbers, higher is better.
        measures: by name, n numbers each: other quality metrics (``scene``) of the images themselves, and fidelity
            metrics (``ssim``, ``psnr``, ``lpips``) against the baseline's images.
        features: (n, D) unit embeddings of the images; None where there are none.
    """

    scores: Sequence[float]
    measures: Mapping[str, Sequence[float]] = field(default_factory=dict)
    features: Embeddings | None = None

    def check(self, indices: Sequence[int], plan: str) -> None:
        """Refuse what cannot be kept.

        Args:
            indices: the prompts it should be about.
            plan: the knobs as text.

        Raises:
            PlanError: a score or measure is not finite; names prompt and plan.
            ValueError: the evaluator gave more or fewer values than prompts.
        """
        lists = {"score": self.scores, **self.measures}
        if self.features is not None:
            lists["embedding"] = [float(row.sum()) for row in self.features.astype(np.float32)]
        for name, values in lists.items():
            if len(values) != len(indices):
                raise ValueError(f"the evaluator gave {len(values)} {name}s for {len(indices)} prompts")
            for i, value in zip(indices, values, strict=True):
                if not np.isfinite(value):
                    raise PlanError(f"{name} of prompt {i} under {plan}", "it is not a finite number", "use float32")

    def as_block(self) -> dict[str, Any]:
        """Plain data for a store; the inverse of ``from_block``."""
        block: dict[str, Any] = {"scores": [float(value) for value in self.scores]}
        if self.measures:
            block["measures"] = {name: [float(v) for v in values] for name, values in self.measures.items()}
        if self.features is not None:
            block["features"] = base64.b64encode(self.features.astype("<f2").tobytes()).decode("ascii")
        return block

    @classmethod
    def from_block(cls, block: Mapping[str, Any]) -> Measured:
        """Read a block of any age: early ones hold scores alone."""
        features = None
        if block.get("features"):
            flat = np.frombuffer(base64.b64decode(block["features"]), dtype="<f2")
            features = flat.reshape(len(block["scores"]), -1).astype(np.float16)
        return cls(block["scores"], block.get("measures", {}), features)
