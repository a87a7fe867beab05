"""The recipe: trains everything that the embedded model ships, in one resumable command.

    python -m postdiff_calib.models.shapes.train --work runs/shapes

Stages, in order: ``autoencoder`` (principal components, seconds), ``judge`` (the independent classifier),
``scorer`` (the open_clip model), ``diffusion`` (text warm-up, then text encoder and U-Net together), ``export``
(fp16 safetensors and their hashes). Each stage keeps its state in the work folder and goes on where it was stopped;
a finished stage is skipped. Batches are functions of (seed, step), so an interrupted run sees the data of a whole one.

The second model, ``shapes-flow``, has two stages of its own, run when they are named: ``flow`` (the rectified-flow
transformer, on what ``shapes`` ships) and ``flow-export``; give it a work folder of its own.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

from postdiff_calib.models.shapes import checkpoint, diffusion, flow_training, judge, scorer
from postdiff_calib.models.shapes.autoencoder import PatchAutoencoder
from postdiff_calib.models.shapes.drawing import render
from postdiff_calib.models.shapes.exporting import save_pipeline, write_facts
from postdiff_calib.models.shapes.fitting import Stage, fit
from postdiff_calib.models.shapes.world import sample_scene, scene_code

STAGES = ("autoencoder", "judge", "scorer", "diffusion", "export")
FLOW_STAGES = ("flow", "flow-export")
WEIGHTS = Path(__file__).parent / "weights"
FLOW_WEIGHTS = Path(__file__).parent / "flow_weights"


@dataclass(frozen=True)
class Recipe:
    """Every number of the training; written into the model card."""

    seed: int = 0
    latent_channels: int = 12
    autoencoder_images: int = 4000
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


def train_autoencoder(work: Path, recipe: Recipe) -> PatchAutoencoder:
    """Fit the patch transform, or load it from the work folder."""
    folder = work / "autoencoder"
    if (folder / "config.json").exists():
        loaded: PatchAutoencoder = PatchAutoencoder.from_pretrained(folder)
        return loaded
    rng = Random(f"{recipe.seed}/autoencoder")
    images = render([sample_scene(rng) for _ in range(recipe.autoencoder_images)], seed=rng.randrange(2**31))
    autoencoder: PatchAutoencoder = PatchAutoencoder(latent_channels=recipe.latent_channels)
    autoencoder.fit(images * 2 - 1)
    autoencoder.save_pretrained(folder)
    return autoencoder


def train_judge(work: Path, recipe: Recipe) -> judge.Judge:
    """Train the independent classifier on clean and mildly noisy images."""
    torch.manual_seed(recipe.seed + 1)
    model = judge.Judge()

    def loss_at(step: int) -> torch.Tensor:
        rng = Random(f"{recipe.seed}/judge/{step}")
        scenes = [sample_scene(rng) for _ in range(recipe.judge_batch)]
        images = render(scenes, seed=rng.randrange(2**31))
        g = torch.Generator().manual_seed(step)
        images = images + 0.06 * torch.rand(len(scenes), 1, 1, 1, generator=g) * torch.randn(images.shape, generator=g)
        return judge.code_loss(model(images), torch.tensor([scene_code(s) for s in scenes]))

    groups = [{"params": list(model.parameters()), "lr": recipe.judge_rate}]
    fit(Stage("judge", work, recipe.judge_steps, 100, recipe), model, groups, loss_at)
    return model


def train_scorer(work: Path, recipe: Recipe, autoencoder: PatchAutoencoder) -> scorer.Training:
    """Train the open_clip scorer."""
    training = scorer.Training(recipe.seed + 2)

    def loss_at(step: int) -> torch.Tensor:
        scenes, images = scorer.batch(recipe.seed + 2, step, recipe.scorer_batch)
        images = scorer.degrade(images, autoencoder, torch.Generator().manual_seed(step))
        return training.loss(images, scenes, Random(f"{recipe.seed}/edits/{step}"))

    groups = [{"params": list(training.parameters()), "lr": recipe.scorer_rate}]
    for steps in recipe.scorer_cycles:
        fit(Stage("scorer", work, steps, 200, recipe, decay_share=0.5), training, groups, loss_at)
    return training


def train_diffusion(
    work: Path, recipe: Recipe, autoencoder: PatchAutoencoder, device: torch.device
) -> tuple[diffusion.Training, dict[str, Any]]:
    """Text warm-up, then text encoder and U-Net together; returns the averaged model and its counters."""
    training = diffusion.Training(recipe.seed + 3, recipe.latent_channels).to(device)

    def text_loss_at(step: int) -> torch.Tensor:
        return training.text_loss(*diffusion.text_batch(recipe.seed + 3, step, recipe.text_batch))

    text = [*training.text_encoder.parameters(), *training.text_heads.parameters()]
    stage = Stage("text", work, recipe.text_steps, 100, recipe)
    fit(stage, training, [{"params": text, "lr": recipe.text_rate}], text_loss_at)
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
    stage = Stage("diffusion", work, steps, warmup, recipe, unit=recipe.batch)
    counters = fit(stage, training, groups, loss_at, average)
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
    save_pipeline(pipe, out / "pipeline")
    write_facts(out, recipe, stages, device)
    print(f"exported to {out}")


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run the stages."""
    parser = argparse.ArgumentParser(
        prog="python -m postdiff_calib.models.shapes.train", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("--work", type=Path, default=Path("runs/shapes"), help="folder for checkpoints")
    parser.add_argument("--out", type=Path, help="folder the exported weights go to (default: the package's)")
    parser.add_argument(
        "--stage", choices=STAGES + FLOW_STAGES, action="append", help="run these stages only (default: all of shapes)"
    )
    parser.add_argument("--samples", type=int, help="diffusion or flow training samples (default: the recipe's)")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: torch's own)")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="for the diffusion and flow stages"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes that draw the flow stage's batches ahead")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    stages = args.stage or STAGES
    length = {} if args.samples is None else {"samples": args.samples}
    if set(stages) & set(FLOW_STAGES):
        flow_recipe = flow_training.FlowRecipe(seed=args.seed, **length)
        parts = flow_training.load_parts(WEIGHTS)
        if "flow" in stages:
            flow_training.train_flow(args.work, flow_recipe, parts, device, args.workers)
        if "flow-export" in stages:
            flow_training.export_flow(args.work, flow_recipe, parts, args.out or FLOW_WEIGHTS, device)
    if not set(stages) & set(STAGES):
        return
    recipe = Recipe(seed=args.seed, **length)
    autoencoder = train_autoencoder(args.work, recipe)
    if "judge" in stages:
        train_judge(args.work, recipe)
    if "scorer" in stages:
        train_scorer(args.work, recipe, autoencoder)
    if "diffusion" in stages:
        train_diffusion(args.work, recipe, autoencoder, device)
    if "export" in stages:
        export(args.work, recipe, args.out or WEIGHTS, device)


if __name__ == "__main__":
    main()
