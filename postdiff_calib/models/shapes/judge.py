"""An independent judge: a plain convolutional classifier that reads a scene's code off an image.

It shares no weights with the scorer: another architecture, another main loss, trained apart. So it can tell whether
generated images show what their captions say, also where the CLIP score cannot. ``SceneJudge`` is the embedded model's
second quality metric; its weights ship with the package.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import nn
from torch.nn import functional as F

from postdiff_calib.errors import ModelError, PromptError
from postdiff_calib.files.pixels import rounded
from postdiff_calib.models.shapes.world import (
    CODE_HEADS,
    CODE_SIZES,
    IGNORE,
    SIDE,
    SLOT_NAMES,
    Scene,
    parse_caption,
    scene_code,
)

#: The judge's weights, a file of this package.
WEIGHTS = Path(__file__).parent / "weights" / "judge" / "model.safetensors"


class Judge(nn.Module):
    """Images (B, 3, 64, 64) in [0, 1] → logits of the 21 heads of a scene code, concatenated (B, 120)."""

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

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of every head, concatenated."""
        features = self.body(images * 2 - 1)
        logits: torch.Tensor = self.head(features.flatten(1))
        return logits


def code_loss(logits: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over the heads; logits (B, Σ heads), codes (B, 21) with ``IGNORE`` where nothing is said."""
    parts = torch.split(logits, list(CODE_HEADS), dim=1)
    losses = [F.cross_entropy(p, codes[:, i], ignore_index=IGNORE, reduction="sum") for i, p in enumerate(parts)]
    return torch.stack(losses).sum() / (codes != IGNORE).sum()


def read_codes(logits: torch.Tensor) -> torch.Tensor:
    """The most likely code of each image, (B, 21)."""
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
    result["all"] = all_right(codes, scenes).float().mean().item()
    return result


def all_right(codes: torch.Tensor, scenes: Sequence[Scene]) -> torch.Tensor:
    """Whether nothing that is named of a scene is wrong: codes (B, 21) and B scenes → (B,) of bool."""
    truth = torch.tensor([scene_code(s) for s in scenes]).reshape(len(scenes), len(CODE_HEADS))
    return ((codes == truth) | (truth == IGNORE)).all(1)


def export(model: Judge, path: Path) -> None:
    """Write the weights as fp16 safetensors; counters of the batch normalisation stay integers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = model.state_dict().items()
    save_file({k: v.half() if v.is_floating_point() else v for k, v in state}, path)


class SceneJudge:
    """Says of each image whether its scene is right: whether everything that the caption names is there as named.

    Args:
        path: exported weights (``export``); those of the package by default.
        device: a torch device; the network runs in float32 everywhere.
        batch_size: images per call of the network.

    Attributes:
        weights_sha256: hash of the weights file, for the record.

    Raises:
        ModelError: the weights are missing, damaged or not this network's.
    """

    def __init__(self, path: Path = WEIGHTS, device: str = "cpu", *, batch_size: int = 64) -> None:
        self.device, self.batch_size = device, batch_size
        network = Judge()
        try:
            content = path.read_bytes()
            state = load(content)
            network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ModelError(
                f"judge {path}",
                f"its weights cannot be loaded ({str(error).splitlines()[0][:200]})",
                "reinstall postdiff, or check the file",
            ) from error
        self.weights_sha256 = hashlib.sha256(content).hexdigest()
        self.network = network.to(device).eval().requires_grad_(False)

    def codes(self, images: torch.Tensor) -> torch.Tensor:
        """Read scene codes: images (B, 3, 64, 64) in [0, 1] on any device → (B, 21) on the CPU.

        Images are rounded to 8 bits first, as a saved image is, so a file and the image it was made from read alike.

        Raises:
            ValueError: images of another size; the network reads 64×64.
        """
        if tuple(images.shape[1:]) != (3, SIDE, SIDE):
            raise ValueError(f"the judge reads images of 3×{SIDE}×{SIDE}, got {tuple(images.shape)}")
        saved = rounded(images.detach().float())
        with torch.inference_mode():
            parts = torch.split(saved, self.batch_size)
            return torch.cat([read_codes(self.network(part.to(self.device))).cpu() for part in parts])

    def score(self, images: torch.Tensor, prompts: Sequence[str]) -> list[float]:
        """100.0 for each image whose scene is right, else 0.0; the mean is the per cent of scenes that are right.

        Args:
            images: (B, 3, 64, 64) float, values in [0, 1], on any device.
            prompts: B captions of the grammar.

        Raises:
            PromptError: a prompt is not such a caption.
            ValueError: images of another size or number.
        """
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images for {len(prompts)} prompts")
        scenes = [_scene(prompt) for prompt in prompts]
        if not scenes:
            return []
        return [100.0 * right for right in all_right(self.codes(images), scenes).tolist()]


def require_captions(prompts: Sequence[str]) -> None:
    """Refuse prompts that the judge cannot compare with an image, before any image is made.

    Raises:
        PromptError: a prompt is not a caption of the grammar; names the first such prompt and the word.
    """
    for prompt in prompts:
        _scene(prompt)


@lru_cache(maxsize=8192)
def _scene(prompt: str) -> Scene:
    try:
        return parse_caption(prompt)
    except ValueError as error:
        raise PromptError(
            f"prompt {prompt!r}",
            f"no scene can be read off it ({str(error).removeprefix(f'caption {prompt!r}: ')})",
            "the scene metric takes captions such as 'a red circle above a blue star on a green background'",
        ) from error
