"""An independent judge: a plain convolutional classifier that reads a scene's code off a picture.

It shares nothing with the scorer (other architecture, other loss, trained apart), so it can tell whether generated
pictures show what their captions say. It is a development tool: its weights are not part of the package.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from postdiff_calib.models.shapes.world import CODE_HEADS, CODE_SIZES, IGNORE, SLOT_NAMES, Scene, scene_code


class Judge(nn.Module):
    """Pictures (B, 3, 64, 64) in [0, 1] → logits of the 21 heads of a scene code, concatenated (B, 120)."""

    def __init__(self) -> None:
        super().__init__()

        def block(cin: int, cout: int, stride: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout), nn.ReLU(inplace=True)
            )

        self.body = nn.Sequential(
            block(3, 24, 2), block(24, 48, 1), block(48, 64, 2), block(64, 64, 1), block(64, 96, 2), block(96, 96, 1)
        )
        self.head = nn.Linear(96 * 8 * 8, sum(CODE_HEADS))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Logits of every head, concatenated."""
        features = self.body(pictures * 2 - 1)
        logits: torch.Tensor = self.head(features.flatten(1))
        return logits


def code_loss(logits: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over the heads; logits (B, Σ heads), codes (B, 21) with ``IGNORE`` where nothing is said."""
    parts = torch.split(logits, list(CODE_HEADS), dim=1)
    losses = [F.cross_entropy(p, codes[:, i], ignore_index=IGNORE, reduction="sum") for i, p in enumerate(parts)]
    return torch.stack(losses).sum() / (codes != IGNORE).sum()


def read_codes(logits: torch.Tensor) -> torch.Tensor:
    """The most likely code of each picture, (B, 21)."""
    return torch.stack([p.argmax(1) for p in torch.split(logits, list(CODE_HEADS), dim=1)], dim=1)


def accuracies(codes: torch.Tensor, scenes: list[Scene]) -> dict[str, float]:
    """Share of named attributes that the read codes (B, 21) get right.

    ``layout`` is right when exactly the named slots are occupied; colour, shape, size and texture are counted per
    object at the slot where the caption puts it; ``all`` when nothing named is wrong.
    """
    truth = torch.tensor([scene_code(s) for s in scenes])
    width = len(CODE_SIZES)
    shape_heads = [width * i + 1 for i in range(len(SLOT_NAMES))]
    occupied, expected = codes[:, shape_heads] > 0, truth[:, shape_heads] > 0
    result = {
        "background": (codes[:, -1] == truth[:, -1]).float().mean().item(),
        "layout": (occupied == expected).all(1).float().mean().item(),
    }
    for offset, name in enumerate(CODE_SIZES):
        heads = [width * i + offset for i in range(len(SLOT_NAMES))]
        counts = expected & (truth[:, heads] != IGNORE)
        result[name] = (codes[:, heads] == truth[:, heads])[counts].float().mean().item()
    named = (codes == truth) | (truth == IGNORE)
    result["all"] = named.all(1).float().mean().item()
    return result
