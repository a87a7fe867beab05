"""The embedded model's CLIP scorer: a small open_clip model (residual network and causal text transformer).

Trained by contrast between an image's caption, three captions that differ from it in one attribute, and all captions
of the batch; linear heads that read the scene's code off both embeddings guide the training and are then dropped.
Images are shown clean, noisy, blurred, or after a round trip through the autoencoder, so that the score reacts to
meaning more than to pixels.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch.nn import functional as F

from postdiff_calib.models.shapes.drawing import render
from postdiff_calib.models.shapes.judge import code_loss
from postdiff_calib.models.shapes.tokenizer import CONTEXT_LENGTH, build_tokenizer, token_numbers
from postdiff_calib.models.shapes.world import CODE_HEADS, SIDE, Scene, edit_scene, sample_scene, scene_code

#: Captions with one attribute edited, per image.
HARD_NEGATIVES = 3


def config(vocab_size: int) -> dict[str, Any]:
    """The ``open_clip_config.json`` of the scorer."""
    return {
        "model_cfg": {
            "embed_dim": 160,
            "vision_cfg": {"image_size": SIDE, "layers": [1, 2, 2, 1], "width": 20, "head_width": 32},
            "text_cfg": {
                "context_length": CONTEXT_LENGTH,
                "vocab_size": vocab_size,
                "hf_tokenizer_name": "shapes",
                "width": 128,
                "heads": 4,
                "layers": 3,
                "pool_type": "argmax",
            },
        },
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bilinear",
            "resize_mode": "shortest",
        },
    }


def build(seed: int) -> Any:
    """An open_clip model of the scorer's architecture with fresh weights."""
    from open_clip.model import CLIP

    torch.manual_seed(seed)
    cfg = config(len(build_tokenizer()))["model_cfg"]
    text = {key: value for key, value in cfg["text_cfg"].items() if key != "hf_tokenizer_name"}
    return CLIP(embed_dim=cfg["embed_dim"], vision_cfg=cfg["vision_cfg"], text_cfg=text)


def degrade(images: torch.Tensor, autoencoder: torch.nn.Module, generator: torch.Generator) -> torch.Tensor:
    """A quarter of the batch each: clean, mild noise, mild blur, through the autoencoder with mild latent noise."""
    quarter = len(images) // 4
    clean, noisy, blurred, coded = torch.split(images, [len(images) - 3 * quarter, quarter, quarter, quarter])
    strength = 0.08 * torch.rand(quarter, 1, 1, 1, generator=generator)
    noisy = noisy + strength * torch.randn(noisy.shape, generator=generator)
    small = F.interpolate(blurred, scale_factor=0.75, mode="bilinear", antialias=True)
    blurred = F.interpolate(small, size=images.shape[-2:], mode="bilinear")
    with torch.no_grad():
        latents = autoencoder.encode(coded * 2 - 1)  # type: ignore[operator]
        latents = latents + 0.1 * strength * torch.randn(latents.shape, generator=generator)
        coded = autoencoder.decode(latents, return_dict=False)[0] / 2 + 0.5  # type: ignore[operator]
    return torch.cat([clean, noisy, blurred, coded]).clamp(0, 1)


class Training(torch.nn.Module):
    """The scorer with its training heads; ``loss`` maps images and captions to one number."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.clip = build(seed)
        self.heads = torch.nn.Linear(self.clip.text_projection.shape[1], sum(CODE_HEADS))
        self.tokenizer = build_tokenizer()

    def tokens(self, captions: list[str]) -> torch.Tensor:
        """Captions to token numbers, (N, 24)."""
        ids: torch.Tensor = token_numbers(self.tokenizer, captions)
        return ids

    def loss(self, images: torch.Tensor, scenes: list[Scene], rng: Random) -> torch.Tensor:
        """Contrastive loss plus code heads; images (B, 3, 64, 64) in [0, 1]."""
        b = len(scenes)
        edited = [edit_scene(s, rng)[0] for _ in range(HARD_NEGATIVES) for s in scenes]
        captions = [s.caption() for s in (*scenes, *edited)]
        image = self.clip.encode_image(images * 2 - 1)
        text = self.clip.encode_text(self.tokens(captions))
        scale = self.clip.logit_scale.exp().clamp(max=100)
        logits = scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
        target = torch.arange(b)
        contrast = F.cross_entropy(logits, target) + F.cross_entropy(logits[:, :b].T, target)
        own = [target, *(b * (1 + i) + target for i in range(HARD_NEGATIVES))]
        contrast = contrast + F.cross_entropy(
            torch.stack([logits[target, o] for o in own], 1), torch.zeros_like(target)
        )
        codes = torch.tensor([scene_code(s) for s in scenes])
        return contrast + code_loss(self.heads(image), codes) + code_loss(self.heads(text[:b]), codes)


def batch(seed: int, step: int, size: int) -> tuple[list[Scene], torch.Tensor]:
    """The scenes and images of one training step; a function of its arguments alone, so a run can resume."""
    rng = Random(f"{seed}/{step}")
    scenes = [sample_scene(rng) for _ in range(size)]
    return scenes, render(scenes, seed=rng.randrange(2**31))


def export(clip: torch.nn.Module, folder: Path) -> None:
    """Write config, tokenizer and fp16 weights where open_clip's ``local-dir:`` finds them."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    (folder / "open_clip_config.json").write_text(json.dumps(config(len(tokenizer)), indent=2) + "\n")
    state = {k: v.half() if v.is_floating_point() else v for k, v in clip.state_dict().items()}
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "open_clip_model.safetensors")
