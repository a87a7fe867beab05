"""How good a plan each search finds with the same number of images, in worlds where the true means are known.

In every world (``worlds.py``), at every budget and for every seed all searches see the same scores of the same prompts.
Ours goes first and takes the images that it takes by itself; every rival (``rivals.py``) then gets as many. The
regret of a search is the best plan's truth less the truth of the plan it chose, in CLIP points.

    python benchmarks/search_rivals.py --seeds 10 --budgets 0.25 0.6 --out benchmarks/results/search_rivals.json
    python benchmarks/search_rivals.py --print --out benchmarks/results/search_rivals.json

Runs are appended to a JSONL file beside the result as they end, and those that are there are not run again: more seeds,
worlds or rivals can be added later, and a stopped campaign goes on. ``smac`` needs ``pip install 'postdiff[rivals]'``.
Each process should have one thread (``OMP_NUM_THREADS=1``).
"""

from __future__ import annotations

import argparse
import time
import warnings
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from journal import Journal, Run, recorded_runs
from purse import Purse
from replayed_search import run_postdiff
from rivals import RIVALS
from worlds import WORLDS, Scores, World, make_world, smooth_part

RESULTS = Path(__file__).parent / "results"
OURS = "postdiff"
SHARES = (0.15, 0.25, 0.4, 0.6, 0.8)
#: Regrets, in points, whose price in images is printed.
GOALS = (0.25, 0.5)
#: What identifies a run.
KEY = ("world", "share", "num_prompts", "seed", "rival", "factor")


def identity(run: Run) -> tuple[Any, ...]:
    return tuple(run[name] for name in KEY)


