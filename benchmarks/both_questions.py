"""Both questions with the same images: which plan is the best, and which is the best of each arm?

``search_rivals.py`` asks rivals for the best plan alone, while ours also looks for the best plan of each arm with the
same images. Here a rival has to answer what ours answers: it races the step-reduction arm with a part of the images,
then searches the cheaper-steps arm up to a second part, then all plans with what is left. Every score counts in each of
the three, and of each the best mean over all prompts is named. Regrets are of the best plan, and of each arm's.

    python benchmarks/both_questions.py --seeds 26 --out benchmarks/results/both_questions.json
    python benchmarks/both_questions.py --print --out benchmarks/results/both_questions.json

Runs are appended to a JSONL file beside the result; those that are there are not run again. Each process should have
one thread (``OMP_NUM_THREADS=1``).
"""

from __future__ import annotations

import argparse
import warnings
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
from journal import Journal, Run, recorded_runs
from purse import Purse
from replayed_search import judged_search
from rivals import RIVALS, Setting, halving
from search_rivals import OURS, RESULTS, SHARES, drawn, pooled, spread
from worlds import WORLDS, Arm, World

from postdiff_calib.scores.select import ARM_NAMES

ARMS: tuple[Arm, ...] = ("step_reduction", "cheaper_steps")
#: The order in which a rival searches them.
QUESTIONS: tuple[Arm, ...] = (*ARMS, "combined")
#: Shares of the images besides the baseline's that are spent when the first question is done, and when the second is;
#: and cheaper-steps plans that are scored on all prompts for the second.
Split = tuple[float, float, int]
SPLITS: tuple[Split, ...] = ((0.15, 0.35, 1), (0.15, 0.45, 1), (0.15, 0.45, 2), (0.2, 0.55, 2))
#: World, budget and seed.
Where = tuple[str, float, int]
#: The arm of few plans is raced by halving down to one, whoever searches the others.
RACE = halving, Setting(finalists=1, own=(3, 3, False))
NAMES = ("halving", "halving + ridge", "tpe", "tpe + WilcoxonPruner")


def both(world: World, purse: Purse, share: float, seed: int, name: str, split: Split) -> dict[Arm, int | None]:
    """Search with a rival for the best plan of each arm, and then of all.

    Args:
        world: its plans.
        purse: what it may spend.
        share: the budget.
        seed: of the rival.
        name: of the rival.
        split: one of ``SPLITS``.

    Returns:
        The row chosen for each question; None where there is no plan.
    """
    baseline = purse.num_prompts
    first, second, finalists = split
    rows = {question: world.allowed_rows(share, question).tolist() for question in QUESTIONS}
    for question, spent in zip(QUESTIONS, (first, second, 1.0), strict=True):
        search, setting = RACE if question == "step_reduction" else RIVALS[name]
        setting = replace(setting, finalists=finalists) if question == "cheaper_steps" else setting
        if rows[question]:
            with purse.part(baseline + round(spent * (purse.images - baseline)), rows[question]):
                search(replace(world, own=question), purse, share, seed, setting)
    return {question: purse.best_of(rows[question]) if rows[question] else None for question in QUESTIONS}


def regrets(world: World, share: float, chosen: dict[Arm, int | None]) -> dict[str, float]:
    """Truth of the best plan less that of the chosen one, by question; where there is no plan there is none."""
    found = {}
    for question in QUESTIONS:
        best, row = world.best(share, question), chosen[question]
        if best is not None and row is not None:
            found[question] = round(float(world.truth[best] - world.truth[row]), 4)
    return found


class Campaign(Journal):
    """Runs searches, remembers them, and skips what it remembers."""

    def scene(self, world_name: str, share: float, num_prompts: int, seed: int, names: list[str]) -> None:
        """All searches in one world at one budget with one seed."""
        told = {"world": world_name, "share": share, "num_prompts": num_prompts, "seed": seed}
        searches = [(OURS, None), *((name, split) for name in names for split in SPLITS)]
        wanted = [{**told, "search": name, "split": split} for name, split in searches]
        missing = [run for run in wanted if identity(run) not in self]
        if not missing:
            return
        world, scores, _ = drawn(world_name, share, num_prompts, seed)
        for run in missing:
            if run["search"] == OURS:
                replay, _ = judged_search(world, scores, share, num_prompts, seed)
                chosen, used = {q: replay.chosen(q, share) for q in QUESTIONS}, replay.images
            else:
                purse = Purse(world, scores, scores.shape[1], self[identity(wanted[0])]["used"])
                chosen = both(world, purse, share, seed, run["search"], run["split"])
                used = purse.used
            self.add({**run, "used": used, "regret": regrets(world, share, chosen)})


