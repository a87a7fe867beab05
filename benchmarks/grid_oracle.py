"""How good a choice on the whole grid could be for somebody who knew what the knobs tell of every plan.

In the world ``grid`` (``worlds.py``) a plan's true mean is what its knobs tell and a deviation of its own. Here the
first part is known, and successive halving (``rivals.py``) races the best so many plans by it, with the images that our
search took in the same run of ``search_rivals.py``. It is no rival: nobody knows that part before a search.

    python benchmarks/grid_oracle.py --out benchmarks/results/grid_oracle.json
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rivals import RIVALS, Purse
from search_rivals import OURS, RESULTS, SHARES, drawn
from worlds import World, smooth_part

NUM_PROMPTS, SEEDS = 120, range(6)
RACED = (30, 60, 120, 240, 480)


@dataclass(frozen=True, eq=False)
class Raced(World):
    """A world of which only some rows may be tried."""

    rows_raced: npt.NDArray[np.intp] | None = None

    def allowed_rows(self, share: float, arm: str = "combined") -> npt.NDArray[np.intp]:
        """Those rows."""
        assert self.rows_raced is not None
        return self.rows_raced


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "grid_oracle.json")
    options = parser.parse_args()
    recorded = json.loads((RESULTS / "search_rivals.json").read_text())["runs"]
    images = {
        (r["share"], r["seed"]): r["used"]
        for r in recorded
        if r["world"] == "grid" and r["num_prompts"] == NUM_PROMPTS and r["rival"] == OURS
    }
    known, runs = smooth_part(), []
    halving, setting = RIVALS["halving"]
    for share in SHARES:
        for seed in SEEDS:
            world, scores, best = drawn("grid", share, NUM_PROMPTS, seed)
            rows = world.allowed_rows(share)
            order = rows[np.argsort(-known[rows])]
            for raced in RACED:
                part = Raced(
                    world.name, world.candidates, world.baseline, world.truth, world.level, world.noise, order[:raced]
                )
                purse = Purse(part, scores, scores.shape[1], images[share, seed])
                chosen = halving(part, purse, share, seed, setting)
                regret = round(float(world.truth[best] - world.truth[chosen]), 4)
                runs.append({"share": share, "seed": seed, "raced": raced, "regret": regret})
    about = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": importlib.metadata.version("numpy"),
    }
    options.out.write_text(json.dumps({"about": about, "runs": runs}, indent=1) + "\n")
    print("| plans raced | " + " | ".join(f"{share:.0%}" for share in SHARES) + " | mean |")
    print("| --- " * (len(SHARES) + 2) + "|")
    for raced in RACED:
        cells = [np.mean([r["regret"] for r in runs if (r["raced"], r["share"]) == (raced, s)]) for s in SHARES]
        print(f"| {raced} | " + " | ".join(f"{c:.2f}" for c in cells) + f" | {np.mean(cells):.2f} |")


if __name__ == "__main__":
    main()
