"""Methods side by side on the embedded models, at three budgets (supplementary H, main table 3).

The command ``postdiff compare-methods``, so a stopped run goes on where it was. Results with their raw values go to
``results/methods_MODEL.json``, plots to ``docs/``.

    python benchmarks/methods.py --model shapes --num-prompts 120 --profile profile_60.yaml
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import diffusers
import torch

from postdiff_calib.jobs.method_settings import MethodsJob
from postdiff_calib.jobs.methods import run_methods
from postdiff_calib.report.method_plots import plot_methods
from postdiff_calib.report.progress import console_progress
from postdiff_calib.report.studies import print_methods

RESULTS, DOCS = Path(__file__).parent / "results", Path(__file__).parent.parent / "docs"


def raw(path: Path) -> list[dict[str, object]]:
    """The stored blocks without embeddings."""
    blocks = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in block.items() if name != "features"} for block in blocks]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--budgets", default="75%,60%,45%")
    parser.add_argument("--num-prompts", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1, help="other prompts and noise than those of a calibration's")
    parser.add_argument("--profile", type=Path, nargs="*", default=[], help="calibrated plans")
    parser.add_argument("--no-measure", action="store_true", help="measure no seconds")
    parser.add_argument("--work", type=Path, default=Path("studies"), help="folder of the study's folder")
    options = parser.parse_args()
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
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }
    scores = {path.name: raw(path) for path in sorted(job.folder("methods").glob("scores*.jsonl"))}
    path = RESULTS / f"methods_{options.model}.json"
    path.write_text(json.dumps({**result.as_dict(), "about": about, "raw": scores}, ensure_ascii=False) + "\n")
    print(path)


if __name__ == "__main__":
    main()
