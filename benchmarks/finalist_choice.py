"""Which belief should name the finalists? The regret of the best of three plans, chosen by several rules.

One search in a world (``worlds.py``) is scored with every rule, so rules are compared on the same evaluations. The
surrogate's belief names plans that their neighbours speak for; a sceptic's, for whom a plan deviates more from what its
knobs explain, names plans that did well themselves. A rule says how many plans either names.

    python benchmarks/finalist_choice.py --seeds 12 --out benchmarks/results/finalist_choice.json
    python benchmarks/finalist_choice.py --print --out benchmarks/results/finalist_choice.json

Runs are appended to a JSONL file beside the result; those that are there are not run again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from journal import Journal, Run, recorded_runs
from replayed_search import Replay, default_settings
from search_rivals import RESULTS, drawn, spread
from worlds import Array

from postdiff_calib.search.surrogate import Scales

WORLDS = ("table", "cheaper wins", "cliffs", "no structure", "heavy tails", "lone optimum")
#: Seeds of other benchmarks begin at 0.
FIRST_SEED = 600
#: Deviations that sceptics expect, as shares of the typical difference.
SCEPTICS = (0.3, 0.6, 1.2)
#: Of each rule: plans that the surrogate's belief names, plans that a sceptic's names, and which sceptic's.
RULES: dict[str, tuple[int, int, float]] = {
    "3 by belief": (3, 0, 0.0),
    **{f"2 and 1 by the sceptic of {own:g}": (2, 1, own) for own in SCEPTICS},
    **{f"1 and 2 by the sceptic of {own:g}": (1, 2, own) for own in SCEPTICS},
    **{f"3 by the sceptic of {own:g}": (0, 3, own) for own in SCEPTICS},
}


def scored(world_name: str, share: float, num_prompts: int, seed: int) -> Run:
    """One search, and of every rule the regret of the best plan it names, in points."""
    world, scores, best = drawn(world_name, share, num_prompts, seed)
    replay = Replay(world, scores, num_prompts, [share], default_settings(num_prompts, seed))
    replay.search()
    strategy = replay.strategy
    open_plans = np.flatnonzero(strategy.mask("combined") & strategy.plans.seen())
    truth = np.array([world.truth[world.rows[c.plan_id]] for c in strategy.candidates])
    belief = strategy.posterior().mean()
    sceptics = {own: strategy.belief.fit(Scales(own=own)).mean() for own in SCEPTICS}

    def best_rows(value: Array, count: int, but: list[int]) -> list[int]:
        return [int(i) for i in open_plans[np.argsort(-value[open_plans])] if i not in but][:count]

    regret = {}
    for name, (believed, doubted, own) in RULES.items():
        named = best_rows(belief, believed, [])
        named += best_rows(sceptics[own], doubted, named) if doubted else []
        regret[name] = round(float(world.truth[best] - truth[named].max()), 4)
    return {"key": [world_name, share, num_prompts, seed], "regret": regret}


def print_table(runs: list[Run]) -> None:
    """By rule: mean regret in points, and its difference to three by belief."""
    usual = next(iter(RULES))
    print("| rule | lone optimum | its difference | other worlds | their difference |\n" + "| --- " * 5 + "|")
    for name in RULES:
        cells = []
        for lone in (True, False):
            of_it = [r["regret"] for r in runs if (r["key"][0] == "lone optimum") == lone]
            mean, error = spread([r[name] - r[usual] for r in of_it])
            cells += [
                f"{np.mean([r[name] for r in of_it]):.3f}",
                "–" if name == usual else f"{mean:+.3f} ± {error:.3f}",
            ]
        print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.15, 0.25, 0.6])
    parser.add_argument("--num-prompts", type=int, default=120)
    parser.add_argument("--print", action="store_true", help="print what is recorded, run nothing")
    parser.add_argument("--out", type=Path, default=RESULTS / "finalist_choice.json")
    options = parser.parse_args()
    if not options.print:
        journal = Journal(options.out, lambda run: tuple(run["key"]))
        for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
            for world in WORLDS:
                for share in options.budgets:
                    if (world, share, options.num_prompts, seed) not in journal:
                        journal.add(scored(world, share, options.num_prompts, seed))
        journal.write("numpy", "scipy")
    print_table(recorded_runs(options.out))


if __name__ == "__main__":
    main()
