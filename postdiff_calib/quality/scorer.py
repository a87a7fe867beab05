"""What a scorer is: images and prompts in, a number per image out, with a name, a direction and a fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import torch

Direction = Literal["higher", "lower"]


class Scorer(Protocol):
    """What scores images against prompts.

    One that has embeddings also has ``image_features``, images → (B, D) unit vectors, and ``score_features``, those and
    the prompts → scores; CMMD is measured with them.

    Attributes:
        name: as it is written in files.
        metric: name of the metric that its scores are.
        direction: which of its own values are better; ``score`` gives them so that more is.
        fingerprint: what its scores depend on, as a hash.
    """

    name: str
    metric: str

    @property
    def direction(self) -> Direction: ...  # noqa: D102

    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    def score(self, images: torch.Tensor, prompts: Sequence[str]) -> list[float]:
        """B scores, more is better, of images (B, 3, H, W) float in [0, 1] and B prompts."""
        ...
