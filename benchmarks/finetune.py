"""Mixed-resolution fine-tuning of an embedded model, and what it does to low-resolution plans (supplementary F).

Trains with s = β = .5, then scores the same prompts and seeds with and without: the plan that it was trained for, three
others and the baseline. Differences are paired, fine-tuned minus stock, with 95 % intervals, on the prompts that both
have. Training stops at ``--steps``, or after the slice of 100 steps in which the minutes are over; it and scoring go on
where they were stopped. ``--summary`` makes no image. The result goes to ``results/finetune_MODEL.json``.

    python benchmarks/finetune.py --model shapes --minutes 13 --num-prompts 240
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from postdiff_calib.jobs.finetune import Finetuned, FinetuneJob, run_finetune
from postdiff_calib.jobs.paper_study import PaperStudyJob, set_up
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.tuning.asked import Tuning
from postdiff_calib.plan import compile_plan
from postdiff_calib.report.progress import console_progress
from postdiff_calib.scores.paired import compare
from postdiff_calib.scores.store import FileStore

#: Steps between looks at the clock, and prompts scored at a time.
SLICE, BLOCK = 100, 20
RESULTS = Path(__file__).parent / "results"
PLANS = {
    "s=0.5 β=0.5": Knobs(20, 0.5, 0.5),
    "s=0.3 β=0.5": Knobs(20, 0.3, 0.5),
    "s=0.5 β=0.75": Knobs(20, 0.5, 0.75),
    "s=0.5 β=0.5 k=2 m=0.75": Knobs(20, 0.5, 0.5, 2, 0.75),
    "baseline": Knobs(20),
}


def score_all(bench: Any, path: Path, progress: Any) -> None:
    """Score every plan on all prompts, plan by plan."""
    from postdiff_calib.scores.book import ScoreBook

    path.parent.mkdir(parents=True, exist_ok=True)
    count = len(bench.held_out)
    evaluator = bench.evaluator(bench.held_out, bench.seed, progress.advance)
    book = ScoreBook(evaluator, count, PLANS["baseline"], FileStore(path))
    progress.stage("scoring", len(PLANS) * count)
    for knobs in PLANS.values():
        for first in range(0, count, BLOCK):
            book.scores(knobs, range(first, min(first + BLOCK, count)))


def trained_for(job: FinetuneJob, options: argparse.Namespace, progress: Any) -> Finetuned:
    """Train in slices until the steps are made or the minutes are over."""
    end, done = time.monotonic() + 60 * options.minutes, 0
    while True:
        tuned = run_finetune(replace(job, steps=min(done + SLICE, options.steps)), progress)
        done = tuned.steps
        if done >= options.steps or time.monotonic() > end:
            return tuned


def run(options: argparse.Namespace) -> None:
    from postdiff_calib.models.families import denoiser_in
    from postdiff_calib.models.fingerprint import fingerprint_pipeline
    from postdiff_calib.models.load import load_pipeline

    tuning = Tuning(batch_size=options.batch_size, rate=options.rate, ema=0.995, warmup=50)
    job = FinetuneJob(options.model, tuning=tuning, work=options.work / options.model, device="cpu", save_every=50)
    with console_progress(quiet=False) as progress:
        tuned = trained_for(job, options, progress)
        study = PaperStudyJob(model=options.model, num_prompts=options.num_prompts, device="cpu")
        bench, _ = set_up(study, None, progress)
        pipe = load_pipeline(str(tuned.written), device="cpu").pipe
        role, network = denoiser_in(pipe)
        score_all(bench, scores_of(options, "stock"), progress)
        # everything but the denoiser is the stock model's, its card and judge among them
        setattr(bench.loaded.pipe, role, network)
        after = replace(bench, loaded=replace(bench.loaded, fingerprint=fingerprint_pipeline(bench.loaded.pipe)))
        score_all(after, scores_of(options, str(tuned.steps)), progress)


def scores_of(options: argparse.Namespace, which: str) -> Path:
    return options.work / f"{options.model}-{which}" / "scores.jsonl"


def by_plan(path: Path) -> dict[str, dict[str, dict[int, float]]]:
    """Plan id → metric → prompt → value."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for block in FileStore(path).read():
        for metric, values in {"clip": block["scores"], **block["measures"]}.items():
            found.setdefault(block["plan"], {}).setdefault(metric, {}).update(
                zip(block["prompts"], values, strict=True)
            )
    return found


def summary(options: argparse.Namespace) -> None:
    """Paired differences of what is scored."""
    tuned = json.loads((options.work / options.model / "out" / "finetune.json").read_text())
    stock, after = by_plan(scores_of(options, "stock")), by_plan(scores_of(options, str(tuned["steps"])))
    rows, base = [], stock[compile_plan(PLANS["baseline"]).plan_id]
    for name, knobs in PLANS.items():
        plan, metrics = compile_plan(knobs).plan_id, {}
        for metric in after.get(plan, {}):
            own, trained, whole = stock[plan][metric], after[plan][metric], base[metric]
            both = sorted(own.keys() & trained.keys() & whole.keys())
            a, b, c = (np.array([values[i] for i in both]) for values in (own, trained, whole))
            metrics[metric] = {
                "stock": float(a.mean()),
                "tuned": float(b.mean()),
                "tuned_minus_stock": asdict(compare(b, a)),
                "stock_minus_stock_baseline": asdict(compare(a, c)),
                "tuned_minus_stock_baseline": asdict(compare(b, c)),
                "raw": {"prompts": both, "stock": a.round(4).tolist(), "tuned": b.round(4).tolist()},
            }
            print(f"{name:24} {metric:6} {compare(b, a)}", flush=True)
        rows.append({"plan": name, "metrics": metrics})
    about = {"machine": platform.processor() or platform.machine(), "torch": version("torch")}
    path = RESULTS / f"finetune_{options.model}.json"
    path.write_text(json.dumps({**tuned, **about, "plans": rows}, ensure_ascii=False) + "\n")
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=13.0, help="of training, in this run")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--num-prompts", type=int, default=240)
    parser.add_argument("--work", type=Path, default=Path("runs/finetune"), help="state, weights and scores")
    parser.add_argument("--summary", action="store_true", help="of what is scored, and nothing else")
    options = parser.parse_args()
    if not options.summary:
        run(options)
    summary(options)


if __name__ == "__main__":
    main()
