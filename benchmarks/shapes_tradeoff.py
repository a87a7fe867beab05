"""Is the trade-off real? An embedded model's score under single knobs and mixed plans, paired, on common seeds.

    python benchmarks/shapes_tradeoff.py [--model shapes-flow] [--num 500] [--out benchmarks/results]

Prints, per plan, its MACs, mean paired difference of the score to the baseline with standard error, how many standard
errors that is, and the difference in the share of scenes that the judge finds right; then, for ``shapes``, checks that
the costly settings lose, and for both that a plan at 60 % of the MACs or less does not. Writes the values per prompt.
Readings are kept plan by plan in a file outside the repository (``--work``), so a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from postdiff_calib.accelerate.low_res import way_of
from postdiff_calib.cost.build import table_for_card
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.knobs import Knobs, settled
from postdiff_calib.models.families import denoiser_of
from postdiff_calib.models.load import load_pipeline
from postdiff_calib.models.shapes.judge import SceneJudge
from postdiff_calib.plan import compile_plan
from postdiff_calib.prompts import draw, load_prompt_set
from postdiff_calib.quality.clip import ClipScorer
from postdiff_calib.quality.health import HealthError
from postdiff_calib.scores.evaluator import ImageEvaluator

#: Each must lose by at least so many standard errors.
MUST_LOSE = {Knobs(4): 5, Knobs(20, cache_interval=5): 3, Knobs(20, guidance_fraction=0.3): 3, Knobs(20, 0.8, 0.375): 3}
OTHERS = [
    Knobs(2),
    Knobs(8),
    Knobs(12),
    Knobs(20, cache_interval=2),
    Knobs(20, cache_interval=3),
    Knobs(20, guidance_fraction=0.75),
    Knobs(20, guidance_fraction=0.6),
    Knobs(20, 0.2, 0.5),
    Knobs(20, 0.3, 0.5),
    Knobs(20, 0.3, 0.75),
    Knobs(20, 0.5, 0.5),
    Knobs(20, 0.5, 0.75),
    Knobs(20, 0.3, 0.75, 2, 0.75),
    Knobs(20, 0.5, 0.5, 2, 0.75),
]
#: A plan of at most this share of the MACs must stay within so many standard errors.
CHEAP_SHARE, WITHIN = 0.6, 2


class Kept:
    """Readings of an earlier, stopped run of the same model, prompts and settings, from a JSON Lines file."""

    def __init__(self, path: Path, facts: object) -> None:
        self.path, self.of = path, hashlib.sha256(repr(facts).encode()).hexdigest()
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        self.found = {line["plan"]: line for line in lines if line["of"] == self.of}

    def read(self, evaluator: ImageEvaluator, knobs: Knobs, indices: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Scores, and 100 where a scene is right; made, and kept, where the file lacks them."""
        plan = knobs.describe()
        if plan not in self.found:
            made = evaluator.measured(knobs, indices)
            line = {"of": self.of, "plan": plan, "scores": made.scores, "scene": made.measures["scene"]}
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            self.found[plan] = line
        return np.array(self.found[plan]["scores"]), np.array(self.found[plan]["scene"])


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--model", choices=["shapes", "shapes-flow"], default="shapes")
    parser.add_argument("--num", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guidance-scale", type=float, default=None)
    parser.add_argument("--switch", help="way to full size; the default of the model's scheduler where none is named")
    parser.add_argument("--only-gates", action="store_true", help="skip the plans that no gate is about")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "shapes_tradeoff.readings.jsonl")
    args = parser.parse_args()
    loaded = load_pipeline(args.model)
    card = loaded.card
    scorer = ClipScorer(card.scorer, device=loaded.device)
    _, prompts = draw(load_prompt_set(card.prompt_set), args.num, args.seed)
    scale = card.guidance_scale if args.guidance_scale is None else args.guidance_scale
    settings = GenerationSettings(
        height=card.height,
        width=card.width,
        guidance_scale=scale,
        batch_size=25,
        latent_multiple=card.latent_multiple,
        switch=way_of(loaded.pipe.scheduler, args.switch),
    )
    evaluator = ImageEvaluator(loaded.pipe, scorer, prompts.prompts, args.seed, settings, judge=SceneJudge())
    lacks = denoiser_of(getattr(loaded.pipe, card.denoiser_role)).lacks
    table = table_for_card(card, guidance_scale=scale)
    baseline = Knobs(card.num_inference_steps)
    everyone = list(range(args.num))

    kept = Kept(args.work, (loaded.fingerprint, prompts.sha256, args.seed, settings))

    def read(knobs: Knobs) -> tuple[np.ndarray, np.ndarray]:
        return kept.read(evaluator, knobs, everyone)

    reference, right = read(baseline)
    whole = table.price(compile_plan(baseline)).macs
    said = f"{reference.mean():.3f}, {right.mean():.1f} % of scenes right"
    print(f"guidance scale {scale:g}, {args.num} prompts, {baseline.describe()}: {said}")
    rows, failed, cheap_enough = [], [], []
    must_lose = MUST_LOSE if args.model == "shapes" else {}
    for listed in [*MUST_LOSE, *([] if args.only_gates else OTHERS)]:
        knobs = settled(listed.chosen(), card.num_inference_steps, lacks)
        try:
            scores, scenes = read(knobs)
        except HealthError as error:
            print(f"{knobs.describe():<30} broken: {error}", flush=True)
            continue
        difference, scene = scores - reference, scenes - right
        error = difference.std(ddof=1) / np.sqrt(args.num)
        share = table.price(compile_plan(knobs)).macs / whole
        t = difference.mean() / error
        gate = ""
        if listed in must_lose:
            gate = "pass" if t <= -must_lose[listed] else "FAIL"
            gate += f" (must lose by {must_lose[listed]} standard errors)"
            failed += [knobs] if gate.startswith("FAIL") else []
        if share <= CHEAP_SHARE and t >= -WITHIN:
            cheap_enough.append(knobs.describe())
        print(
            f"{knobs.describe():<30} {share:5.0%}  {difference.mean():+7.3f} ± {error:.3f}  t {t:+6.1f}  "
            f"{scene.mean():+6.1f} ± {scene.std(ddof=1) / np.sqrt(args.num):.1f}  {gate}",
            flush=True,
        )
        rows.append(
            {
                "knobs": knobs.as_dict(),
                "relative_macs": share,
                "difference": difference.round(4).tolist(),
                "scene_difference": scene.astype(int).tolist(),
            }
        )
    print(
        f"within {WITHIN} standard errors at {CHEAP_SHARE:.0%} of the MACs or less: {', '.join(cheap_enough) or 'none'}"
    )
    machine = {"processor": platform.machine(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    facts = {"guidance_scale": scale, "switch": settings.switch, "seed": args.seed, "machine": machine}
    facts["baseline"] = reference.round(4).tolist()
    facts["baseline_scenes_right"] = float(right.mean())
    if not args.only_gates:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / f"{args.model.replace('-', '_')}_tradeoff.json").write_text(
            json.dumps({**facts, "plans": rows}) + "\n"
        )
    return 1 if failed or not (cheap_enough or args.only_gates) else 0


if __name__ == "__main__":
    sys.exit(main())
