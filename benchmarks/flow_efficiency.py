"""Does the speed-up on rectified-flow transformers reach what MACs promise, and how do other caches compare?

Timing: a FLUX-like and an SD3-like network of random weights, 12 blocks of width 768 (``--heads`` of 64 for another),
on 512 or 1024 image tokens, in their stock pipelines with guidance (two calls a step, and one batch), latents only,
float32. One thread, and its processor time, which other work on the machine hardly changes. Up to three settings run
between two runs of the stock pipeline and are compared with their mean. MACs are those of the package's own meter,
convention ``full``; efficiency = (seconds of stock ÷ seconds) ÷ (MACs of stock ÷ MACs); wanted: at least 0.9.

Beside k = 2 run diffusers' FirstBlockCache and TaylorSeerCache and the package cache-dit, each with as many full steps:
FirstBlockCache by a threshold that is searched for, the others by their interval or mask. ``ran`` counts calls of each
block's attention, so that what a cache skips is seen and not believed.

Distances: the same caches on ``shapes-flow``, T = 20, k = 2 and 3; ‖x − x₀‖/‖x₀‖ of the final latents against the
baseline of the same prompt and seed.

    python benchmarks/flow_efficiency.py --model flux --tokens 1024 --turns 1    (again for more turns)
    python benchmarks/flow_efficiency.py --distances 64
    python benchmarks/flow_efficiency.py --write

cache-dit is looked for where ``--packages`` says, and left out where it is not. Raw values are kept in ``--work``.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import math
import platform
import statistics
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from other_caches import RIVALS, Rival, blocks_of, counted, rival, threshold_for

from postdiff_calib.accelerate import NetworkAttachment, accelerated
from postdiff_calib.accelerate.network import Run
from postdiff_calib.cost.build import build_cost_table
from postdiff_calib.cost.setting import Setting
from postdiff_calib.knobs import Knobs, settled
from postdiff_calib.models.families import denoiser_of
from postdiff_calib.models.live import live_model
from postdiff_calib.plan import compile_plan

RESULT = Path(__file__).parent / "results" / "flow_efficiency_cpu.json"
STEPS, HEAD, BLOCKS = 4, 64, 12
#: Image height and width in pixels, of 8 × 8 to a latent pixel and 2 × 2 of those to a token.
SIZES = {512: (512, 256), 1024: (512, 512)}
LOW = {"low_res_fraction": 0.5, "low_res_scale": 0.5}
SETTINGS = {
    "hooks attached, neutral knobs": Knobs(STEPS),
    "k=2": Knobs(STEPS, cache_interval=2),
    "k=2, first block live": Knobs(STEPS, cache_interval=2, cache_branch=0),
    "m=.75": Knobs(STEPS, guidance_fraction=0.75),
    "s=.5 β=.5": Knobs(STEPS, **LOW),
    "all together": Knobs(STEPS, cache_interval=2, guidance_fraction=0.75, **LOW),
}
Call = Callable[[], torch.Tensor]


def flux_like(heads: int) -> tuple[Any, dict[str, Any]]:
    """A pipeline and the arguments of its call: 4 joint blocks and 8 of one stream, true guidance."""
    import pipelines
    from diffusers import FluxTransformer2DModel

    pipe, call = pipelines.flux(), {**pipelines.FAMILIES["flux"][1], "negative_prompt": "blue"}
    old = pipe.transformer.config
    torch.manual_seed(0)
    pipe.transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=BLOCKS // 3,
        num_single_layers=BLOCKS - BLOCKS // 3,
        attention_head_dim=HEAD,
        num_attention_heads=heads,
        joint_attention_dim=old.joint_attention_dim,
        pooled_projection_dim=old.pooled_projection_dim,
        axes_dims_rope=(16, 24, 24),
        guidance_embeds=True,
    ).eval()
    return pipe, call


def sd3_like(heads: int) -> tuple[Any, dict[str, Any]]:
    """A pipeline and the arguments of its call: 12 joint blocks."""
    import pipelines

    width = {"num_layers": BLOCKS, "attention_head_dim": HEAD, "num_attention_heads": heads, "sample_size": 64}
    width |= {"caption_projection_dim": HEAD * heads, "pos_embed_max_size": 48}
    return pipelines.sd3(**width), dict(pipelines.FAMILIES["sd3"][1])


MODELS = {"flux": flux_like, "sd3": sd3_like}


def texts() -> dict[str, int]:
    """Text tokens that each network gets: CLIP's and T5's one behind the other, or T5's alone."""
    import pipelines

    return {"sd3": 2 * pipelines.LENGTH, "flux": pipelines.LENGTH}


