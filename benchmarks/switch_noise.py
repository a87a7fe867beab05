"""What to do at the resolution switch? Kinds of noise, and for a rectified flow ways to full size, on equal terms.

An embedded model at five settings of s, β, k and m; every image is compared with the baseline's of the same prompt and
seed. *Fresh* is the package's ``coupled``: a start pooled from the seed's own noise, and a draw at the switch. *Half*
adds complement and fresh noise, each times √½. With ``--model shapes-flow`` both noises are tried with ``--switch
expand`` too, and the complement with the two ways that have a grid of their own. Prompts are the held-out ones of a
calibration; the seed of prompt i is i. The same options give the same images.

Readings are kept in a file outside the repository (``--work``), so a stopped run goes on where it was; ``--minutes``
stops one at the next good place.

    python benchmarks/switch_noise.py
    python benchmarks/switch_noise.py --model shapes-flow --num-prompts 300 --block 25 --settings 0
    python benchmarks/switch_noise.py --num-prompts 20 --work /tmp/few.jsonl --out /tmp/few.json

The result: per setting and mode the mean difference to the baseline in CLIP score and in scenes right (percentage
points), each with 1.96 standard errors, the standard deviation of the CLIP difference over prompts, and the mean SSIM
to the baseline's image; the difference to one mode, fresh on ``shapes`` and the complement with ``renoise`` on
``shapes-flow``, on the same prompts; and the raw readings.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from postdiff_calib.accelerate import low_res
from postdiff_calib.files.pixels import rounded
from postdiff_calib.generate import generate
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.knobs import Knobs, settled
from postdiff_calib.models.families import denoiser_of
from postdiff_calib.models.load import load_pipeline
from postdiff_calib.models.shapes.judge import SceneJudge
from postdiff_calib.prompts import draw, load_prompt_set
from postdiff_calib.quality.clip import ClipScorer
from postdiff_calib.quality.fidelity import ssim
from postdiff_calib.techniques.noise import SWITCH_WAYS

RESULTS = {"shapes": "switch_noise.json", "shapes-flow": "switch_noise_flow.json"}
SETTINGS = (
    Knobs(20, 0.5, 0.5),
    Knobs(20, 0.3, 0.5),
    Knobs(20, 0.5, 0.75),
    Knobs(20, 0.2, 0.5),
    Knobs(20, 0.5, 0.5, 2, 0.75),
)
#: Name → noise and way to full size of the package; ``half`` is made here.
PLAIN = {"fresh": ("coupled", "renoise"), "half": ("complement", "renoise"), "complement": ("complement", "renoise")}
WAYS = {
    "fresh": ("coupled", "renoise"),
    "complement": ("complement", "renoise"),
    "fresh, expand": ("coupled", "expand"),
    **{f"complement, {way}": ("complement", way) for way in SWITCH_WAYS if way != "renoise"},
}
MODES = {"shapes": PLAIN, "shapes-flow": WAYS}
#: What the others are compared with on the same prompts.
REFERENCE = {"shapes": "fresh", "shapes-flow": "complement"}
METRICS = ("clip", "scene", "ssim")
#: Half-width of a 95 % interval, in standard errors.
WIDTH = 1.96
#: The draws of ``half`` are other than those of any prompt's start: their seeds begin here.
FRESH_SEEDS = 10**9


#: Setting and mode, or ``baseline`` → metric → a value for each prompt.
Readings = dict[str, dict[str, list[float]]]


@contextmanager
def half_and_half(seeds: list[int]) -> Iterator[None]:
    """For the length of the block, the switch takes √½ of the complement and √½ of noise drawn from ``seeds``."""
    stock = low_res.renoised

    def mixed(clean, noise, start, alpha, sigma, pool):
        generators = [torch.Generator().manual_seed(FRESH_SEEDS + seed) for seed in seeds]
        drawn = torch.stack([torch.randn(start.shape[1:], generator=g) for g in generators]).to(start.device)
        ours = stock(torch.zeros_like(start), noise, start, 0.0, 1.0, pool)
        return alpha * clean + sigma * math.sqrt(0.5) * (ours + drawn)

    low_res.renoised = mixed
    try:
        yield
    finally:
        low_res.renoised = stock


class Bench:
    """Makes images of some prompts and reads them."""

    def __init__(self, model: str, prompts: list[str]) -> None:
        self.model, self.loaded = model, load_pipeline(model, device="cpu", dtype="auto")
        self.scorer, self.judge, self.prompts = ClipScorer(self.loaded.card.scorer), SceneJudge(), prompts

    def images(self, knobs: Knobs, indices: list[int], noise: str, switch: str = "renoise") -> torch.Tensor:
        """Images (B, 3, H, W) of some prompts with a noise and a way to full size of the package."""
        card = self.loaded.card
        settings = GenerationSettings(
            height=card.height,
            width=card.width,
            guidance_scale=card.guidance_scale,
            batch_size=len(indices),
            noise=noise,
            switch=switch,
            latent_multiple=card.latent_multiple,
        )
        texts = [self.prompts[i] for i in indices]
        return torch.cat(list(generate(self.loaded.pipe, knobs, texts, indices, settings)))

    def in_mode(self, knobs: Knobs, indices: list[int], mode: str) -> torch.Tensor:
        """Images of one of ``MODES``."""
        noise = MODES[self.model][mode]
        if mode != "half":
            return self.images(knobs, indices, *noise)
        with half_and_half(indices):
            return self.images(knobs, indices, *noise)

    def readings(self, images: torch.Tensor, baseline: torch.Tensor, indices: list[int]) -> dict[str, list[float]]:
        """Each metric's values, one for each image."""
        texts = [self.prompts[i] for i in indices]
        clip, scene = self.scorer.score(images, texts), self.judge.score(images, texts)
        near = ssim(rounded(images), rounded(baseline))
        return {
            "clip": [round(float(v), 4) for v in clip],
            "scene": [round(float(v)) for v in scene],
            "ssim": [round(v, 4) for v in near],
        }

    def read(self, number: int | None, indices: list[int], baseline: torch.Tensor) -> Readings:
        """Readings of some prompts: those of the baseline, or of each mode of a setting."""
        if number is None:
            return {"baseline": self.readings(baseline, baseline, indices)}
        knobs = settled(SETTINGS[number].chosen(), self.loaded.card.num_inference_steps, self.lacks)
        found = {}
        for mode in MODES[self.model]:
            images = self.in_mode(knobs, indices, mode)
            found[f"{number} {mode}"] = self.readings(images, baseline, indices)
        return found

    @property
    def lacks(self) -> tuple[str, ...]:
        """What the network has not."""
        return denoiser_of(getattr(self.loaded.pipe, self.loaded.card.denoiser_role)).lacks

    def block(self, indices: list[int], settings: list[int], work: Path, until: float) -> Readings | None:
        """All readings of some prompts, as far as an earlier run of the same images left them in the file.

        None where the time is over before all were made.
        """
        parts: list[int | None] = [None, *settings]
        facts = [self.loaded.fingerprint, [self.prompts[i] for i in indices], indices, list(MODES[self.model])]
        keys = [json.dumps([*facts, None if p is None else SETTINGS[p].as_dict()]) for p in parts]
        keys = [hashlib.sha256(key.encode()).hexdigest() for key in keys]
        lines = [json.loads(line) for line in work.read_text().splitlines()] if work.exists() else []
        kept = {line["of"]: line["readings"] for line in lines}
        if not set(keys) <= set(kept):
            baseline = self.images(Knobs(self.loaded.card.num_inference_steps), indices, "coupled")
        for part, key in zip(parts, keys, strict=True):
            if key in kept:
                continue
            if time.monotonic() > until:
                return None
            kept[key] = self.read(part, indices, baseline)
            with work.open("a") as file:
                file.write(json.dumps({"of": key, "readings": kept[key]}) + "\n")
        return {name: values for key in keys for name, values in kept[key].items()}


