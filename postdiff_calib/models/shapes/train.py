"""The recipe: trains everything that the embedded model ships, in one resumable command.

    python -m postdiff_calib.models.shapes.train --work runs/shapes

Stages, in order: ``autoencoder`` (principal components, seconds), ``judge`` (the independent classifier),
``scorer`` (the open_clip model), ``diffusion`` (text warm-up, then text encoder and U-Net together), ``export``
(fp16 safetensors and their hashes). Each stage keeps its state in the work folder and goes on where it was stopped;
a finished stage is skipped. Batches are functions of (seed, step), so an interrupted run sees the data of a whole one.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

from postdiff_calib.files import file_sha256
from postdiff_calib.models.shapes import checkpoint, diffusion, judge, scorer
from postdiff_calib.models.shapes.autoencoder import PatchAutoencoder
from postdiff_calib.models.shapes.world import render, sample_scene, scene_code

STAGES = ("autoencoder", "judge", "scorer", "diffusion", "export")
WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Recipe:
    """Every number of the training; written into the model card."""

    seed: int = 0
    latent_channels: int = 12
    autoencoder_pictures: int = 4000
    judge_steps: int = 1500
    judge_batch: int = 96
    judge_rate: float = 2e-3
    #: The rate falls to zero at each of these steps and starts anew after it.
    scorer_cycles: tuple[int, ...] = (4000, 6500)
    scorer_batch: int = 64
    scorer_rate: float = 1.5e-3
    text_steps: int = 1500
    text_batch: int = 128
    text_rate: float = 1e-3
    samples: int = 384_000
    batch: int = 64
    rate: float = 1.2e-3
    text_rate_factor: float = 0.25
    warmup_samples: int = 12_800
    decay_share: float = 0.25
    weight_decay: float = 0.01
    ema: float = 0.9992


def rate_at(done: float, warmup: float, decay_share: float) -> float:
    """Learning-rate factor: linear warm-up, constant, then a linear decay to zero over the last share of the run."""
    if done < warmup:
        return done / warmup
    return min(1.0, max(0.0, (1 - done) / decay_share))


class Progress:
    """A line now and then: stage, how far, running loss, how long still."""

    def __init__(self, stage: str, total: int, done: int, seconds: float) -> None:
        self.stage, self.total, self.first = stage, total, done
        self.start = time.monotonic()
        self.before = seconds
        self.average: float | None = None
        self.last_print = -1e9

    def seconds(self) -> float:
        """Training time so far, earlier runs included."""
        return self.before + time.monotonic() - self.start

    def update(self, done: int, loss: float) -> None:
        """Count a step; prints at most every 20 s."""
        self.average = loss if self.average is None else 0.99 * self.average + 0.01 * loss
        now = time.monotonic()
        if now - self.last_print < 20 and done < self.total:
            return
        self.last_print = now
        rate = (done - self.first) / max(now - self.start, 1e-9)
        left = (self.total - done) / max(rate, 1e-9)
        print(
            f"{self.stage}: {done}/{self.total} loss {self.average:.4f} {rate:.1f}/s, {left / 60:.0f} min left",
            flush=True,
        )


def fit(
    stage: str,
    folder: Path,
    module: torch.nn.Module,
    groups: list[dict[str, Any]],
    steps: int,
    warmup_steps: int,
    recipe: Recipe,
    loss_at: Callable[[int], torch.Tensor],
    average: torch.nn.Module | None = None,
    decay_share: float | None = None,
    unit: int = 1,
) -> dict[str, Any]:
    """Run ``steps`` optimiser steps of ``loss_at(step)``, resuming from and saving to the stage's folder.

    ``groups`` are AdamW parameter groups whose ``lr`` is the peak; ``average`` is a copy of ``module`` that follows
    it exponentially; ``unit`` only scales what the progress line counts.
    """
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=recipe.weight_decay)
    peaks = [group["lr"] for group in optimizer.param_groups]
    modules = {"module": module} | ({"average": average} if average is not None else {})
    path = folder / f"{stage}.safetensors"
    counters = checkpoint.load(path, modules, optimizer) or {"step": 0, "seconds": 0.0}
    progress = Progress(stage, steps * unit, counters["step"] * unit, counters["seconds"])
    saved = time.monotonic()
    module.train()
    for step in range(counters["step"], steps):
        factor = rate_at((step + 1) / steps, warmup_steps / steps, decay_share or recipe.decay_share)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        loss = loss_at(step)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if average is not None:
            keep = min(recipe.ema, (step + 1) / (step + 10))
            with torch.no_grad():
                for slow, fast in zip(average.parameters(), module.parameters(), strict=True):
                    slow.lerp_(fast, 1 - keep)
        progress.update((step + 1) * unit, float(loss.detach()))
        if time.monotonic() - saved > 120 or step + 1 == steps:
            counters = {"step": step + 1, "seconds": progress.seconds(), "loss": progress.average}
            checkpoint.save(path, modules, optimizer, counters)
            saved = time.monotonic()
    module.eval()
    return counters


def train_autoencoder(work: Path, recipe: Recipe) -> PatchAutoencoder:
    """Fit the patch transform, or load it from the work folder."""
    folder = work / "autoencoder"
    if (folder / "config.json").exists():
        loaded: PatchAutoencoder = PatchAutoencoder.from_pretrained(folder)
        return loaded
    rng = Random(f"{recipe.seed}/autoencoder")
    pictures = render([sample_scene(rng) for _ in range(recipe.autoencoder_pictures)], seed=rng.randrange(2**31))
    autoencoder: PatchAutoencoder = PatchAutoencoder(latent_channels=recipe.latent_channels)
    autoencoder.fit(pictures * 2 - 1)
    autoencoder.save_pretrained(folder)
    return autoencoder


def train_judge(work: Path, recipe: Recipe) -> judge.Judge:
    """Train the independent classifier on clean and mildly noisy pictures."""
    torch.manual_seed(recipe.seed + 1)
    model = judge.Judge()

    def loss_at(step: int) -> torch.Tensor:
        rng = Random(f"{recipe.seed}/judge/{step}")
        scenes = [sample_scene(rng) for _ in range(recipe.judge_batch)]
        pictures = render(scenes, seed=rng.randrange(2**31))
        g = torch.Generator().manual_seed(step)
        pictures = pictures + 0.06 * torch.rand(len(scenes), 1, 1, 1, generator=g) * torch.randn(
            pictures.shape, generator=g
        )
        return judge.code_loss(model(pictures), torch.tensor([scene_code(s) for s in scenes]))

    groups = [{"params": list(model.parameters()), "lr": recipe.judge_rate}]
    fit("judge", work, model, groups, recipe.judge_steps, 100, recipe, loss_at)
    return model


def train_scorer(work: Path, recipe: Recipe, autoencoder: PatchAutoencoder) -> scorer.Training:
    """Train the open_clip scorer."""
    training = scorer.Training(recipe.seed + 2)

    def loss_at(step: int) -> torch.Tensor:
        scenes, pictures = scorer.batch(recipe.seed + 2, step, recipe.scorer_batch)
        pictures = scorer.degrade(pictures, autoencoder, torch.Generator().manual_seed(step))
        return training.loss(pictures, scenes, Random(f"{recipe.seed}/edits/{step}"))

    groups = [{"params": list(training.parameters()), "lr": recipe.scorer_rate}]
    for steps in recipe.scorer_cycles:
        fit("scorer", work, training, groups, steps, 200, recipe, loss_at, decay_share=0.5)
    return training


def train_diffusion(
    work: Path, recipe: Recipe, autoencoder: PatchAutoencoder, device: torch.device
) -> tuple[diffusion.Training, dict[str, Any]]:
    """Text warm-up, then text encoder and U-Net together; returns the averaged model and its counters."""
    training = diffusion.Training(recipe.seed + 3, recipe.latent_channels).to(device)

    def text_loss_at(step: int) -> torch.Tensor:
        return training.text_loss(*diffusion.text_batch(recipe.seed + 3, step, recipe.text_batch))

    text = [*training.text_encoder.parameters(), *training.text_heads.parameters()]
    fit(
        "text", work, training, [{"params": text, "lr": recipe.text_rate}], recipe.text_steps, 100, recipe, text_loss_at
    )
    average = diffusion.Training(recipe.seed + 3, recipe.latent_channels).to(device)
    average.load_state_dict(training.state_dict())
    average.requires_grad_(False)
    training.unet.to(memory_format=torch.channels_last)
    average.unet.to(memory_format=torch.channels_last)

    def loss_at(step: int) -> torch.Tensor:
        latents, captions, generator = diffusion.batch(recipe.seed + 3, step, recipe.batch, autoencoder)
        return training.loss(latents, captions, generator)

    groups = [
        {"params": list(training.unet.parameters()), "lr": recipe.rate},
        {"params": list(training.text_encoder.parameters()), "lr": recipe.rate * recipe.text_rate_factor},
    ]
    steps, warmup = recipe.samples // recipe.batch, recipe.warmup_samples // recipe.batch
    counters = fit(
        "diffusion", work, training, groups, steps, warmup, recipe, loss_at, average=average, unit=recipe.batch
    )
    average.eval()
    return average, counters


def build_pipeline(model: diffusion.Training, autoencoder: PatchAutoencoder) -> Any:
    """The stock Stable Diffusion pipeline around trained networks."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        unet=model.unet,
        scheduler=diffusion.build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def export(work: Path, recipe: Recipe, out: Path, device: torch.device) -> None:
    """Write pipeline, scorer and judge as fp16 safetensors, with ``recipe.json`` beside them."""
    autoencoder = train_autoencoder(work, recipe)
    reader, training = judge.Judge(), scorer.Training(recipe.seed + 2)
    average = diffusion.Training(recipe.seed + 3, recipe.latent_channels)
    stages: dict[str, Any] = {}
    trained: tuple[tuple[str, str, torch.nn.Module], ...] = (
        ("judge", "module", reader),
        ("scorer", "module", training),
        ("diffusion", "average", average),
    )
    for stage, name, module in trained:
        stages[stage] = checkpoint.load_modules(work / f"{stage}.safetensors", {name: module})
    judge.export(reader, out / "judge" / "model.safetensors")
    scorer.export(training.clip, out / "scorer")
    pipe = build_pipeline(average, autoencoder)
    pipe.unet.to(memory_format=torch.contiguous_format)
    pipe.unet.half()
    pipe.text_encoder.half()
    pipe.save_pretrained(out / "pipeline", safe_serialization=True)
    for path in (out / "pipeline").rglob("config.json"):  # where this machine keeps its files is nobody's business
        config = {key: value for key, value in json.loads(path.read_text()).items() if key != "_name_or_path"}
        path.write_text(json.dumps(config, indent=2) + "\n")
    hashes = {str(p.relative_to(out)): file_sha256(p) for p in sorted(out.rglob("*.safetensors"))}
    facts = {
        "recipe": asdict(recipe),
        "stages": stages,
        "sha256": hashes,
        "machine": {"processor": platform.processor() or platform.machine(), "device": str(device)},
        "torch": torch.__version__,
    }
    (out / "recipe.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(f"exported to {out}")


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run the stages."""
    parser = argparse.ArgumentParser(
        prog="python -m postdiff_calib.models.shapes.train", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("--work", type=Path, default=Path("runs/shapes"), help="folder for checkpoints")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder the exported weights go to")
    parser.add_argument("--stage", choices=STAGES, action="append", help="run these stages only (default: all)")
    parser.add_argument("--samples", type=int, default=Recipe.samples, help="diffusion training samples")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: torch's own)")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="for the diffusion stage"
    )
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = Recipe(seed=args.seed, samples=args.samples)
    device = torch.device(args.device)
    stages = args.stage or STAGES
    autoencoder = train_autoencoder(args.work, recipe)
    if "judge" in stages:
        train_judge(args.work, recipe)
    if "scorer" in stages:
        train_scorer(args.work, recipe, autoencoder)
    if "diffusion" in stages:
        train_diffusion(args.work, recipe, autoencoder, device)
    if "export" in stages:
        export(args.work, recipe, args.out, device)


if __name__ == "__main__":
    main()
