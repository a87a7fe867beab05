"""Which constants serve each rival best: mean regret of every setting tried, on seeds that the benchmark does not use.

    python benchmarks/tune_rivals.py --rivals tpe halving --seeds 15

Prints a table; the settings in ``rivals.RIVALS`` are chosen from it.
"""

from __future__ import annotations

import argparse
import itertools
import warnings
import zlib
from collections import defaultdict

import numpy as np
import optuna
from purse import Purse
from rivals import RIVALS, Setting
from worlds import WORLDS, make_world

SIZES = [(5, 3), (5, 4), (10, 3), (10, 4), (10, 6), (20, 3), (20, 4), (20, 6)]
#: Plans scored in full, prompts of the first round, divisor.
HALVING = [*itertools.product((2, 4), (2, 3, 5, 10), (2, 3, 4)), (6, 5, 2), (6, 10, 2)]
WHERE = ["table", "grid", "cheaper wins", "cliffs"]
TRIED: dict[str, list[Setting]] = {
    "random": [Setting(*size) for size in SIZES],
    "tpe": [Setting(*size, own=(joint,)) for size in SIZES for joint in (False, True)],
    "gp": [Setting(*size) for size in SIZES],
    "halving": [Setting(10, f, (first, divisor, False)) for f, first, divisor in HALVING],
    "halving + ridge": [Setting(10, f, (first, divisor, True)) for f, first, divisor in HALVING],
    "tpe + WilcoxonPruner": [Setting(own=own) for own in itertools.product((1, 5, 10), (0.1, 0.2))],
    "smac": [Setting(own=(10, 0)), Setting(own=(10, 4))],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rivals", nargs="+", choices=tuple(RIVALS), default=list(RIVALS))
    parser.add_argument(
        "--worlds", nargs="+", choices=tuple(WORLDS), default=["table", "grid", "cheaper wins", "cliffs"]
    )
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.25, 0.6])
    parser.add_argument("--seeds", type=int, default=15)
    parser.add_argument("--num-prompts", type=int, default=200)
    parser.add_argument("--images", type=int, default=1650)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    print("| rival | setting | " + " | ".join(options.worlds) + " | mean ± SE |")
    print("| --- " * (3 + len(options.worlds)) + "|")
    for name in options.rivals:
        for setting in TRIED[name]:
            regrets: dict[str, list[float]] = defaultdict(list)
            for world_name, share, seed in itertools.product(options.worlds, options.budgets, range(options.seeds)):
                rng = np.random.default_rng([1000 + seed, round(1000 * share), zlib.crc32(world_name.encode())])
                world = make_world(world_name, rng, share)
                purse = Purse(world, world.draw(rng, options.num_prompts), options.num_prompts, options.images)
                choice = RIVALS[name][0](world, purse, share, 1000 + seed, setting)
                best = world.best(share)
                assert best is not None
                regrets[world_name].append(float(world.truth[best] - world.truth[choice]))
            every = np.concatenate([regrets[w] for w in options.worlds])
            shown = " | ".join(f"{np.mean(regrets[w]):.2f}" for w in options.worlds)
            error = every.std(ddof=1) / np.sqrt(len(every))
            what = f"{setting.short} prompts, {setting.finalists} in full {setting.own or ''}"
            print(f"| {name} | {what} | {shown} | {every.mean():.3f} ± {error:.3f} |", flush=True)


if __name__ == "__main__":
    main()