def interval(values: np.ndarray) -> list[float]:
    """The mean and 1.96 standard errors."""
    return [round(float(values.mean()), 4), round(float(WIDTH * values.std(ddof=1) / math.sqrt(len(values))), 4)]


def summary(raw: Readings, settings: list[int], modes: list[str], reference: str) -> list[dict[str, object]]:
    """A row for each setting: what each mode differs from the baseline by, and from the reference."""
    arrays = {name: {m: np.array(found[m], dtype=float) for m in METRICS} for name, found in raw.items()}
    rows: list[dict[str, object]] = []
    for number in settings:
        row: dict[str, object] = {"setting": SETTINGS[number].describe()}
        for mode in modes:
            own, other, base = arrays[f"{number} {mode}"], arrays[f"{number} {reference}"], arrays["baseline"]
            less = {f"less_{reference}": {m: interval(own[m] - other[m]) for m in METRICS}}
            row[mode] = {
                "clip": interval(own["clip"] - base["clip"]),
                "clip_spread": round(float((own["clip"] - base["clip"]).std(ddof=1)), 4),
                "scene": interval(own["scene"] - base["scene"]),
                "ssim": interval(own["ssim"]),
                **(less if mode != reference else {}),
            }
        rows.append(row)
    return rows


def overall(raw: Readings, settings: list[int], modes: list[str], reference: str) -> dict[str, object]:
    """Differences to the reference, each prompt's averaged over the settings first."""
    return {
        mode: {
            m: interval(np.mean([np.subtract(raw[f"{i} {mode}"][m], raw[f"{i} {reference}"][m]) for i in settings], 0))
            for m in METRICS
        }
        for mode in modes
        if mode != reference
    }


