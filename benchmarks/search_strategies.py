"""How many pictures each search strategy needs to find a plan as good as an exhaustive sweep's, on a table of scores.

The table (``search_table.py``) holds per-prompt scores of a few hundred plans, so a search takes seconds and no picture
is made. A strategy has arrived when the plan it would choose is within one standard error (of the full-set mean paired
difference) of the best plan within the budget, and stays so to the end of its run. Every strategy pays for the
unaccelerated model on the prompts that it uses.

    python benchmarks/search_strategies.py --table benchmarks/results/search_table.npz --seeds 20 --out raw.json
    python benchmarks/search_strategies.py --synthetic --seeds 2 --budgets 0.5 --strategies postdiff random

Prints medians and quartiles in Markdown; ``--out`` keeps the raw values. ``--races 4000`` measures instead how often a
race stops a plan that is truly as good as the one it runs against.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import optuna

from postdiff_calib.budget import PlanCost
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.search.evaluate import MemoryStore, ScoreBook
from postdiff_calib.search.racing import Race
from postdiff_calib.search.select import compare, verdict
from postdiff_calib.search.space import Candidate, candidate, coordinate_matrix
from postdiff_calib.search.strategy import (
    Proposal,
    SearchSettings,
    Strategy,
    default_trials,
    enqueued,
    prompt_order,
)

STRATEGIES = ("postdiff", "tpe", "gp", "nsga2", "random", "halving")


@dataclass
class Table:
    """Scores (plans, prompts) and the plans they belong to; the unaccelerated model is one of them."""

    candidates: list[Candidate]
    scores: np.ndarray
    baseline: int

    def __post_init__(self) -> None:
        self.rows = {c.content: i for i, c in enumerate(self.candidates)}
        points = coordinate_matrix(self.candidates)
        self.points = (points - points.min(0)) / np.maximum(np.ptp(points, 0), 1e-9)

    def allowed(self, share: float) -> list[Candidate]:
        """The plans that cost at most this share of the unaccelerated model's MACs."""
        limit = share * self.candidates[self.baseline].cost.macs * (1 + 1e-9)
        return [c for c in self.candidates if c.cost.macs <= limit]


class Lookup:
    """The evaluator: scores are looked up."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def scores(self, knobs: Knobs, indices: list[int]) -> list[float]:
        """As ``evaluate.Evaluator``."""
        return self.table.scores[self.table.rows[compile_plan(knobs).content]][list(indices)].tolist()


def read_table(path: Path) -> Table:
    with np.load(path) as data:
        knobs = [Knobs.from_dict(k) for k in json.loads(str(data["knobs"]))]
        macs, scores, baseline = data["macs"], data["scores"].astype(np.float64), int(data["baseline"])
    cost = {compile_plan(k).content: float(m) for k, m in zip(knobs, macs, strict=True)}
    plans = [compile_plan(k) for k in knobs]
    return Table([candidate(p, lambda plan: PlanCost(cost[plan.content], 0)) for p in plans], scores, baseline)


def synthetic_table(plans: int, prompts: int) -> Table:
    """A made-up table from the surface that the tests use, for trying the script."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "search"))
    import synthetic_surface as made_up

    every = list(made_up.SPACE.candidates(made_up.price))
    fewer = [c for c in every if c.fewer]
    rest = [c for c in every if not c.fewer]
    chosen = np.random.default_rng(0).choice(len(rest), plans - len(fewer), replace=False)
    candidates = [*fewer, *(rest[i] for i in chosen)]
    surface = made_up.Surface(prompts)
    scores = np.array([surface.row(c.knobs) for c in candidates])
    return Table(candidates, scores, next(i for i, c in enumerate(fewer) if c.knobs == made_up.SPACE.baseline))


#: What a strategy tells after each step: pictures made so far, and the row it would choose now (None before any).
Step = tuple[int, int | None]


def best_row(table: Table, rows: list[int]) -> int | None:
    return max(rows, key=lambda i: table.scores[i].mean()) if rows else None


