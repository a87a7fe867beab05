"""Prints an embedded model's gates: autoencoder, scorer on true images, and generated images read by the judge.

    python benchmarks/shapes_gates.py [--model shapes-flow] [--num 1000] [--out benchmarks/results]

The judge is a classifier trained apart from the scorer (``judge`` in the weights' folder). Held-out captions are those
that no training batch drew. Writes the figures as JSON and a grid of 64 samples as PNG; exit code 1 when a gate fails.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from PIL import Image, ImageDraw

from postdiff_calib.models.load import load_pipeline
from postdiff_calib.models.shapes import diffusion, gates, judge
from postdiff_calib.models.shapes.drawing import render
from postdiff_calib.models.shapes.flow_training import FlowRecipe
from postdiff_calib.models.shapes.train import FLOW_WEIGHTS, WEIGHTS, Recipe
from postdiff_calib.models.shapes.world import Scene, sample_scene


def drawn(model: str) -> Iterator[list[Scene]]:
    """Every scene that the training of the judged networks drew: text warm-up and diffusion; then the flow's own."""
    recipes = [Recipe(**_facts(WEIGHTS)["recipe"])]
    for step in range(recipes[0].text_steps):
        yield diffusion.text_batch(recipes[0].seed + 3, step, recipes[0].text_batch)[0]
    batches = [(recipes[0].seed + 3, recipes[0].samples, recipes[0].batch)]
    if model == "shapes-flow":
        flow = FlowRecipe(**_facts(FLOW_WEIGHTS)["recipe"])
        batches.append((flow.seed + 4, flow.samples, flow.batch))
    for seed, samples, batch in batches:
        for step in range(samples // batch):
            rng = Random(f"{seed}/diffusion/{step}")
            yield [sample_scene(rng) for _ in range(batch)]


def _facts(weights: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((weights / "recipe.json").read_text())
    return facts


def grid(images: torch.Tensor, captions: list[str], path: Path, columns: int = 8, zoom: int = 2) -> None:
    """Images (N, 3, S, S) in [0, 1] with their captions below, as one PNG."""
    side, text = images.shape[-1] * zoom, 46
    rows = -(-len(captions) // columns)
    sheet = Image.new("RGB", (columns * (side + 8), rows * (side + text)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, caption in enumerate(captions):
        x, y = (i % columns) * (side + 8) + 4, (i // columns) * (side + text) + 2
        array = (images[i].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        sheet.paste(Image.fromarray(array).resize((side, side), Image.Resampling.NEAREST), (x, y))
        lines, line = [], ""
        for word in caption.split():
            if draw.textlength(f"{line} {word}", font_size=9) > side:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}".strip()
        draw.multiline_text((x, y + side + 1), "\n".join([*lines, line]), fill="black", font_size=9, spacing=1)
    sheet.save(path, optimize=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--model", choices=["shapes", "shapes-flow"], default="shapes")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--guidance-scale", type=float, default=None)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--batch-size", type=int, default=50)
    args = parser.parse_args()
    from open_clip import create_model_from_pretrained, get_tokenizer

    loaded = load_pipeline(args.model)
    card, pipe = loaded.card, loaded.pipe
    steps = args.steps or card.num_inference_steps
    scale = card.guidance_scale if args.guidance_scale is None else args.guidance_scale
    seen = gates.training_captions(drawn(args.model))
    scenes = gates.held_out_scenes(args.num, 0, seen)
    captions = [s.caption() for s in scenes]
    print(f"{len(seen)} training captions; {len(scenes)} held-out captions")
    reader = judge.SceneJudge()
    result: dict[str, object] = {"num": len(scenes), "steps": steps, "guidance_scale": scale}

    psnr = gates.autoencoder_db(pipe.vae, scenes, seed=1)
    result["autoencoder_db"] = psnr
    truth = render(scenes, seed=1)
    with torch.inference_mode():
        result["judge_on_true"] = judge.accuracies(reader.codes(truth), scenes)
        name = card.scorer
        clip, preprocess = create_model_from_pretrained(name)
        clip.eval()
        tokenizer = get_tokenizer(name)
        images = torch.stack(
            [preprocess(Image.fromarray((t * 255).round().byte().permute(1, 2, 0).numpy())) for t in truth]
        )
        features = torch.cat([clip.encode_image(chunk, normalize=True) for chunk in images.split(100)])
        scorer = gates.zero_shot(scenes, features, lambda c: clip.encode_text(tokenizer(c), normalize=True), seed=0)
    result["scorer_on_true"] = scorer

    start = time.monotonic()
    made = []
    for at in range(0, len(captions), args.batch_size):
        prompt = captions[at : at + args.batch_size]
        generators = [torch.Generator().manual_seed(at + i) for i in range(len(prompt))]
        out = pipe(prompt, num_inference_steps=steps, guidance_scale=scale, generator=generators, output_type="pt")
        made.append(out.images)
    generated = torch.cat(made)
    result["seconds_per_image"] = (time.monotonic() - start) / len(captions)
    drawn_right = judge.accuracies(reader.codes(generated), scenes)
    result["judge_on_generated"] = drawn_right
    result["machine"] = {
        "processor": platform.machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }

    failed = []
    wanted = gates.GENERATED_GATES | (gates.FLOW_GATES if args.model == "shapes-flow" else {})

    def line(what: str, value: float, gate: float | None, unit: str = "") -> None:
        verdict = "" if gate is None else ("pass" if value >= gate else "FAIL")
        if verdict == "FAIL":
            failed.append(what)
        print(f"{what:<38} {value:8.3f}{unit:<4} {'' if gate is None else f'gate {gate:g}':<10} {verdict}")

    line("autoencoder", psnr, gates.AUTOENCODER_GATE_DB, " dB")
    for key, value in result["judge_on_true"].items():  # type: ignore[attr-defined]
        line(f"judge, true images, {key}", value, None)
    for key, value in scorer.items():
        line(f"scorer, true images, {key}", value, gates.EDITED_GATE if key == "edited" else gates.SCORER_GATE)
    for key, value in drawn_right.items():
        line(f"generated (T={steps}), {key}", value, wanted.get(key))
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.model.replace("-", "_")
    (args.out / f"{file}_gates.json").write_text(json.dumps(result, indent=2) + "\n")
    grid(generated[:64], captions[:64], args.out / f"{file}_samples.png")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
