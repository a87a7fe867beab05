"""The recipe of ``shapes-flow``: training on several sizes, the judge's reading on the way, and the export.

    python -m postdiff_calib.models.shapes.train --stage flow --work runs/shapes-flow

World, text encoder, autoencoder and judge are those that ``shapes`` ships. The stage keeps its state in the work
folder and goes on where it was stopped.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from postdiff_calib.files.pixels import to_array
from postdiff_calib.models.shapes import checkpoint, diffusion, flow
from postdiff_calib.models.shapes.autoencoder import PatchAutoencoder
from postdiff_calib.models.shapes.exporting import save_pipeline, write_facts
from postdiff_calib.models.shapes.fitting import Stage, fit
from postdiff_calib.models.shapes.gates import held_out_scenes
from postdiff_calib.models.shapes.judge import SceneJudge, accuracies
from postdiff_calib.models.shapes.world import Scene

STAGE = "flow"


@dataclass(frozen=True)
class FlowRecipe:
    """Every number of the training; written into the model card."""

    seed: int = 0
    latent_channels: int = 12
    samples: int = 5_800_000
    batch: int = 1024
    rate: float = 1.5e-3
    warmup_samples: int = 204_800
    decay_share: float = 0.25
    weight_decay: float = 0.01
    ema: float = 0.998
    caption_dropout: float = 0.1
    #: Captions that the hidden states' mean and spread are taken from.
    text_captions: int = 2048
    #: Share of the batches at a smaller size, each side equally often, at all noise levels.
    small_share: float = 0.35
    small_sides: tuple[int, ...] = diffusion.SMALL_SIDES
    precision: str = "bfloat16"
    evaluate_every: int = 1_024_000
    evaluate_images: int = 60
    evaluate_steps: int = 20
    evaluate_guidance: float = 3.0


@dataclass(frozen=True)
class Parts:
    """What ``shapes`` ships and this model takes over unchanged."""

    text: flow.TextEncoders
    autoencoder: PatchAutoencoder
    judge: SceneJudge


def load_parts(weights: Path) -> Parts:
    """Text encoders, autoencoder and judge from the weights folder of ``shapes``."""
    autoencoder: PatchAutoencoder = PatchAutoencoder.from_pretrained(weights / "pipeline" / "vae")
    text = flow.load_text_encoders(weights / "pipeline" / "text_encoder")
    return Parts(text, autoencoder, SceneJudge(weights / "judge" / "model.safetensors"))


class Batches(torch.utils.data.Dataset[tuple[torch.Tensor, ...]]):
    """Step → latents (B, C, h, w), token numbers (B, L), noise levels (B,) and noise (B, C, h, w)."""

    def __init__(self, seed: int, steps: int, recipe: FlowRecipe, parts: Parts) -> None:
        self.seed, self.steps, self.recipe, self.parts = seed, steps, recipe, parts

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[torch.Tensor, ...]:
        r = self.recipe
        latents, captions, generator = diffusion.batch(
            self.seed, step, r.batch, self.parts.autoencoder, r.caption_dropout, r.small_share, r.small_sides
        )
        return latents, self.parts.text.tokens(captions), *flow.draw(latents, generator)


class Feed:
    """Batches in order, made ahead by worker processes where there are any."""

    def __init__(self, batches: Batches, workers: int) -> None:
        self.batches, self.workers = batches, workers
        self._next = -1
        self._ahead: Iterator[Any] = iter(())

    def at(self, step: int) -> tuple[torch.Tensor, ...]:
        """The batch of a step."""
        if self._next != step:
            steps = range(step, len(self.batches))
            self._ahead = iter(
                torch.utils.data.DataLoader(self.batches, batch_size=None, sampler=steps, num_workers=self.workers)
            )
        self._next = step + 1
        batch: tuple[torch.Tensor, ...] = next(self._ahead)
        return batch


def train_flow(
    work: Path, recipe: FlowRecipe, parts: Parts, device: torch.device, workers: int = 0
) -> tuple[flow.Training, dict[str, Any]]:
    """Train the transformer, or go on with it; returns the averaged one and the counters.

    ``workers`` processes make the batches ahead; they change nothing about them.
    """
    seed = recipe.seed + 4
    training = flow.Training(seed, recipe.latent_channels)
    training.standardise(parts.text, seed, recipe.text_captions)
    training.to(device)
    average = copy.deepcopy(training).requires_grad_(False)
    dtype = getattr(torch, recipe.precision)

    steps = recipe.samples // recipe.batch
    batches = Feed(Batches(seed, steps, recipe, parts), workers)
    text = parts.text.to(device)

    def loss_at(step: int) -> torch.Tensor:
        latents, ids, *drawn = batches.at(step)
        return training.loss(latents, *text.encode(ids), (drawn[0], drawn[1]), dtype)

    every = max(1, recipe.evaluate_every // recipe.batch)

    def after_step(done: int) -> None:
        if done % every == 0:
            report(work, done * recipe.batch, recipe, parts, average)

    stage = Stage(STAGE, work, steps, recipe.warmup_samples // recipe.batch, recipe, unit=recipe.batch)
    groups = [{"params": list(training.transformer.parameters()), "lr": recipe.rate}]
    counters = fit(stage, training, groups, loss_at, average, after_step)
    average.eval()
    return average, counters


def report(work: Path, seen: int, recipe: FlowRecipe, parts: Parts, average: flow.Training) -> dict[str, float]:
    """Generate images of fixed captions and seeds, print how much of them the judge reads right, keep some as PNG."""
    scenes = held_out_scenes(recipe.evaluate_images, recipe.seed, set())
    images = generate(recipe, parts, average, scenes)
    read = accuracies(parts.judge.codes(images), scenes)
    print(f"{STAGE}: {seen} samples seen: " + ", ".join(f"{k} {v:.3f}" for k, v in read.items()), flush=True)
    save_sheet(images[:32], work / "samples" / f"{seen:08d}.png")
    return read


def generate(recipe: FlowRecipe, parts: Parts, average: flow.Training, scenes: list[Scene]) -> torch.Tensor:
    """Images (N, 3, 64, 64) in [0, 1] of the scenes' captions, on the CPU; the network runs where it is, in float32."""
    network = average.folded()
    side = diffusion.LATENT_SIDE
    noise = torch.randn(
        len(scenes), recipe.latent_channels, side, side, generator=torch.Generator().manual_seed(recipe.seed)
    )
    captions = [s.caption() for s in scenes]
    noise = noise.to(network.device)
    latents = flow.sample(network, parts.text, captions, noise, recipe.evaluate_steps, recipe.evaluate_guidance).cpu()
    decoded: torch.Tensor = parts.autoencoder.decode(latents, return_dict=False)[0]
    return (decoded / 2 + 0.5).clamp(0, 1)


def save_sheet(images: torch.Tensor, path: Path, columns: int = 8) -> None:
    """Images (N, 3, S, S) in [0, 1] side by side in one PNG, as many full rows as they make."""
    from PIL import Image

    columns = min(columns, len(images))
    whole = images[: len(images) // columns * columns]
    rows = [torch.cat(list(row), dim=2) for row in torch.split(whole, columns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(to_array(torch.cat(rows, dim=1))).save(path, optimize=True)


def export_flow(work: Path, recipe: FlowRecipe, parts: Parts, out: Path, device: torch.device) -> None:
    """Write the pipeline as fp16 safetensors, with ``recipe.json`` beside it; ``work`` holds the trained state."""
    average = flow.Training(recipe.seed + 4, recipe.latent_channels)
    counters = checkpoint.load_modules(work / f"{STAGE}.safetensors", {"average": average})
    pipe = flow.build_pipeline(average.folded(), copy.deepcopy(parts.text), parts.autoencoder)
    for network in (pipe.transformer, pipe.text_encoder, pipe.text_encoder_2, pipe.text_encoder_3):
        network.half()
    save_pipeline(pipe, out / "pipeline")
    write_facts(out, recipe, {STAGE: counters}, device)
