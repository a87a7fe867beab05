"""How well the cost table predicts seconds: random plans, predicted before they are run, against the clock.

One run builds the table (at most 40 kinds of step measured), draws plans at random from the search space, and times
each end to end in rounds that are interleaved and shuffled, so that a slow minute of the machine does not fall on a few
plans alone. The median over the rounds is compared with the prediction.

    python benchmarks/latency_prediction.py --model shapes
    python benchmarks/latency_prediction.py --random-weights sd15 --plans 8 --rounds 3

On a machine whose speed drifts, ``--interleaved`` measures the table's probe plans in the same rounds as the random
plans; what is predicted still knows nothing of the plans that it is compared with.

Raw values go to ``benchmarks/results/latency_prediction_<name>.json``, a table in Markdown beside it. Run it on a
machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from postdiff_calib.cost import build_cost_table
from postdiff_calib.cost.budget import format_seconds
from postdiff_calib.cost.latency import probes, run_plan, summarise
from postdiff_calib.cost.setting import Setting
from postdiff_calib.cost.timeline import Timeline
from postdiff_calib.models.card import Card
from postdiff_calib.models.cards import get_card
from postdiff_calib.models.load import LoadedModel, load_pipeline
from postdiff_calib.plan import StepPlan, compile_plan
from postdiff_calib.search.space import SearchSpace

TARGET_MEDIAN, TARGET_P95, TARGET_RANK = 0.04, 0.10, 0.98


def random_pipeline(card: Card, device: str, dtype: str) -> LoadedModel:
    """A pipeline of the card's own network sizes with random weights, for a Stable Diffusion card."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    device = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype if dtype != "auto" else ("bfloat16" if device.startswith("cuda") else "float32")
    # Only as many words as a padded prompt needs: the encoder's cost does not depend on the vocabulary.
    words = {"a</w>": 0, "image</w>": 1, "<|startoftext|>": 2, "<|endoftext|>": 3}
    words |= {letter: 4 + i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    words |= {f"{letter}</w>": 30 + i for i, letter in enumerate("bcdefghijklmnopqrstuvwxyz")}
    tokenizer = CLIPTokenizer(vocab=words, merges=[], model_max_length=card.text_length)
    text = {**card.network_config("text_encoder"), "vocab_size": len(words)}
    text |= {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 3}
    for name in ("architectures", "model_type"):
        text.pop(name)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
    pipe = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL.from_config(card.network_config("vae")),
        text_encoder=CLIPTextModel(CLIPTextConfig(**text)),
        tokenizer=tokenizer,
        unet=diffusers.UNet2DConditionModel.from_config(card.network_config("unet")),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.to(device, getattr(torch, dtype))
    for network in (pipe.unet, pipe.vae, pipe.text_encoder):
        network.eval()
    return LoadedModel(pipe, card, f"random weights of {card.name}", "", (), f"random-{card.name}", device, dtype)


def draw_plans(space: SearchSpace, count: int, seed: int) -> list[StepPlan]:
    """The baseline and ``count − 1`` other plans, T drawn evenly and then a plan of that T."""
    rng = random.Random(seed)
    by_steps: dict[int, list[StepPlan]] = {}
    for plan in space.plans:
        by_steps.setdefault(len(plan), []).append(plan)
    plans = {"baseline": compile_plan(space.baseline)}
    while len(plans) < count:
        plan = rng.choice(by_steps[rng.choice(sorted(by_steps))])
        plans.setdefault(plan.plan_id, plan)
    return list(plans.values())


def rank_correlation(a: list[float], b: list[float]) -> float:
    """Spearman's."""
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def measure(loaded: LoadedModel, options: argparse.Namespace) -> dict[str, Any]:
    card = loaded.card
    height, width = options.side or card.height, options.side or card.width
    setting = Setting(height, width, card.guidance_scale, options.batch_size, card.low_res_scales, quick=options.quick)
    start = time.perf_counter()
    setting = Setting(
        height=height,
        width=width,
        guidance_scale=card.guidance_scale,
        batch_size=options.batch_size,
        scales=card.low_res_scales,
        quick=options.quick,
    )
    table = build_cost_table(loaded, setting, measure=True, refresh=not options.interleaved)
    table_seconds = time.perf_counter() - start
    assert table.latency is not None
    space = SearchSpace.from_card(card, table.latent)
    plans = draw_plans(space, options.plans, options.seed)
    # Each probe plan several times a round: the table's medians rest on more samples than a plan's.
    known = probes(card.knobs, table, setting) * 3 if options.interleaved else []
    probe_runs: list[tuple[StepPlan, Timeline]] = []
    runs: list[list[float]] = [[] for _ in plans]
    order = random.Random(options.seed)
    for round_number in range(options.rounds + 1):
        for i in order.sample(range(len(plans) + len(known)), len(plans) + len(known)):
            plan = plans[i] if i < len(plans) else known[i - len(plans)]
            times = run_plan(loaded, table, setting, plan)
            if round_number and i < len(plans):  # round 0 warms up
                runs[i].append(times.total / options.batch_size)
            elif round_number:
                probe_runs.append((plan, times))
    if options.interleaved:
        table.latency = summarise(table, probe_runs, options.batch_size, None, dict(table.latency.environment))
    predicted = [table.price(plan).seconds or 0.0 for plan in plans]
    measured = [statistics.median(values) for values in runs]
    errors = sorted(abs(p / m - 1) for p, m in zip(predicted, measured, strict=True))
    # All predictions off by one factor: the machine changed its speed between the table and the plans.
    drift = statistics.median(m / p for p, m in zip(predicted, measured, strict=True))
    kinds = {key for plan in plans for key in table.keys(plan)}
    return {
        "model": loaded.source if card.name == "shapes" else f"{loaded.source}, {height}×{width}",
        "environment": dict(table.latency.environment),
        "table_seconds": table_seconds,
        "kinds_measured": len(table.latency.steps),
        "kinds_in_plans": len(kinds),
        "kinds_predicted": sum(not table.is_measured(key) for key in kinds),
        "rounds": options.rounds,
        "interleaved": options.interleaved,
        "median_error": statistics.median(errors),
        "p95_error": errors[min(len(errors) - 1, int(0.95 * len(errors)))],
        "drift": drift,
        "rank_correlation": rank_correlation(predicted, measured),
        "plans": [
            {
                "knobs": plan.knobs.describe(),
                "settings": asdict(plan.knobs),
                "predicted": p,
                "measured": m,
                "macs": table.price(plan).macs,
                "raw": raw,
            }
            for plan, p, m, raw in zip(plans, predicted, measured, runs, strict=True)
        ],
    }


def markdown(facts: dict[str, Any]) -> str:
    where = facts["environment"]
    lines = [
        f"# Predicted and measured seconds: {facts['model']}",
        "",
        f"{where['device_name']}, {where['dtype']}, batch {where['batch_size']}, torch {where['torch']}, "
        f"{len(facts['plans'])} random plans, median of {facts['rounds']} interleaved runs each. "
        f"{facts['kinds_measured']} kinds of step measured in {facts['table_seconds']:.0f} s; of the "
        f"{facts['kinds_in_plans']} kinds in these plans {facts['kinds_predicted']} were predicted.",
        "",
        "| | found | target |",
        "| --- | --- | --- |",
        f"| median absolute error | {100 * facts['median_error']:.1f} % | ≤ {100 * TARGET_MEDIAN:.0f} % |",
        f"| 95th percentile | {100 * facts['p95_error']:.1f} % | ≤ {100 * TARGET_P95:.0f} % |",
        f"| rank correlation | {facts['rank_correlation']:.4f} | ≥ {TARGET_RANK} |",
        "",
        f"Median of measured over predicted: {facts['drift']:.3f} (far from 1: the machine was not quiet).",
        "",
        "| plan | predicted | measured | error |",
        "| --- | --- | --- | --- |",
    ]
    for row in sorted(facts["plans"], key=lambda row: row["measured"]):
        error = 100 * (row["predicted"] / row["measured"] - 1)
        cells = row["knobs"], format_seconds(row["predicted"]), format_seconds(row["measured"]), f"{error:+.1f} %"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes", help="a card's name, a directory or a hub id")
    parser.add_argument("--random-weights", metavar="CARD", help="a Stable Diffusion card, with random weights")
    parser.add_argument("--plans", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=0, help="image side in pixels; 0 is the model's own")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="the short measurement that calibrate makes")
    parser.add_argument("--interleaved", action="store_true", help="measure table and plans in the same rounds")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if options.random_weights:
        loaded = random_pipeline(get_card(options.random_weights), options.device, options.dtype)
        name = f"random_{options.random_weights}"
    else:
        loaded = load_pipeline(options.model, device=options.device, dtype=options.dtype)
        name = loaded.card.name
    facts = measure(loaded, options)
    name += ("_quick" if options.quick else "") + ("" if loaded.device == "cpu" else f"_{loaded.device}")
    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.out / f"latency_prediction_{name}"
    stem.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    text = markdown(facts)
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
