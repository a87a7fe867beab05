"""Are the answers true? Whole studies replayed in worlds whose truth is known, by the project's own code.

For every world (``worlds.py``), own budget and seed, fresh prompts are drawn, the search runs at its own budget and at
the further ones, its finalists are judged, and every sentence of the profile is held against the truth:

- *rows*: does the interval of cheaper steps − step reduction hold the difference of the true best plans of both arms?
  When an arm is said to win, is it the right one?
- *cross-over*: when a change of the better arm is claimed, does it change there?
- *winner*: does the interval hold the chosen plan's own true difference? How often is it called better, or worse, when
  it is not? How far is it below the best plan (regret)?
- *verify*: how often do fresh prompts fail a profile that holds?
- *two metrics* (``--second``): the same verdicts with a second metric, made from the first with the correlation and the
  loss per loss that ``metric_agreement.py`` measured.

    python benchmarks/replay.py --num-prompts 120 --runs 16 --out benchmarks/results/replay.json
    python benchmarks/replay.py --print --out benchmarks/results/replay.json

Runs are appended to a JSONL file beside the result; those that are there are not run again. Each process should have
one thread (``OMP_NUM_THREADS=1``).
"""

from __future__ import annotations

import argparse
import zlib
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from journal import Journal, Run, recorded_runs
from replayed_search import Replay, default_settings
from worlds import WORLDS, World, make_world

from postdiff_calib.jobs import checks
from postdiff_calib.scores.objective import Objective, Term
from postdiff_calib.scores.paired import compare
from postdiff_calib.study.choose import choose
from postdiff_calib.study.conclude import comparison_section
from postdiff_calib.study.rows import crossover
from postdiff_calib.study.searched import FURTHER_SHARES

RESULTS = Path(__file__).parent / "results"
SHARES = (0.25, 0.4, 0.6, 0.8)
#: Spread of the CLIP score of ``shapes`` and of its right scenes with the seed, as a calibration measures them.
SPREAD, SCENE_SPREAD = 4.0, 25.0
VERIFY_PROMPTS = 100
#: Share of the baseline's scenes that are right.
BASELINE_RIGHT = 0.92

Key = tuple[str, float, int, int, bool]


