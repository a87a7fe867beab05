"""What of a run's seconds does not grow with its length? A fit to the measured and the predicted plans of a record.

Where the host is the limit, a step takes as long at any resolution, so a run is a sum over four kinds of step (guided
or not, refresh or reuse), the change of resolution, and what a run takes once. Least squares over the plans of a record
of ``gpu_acceptance.py``; measured is the fastest of a plan's runs.

    python benchmarks/once_per_run.py benchmarks/results/gpu_acceptance_h100.json
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np

from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan

TERMS = ("guided refresh", "guided reuse", "conditional refresh", "conditional reuse", "change of resolution", "once")


def knobs_of(text: str) -> Knobs:
    """Knobs of their description, such as ``T=20 s=0.5 β=0.5 k=2 m=0.75``."""
    given = {name: float(value) for name, value in re.findall(r"(\w)=([\d.]+)", text)}
    return Knobs(int(given["T"]), given.get("s", 0.0), given.get("β", 1.0), int(given.get("k", 1)), given.get("m", 1.0))


def terms(knobs: Knobs) -> list[float]:
    """How often each of ``TERMS`` is in a run."""
    plan = compile_plan(knobs)
    kinds = [(step.guided, step.refresh) for step in plan]
    counts = [kinds.count(kind) for kind in ((True, True), (True, False), (False, True), (False, False))]
    return [*map(float, counts), float(plan.n_low > 0), 1.0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    plans = json.loads(parser.parse_args().record.read_text())["sections"]["prediction"]["rows"][0]["plans"]
    counts = np.array([terms(knobs_of(plan["knobs"])) for plan in plans])
    print(f"| | {' | '.join(TERMS)} |\n| {' | '.join(['---'] * (len(TERMS) + 1))} |")
    for name in ("predicted", "measured"):
        seconds = [plan["predicted"] if name == "predicted" else min(plan["raw"]) for plan in plans]
        fitted = np.linalg.lstsq(counts, 1000 * np.array(seconds), rcond=None)[0]
        print(f"| {name} | {' | '.join(f'{value:.1f} ms' for value in fitted)} |")


if __name__ == "__main__":
    main()
