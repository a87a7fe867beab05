"""How good a choice on the whole grid could be for somebody who knew more of it than anyone can.

In the world ``grid`` (``worlds.py``) a plan's true mean is what its knobs tell and a deviation of its own. Two of those
who know more try it, with the images that our search took in the same run of ``search_rivals.py``, all of them for this
one question. They are no rivals: nobody has their knowledge before a search.

- One knows what the knobs tell, plan by plan. It races the best so many plans by that, by successive halving
  (``rivals.py``).
- One knows the Gaussian process that ``grid_world.py`` drew the world from: lengths, scales, the form in which losses
  are smooth, and how far plans deviate from it; but no plan's value. It scores so many random plans on ten prompts
  each, and from then on races the best so many plans by its belief, seen or not, in rounds that take as many images
  each. Of its settings the best is reported, after the fact.

    python benchmarks/grid_oracle.py --out benchmarks/results/grid_oracle.json
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from grid_world import features, process_of_means
from journal import Run, recorded_runs, write_runs
from purse import Purse
from rivals import RIVALS
from scipy.linalg import cho_factor, cho_solve
from search_rivals import OURS, RESULTS, SHARES, drawn
from worlds import World, make_world, recorded, smooth_part

from postdiff_calib.search.adjust import observations
from postdiff_calib.search.space import coordinate_matrix

Array = npt.NDArray[np.float64]

NUM_PROMPTS, SEEDS = 120, range(6)
#: Plans that are raced by who knows what the knobs tell.
RACED = (30, 60, 120, 240, 480)
#: Random plans at first, and plans that are raced, by who knows the Gaussian process.
SETTINGS = tuple((broad, raced) for broad in (20, 40, 60) for raced in (30, 60, 120))
SHORT, LAST = 10, 4


@dataclass(frozen=True, eq=False)
class Raced(World):
    """A world of which only some rows may be tried."""

    rows_raced: npt.NDArray[np.intp] | None = None

    def allowed_rows(self, share: float, arm: str = "combined") -> npt.NDArray[np.intp]:
        """Those rows."""
        assert self.rows_raced is not None
        return self.rows_raced


def knowing_the_knobs(world: World, purse: Purse, share: float, seed: int, raced: int) -> int:
    """Halving of the best so many plans by what their knobs tell."""
    rows = world.allowed_rows(share)
    best = rows[np.argsort(-smooth_part()[rows])][:raced]
    part = Raced(world.name, world.candidates, world.baseline, world.truth, world.level, world.noise, best)
    halving, setting = RIVALS["halving"]
    return halving(part, purse, share, seed, setting)


class Prior:
    """The Gaussian process of the world, without the table that it was fitted to."""

    def __init__(self) -> None:
        table, world = recorded(), make_world("grid")
        at = np.array([world.rows[c.plan_id] for c in table.candidates])
        means = (table.scores - table.scores[table.baseline]).mean(1)
        share = world.macs / world.macs[world.baseline]
        self.x = features(coordinate_matrix(world.candidates), share)
        real = np.flatnonzero(np.arange(len(at)) != table.baseline)
        self.process, error = process_of_means(self.x[at[real]], means[real])
        self.own = float(np.sqrt(np.mean(error**2)))

    def believed(self, purse: Purse, baseline: int) -> Array:
        """The expected mean of every plan, in the form in which losses are smooth: (M,)."""
        seen = observations({str(row): purse.known(row) for row in purse.rows if row != baseline})
        rows = np.array([int(o.plan) for o in seen])
        means = np.array([o.mean for o in seen])
        noise = np.array([o.variance / o.n for o in seen]) / (1 + means**2)
        kernel = self.process.kernel(self.x, self.x[rows])
        gram = kernel[rows] + np.diag(noise + self.own**2)
        weights = cho_solve(cho_factor(gram), np.arcsinh(means) - self.process.centre)
        expected: Array = kernel @ weights
        expected[rows] += self.own**2 * weights
        return expected


def knowing_the_prior(
    world: World, purse: Purse, share: float, seed: int, setting: tuple[int, int], prior: Prior
) -> int:
    """Random plans, then a race by belief."""
    broad, raced = setting
    rows = world.allowed_rows(share)
    rows = rows[rows != world.baseline]
    for row in np.random.default_rng([seed, 9]).permutation(rows)[:broad].tolist():
        purse.take(row, SHORT)
    sizes = [raced]
    while sizes[-1] > LAST:
        sizes.append(max(LAST, sizes[-1] // 2))
    spared = purse.reserve(0, SHORT)
    a_round = (purse.left - spared) / len(sizes)
    for size in sizes:
        expected = prior.believed(purse, world.baseline)
        best = [row for row in rows[np.argsort(-expected[rows])][:size].tolist() if purse.n(row) < purse.num_prompts]
        last = size == sizes[-1]
        for i, row in enumerate(best):
            each = (purse.left - spared) / (len(best) - i) if last else a_round / len(best)
            purse.take(row, max(1, int(each)))
    expected = prior.believed(purse, world.baseline)
    return max((row for row in purse.rows if row != world.baseline), key=lambda row: float(expected[row]))


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "grid_oracle.json")
    options = parser.parse_args()
    images = {
        (r["share"], r["seed"]): r["used"]
        for r in recorded_runs(RESULTS / "search_rivals.json")
        if r["world"] == "grid" and r["num_prompts"] == NUM_PROMPTS and r["rival"] == OURS
    }
    prior = Prior()
    runs: list[Run] = []
    for share in SHARES:
        for seed in SEEDS:
            world, scores, best = drawn("grid", share, NUM_PROMPTS, seed)
            for known, setting in (*(("knobs", (n,)) for n in RACED), *(("prior", s) for s in SETTINGS)):
                purse = Purse(world, scores, scores.shape[1], images[share, seed])
                if known == "knobs":
                    row = knowing_the_knobs(world, purse, share, seed, *setting)
                else:
                    row = knowing_the_prior(world, purse, share, seed, setting, prior)
                regret = round(float(world.truth[best] - world.truth[row]), 4)
                runs.append({"share": share, "seed": seed, "known": known, "setting": setting, "regret": regret})
    write_runs(options.out, runs, "numpy", "scipy")
    print("| known | setting | " + " | ".join(f"{share:.0%}" for share in SHARES) + " | mean |")
    print("| --- " * (len(SHARES) + 3) + "|")
    for known, setting in dict.fromkeys((r["known"], tuple(r["setting"])) for r in runs):
        of = [r for r in runs if (r["known"], tuple(r["setting"])) == (known, setting)]
        cells = [float(np.mean([r["regret"] for r in of if r["share"] == share])) for share in SHARES]
        values = np.array([r["regret"] for r in of])
        error = values.std(ddof=1) / len(values) ** 0.5
        told = " and ".join(map(str, setting))
        print(
            f"| {known} | {told} | " + " | ".join(f"{c:.2f}" for c in cells) + f" | {values.mean():.2f} ± {error:.2f} |"
        )


if __name__ == "__main__":
    main()