def run_postdiff(
    table: Table, allowed: list[Candidate], seed: int, n_trials: int, finalists: int = SearchSettings.finalists
) -> Iterator[Step]:
    reference = table.candidates[table.baseline]
    n = table.scores.shape[1]
    book = ScoreBook(Lookup(table), n, reference.knobs, MemoryStore())
    settings = SearchSettings(n_trials=n_trials, seed=seed, finalists=finalists)
    strategy = Strategy(table.candidates, allowed, reference, book, settings)

    def look(proposal: Proposal) -> None:
        c = proposal.candidate
        known = np.isfinite(book.known(c.content))
        missing = [i for i in prompt_order(n, seed) if not known[i]]
        if proposal.role != "final":
            missing = missing[: settings.explore_prompts]
        for start in range(0, len(missing), settings.block):
            block = missing[start : start + settings.block]
            book.scores(reference.knobs, block)
            book.scores(c.knobs, block)
            if proposal.role == "final" and proposal.arm != "fewer" and strategy.race_lost(c.content, proposal.arm):
                return

    first = enqueued(strategy, None)
    history: list = []
    for number in range(n_trials):
        proposal = first[number] if number < len(first) else None
        if proposal is None:
            proposal = strategy.propose(number, history, n_trials - len(first))
            history.append(proposal.role)
        look(proposal)
        chosen = strategy.choice("joint")
        yield book.images_made, None if chosen is None else table.rows[chosen]


def run_optuna(name: str) -> Callable[[Table, list[Candidate], int, int], Iterator[Step]]:
    """Optuna's sampler on full-set means; a proposal is the nearest plan of the table within the budget."""

    def run(table: Table, allowed: list[Candidate], seed: int, n_trials: int) -> Iterator[Step]:
        samplers = {
            "tpe": optuna.samplers.TPESampler,
            "gp": optuna.samplers.GPSampler,
            "nsga2": optuna.samplers.NSGAIISampler,
            "random": optuna.samplers.RandomSampler,
        }
        study = optuna.create_study(direction="maximize", sampler=samplers[name](seed=seed))
        rows = np.array([table.rows[c.content] for c in allowed])
        n = table.scores.shape[1]
        seen: list[int] = []
        for _ in range(n_trials):
            trial = study.ask()
            point = np.array([trial.suggest_float(axis, 0, 1) for axis in ("T", "s", "beta", "k", "m")])
            row = int(rows[((table.points[rows] - point) ** 2).sum(1).argmin()])
            if row not in seen:
                seen.append(row)
            study.tell(trial, float((table.scores[row] - table.scores[table.baseline]).mean()))
            yield n * len({*seen, table.baseline}), best_row(table, seen)

    return run


