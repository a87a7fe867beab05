"""How many prompts rank settings as 500 do, by recorded scores; no image is made.

``shapes``, from ``results/search_table.npz``, in three sets of settings: every plan of the table, those within 60 % of
the baseline's MACs (what a search chooses from), and s alone at β = 0.5 and the default T (what the paper varied).
``shapes-flow``, from ``results/shapes_flow_tradeoff.json``: all its settings.

    python benchmarks/prompt_sizes.py --delta 0.5
    python benchmarks/prompt_sizes.py --model shapes-flow --delta 0.5
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.report.study_plots import plot_prompt_sizes
from postdiff_calib.study.prompt_sizes import SIZES, PromptSizes, sizes_study

RESULTS, DOCS = Path(__file__).parent / "results", Path(__file__).parent.parent / "docs"
BUDGET = 0.6


@dataclass(frozen=True)
class Scored:
    """Recorded scores, (plans, prompts); and sets of plans: name of the plot → (in words, (plans,) flags)."""

    scores: npt.NDArray[np.float64]
    sets: dict[str, tuple[str, npt.NDArray[np.bool_]]]


def of_shapes() -> Scored:
    with np.load(RESULTS / "search_table.npz") as table:
        knobs = [Knobs.from_dict(values) for values in json.loads(str(table["knobs"]))]
        macs, scores, baseline = table["macs"], table["scores"].astype(np.float64), int(table["baseline"])
    steps = knobs[baseline].num_inference_steps

    def only_s(k: Knobs) -> bool:
        return set(compile_plan(k).acting) <= {"mixed resolution"} and (
            k.num_inference_steps == steps and (k.low_res_fraction == 0 or k.low_res_scale == 0.5)
        )

    sets = {
        "all": ("every plan of the table", np.ones(len(knobs), bool)),
        "budget": (f"plans within {BUDGET:.0%} of the MACs", macs <= BUDGET * macs[baseline]),
        "s": (f"s alone, β = 0.5, T = {steps}", np.array([only_s(k) for k in knobs])),
    }
    return Scored(scores, sets)


def of_flow() -> Scored:
    kept = json.loads((RESULTS / "shapes_flow_tradeoff.json").read_text())
    baseline = np.array(kept["baseline"])
    scores = np.array([baseline, *(baseline + np.array(plan["difference"]) for plan in kept["plans"])])
    return Scored(scores, {"flow": ("the settings of the trade-off table", np.ones(len(scores), bool))})


MODELS = {"shapes": (of_shapes, "study_prompt_sizes.json"), "shapes-flow": (of_flow, "study_prompt_sizes_flow.json")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), default="shapes")
    parser.add_argument("--delta", type=float, default=0.5, help="points of the CLIP score that do not matter")
    parser.add_argument("--chance", type=float, default=0.95)
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    read, out = MODELS[options.model]
    scored = read()
    found = {}
    for name, (what, chosen) in scored.sets.items():
        rows = sizes_study(scored.scores[chosen], options.delta, SIZES, draws=options.draws)
        count, prompts = int(chosen.sum()), scored.scores.shape[1]
        result = PromptSizes(what, "clip", count, prompts, options.delta, options.chance, rows)
        found[name] = result.as_dict()
        print(f"{what}: {result.settings} settings. {result.answer()}")
        for row in rows:
            print(f"  {row.size:>5}  τ {row.tau:.3f} [{row.tau_low:.3f}, {row.tau_high:.3f}]  {row.chance:.1%}")
        plot_prompt_sizes(result, DOCS / f"study_prompts_{name}.png")
    path = RESULTS / out
    path.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
