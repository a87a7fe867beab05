"""The paper's own studies on the embedded models: redundancy (A), ablations (B, C, I), size of the calibration set (D).

Each is the command that ``postdiff`` has for it, so a stopped run goes on where it was; more prompts add to those that
are scored. Results with their raw values go to ``results/study_NAME_MODEL.json``, plots to ``docs/``.

    python benchmarks/paper_studies.py --model shapes --num-prompts 120
    python benchmarks/paper_studies.py --model shapes --only k m --work studies
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch

from postdiff_calib.cost.store import device_name
from postdiff_calib.jobs.ablate import AblateJob, run_ablation
from postdiff_calib.jobs.redundancy import RedundancyJob, run_redundancy
from postdiff_calib.models.cards import get_card
from postdiff_calib.models.load import pick_device
from postdiff_calib.report.ablation_plots import plot_ablation, plot_traces
from postdiff_calib.report.progress import console_progress
from postdiff_calib.report.study_plots import plot_redundancy

RESULTS, DOCS = Path(__file__).parent / "results", Path(__file__).parent.parent / "docs"


@dataclass(frozen=True)
class Asked:
    """One ablation; ``cards`` that lack its knobs are skipped."""

    vary: tuple[str, ...]
    fix: tuple[str, ...] = ()
    steps: str | None = None
    trace: bool = False
    needs: str = "num_inference_steps"


ABLATIONS = {
    "k": Asked(("k=1..5",)),
    "m": Asked(("m=0.3..1",)),
    "beta": Asked(("beta=0.375,0.5,0.625,0.75,0.875",), ("s=0.5",), "10,20"),
    "cross": Asked(("cross=cond,mean,off", "m=0.45"), needs="cross_attention_cache"),
    "trace": Asked(("s=0.3,0.5,0.7",), ("beta=0.5",), trace=True),
}


def about(argv: dict[str, object]) -> dict[str, object]:
    return {
        "asked": {name: str(value) for name, value in argv.items() if name != "study"},
        "machine": device_name(pick_device("auto")),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }


def raw(path: Path) -> list[dict[str, object]]:
    """The stored blocks without embeddings."""
    blocks = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in block.items() if name != "features"} for block in blocks]


def keep(name: str, data: dict[str, object]) -> None:
    path = RESULTS / f"study_{name}.json"
    path.write_text(json.dumps(data, ensure_ascii=False) + "\n")
    print(path, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--num-prompts", type=int, default=120)
    parser.add_argument("--only", nargs="*", default=["redundancy", *ABLATIONS], help="names of studies, in order")
    parser.add_argument("--no-measure", action="store_true", help="measure no seconds")
    parser.add_argument("--work", type=Path, default=Path("studies"), help="folder of the studies' folders")
    options = parser.parse_args()
    model, shared = options.model, {"model": options.model, "num_prompts": options.num_prompts}
    with console_progress(quiet=False) as progress:
        if "redundancy" in options.only:
            job = RedundancyJob(**shared, study=options.work / f"{model}-redundancy")
            found = run_redundancy(job, progress)
            plot_redundancy(found, DOCS / f"study_redundancy_{model}.png")
            each = found.distances.relative_l1.round(4).tolist()  # prompts, blocks, steps
            keep(f"redundancy_{model}", {**found.as_dict(), "about": about(vars(job)), "raw": each})
        for name in [name for name in options.only if name in ABLATIONS]:
            asked = ABLATIONS[name]
            if asked.needs not in get_card(model).knobs:
                continue
            folder = options.work / f"{model}-ablation"
            given = {"vary": asked.vary, "fix": asked.fix, "steps": asked.steps, "trace": asked.trace}
            job = AblateJob(**shared, study=folder, measure=not options.no_measure, **given)
            result = run_ablation(job, progress)
            plot_ablation(result, DOCS / f"study_{name}_{model}.png")
            if result.traces:
                plot_traces(result, DOCS / f"study_{name}_{model}.png")
            ids = {row.plan_id for row in (result.baseline, *result.rows)}
            blocks = [block for block in raw(folder / "scores.jsonl") if block["plan"] in ids]
            keep(f"{name}_{model}", {**result.as_dict(), "about": about(vars(job)), "raw": blocks})


if __name__ == "__main__":
    main()