def table(rows: list[dict], modes: list[str], reference: str) -> str:
    """The summary as Markdown."""
    heads = [
        "setting",
        "mode",
        "CLIP",
        "its spread",
        "scenes right",
        "SSIM",
        *(f"{m} less {reference}" for m in METRICS),
    ]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for row in rows:
        for mode in modes:
            found = row[mode]
            less = found.get(f"less_{reference}")
            cells = [
                row["setting"] if mode == modes[0] else "",
                mode,
                "{:+.2f} ± {:.2f}".format(*found["clip"]),
                f"{found['clip_spread']:.2f}",
                "{:+.1f} ± {:.1f}".format(*found["scene"]),
                f"{found['ssim'][0]:.3f}",
                *("{:+.2f} ± {:.2f}".format(*less[m]) if less else "" for m in METRICS),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODES), default="shapes")
    parser.add_argument("--num-prompts", type=int, default=340)
    parser.add_argument(
        "--settings", type=int, nargs="+", default=list(range(len(SETTINGS))), metavar="N", help="some of the five"
    )
    parser.add_argument("--block", type=int, default=20, help="prompts made together")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of prompts")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "switch_noise.readings.jsonl")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after about so many, with status 3")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    settings = [number for number in range(len(SETTINGS)) if number in options.settings]
    until = time.monotonic() + 60 * options.minutes
    out = options.out or Path(__file__).parent / "results" / RESULTS[options.model]
    modes, reference = list(MODES[options.model]), REFERENCE[options.model]

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    _, held_out = draw(load_prompt_set("shapes"), options.num_prompts, options.seed)
    bench = Bench(options.model, list(held_out.prompts))
    blocks = []
    for first in range(0, options.num_prompts, options.block):
        indices = list(range(first, min(first + options.block, options.num_prompts)))
        found = bench.block(indices, settings, options.work, until)
        if found is None:
            return 3
        blocks.append(found)
        print(f"{indices[-1] + 1}/{options.num_prompts}", flush=True)
    raw = {n: {m: [v for block in blocks for v in block[n][m]] for m in METRICS} for n in blocks[0]}
    rows = summary(raw, settings, modes, reference)
    result = {
        "about": {
            "model": options.model,
            "fingerprint": bench.loaded.fingerprint,
            "scorer_sha256": bench.scorer.weights_sha256,
            "judge_sha256": bench.judge.weights_sha256,
            "prompts": f"held-out prompts of draw(shapes, {options.num_prompts}, {options.seed}); seed = index",
            "prompts_sha256": held_out.sha256,
            "batch_size": options.block,
            "threads": torch.get_num_threads(),
            "machine": platform.processor() or platform.machine(),
            "versions": {
                name: version(name) for name in ("postdiff", "torch", "diffusers", "open_clip_torch", "numpy")
            },
        },
        "settings": rows,
        f"less_{reference}_over_all_settings": overall(raw, settings, modes, reference),
        "raw": raw,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result) + "\n")
    print(table(rows, modes, reference))
    print(json.dumps(result[f"less_{reference}_over_all_settings"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
