"""Methods side by side on the embedded models, at three budgets (supplementary H, main table 3).

The command ``postdiff compare-methods``, so a stopped run goes on where it was. Results with their raw values go to
``results/methods_MODEL.json``, plots to ``docs/``. Times are medians of the ratios to the baseline's call of the
same round; where rounds disagree a cell says so, with the smallest and the largest ratio: such times are rough.

    python benchmarks/methods.py --model shapes --num-prompts 120 --profile profile_60.yaml
    python benchmarks/methods.py --model shapes --table    # of the recorded result, for docs/studies.md; nothing is run
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch

from postdiff_calib.cost.store import device_name
from postdiff_calib.jobs.method_settings import MethodsJob
from postdiff_calib.jobs.methods import run_methods
from postdiff_calib.models.load import pick_device
from postdiff_calib.report.method_plots import plot_methods
from postdiff_calib.report.progress import console_progress
from postdiff_calib.report.studies import print_methods
from postdiff_calib.study.methods import pace_of_rounds, relative_time

RESULTS, DOCS = Path(__file__).parent / "results", Path(__file__).parent.parent / "docs"


def raw(path: Path) -> list[dict[str, object]]:
    """The stored blocks without embeddings."""
    blocks = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in block.items() if name != "features"} for block in blocks]


def time_cell(row: Mapping[str, Any], baseline: Mapping[str, Any]) -> str:
    """Time over the baseline's, and where rounds disagree the range of them."""
    time = relative_time(row["seconds"], baseline["seconds"])
    if time is None:
        return "–"
    rough = "" if time.agreement.stable else f", unstable ({100 * time.low:.0f} to {100 * time.high:.0f})"
    return f"{100 * time.share:.0f} %{rough}"


def quality(row: Mapping[str, Any], name: str, digits: int) -> str:
    """The paired difference with its 95 % interval."""
    d = row["measures"][name]["difference"]
    return f"{d['mean']:+.{digits}f} [{d['low']:+.{digits}f}, {d['high']:+.{digits}f}]".replace("-", "−")


def table(record: Mapping[str, Any]) -> str:
    """A recorded comparison as the Markdown of ``docs/studies.md``."""
    baseline, lines = record["baseline"], []
    heading = f"| `{record['model']}`, within | method | setting | MACs | time | CLIP score, 95 % interval | "
    lines += [heading + "scenes right, points | SSIM |", "| --- " * 8 + "|"]
    for text, rows in record["budgets"].items():
        first = text.replace("%", " %")
        for row in rows:
            if row["why"]:
                continue
            cells = [first, row["method"], row["label"], f"{100 * row['share']:.0f} %", time_cell(row, baseline)]
            cells += [quality(row, "clip", 2), quality(row, "scene", 0), f"{row['measures']['ssim']['mean']:.3f}"]
            lines.append(f"| {' | '.join(cells)} |")
            first = ""
    every = [baseline, *(row for rows in record["budgets"].values() for row in rows)]
    pace = pace_of_rounds({(row["method"], row["label"]): row["seconds"] for row in every})
    said = "nothing was timed" if pace is None else f"{len(baseline['seconds'])} rounds, seconds are {pace.stability}"
    return "\n".join([*lines, "", said])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--budgets", default="75%,60%,45%")
    parser.add_argument("--num-prompts", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1, help="other prompts and noise than those of a calibration's")
    parser.add_argument("--profile", type=Path, nargs="*", default=[], help="calibrated plans")
    parser.add_argument("--no-measure", action="store_true", help="measure no seconds")
    parser.add_argument("--work", type=Path, default=Path("studies"), help="folder of the study's folder")
    parser.add_argument("--table", action="store_true", help="print the recorded result as Markdown, run nothing")
    options = parser.parse_args()
    path = RESULTS / f"methods_{options.model}.json"
    if options.table:
        print(table(json.loads(path.read_text())))
        return
    job = MethodsJob(
        model=options.model,
        num_prompts=options.num_prompts,
        seed=options.seed,
        study=options.work / f"{options.model}-methods",
        budgets=options.budgets,
        profiles=tuple(options.profile),
        measure=not options.no_measure,
    )
    with console_progress(quiet=False) as progress:
        result = run_methods(job, progress)
    plot_methods(result, DOCS / f"study_methods_{options.model}.png")
    print_methods(result, job.folder("methods") / "methods.json", as_json=False)
    about = {
        "machine": device_name(pick_device(job.device)),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }
    scores = {path.name: raw(path) for path in sorted(job.folder("methods").glob("scores*.jsonl"))}
    path.write_text(json.dumps({**result.as_dict(), "about": about, "raw": scores}, ensure_ascii=False) + "\n")
    print(path)


if __name__ == "__main__":
    main()