def identity(run: Run) -> tuple[object, ...]:
    split = run["split"]
    return (*(run[k] for k in ("world", "share", "num_prompts", "seed", "search")), tuple(split) if split else None)


def print_tables(runs: list[Run]) -> None:
    """Everything in Markdown."""
    for num_prompts in sorted({run["num_prompts"] for run in runs}):
        print(f"\n## {num_prompts} prompts")
        print_one([run for run in runs if run["num_prompts"] == num_prompts])


def print_one(runs: list[Run]) -> None:
    """By rival and split: ours minus the rival in the regret of the best plan by world, and of each arm's over all."""
    by_search: dict[tuple[str, Split | None], dict[Where, Run]] = defaultdict(dict)
    for run in runs:
        *_, split = identity(run)
        by_search[run["search"], split][run["world"], run["share"], run["seed"]] = run
    ours = by_search.pop((OURS, None))
    there = [world for world in WORLDS if any(r["world"] == world for r in runs)]
    print(f"\nOurs: mean regret of the best plan {means(ours, there)}; lone optimum found in {found(ours)}.")
    print("Ours minus each rival, in points, mean over the budgets; bold beyond two errors.\n")
    print(
        "| rival | split | "
        + " | ".join((*there, "all", *(ARM_NAMES[arm] for arm in ARMS), "lone optimum found"))
        + " |"
    )
    print("| --- " * (6 + len(there)) + "|")
    for name, split in ((name, split) for name in NAMES for split in SPLITS if by_search[name, split]):
        rival = by_search[name, split]
        cells = [pooled(differences(ours, rival, [world], "combined")) for world in there]
        cells += [pooled(differences(ours, rival, there, question)) for question in ("combined", *ARMS)]
        print(f"| {name} | {split[0]:.0%}, {split[1]:.0%}, {split[2]} | " + " | ".join((*cells, found(rival))) + " |")


def differences(
    ours: dict[Where, Run], rival: dict[Where, Run], there: list[str], question: Arm
) -> list[tuple[float, float]]:
    """Our regret minus a rival's, mean and standard error, of each world and budget in which both answer."""
    cells: dict[tuple[str, float], list[float]] = defaultdict(list)
    for (world, share, seed), run in rival.items():
        if world in there and question in run["regret"]:
            cells[world, share].append(ours[world, share, seed]["regret"][question] - run["regret"][question])
    return [spread(pairs) for pairs in cells.values() if len(pairs) > 1]


def means(runs: dict[Where, Run], there: list[str]) -> str:
    """Mean regret of the best plan by world."""
    by_world = {w: [r["regret"]["combined"] for (world, *_), r in runs.items() if world == w] for w in there}
    return ", ".join(f"{world} {np.mean(regret):.2f}" for world, regret in by_world.items())


def found(runs: dict[Where, Run]) -> str:
    """How often the lone optimum was chosen, in words."""
    lone = [run["regret"]["combined"] == 0 for (world, *_), run in runs.items() if world == "lone optimum"]
    return f"{np.mean(lone):.0%} of {len(lone)}" if lone else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", choices=tuple(WORLDS), default=[w for w in WORLDS if w != "flat"])
    parser.add_argument("--budgets", type=float, nargs="+", default=list(SHARES))
    parser.add_argument("--rivals", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--num-prompts", type=int, default=120)
    parser.add_argument("--print", action="store_true", help="print what is recorded, run nothing")
    parser.add_argument("--out", type=Path, default=RESULTS / "both_questions.json")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    if not options.print:
        campaign = Campaign(options.out, identity)
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for world in options.worlds:
                for share in options.budgets:
                    campaign.scene(world, share, options.num_prompts, seed, options.rivals)
        campaign.write("numpy", "scipy", "optuna", key=lambda run: tuple(map(str, identity(run))))
    print_tables(recorded_runs(options.out))


if __name__ == "__main__":
    main()