def run_halving(table: Table, allowed: list[Candidate], seed: int, n_trials: int) -> Iterator[Step]:
    """Successive halving of random plans: each round keeps the better half on twice the prompts."""
    n = table.scores.shape[1]
    rng = np.random.default_rng(seed)
    images = n
    complete: list[int] = []
    for _ in range(max(1, n_trials // 32)):
        rows = rng.permutation([table.rows[c.content] for c in allowed])[:32].tolist()
        order, had, prompts = rng.permutation(n), 0, max(10, n // 32)
        while True:
            prompts = min(prompts, n)
            images += len(rows) * (prompts - had)
            rows.sort(key=lambda i: -table.scores[i][order[:prompts]].mean())
            if prompts == n:
                complete += rows
                break
            rows, had, prompts = rows[: max(1, len(rows) // 2)], prompts, prompts * 2
        yield images, best_row(table, complete)


RUNS: dict[str, Callable[[Table, list[Candidate], int, int], Iterator[Step]]] = {
    "postdiff": run_postdiff,
    "halving": run_halving,
    **{name: run_optuna(name) for name in ("tpe", "gp", "nsga2", "random")},
}


@dataclass(frozen=True)
class Outcome:
    """One run of one strategy.

    Attributes:
        images: pictures after which its choice stayed within one standard error of the best to the end; None if never.
        regret: of its last choice, in standard errors of the best plan's full-set mean difference.
        total: pictures it made in all.
        sound: its last choice is the best plan or equivalent to it: the interval of the paired difference lies
            within one per cent of the unaccelerated model's mean score.
    """

    images: int | None
    regret: float
    total: int
    sound: bool


def follow(table: Table, allowed: list[Candidate], steps: Iterator[Step]) -> Outcome:
    """Follow a strategy to its end."""
    rows = [table.rows[c.content] for c in allowed]
    best = max(rows, key=lambda i: table.scores[i].mean())
    difference = table.scores[best] - table.scores[table.baseline]
    error = max(float(difference.std(ddof=1)) / np.sqrt(len(difference)), 1e-9)
    arrived, regret, total, chosen = None, np.inf, 0, None
    for total, row in steps:
        chosen = row if row in rows else None
        regret = np.inf if chosen is None else float(table.scores[best].mean() - table.scores[chosen].mean()) / error
        if regret > 1:
            arrived = None
        elif arrived is None:
            arrived = total
    sound = False
    if chosen is not None:
        delta = 0.01 * float(table.scores[table.baseline].mean())
        against = compare(table.scores[chosen], table.scores[best])
        sound = chosen == best or verdict(against, delta).kind in ("better", "equivalent")
    return Outcome(arrived, regret, total, sound)


def false_stops(table: Table, races: int, share: float, seed: int = 0) -> int:
    """How many of so many races between truly equal plans end with a stop.

    The differences of two real plans are moved to a mean of zero and drawn prompt by prompt with replacement, so they
    keep their spread, skew and ties.
    """
    rng = np.random.default_rng(seed)
    rows = [table.rows[c.content] for c in table.allowed(share)]
    n = table.scores.shape[1]
    settings = SearchSettings()
    race = Race(n, settings.block, settings.false_stop)
    stopped = 0
    for _ in range(races):
        first, second = rng.choice(rows, 2, replace=False)
        difference = table.scores[first] - table.scores[second]
        drawn = rng.choice(difference - difference.mean(), n)
        challenger = np.full(n, np.nan)
        for end in range(settings.block, n, settings.block):
            challenger[:end] = drawn[:end]
            if race.lost(challenger, np.zeros(n)):
                stopped += 1
                break
    return stopped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--synthetic", action="store_true")
    parser.add_argument("--plans", type=int, default=400)
    parser.add_argument("--prompts", type=int, help="the table's first so many; all by default, 200 of a made-up one")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.15, 0.2, 0.25, 0.4])
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--trials", type=int, default=120, help="trials of a strategy that scores plans in full")
    parser.add_argument("--looks", type=int, help="trials of ours, most of which are short; calibrate's own by default")
    parser.add_argument("--finalists", type=int, default=SearchSettings.finalists, help="of ours")
    parser.add_argument("--races", type=int, help="count false stops in so many races per budget, nothing else")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not options.synthetic and options.table is None:
        parser.error("give --table or --synthetic")
    if options.synthetic:
        table = synthetic_table(options.plans, options.prompts or 200)
    else:
        table = read_table(options.table)
        table.scores = table.scores[:, : options.prompts]
    n = table.scores.shape[1]
    runs = RUNS | {"postdiff": partial(run_postdiff, finalists=options.finalists)}
    if options.races:
        for share in options.budgets:
            stopped, n_races = false_stops(table, options.races, share), options.races
            print(f"{share:.0%}: {stopped} of {n_races} races of equal plans end with a stop, {stopped / n_races:.1%}")
        return
    print("| budget | strategy | pictures: quartiles | arrived | median regret, SE | equivalent | sweep ÷ median |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    raw = []
    for share in options.budgets:
        allowed = table.allowed(share)
        for name in options.strategies:
            trials = (options.looks or default_trials(n)) if name == "postdiff" else options.trials
            results = [
                follow(table, allowed, runs[name](table, allowed, seed, trials))
                for seed in range(options.first_seed, options.first_seed + options.seeds)
            ]
            raw.append(
                {
                    "budget": share,
                    "strategy": name,
                    "plans": len(allowed),
                    "prompts": n,
                    "trials": trials,
                    "results": [asdict(r) for r in results],
                }
            )
            # a run that never arrives counts as infinite, so that quartiles are not flattered
            images = np.array([np.inf if r.images is None else r.images for r in results])
            quartiles = np.quantile(images, [0.25, 0.5, 0.75], method="higher")
            print(
                f"| {share:.0%} | {name} | {' / '.join(f'{q:.0f}' for q in quartiles)} "
                f"| {np.isfinite(images).sum()}/{len(results)} | {np.median([r.regret for r in results]):.2f} "
                f"| {sum(r.sound for r in results)}/{len(results)} | {n * len(allowed) / quartiles[1]:.0f} |",
                flush=True,
            )
    if options.out:
        options.out.write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    main()
