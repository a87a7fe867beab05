"""How many prompts an evaluation should have: the same images spent on many plans seen briefly, or on few seen longer.

    python benchmarks/evaluation_size.py --num-prompts 500 --each 3 5 10 --out benchmarks/results/evaluation_size.json

Runs the project's own search in a world of known means (``worlds.py``), at each budget and with each seed, once for
every number of prompts an evaluation has; the number of evaluations is such that the images are as many. Prints the
mean regret: the best plan's truth less that of the chosen one, in CLIP points.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import numpy as np
from replayed_search import run_postdiff
from search_rivals import drawn
from worlds import WORLDS

RESULTS = Path(__file__).parent / "results"


def run(name: str, share: float, num_prompts: int, seed: int, each: int) -> dict[str, float]:
    """One search; the world and its scores are those of ``search_rivals.py`` with the same seed."""
    world, scores, best = drawn(name, share, num_prompts, seed)
    chosen, _, images = run_postdiff(world, scores, share, num_prompts, seed, each)
    return {"images": images, "regret": round(float(world.truth[best] - world.truth[chosen]), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--world", choices=tuple(WORLDS), default="grid")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.25, 0.6])
    parser.add_argument("--num-prompts", type=int, default=500)
    parser.add_argument("--each", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=RESULTS / "evaluation_size.json")
    options = parser.parse_args()
    runs = []
    for seed in range(options.seeds):
        for share in options.budgets:
            for each in options.each:
                found = run(options.world, share, options.num_prompts, seed, each)
                runs.append({"world": options.world, "share": share, "seed": seed, "each": each, **found})
    about = {"python": platform.python_version(), "numpy": np.__version__, "num_prompts": options.num_prompts}
    lines = ",\n".join(json.dumps(one) for one in runs)
    options.out.write_text(f'{{"about": {json.dumps(about)},\n"runs": [\n{lines}\n]}}\n')
    for each in options.each:
        regrets = np.array([one["regret"] for one in runs if one["each"] == each])
        images = np.mean([one["images"] for one in runs if one["each"] == each])
        print(f"{each:>3} prompts each: regret {regrets.mean():.2f}, {images:.0f} images")


if __name__ == "__main__":
    main()
