"""Per-prompt scores of nearly five hundred plans of a model, to compare search strategies without making images.

The plans: the whole step-reduction arm; at the default T the whole s × β grid, every k and every m; and mixed corners
drawn evenly over the cost up to ``--most-expensive``. Every plan sees the same prompts with the same seeds. Scores are
kept plan by plan in a file beside the result, so a stopped run goes on where it was, several processes can each take a
share (``--shard``), and a last run without ``--shard`` gathers what they made.

    python benchmarks/search_table.py --device cuda
    python benchmarks/search_table.py --shard 0/2 & python benchmarks/search_table.py --shard 1/2; wait
    python benchmarks/search_table.py --model DIR --scorer local-dir:DIR --plans 4 --num-prompts 3 --out /tmp/t.npz

The result, an ``.npz`` of less than a megabyte: ``knobs`` (JSON), ``macs``, ``scores`` (plans, prompts),
``baseline`` (its row) and ``about`` (JSON: model, prompts, scorer, machine).
"""

from __future__ import annotations

import argparse
import json
import platform
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from postdiff_calib.cost.build import table_for_card
from postdiff_calib.generate import generate
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.load import load_pipeline
from postdiff_calib.plan import compile_plan
from postdiff_calib.prompts import draw, load_prompt_set
from postdiff_calib.quality import check_health
from postdiff_calib.quality.clip import ClipScorer
from postdiff_calib.quality.health import HealthError
from postdiff_calib.scores.book import ScoreBook
from postdiff_calib.scores.store import FileStore
from postdiff_calib.search.space import Candidate, SearchSpace

RESULTS = Path(__file__).parent / "results"


class ImageScores:
    """The evaluator: makes the images of some prompts and scores them; the seed of prompt i is i."""

    def __init__(self, loaded, scorer, prompts, batch_size) -> None:
        self.loaded, self.scorer, self.prompts, self.batch_size = loaded, scorer, prompts, batch_size

    def scores(self, knobs: Knobs, indices: list[int]) -> list[float]:
        """As ``evaluate.Evaluator``."""
        card = self.loaded.card
        texts = [self.prompts[i] for i in indices]
        settings = GenerationSettings(
            height=card.height,
            width=card.width,
            guidance_scale=card.guidance_scale,
            batch_size=self.batch_size,
            latent_multiple=card.latent_multiple,
        )
        images = torch.cat(list(generate(self.loaded.pipe, knobs, texts, list(indices), settings)))
        check_health(images, texts)
        return self.scorer.score(images, texts)


def choose(
    candidates: list[Candidate], default_steps: int, count: int, seed: int, most_expensive: float
) -> list[Candidate]:
    """The plans of the table in random order; see the module. ``most_expensive`` is in MACs, for the mixed corners."""

    def one_knob(c: Candidate) -> bool:
        return c.knobs.num_inference_steps == default_steps and len(c.plan.acting) <= 1

    chosen = {c.plan_id: c for c in candidates if c.step_reduction or one_knob(c)}
    rest = sorted(
        (c for c in candidates if c.plan_id not in chosen and c.cost.macs <= most_expensive), key=lambda c: c.cost.macs
    )
    missing = max(0, count - len(chosen))
    if missing and rest:
        # evenly over the cost, at random within each stretch of it
        edges = np.linspace(0, len(rest), min(missing, len(rest)) + 1).astype(int)
        rng = np.random.default_rng(seed)
        for low, high in pairwise(edges):
            c = rest[int(rng.integers(low, max(high, low + 1)))]
            chosen[c.plan_id] = c
    return random.Random(seed).sample(list(chosen.values())[:count], min(count, len(chosen)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--scorer", help="open_clip model; the card's own by default")
    parser.add_argument("--prompts", help="prompt set; the card's own by default")
    parser.add_argument("--num-prompts", type=int, default=500)
    parser.add_argument("--plans", type=int, default=480)
    parser.add_argument(
        "--most-expensive", type=float, default=0.65, help="of the mixed corners, over the default's MACs"
    )
    parser.add_argument("--shard", default="0/1", help="i/n: make the scores of every n-th plan only, write no table")
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=RESULTS / "search_table.npz")
    options = parser.parse_args()

    loaded = load_pipeline(options.model, device=options.device, dtype="auto")
    card = loaded.card
    scorer = ClipScorer(options.scorer or card.scorer, device=loaded.device)
    prompts, _ = draw(load_prompt_set(options.prompts or card.prompt_set), options.num_prompts, options.seed)
    price = table_for_card(card).price
    space = SearchSpace.from_card(card, card.latent_size())
    candidates = list(space.candidates(price))
    baseline_plan = compile_plan(space.baseline)
    most_expensive = options.most_expensive * price(baseline_plan).macs
    plans = choose(candidates, card.num_inference_steps, options.plans, options.seed, most_expensive)
    baseline = baseline_plan.plan_id
    if baseline not in {c.plan_id for c in plans}:
        plans[0] = next(c for c in candidates if c.plan_id == baseline)

    options.out.parent.mkdir(parents=True, exist_ok=True)
    store = FileStore(options.out.with_suffix(".scores.jsonl"))
    book = ScoreBook(ImageScores(loaded, scorer, prompts, options.batch_size), len(prompts), space.baseline, store)
    shard, shards = (int(part) for part in options.shard.split("/"))
    for number, c in enumerate(plans, 1):
        if number % shards != shard:
            continue
        try:
            book.scores(c.knobs, range(len(prompts)))
        except HealthError as error:  # a search drops such a plan, and so does the table
            print(f"{number}/{len(plans)} {c.knobs.describe()} {error}", flush=True)
            continue
        print(f"{number}/{len(plans)} {c.knobs.describe()} {book.known(c.plan_id).mean():.3f}", flush=True)
    if shards > 1:
        return
    plans = [c for c in plans if book.complete(c.plan_id)]
    about = {
        "model": options.model,
        "fingerprint": loaded.fingerprint,
        "scorer": options.scorer or options.model,
        "scorer_sha256": scorer.weights_sha256,
        "prompts_sha256": prompts.sha256,
        "device": torch.cuda.get_device_name() if loaded.device.startswith("cuda") else platform.processor() or "cpu",
        "dtype": loaded.dtype,
        "torch": torch.__version__,
    }
    np.savez_compressed(
        options.out,
        knobs=json.dumps([c.knobs.as_dict() for c in plans]),
        macs=np.array([c.cost.macs for c in plans]),
        scores=np.array([book.known(c.plan_id) for c in plans], dtype=np.float32),
        baseline=[c.plan_id for c in plans].index(baseline),
        about=json.dumps(about),
    )
    print(f"{options.out}: {len(plans)} plans × {len(prompts)} prompts, {book.images_made} images made")


if __name__ == "__main__":
    main()