def timed(function: Call) -> float:
    """Seconds of processor time."""
    gc.collect()
    begin = time.process_time()
    with torch.inference_mode():
        function()
    return time.process_time() - begin


def hook_seconds(pipe: Any, knobs: Knobs) -> float:
    """Time that the hooks add to a reuse step: every skipped block's call, and the outer two, for each network call."""
    plan, network = compile_plan(knobs), pipe.transformer
    hooks = NetworkAttachment(network, plan)
    part = hooks.parts["block caching"]
    hidden, text = torch.zeros(1, 4, 8), torch.zeros(1, 2, 8)
    blocks = blocks_of(network)[1:-1]
    part.holders[0].held = (text, hidden)
    part.apply()
    calls = [lambda block=block: block(hidden_states=hidden, encoder_hidden_states=text) for block in blocks]
    inner = min(timeit.repeat(lambda: [call() for call in calls], number=50, repeat=5)) / 50

    def outer() -> None:
        hooks.begin(Run(plan, 1))
        hooks._before(network, (), {"hidden_states": hidden})
        hooks._after(network, (), hidden)
        hooks.end()

    around = min(timeit.repeat(outer, number=50, repeat=5)) / 50
    hooks.detach()
    return inner + around


class Bench:
    """One network at one number of tokens: the stock pipeline, ours and the others on the same weights."""

    def __init__(self, model: str, heads: int, tokens: int, kept: dict[str, Any]) -> None:
        self.pipe, call = MODELS[model](heads)
        self.pipe.set_progress_bar_config(disable=True)
        height, width = SIZES[tokens]
        self.call = {**call, "height": height, "width": width, "num_inference_steps": STEPS, "output_type": "latent"}
        self.lacks = denoiser_of(self.pipe.transformer).lacks
        self.failed: dict[str, str] = dict(kept.get("failed", {}))
        scale = next(value for name, value in {"guidance_scale": 7.0, **call}.items() if name.endswith("scale"))
        loaded = live_model(self.pipe)
        # A derived card prices texts as long as the model takes; these are a few tokens.
        loaded = replace(loaded, card=replace(loaded.card, text_length=texts()[model]))
        setting = Setting(height=height, width=width, guidance_scale=scale, batch_size=1)
        table = build_cost_table(loaded, setting, measure=False)
        table.guides = True  # also where that is two calls
        self.macs = {name: table.price(compile_plan(self.settled(knobs))).macs for name, knobs in SETTINGS.items()}
        self.rivals: dict[str, Rival] = {}
        self.thresholds: dict[str, float] = dict(kept.get("thresholds", {}))
        for name in RIVALS:
            if name not in self.failed:
                self._add(name)

    def settled(self, knobs: Knobs) -> Knobs:
        """Without what the network has not."""
        return settled(knobs.chosen(), STEPS, self.lacks)

    def _add(self, name: str) -> None:
        def make(threshold: float) -> Rival:
            return rival(name, self.pipe, STEPS, 2, threshold)

        try:
            if name == "FirstBlockCache" and name not in self.thresholds:
                full = len(compile_plan(SETTINGS["k=2"]).refresh_steps)
                self.thresholds[name] = threshold_for(make, lambda other: self.run(other.pipe), full, STEPS)
            made = make(self.thresholds.get(name, 0.0))
            made.prepare()
            self.run(made.pipe)
            self.rivals[name] = made
        except Exception as error:  # another package's
            self.failed[name] = f"{type(error).__name__}: {error}".split("\n")[0][:200]

    @torch.inference_mode()
    def run(self, pipe: Any) -> torch.Tensor:
        """Final latents of one image."""
        return pipe("a red circle", generator=torch.Generator().manual_seed(0), **self.call).images

    def seconds(self, name: str) -> float:
        """One run of a setting or of another cache."""
        if name in self.rivals:
            self.rivals[name].prepare()
            return timed(lambda: self.run(self.rivals[name].pipe))
        if name == "stock":
            return timed(lambda: self.run(self.pipe))
        with accelerated(self.pipe, self.settled(SETTINGS[name])):
            return timed(lambda: self.run(self.pipe))

    def ran(self, name: str) -> list[int]:
        """How often each block's attention ran."""
        if name in self.rivals:
            self.rivals[name].prepare()
            with counted(self.rivals[name].pipe.transformer) as ran:
                self.run(self.rivals[name].pipe)
            return ran
        with accelerated(self.pipe, self.settled(SETTINGS[name])), counted(self.pipe.transformer) as ran:
            self.run(self.pipe)
        return ran

    def turn(self, number: int) -> dict[str, Any]:
        """Every setting and cache, three at a time between two runs of the stock pipeline; other turns other orders."""
        names = [*SETTINGS, *self.rivals]
        names = names if number % 2 == 0 else names[::-1]
        found: dict[str, float] = {}
        ratios: dict[str, float] = {}
        stock = [self.seconds("stock")]
        for bracket in (names[i : i + 3] for i in range(0, len(names), 3)):
            found |= {name: self.seconds(name) for name in bracket}
            stock.append(self.seconds("stock"))
            ratios |= {name: statistics.fmean(stock[-2:]) / found[name] for name in bracket}
        return {"stock": stock, "seconds": found, "speedups": ratios}