def drawn(world_name: str, share: float, num_prompts: int, seed: int) -> tuple[World, Scores, int]:
    """A run's world, its scores, and the row of its best plan.

    Ours searches on a third of the prompts and judges on the rest; a rival may use all of them for either.
    """
    rng = np.random.default_rng([seed, num_prompts, round(1000 * share), zlib.crc32(world_name.encode())])
    world = make_world(world_name, rng, share)
    scores, best = world.draw(rng, num_prompts + num_prompts // 2), world.best(share)
    assert best is not None
    return world, scores, best


class Campaign(Journal):
    """Runs searches, remembers them, and skips what it remembers."""

    def scene(
        self, world_name: str, share: float, num_prompts: int, seed: int, rivals: list[str], factor: float
    ) -> None:
        """All searches in one world at one budget with one seed."""
        where = world_name, share, num_prompts, seed
        wanted = [OURS, *(r for r in rivals if r != OURS)]
        missing = [r for r in wanted if (*where, r, self.factor_of(r, factor)) not in self]
        if not missing:
            return
        world, scores, best = drawn(world_name, share, num_prompts, seed)
        whole = scores.shape[1]
        for name in missing:
            began = time.perf_counter()
            if name == OURS:
                images = None
                choice, curve, used = run_postdiff(world, scores, share, num_prompts, seed)
            else:
                ours = self[(*where, OURS, 1.0)]
                images = round(factor * ours["used"])
                purse = Purse(world, scores, whole, images)
                search, setting = RIVALS[name]
                choice = search(world, purse, share, seed, setting)
                curve, used = purse.curve, purse.used
            told: list[tuple[int, float]] = []
            for at, row in curve:
                regret = round(float(world.truth[best] - world.truth[row]), 4)
                if not told or told[-1][1] != regret:
                    told.append((at, regret))
            self.add(
                {
                    "world": world_name,
                    "share": share,
                    "num_prompts": num_prompts,
                    "seed": seed,
                    "rival": name,
                    "factor": self.factor_of(name, factor),
                    "images": images,
                    "used": used,
                    "plan": world.candidates[choice].plan_id,
                    "regret": float(world.truth[best] - world.truth[choice]),
                    "found": bool(choice == best),
                    "curve": told,
                    "seconds": round(time.perf_counter() - began, 3),
                }
            )

    @staticmethod
    def factor_of(rival: str, factor: float) -> float:
        """Ours always has its own images."""
        return 1.0 if rival == OURS else factor


def reached(run: Run, goal: float) -> float:
    """Images from which on the regret stayed at or below a goal to the end; infinite if it never did."""
    at = np.inf
    for images, regret in run["curve"]:
        if regret > goal:
            at = np.inf
        elif not np.isfinite(at):
            at = images
    return at


def spread(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan
    return float(np.mean(values)), error


def shared(cell: dict[str, dict[int, Run]], name: str) -> list[int]:
    """Seeds that both ours and a rival have, where they are two at least."""
    both = sorted(set(cell[OURS]) & set(cell[name]))
    return both if len(both) > 1 else []


def paired(cell: dict[str, dict[int, Run]], name: str) -> tuple[float, float]:
    """Our regret minus a rival's in one cell: mean and standard error."""
    return spread([cell[OURS][s]["regret"] - cell[name][s]["regret"] for s in shared(cell, name)])


def pooled(parts: list[tuple[float, float]]) -> str:
    """The mean of some cells' differences, in words."""
    if not parts:
        return "–"
    mean = float(np.mean([m for m, _ in parts]))
    error = float(np.sqrt(np.sum(np.square([e for _, e in parts]))) / len(parts))
    text = f"{mean:+.2f} ± {error:.2f}"
    return f"**{text}**" if abs(mean) > 2 * error else text


def print_tables(runs: list[Run]) -> None:
    """Everything in Markdown."""
    for num_prompts, factor in sorted({(r["num_prompts"], r["factor"]) for r in runs}):
        if factor == 1.0 or any(r["rival"] != OURS and r["factor"] == factor for r in runs):
            fits = {(num_prompts, 1.0, True), (num_prompts, factor, False)}
            of_it = [r for r in runs if (r["num_prompts"], r["factor"], r["rival"] == OURS) in fits]
            print(f"\n## {num_prompts} prompts, rivals have {factor:g} × our images\n")
            print_one(of_it)


def print_one(runs: list[Run]) -> None:
    cells: dict[tuple[str, float], dict[str, dict[int, Run]]] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        cells[run["world"], run["share"]][run["rival"]][run["seed"]] = run
    names = [n for n in (OURS, *RIVALS) if any(n in cell for cell in cells.values())]
    rivals = names[1:]
    order = sorted(cells, key=lambda c: (list(WORLDS).index(c[0]), c[1]))

    print("Mean regret ± standard error in points; then ours minus the best rival's, paired by seed.")
    print("That rival is picked after the fact, which favours it.\n")
    print("| world | budget | seeds | images | " + " | ".join(names) + " | ours − best rival | |")
    print("| --- " * (6 + len(names)) + "|")
    for world, share in order:
        cell = cells[world, share]
        ours = cell[OURS]
        shown = []
        for name in names:
            mean, error = spread([r["regret"] for r in cell[name].values()]) if cell[name] else (np.nan, np.nan)
            count = f" ({len(cell[name])})" if 0 < len(cell[name]) != len(ours) else ""
            shown.append(f"{mean:.2f} ± {error:.2f}{count}" if cell[name] else "–")
        verdict = "| – | |"
        enough = [n for n in rivals if len(shared(cell, n)) >= 0.5 * len(ours)]
        if enough and world != "flat":
            best = min(enough, key=lambda n: np.mean([r["regret"] for r in cell[n].values()]))
            mean, error = paired(cell, best)
            word = "no difference shown" if not abs(mean) > 2 * error else "ours" if mean < 0 else best
            verdict = f"| {mean:+.2f} ± {error:.2f} ({best}) | {word} |"
        images = np.median([r["used"] for r in ours.values()])
        print(f"| {world} | {share:.0%} | {len(ours)} | {images:.0f} | " + " | ".join(shown) + f" {verdict}")

    there = [w for w in WORLDS if w != "flat" and any(w == world for world, _ in order)]
    print("\nOurs minus each rival, mean over the budgets of each world, paired by seed; bold beyond two errors.\n")
    print("| rival | " + " | ".join(there) + " | all | seconds a run |\n" + "| --- " * (3 + len(there)) + "|")
    for name in rivals:
        parts: dict[str, list[tuple[float, float]]] = {world: [] for world in there}
        for cell in order:
            if cell[0] in parts and shared(cells[cell], name):
                parts[cell[0]].append(paired(cells[cell], name))
        every = [part for world in there for part in parts[world]]
        seconds = np.median([r["seconds"] for cell in cells.values() for r in cell[name].values()])
        columns = [pooled(parts[world]) for world in there] + [pooled(every)]
        print(f"| {name} | " + " | ".join(columns) + f" | {seconds:.2f} |")

    for goal in GOALS:
        print(f"\nImages until the regret stays at or below {goal:g} points: median (share of runs that got there).\n")
        print("| world | budget | " + " | ".join(names) + " |\n" + "| --- " * (2 + len(names)) + "|")
        for world, share in order:
            shown = []
            for name in names:
                at = [reached(r, goal) for r in cells[world, share][name].values()]
                middle = float(np.quantile(at, 0.5, method="higher")) if at else np.nan
                there = f"{np.isfinite(at).mean():.0%}" if at else ""
                shown.append(f"{middle:.0f} ({there})" if at else "–")
            print(f"| {world} | {share:.0%} | " + " | ".join(shown) + " |")

    if "grid" in there:
        print_floor()

    lone = [c for c in order if c[0] == "lone optimum"]
    if lone:
        print("\nShare of runs that chose the lone optimum.\n")
        print("| budget | " + " | ".join(names) + " |\n" + "| --- " * (1 + len(names)) + "|")
        for cell in lone:
            runs_of = [list(cells[cell][name].values()) for name in names]
            shown = [f"{np.mean([r['found'] for r in found]):.0%}" if found else "–" for found in runs_of]
            print(f"| {cell[1]:.0%} | " + " | ".join(shown) + " |")


def print_floor() -> None:
    """What the knobs can tell on the grid: the regret of a search that knew the smooth part of every plan exactly."""
    grid, smooth = make_world("grid"), smooth_part()
    print("\nRegret on the grid of who knows what the knobs tell of every plan, and nothing of its own deviation.\n")
    print("| budget | the plan that is best by the knobs | one of the 20 best by the knobs |\n| --- | --- | --- |")
    for share in SHARES:
        rows = grid.allowed_rows(share)
        rows = rows[rows != grid.baseline]
        regret = grid.truth[rows].max() - grid.truth[rows[np.argsort(-smooth[rows])]]
        print(f"| {share:.0%} | {regret[0]:.2f} | {regret[:20].mean():.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", choices=tuple(WORLDS), default=list(WORLDS))
    parser.add_argument("--budgets", type=float, nargs="+", default=list(SHARES))
    parser.add_argument("--rivals", nargs="+", choices=(OURS, *RIVALS), default=list(RIVALS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--num-prompts", type=int, default=200)
    parser.add_argument("--factor", type=float, default=1.0, help="rivals have so many times our images")
    parser.add_argument("--minutes", type=float, default=np.inf, help="start no new scene after so long")
    parser.add_argument("--print", action="store_true", help="print what is recorded, run nothing")
    parser.add_argument("--out", type=Path, default=RESULTS / "search_rivals.json")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    campaign = Campaign(options.out, identity)
    began = time.monotonic()
    if not options.print:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for world in options.worlds:
                for share in options.budgets:
                    if time.monotonic() - began < 60 * options.minutes:
                        campaign.scene(world, share, options.num_prompts, seed, options.rivals, options.factor)
        campaign.write("numpy", "scipy", "optuna", "torch", "smac", key=identity)
    print_tables(recorded_runs(options.out))


if __name__ == "__main__":
    main()
