"""Which noise at the resolution switch? Fresh noise, the complement of the start, and half of each, on equal terms.

The embedded model at five settings of s, β, k and m; every image is compared with the baseline's of the same prompt and
seed. *Fresh* is the package's ``coupled``: a start pooled from the seed's own noise, and a draw at the switch. *Half*
adds complement and fresh noise, each times √½. Prompts are the held-out ones of a calibration; the seed of prompt i
is i. The same options give the same images.

Readings are kept block by block in a file outside the repository (``--work``), so a stopped run goes on where it was.

    python benchmarks/switch_noise.py
    python benchmarks/switch_noise.py --num-prompts 20 --work /tmp/few.jsonl --out /tmp/few.json

The result: per setting and noise the mean difference to the baseline in CLIP score and in scenes right (percentage
points), each with 1.96 standard errors, the standard deviation of the CLIP difference over prompts, and the mean SSIM
to the baseline's image; the difference of complement (and half) to fresh on the same prompts; and the raw readings.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from postdiff_calib.accelerate import attachment
from postdiff_calib.files.pixels import rounded
from postdiff_calib.generate import generate
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.load import load_pipeline
from postdiff_calib.models.shapes.judge import SceneJudge
from postdiff_calib.prompts import draw, load_prompt_set
from postdiff_calib.quality.clip import ClipScorer
from postdiff_calib.quality.fidelity import ssim

RESULT = Path(__file__).parent / "results" / "switch_noise.json"
SETTINGS = (
    Knobs(20, 0.5, 0.5),
    Knobs(20, 0.3, 0.5),
    Knobs(20, 0.5, 0.75),
    Knobs(20, 0.2, 0.5),
    Knobs(20, 0.5, 0.5, 2, 0.75),
)
MODES = ("fresh", "half", "complement")
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
    stock = attachment.renoised

    def mixed(clean, noise, start, alpha, sigma, pool):
        generators = [torch.Generator().manual_seed(FRESH_SEEDS + seed) for seed in seeds]
        drawn = torch.stack([torch.randn(start.shape[1:], generator=g) for g in generators]).to(start.device)
        ours = stock(torch.zeros_like(start), noise, start, 0.0, 1.0, pool)
        return alpha * clean + sigma * math.sqrt(0.5) * (ours + drawn)

    attachment.renoised = mixed
    try:
        yield
    finally:
        attachment.renoised = stock


class Bench:
    """Makes images of some prompts and reads them."""

    def __init__(self, prompts: list[str]) -> None:
        self.loaded = load_pipeline("shapes", device="cpu", dtype="auto")
        self.scorer, self.judge, self.prompts = ClipScorer(self.loaded.card.scorer), SceneJudge(), prompts

    def images(self, knobs: Knobs, indices: list[int], noise: str) -> torch.Tensor:
        """Images (B, 3, H, W) of some prompts with a noise of the package."""
        card = self.loaded.card
        settings = GenerationSettings(
            height=card.height,
            width=card.width,
            guidance_scale=card.guidance_scale,
            batch_size=len(indices),
            noise=noise,
            latent_multiple=card.latent_multiple,
        )
        texts = [self.prompts[i] for i in indices]
        return torch.cat(list(generate(self.loaded.pipe, knobs, texts, indices, settings)))

    def in_mode(self, knobs: Knobs, indices: list[int], mode: str) -> torch.Tensor:
        """Images of one of ``MODES``."""
        if mode == "fresh":
            return self.images(knobs, indices, "coupled")
        if mode == "complement":
            return self.images(knobs, indices, "complement")
        with half_and_half(indices):
            return self.images(knobs, indices, "complement")

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

    def block(self, indices: list[int]) -> Readings:
        """Readings of some prompts: those of the baseline, and of each setting and mode."""
        baseline = self.images(Knobs(self.loaded.card.num_inference_steps), indices, "coupled")
        found = {"baseline": self.readings(baseline, baseline, indices)}
        for number, knobs in enumerate(SETTINGS):
            for mode in MODES:
                images = self.in_mode(knobs, indices, mode)
                found[f"{number} {mode}"] = self.readings(images, baseline, indices)
        return found


def kept_or_made(bench: Bench, indices: list[int], work: Path) -> Readings:
    """A block's readings, from the file where an earlier run of the same model, prompts and settings left them."""
    facts = [bench.loaded.fingerprint, [bench.prompts[i] for i in indices], indices]
    facts += [[knobs.as_dict() for knobs in SETTINGS], MODES]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    for line in work.read_text().splitlines() if work.exists() else []:
        kept = json.loads(line)
        if kept["of"] == key:
            return kept["readings"]  # type: ignore[no-any-return]
    found = bench.block(indices)
    with work.open("a") as file:
        file.write(json.dumps({"of": key, "readings": found}) + "\n")
    return found