def timing_part(model: str, heads: int, tokens: int, turns: int, work: Path) -> None:
    """Add some turns to what the file keeps of one network and size."""
    kept = json.loads(work.read_text()) if work.exists() else {}
    name = f"{model} of width {HEAD * heads}, {tokens} tokens"
    own = kept.setdefault(name, {"turns": []})
    bench = Bench(model, heads, tokens, own)
    bench.seconds("stock")
    own |= {"macs": bench.macs, "failed": bench.failed, "thresholds": bench.thresholds}
    own["ran"] = {name: bench.ran(name) for name in ("k=2", "k=2, first block live", *bench.rivals)}
    own["parameters"] = sum(p.numel() for p in bench.pipe.transformer.parameters())
    own["hook_seconds"] = hook_seconds(bench.pipe, bench.settled(SETTINGS["k=2"]))
    for _ in range(turns):
        own["turns"].append(bench.turn(len(own["turns"])))
        work.write_text(json.dumps(kept))
        print(f"{name}: {len(own['turns'])} turns", flush=True)


def distances(count: int, work: Path) -> None:
    """Distances of every cache's final latents on ``shapes-flow``."""
    from postdiff_calib.models.load import load_pipeline
    from postdiff_calib.prompts import draw, load_prompt_set

    loaded = load_pipeline("shapes-flow", device="cpu", dtype="auto")
    pipe, card, steps, batch = loaded.pipe, loaded.card, loaded.card.num_inference_steps, 16
    pipe.set_progress_bar_config(disable=True)
    _, prompts = draw(load_prompt_set(card.prompt_set), count, 0)
    lacks = denoiser_of(pipe.transformer).lacks

    @torch.inference_mode()
    def latents(of: Any, first: int = 0, prepare: Callable[[], None] | None = None, end: int = count) -> torch.Tensor:
        rows = []
        for start in range(first, end, batch):
            if prepare is not None:
                prepare()
            chunk = range(start, min(start + batch, end))
            rows.append(
                of(
                    [prompts.prompts[i] for i in chunk],
                    generator=[torch.Generator().manual_seed(i) for i in chunk],
                    num_inference_steps=steps,
                    guidance_scale=card.guidance_scale,
                    height=card.height,
                    width=card.width,
                    output_type="latent",
                ).images
            )
        return torch.cat(rows)

    stock = latents(pipe)
    rows: dict[str, Any] = {}

    def note(name: str, interval: int, found: torch.Tensor, ran: list[int]) -> None:
        per = (found - stock).flatten(1).norm(dim=1) / stock.flatten(1).norm(dim=1)
        rows[f"{name}, k={interval}"] = {"distance": [round(float(v), 5) for v in per], "ran": ran}
        print(f"{name}, k={interval}: {float(per.mean()):.4f}, blocks ran {ran}", flush=True)

    for interval in (2, 3):
        full = len(compile_plan(Knobs(steps, cache_interval=interval)).refresh_steps)
        for ours, branch in (("postdiff", 1), ("postdiff, first block live", 0)):
            asked = Knobs(steps, cache_interval=interval, cache_branch=branch)
            with accelerated(pipe, settled(asked.chosen(), steps, lacks)), counted(pipe.transformer) as ran:
                found = latents(pipe)
            note(ours, interval, found, ran)
        for name in RIVALS:

            def make(threshold: float, name: str = name, interval: int = interval) -> Rival:
                return rival(name, pipe, steps, interval, threshold)

            def first_batch(other: Rival) -> torch.Tensor:
                return latents(other.pipe, end=batch)

            try:
                threshold = threshold_for(make, first_batch, full, steps) if name == "FirstBlockCache" else 0.0
                other = make(threshold)
                with counted(other.pipe.transformer) as ran:
                    found = latents(other.pipe, prepare=other.prepare)
                note(name, interval, found, ran)
            except Exception as error:  # another package's
                rows[f"{name}, k={interval}"] = {"failed": f"{type(error).__name__}: {error}".split("\n")[0][:200]}
                print(f"{name}, k={interval}: {rows[f'{name}, k={interval}']['failed']}", flush=True)
    kept = json.loads(work.read_text()) if work.exists() else {}
    kept["distances"] = {"num": count, "steps": steps, "batch": batch, "rows": rows}
    work.write_text(json.dumps(kept))


