"""What a search costs besides making and scoring images: the share of wall time that is spent on anything else.

Runs the stages of ``postdiff calibrate`` in a temporary study folder and times every call that makes and scores
images (their measures against the baseline's included). What is left is the search itself: proposals, the
surrogate, races, Optuna's storage, the score file, the study's record. Measured for the search and for the whole run
from the first proposal to the profile's numbers.

    python benchmarks/search_overhead.py --out benchmarks/results/search_overhead.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from postdiff_calib.cost.budget import parse_budget
from postdiff_calib.cost.store import device_name
from postdiff_calib.files import write_atomically
from postdiff_calib.jobs import calibrate
from postdiff_calib.jobs.given import NOTHING
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.jobs.materials import materials_of
from postdiff_calib.jobs.new_record import record_of
from postdiff_calib.jobs.workbench import Workbench
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.load import load_pipeline
from postdiff_calib.progress import Silent
from postdiff_calib.study.record import Study


@dataclass
class Timed:
    """An evaluator whose time is kept."""

    evaluator: Any
    clock: dict[str, float]

    def measured(self, knobs: Knobs, indices: Any) -> Any:
        """As ``evaluate.MeasuringEvaluator``."""
        start = time.perf_counter()
        try:
            return self.evaluator.measured(knobs, indices)
        finally:
            self.clock["images"] += time.perf_counter() - start

    def scores(self, knobs: Knobs, indices: Any) -> list[float]:
        """As ``evaluate.Evaluator``."""
        return list(self.measured(knobs, indices).scores)


@dataclass(frozen=True)
class TimedWorkbench(Workbench):
    """A workbench with timed evaluators."""

    clock: dict[str, float] = field(default_factory=lambda: {"images": 0.0})

    def evaluator(self, *args: Any, **options: Any) -> Any:
        """As ``Workbench.evaluator``."""
        return Timed(super().evaluator(*args, **options), self.clock)


def run(job: CalibrateJob) -> dict[str, Any]:
    """One calibration; seconds of its parts."""
    loaded = load_pipeline(job.model, device=job.device, dtype=job.dtype)
    materials = materials_of(job, NOTHING)
    plain = calibrate.set_up(job, loaded, materials)
    bench = TimedWorkbench(**{f.name: getattr(plain, f.name) for f in fields(plain)})
    table = calibrate.price(bench, Silent())
    study = Study(job.folder, record_of(job, bench, materials.prompt_set.name, table))
    study = calibrate.spread_stage(study, bench, Silent())
    bench.clock["images"] = 0.0
    start = time.perf_counter()
    search = calibrate.run_stage(study, bench, Silent())
    searched, images = time.perf_counter() - start, bench.clock["images"]
    study = study.with_search(search.trials, search.failed, calibrate.searched_budgets(search.searched))
    study = calibrate.confirm_stage(study, bench, search, Silent())
    study.conclude()
    whole, all_images = time.perf_counter() - start, bench.clock["images"]
    return {
        "images": search.images_made,
        "trials": search.trials,
        "search": {"seconds": searched, "images": images, "overhead": 1 - images / searched},
        "whole": {"seconds": whole, "images": all_images, "overhead": 1 - all_images / whole},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--budget", default="60%")
    parser.add_argument("--num-prompts", type=int)
    parser.add_argument("--trials", type=int, nargs="+", default=[None], help="calibrate's own by default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = []
    for trials in options.trials:
        with tempfile.TemporaryDirectory() as folder:
            job = CalibrateJob(
                model=options.model,
                budget=parse_budget(options.budget),
                num_prompts=options.num_prompts,
                trials=trials,
                device=options.device,
                study=Path(folder),
            )
            found = run(job)
        search, whole = found["search"], found["whole"]
        print(
            f"{found['trials']} trials, {found['images']} images: search {search['seconds']:.1f} s, overhead "
            f"{search['overhead']:.1%}; with confirmation {whole['seconds']:.1f} s, {whole['overhead']:.1%}",
            flush=True,
        )
        results.append(found)
    if options.out:
        about = {
            "model": options.model,
            "machine": device_name(options.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        write_atomically(options.out, json.dumps({**about, "runs": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