def interval(values: np.ndarray) -> list[float]:
    """The mean and 1.96 standard errors."""
    return [round(float(values.mean()), 4), round(float(WIDTH * values.std(ddof=1) / math.sqrt(len(values))), 4)]


def summary(raw: Readings) -> list[dict[str, object]]:
    """A row for each setting: what each mode differs from the baseline by, and from fresh noise."""
    arrays = {name: {m: np.array(found[m], dtype=float) for m in METRICS} for name, found in raw.items()}
    rows: list[dict[str, object]] = []
    for number, knobs in enumerate(SETTINGS):
        row: dict[str, object] = {"setting": knobs.describe()}
        for mode in MODES:
            own, fresh, base = arrays[f"{number} {mode}"], arrays[f"{number} fresh"], arrays["baseline"]
            row[mode] = {
                "clip": interval(own["clip"] - base["clip"]),
                "clip_spread": round(float((own["clip"] - base["clip"]).std(ddof=1)), 4),
                "scene": interval(own["scene"] - base["scene"]),
                "ssim": interval(own["ssim"]),
                **({"less_fresh": {m: interval(own[m] - fresh[m]) for m in METRICS}} if mode != "fresh" else {}),
            }
        rows.append(row)
    return rows


def overall(raw: Readings) -> dict[str, object]:
    """Differences to fresh noise, each prompt's averaged over the settings first."""
    return {
        mode: {
            m: interval(
                np.mean([np.subtract(raw[f"{i} {mode}"][m], raw[f"{i} fresh"][m]) for i in range(len(SETTINGS))], 0)
            )
            for m in METRICS
        }
        for mode in MODES[1:]
    }


def table(rows: list[dict]) -> str:
    """The summary as Markdown."""
    lines = ["| setting | noise | CLIP | its spread | scenes right | SSIM | CLIP less fresh |", "|" + " --- |" * 7]
    for row in rows:
        for mode in MODES:
            found = row[mode]
            less = "{:+.2f} ± {:.2f}".format(*found["less_fresh"]["clip"]) if mode != "fresh" else ""
            lines.append(
                "| {} | {} | {:+.2f} ± {:.2f} | {:.2f} | {:+.1f} ± {:.1f} | {:.3f} | {} |".format(
                    row["setting"] if mode == MODES[0] else "",
                    mode,
                    *found["clip"],
                    found["clip_spread"],
                    *found["scene"],
                    found["ssim"][0],
                    less,
                )
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-prompts", type=int, default=340)
    parser.add_argument("--block", type=int, default=20, help="prompts made together")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of prompts")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "switch_noise.readings.jsonl")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    _, held_out = draw(load_prompt_set("shapes"), options.num_prompts, options.seed)
    bench = Bench(list(held_out.prompts))
    blocks = []
    for first in range(0, options.num_prompts, options.block):
        indices = list(range(first, min(first + options.block, options.num_prompts)))
        blocks.append(kept_or_made(bench, indices, options.work))
        print(f"{indices[-1] + 1}/{options.num_prompts}", flush=True)
    raw = {n: {m: [v for block in blocks for v in block[n][m]] for m in METRICS} for n in blocks[0]}
    rows = summary(raw)
    result = {
        "about": {
            "model": "shapes",
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
        "less_fresh_over_all_settings": overall(raw),
        "raw": raw,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result) + "\n")
    print(table(rows))
    print(json.dumps(result["less_fresh_over_all_settings"]))


if __name__ == "__main__":
    main()