def timing_table(name: str, own: dict[str, Any]) -> list[str]:
    """One network's rows as Markdown."""
    lines = []
    for setting in [*SETTINGS, *(r for r in RIVALS if r not in own["failed"])]:
        speeds = [turn["speedups"][setting] for turn in own["turns"]]
        speed = statistics.median(speeds)
        cells = [name, setting, f"{speed:.3f} ({min(speeds):.3f} to {max(speeds):.3f})"]
        if setting in own["macs"]:
            promised = own["macs"]["hooks attached, neutral knobs"] / own["macs"][setting]
            cells += [f"{promised:.3f}", f"{speed / promised:.3f}"]
        else:
            cells += ["", ""]
        if setting in own["ran"]:
            ran = own["ran"][setting]
            cells += [f"{min(ran)} to {max(ran)}"]
        else:
            cells += [""]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def write(work: Path, out: Path) -> None:
    """The record and its tables."""
    kept = json.loads(work.read_text())
    packages = {}
    for package in ("torch", "diffusers", "cache-dit"):
        try:
            packages[package] = version(package)
        except importlib.metadata.PackageNotFoundError:
            packages[package] = "absent"
    facts = {"steps": STEPS, "machine": platform.processor() or platform.machine(), "versions": packages}
    facts["threads"] = torch.get_num_threads()
    out.write_text(json.dumps({"about": facts, **kept}) + "\n")
    print("| network, tokens | setting | speed-up | by MACs | efficiency | calls of a block |\n|" + " --- |" * 6)
    for name, own in kept.items():
        if name == "distances":
            continue
        print("\n".join(timing_table(name, own)))
    for name, own in kept.items():
        if name == "distances":
            continue
        medians = {s: statistics.median(t["seconds"][s] for t in own["turns"]) for s in own["turns"][0]["seconds"]}
        refreshes = len(compile_plan(SETTINGS["k=2"]).refresh_steps)
        reuse = (medians["k=2"] - medians["hooks attached, neutral knobs"] * refreshes / STEPS) / (STEPS - refreshes)
        share = 100 * own["hook_seconds"] / reuse
        print(f"{name}: hooks {1e6 * own['hook_seconds']:.0f} µs of a reuse step's {1e3 * reuse:.0f} ms: {share:.2f} %")
        print(f"{name}: {own['parameters'] / 1e6:.1f} M parameters; failed: {own['failed']}")
    print("| cache, refreshed every k steps | distance | calls of a block |\n|" + " --- |" * 3)
    for name, row in kept.get("distances", {"rows": {}})["rows"].items():
        values = row.get("distance")
        if values is None:
            print(f"| {name} | {row['failed']} | |")
            continue
        error = statistics.stdev(values) / math.sqrt(len(values))
        print(f"| {name} | {statistics.fmean(values):.4f} ± {error:.4f} | {min(row['ran'])} to {max(row['ran'])} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), help="time this network")
    parser.add_argument("--heads", type=int, default=12, help="of 64; width is 64 times as much")
    parser.add_argument("--tokens", type=int, choices=list(SIZES), default=1024)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--distances", type=int, default=0, metavar="N", help="of N prompts on shapes-flow")
    parser.add_argument("--write", action="store_true", help="write the record of what was kept, and print its tables")
    parser.add_argument("--packages", type=Path, default=None, help="folder of further packages")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "flow_efficiency.json")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.packages:
        sys.path.append(str(options.packages))
    if options.model:
        timing_part(options.model, options.heads, options.tokens, options.turns, options.work)
    if options.distances:
        distances(options.distances, options.work)
    if options.write:
        write(options.work, options.out)


if __name__ == "__main__":
    main()