def second_metric(world: World, scores: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A second metric like "scene right", made from the scores by what ``metric_agreement.py`` measured.

    A plan's true loss of scenes is 8.9 percentage points per CLIP point and 2.2 more, with a deviation of its own of
    3.8 points, so that many plans which keep their score lose scenes. A prompt's scene changes with a chance that
    goes with its change of score: the correlation of the two differences is about 0.25.

    Args:
        world: whose plans.
        scores: (plans, n) of the first metric.
        rng: of the run.

    Returns:
        (plans,) true mean differences and (plans, n) values of 0 or 100.
    """
    flat = not world.truth.any()
    truth = 8.9 * np.minimum(world.truth, 0) - 2.2 + 3.8 * rng.standard_normal(len(world.truth))
    truth = np.zeros(len(truth)) if flat else np.clip(truth, -75, 3)
    truth[world.baseline] = 0.0
    gained = np.full(len(truth), 3.0)
    lost = gained - truth
    lost[world.baseline] = gained[world.baseline] = 0.0
    right = rng.random(scores.shape[1]) < BASELINE_RIGHT
    # a change of the score makes a loss of the scene up to twice as likely, or rules it out; on average it does neither
    lean = np.tanh(_unit(world, scores)) - _mean_lean(world)[:, None]
    drawn = rng.random(scores.shape)
    chance = (lost / 100 / BASELINE_RIGHT)[:, None]
    swing = np.minimum(0.9, (1 - chance) / np.maximum(chance, 1e-9) / 2)  # no chance above 1
    stays = drawn > chance * (1 - swing * lean)
    comes = drawn < (gained / 100 / (1 - BASELINE_RIGHT))[:, None] * (1 + 0.9 * lean)
    return truth, 100.0 * np.where(right, stays, comes)


def _unit(world: World, scores: np.ndarray) -> np.ndarray:
    noise = scores - scores[world.baseline] - world.truth[:, None]
    found: np.ndarray = noise / np.maximum(noise.std(1, keepdims=True), 1e-9)
    return found


_LEAN: dict[str, np.ndarray] = {}


def _mean_lean(world: World) -> np.ndarray:
    """Mean of the lean over the population, per plan; worlds that differ from run to run are not kept."""
    if world.name not in _LEAN or world.name in ("no structure", "lone optimum"):
        many = world.draw(np.random.default_rng(5), 4000)[:]
        _LEAN[world.name] = np.tanh(_unit(world, many)).mean(1)
    return _LEAN[world.name]


def one(key: Key) -> Run:
    """One study."""
    name, share, n, seed, second = key
    rng = np.random.default_rng([seed, n, round(1000 * share), zlib.crc32(name.encode())])
    world = make_world(name, rng, share)
    n_search = n // 2
    scores = world.draw(rng, n_search + n + VERIFY_PROMPTS)
    study, fresh = scores.split(n_search + n)
    shares = [share, *(s for s in FURTHER_SHARES if abs(s - share) > 1e-9)]
    terms = [Term("clip", SPREAD, 1.0, 0.1 * SPREAD)]
    further: dict[str, np.ndarray] = {}
    truths = {"clip": world.truth}
    if second:
        terms.append(Term("scene", SCENE_SPREAD, 1.0, 0.1 * SCENE_SPREAD))
        truths["scene"], further["scene"] = second_metric(world, scores[:], rng)
    objective = Objective(tuple(terms))
    settings = default_settings(n, seed)
    replay = Replay(world, study, n, shares, settings, objective, {m: t[:, : n_search + n] for m, t in further.items()})
    replay.search()
    replay.judge()
    evidence = replay.evidence()
    # truth of the objective, in its own unit
    true = sum(t.weight / len(terms) / t.spread * truths[t.metric] for t in terms)
    rows = {s: evidence.row(world.limit(s)) for s in sorted(shares)}
    told = []
    for s, row in rows.items():
        arms = {arm: world.allowed_rows(s, arm) for arm in ("step_reduction", "cheaper_steps")}
        arms = {arm: found[found != world.baseline] for arm, found in arms.items()}
        if row.difference is None or not all(len(found) for found in arms.values()):
            continue
        best = {arm: float(true[found].max()) for arm, found in arms.items()}
        gap = best["cheaper_steps"] - best["step_reduction"]
        named = true[world.rows[row.cheaper_steps.plan.plan_id]] - true[world.rows[row.step_reduction.plan.plan_id]]
        told.append(
            {
                "share": s,
                "own": s == share,
                "winner": row.winner,
                "true": objective.shown * gap,
                "mean": objective.shown * row.difference.mean,
                "low": objective.shown * row.difference.low,
                "high": objective.shown * row.difference.high,
                "covered": bool(row.difference.low <= gap <= row.difference.high),
                "pair": bool(row.difference.low <= named <= row.difference.high),
                "wrong": bool(
                    (row.winner == "cheaper_steps" and gap <= 1e-9) or (row.winner == "step_reduction" and gap >= -1e-9)
                ),
            }
        )
    change = crossover(list(rows.values()))
    right = None
    if change is not None:
        signs = [np.sign(next(r["true"] for r in told if r["share"] == s)) for s in change]
        right = bool(signs[0] != signs[1])
    limit = world.limit(share)
    choice = choose(limit, evidence)
    row = world.rows[choice.winner.plan.plan_id]
    allowed = world.allowed_rows(share)
    verified, metrics = [], []
    for term, c in zip(terms, choice.comparisons, strict=True):
        m = term.metric
        value = float(truths[m][row])
        ours, theirs = (
            (fresh[row], fresh[world.baseline])
            if m == "clip"
            else (further[m][row, n_search + n :], further[m][world.baseline, n_search + n :])
        )
        now = compare(np.asarray(ours), np.asarray(theirs))
        verified.append(checks.quality(m, comparison_section(c), now, "fresh prompts", len(terms)).outcome)
        metrics.append(
            {
                "metric": m,
                "true": value,
                "mean": c.mean,
                "covered": bool(c.low <= value <= c.high),
                "width": c.high - c.low,
            }
        )
    return {
        "key": list(key),
        "images": replay.images,
        "rows": told,
        "crossover": change,
        "crossover_right": right,
        "regret": objective.shown * float(true[allowed].max() - true[row]),
        "verdict": choice.verdict.kind,
        # better in truth: one metric above 0 and none below by more than its delta
        "truly_better": bool(
            any(m["true"] > 1e-9 for m in metrics)
            and all(m["true"] > -t.delta for m, t in zip(metrics, terms, strict=True))
        ),
        "truly_worse": bool(any(m["true"] < -1e-9 for m in metrics)),
        "metrics": metrics,
        "verify_failed": "failed" in verified,
    }


def share_of(flags: list[bool]) -> str:
    """A share with its standard error."""
    if not flags:
        return "–"
    p = float(np.mean(flags))
    return f"{p:.3f} ± {np.sqrt(p * (1 - p) / len(flags)):.3f}"


def print_tables(runs: list[Run]) -> None:
    worlds = [w for w in WORLDS if any(r["key"][0] == w for r in runs)]
    for second in sorted({r["key"][4] for r in runs}):
        mine = [r for r in runs if r["key"][4] == second]
        print(f"\n### {'Two metrics' if second else 'One metric'}\n")
        print(
            "| world | studies | row | covers the true arms | named pair | an arm wins | of these wrong | mean width |"
        )
        print("| --- " * 8 + "|")
        for world in worlds:
            of = [r for r in mine if r["key"][0] == world]
            cells: dict[tuple[float, str], list[Run]] = defaultdict(list)
            for run in of:
                for row in run["rows"]:
                    cells[row["share"], "own" if row["own"] else "further"].append(row)
            for (share, kind), rows in sorted(cells.items()):
                won = [r for r in rows if r["winner"] not in ("tie", "undecided")]
                print(
                    f"| {world} | {len(rows)} | {share:.0%} {kind} | {share_of([r['covered'] for r in rows])} "
                    f"| {share_of([r['pair'] for r in rows])} | {len(won)} | {sum(r['wrong'] for r in won)} "
                    f"| {np.mean([r['high'] - r['low'] for r in rows]):.2f} |"
                )
        print(
            "\n| world | studies | winner covered | bias | better: said | and false | worse: said | and false | regret "
            "| change claimed | right | verify fails | images |"
        )
        print("| --- " * 13 + "|")
        for world in worlds:
            of = [r for r in mine if r["key"][0] == world]
            if not of:
                continue
            better = [r for r in of if r["verdict"] == "better"]
            worse = [r for r in of if r["verdict"] == "worse"]
            claimed = [r for r in of if r["crossover"] is not None]
            first = [r["metrics"][0] for r in of]
            print(
                f"| {world} | {len(of)} | {share_of([all(m['covered'] for m in r['metrics']) for r in of])} "
                f"| {np.mean([m['mean'] - m['true'] for m in first]):+.2f} "
                f"| {len(better)} | {sum(not r['truly_better'] for r in better)} "
                f"| {len(worse)} | {sum(not r['truly_worse'] for r in worse)} "
                f"| {np.mean([r['regret'] for r in of]):.3f} | {len(claimed)} "
                f"| {sum(bool(r['crossover_right']) for r in claimed)} "
                f"| {share_of([r['verify_failed'] for r in of])} | {np.mean([r['images'] for r in of]):.0f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES))
    parser.add_argument("--num-prompts", type=int, default=150)
    parser.add_argument("--runs", type=int, default=60, help="studies per world and own budget")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--second", action="store_true", help="with a second metric")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "replay.json")
    parser.add_argument("--print", action="store_true", help="print the tables of what is there, run nothing")
    options = parser.parse_args()
    if not options.print:
        journal = Journal(options.out, lambda run: tuple(run["key"]))
        keys = [
            (world, share, options.num_prompts, seed, options.second)
            for seed in range(options.first_seed, options.first_seed + options.runs)
            for world in options.worlds
            for share in options.shares
        ]
        keys = [key for key in keys if key not in journal]
        with ProcessPoolExecutor(options.processes) as pool:
            for number, run in enumerate(pool.map(one, keys), 1):
                journal.add(run)
                if number % 50 == 0:
                    print(f"{number}/{len(keys)}", flush=True)
        journal.write("numpy", "scipy", spread=[SPREAD, SCENE_SPREAD])
    print_tables(recorded_runs(options.out))


if __name__ == "__main__":
    main()
