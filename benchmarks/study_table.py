"""Ablations of k, m, β and s from the recorded scores of ``results/search_table.npz``; no image is made.

The settings of the paper's studies B and C that the table holds, on its 500 prompts, by the code behind ``postdiff
ablate``. The table was made with ``--noise coupled``, so its low-resolution images are not today's default.

    python benchmarks/study_table.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from postdiff_calib.cost.build import table_for_card
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.cards import get_card
from postdiff_calib.plan import compile_plan
from postdiff_calib.report.ablation_plots import plot_ablation
from postdiff_calib.scores.select import PlanScores
from postdiff_calib.search.space import SearchSpace
from postdiff_calib.search.vary import Setting, parse_fixed, parse_varied, settings
from postdiff_calib.study.ablation import Ablation, row_of

RESULTS, DOCS = Path(__file__).parent / "results", Path(__file__).parent.parent / "docs"
ASKED = {
    "k": (["k=1..5"], []),
    "m": (["m=0.3..1"], []),
    "beta": (["beta=0.375..0.875"], ["s=0.5"]),
    "s": (["s=0..0.8"], ["beta=0.5"]),
}


def main() -> None:
    with np.load(RESULTS / "search_table.npz") as table:
        rows = [Knobs.from_dict(values) for values in json.loads(str(table["knobs"]))]
        scores, about = table["scores"].astype(np.float64), json.loads(str(table["about"]))
    by_plan = {compile_plan(knobs).plan_id: row for knobs, row in zip(rows, scores, strict=True)}
    card = get_card("shapes")
    price, space = table_for_card(card).price, SearchSpace.from_card(card, card.latent_size())

    def scored(knobs: Knobs) -> PlanScores:
        plan = compile_plan(knobs)
        return PlanScores(knobs, price(plan), by_plan[plan.plan_id])

    found, baseline = {}, scored(space.baseline)
    for name, (vary, fix) in ASKED.items():
        varied, fixed = parse_varied(vary, space), parse_fixed(fix)
        chosen = [s for s in settings(varied, fixed, space) if s.plan_id in by_plan]
        own = row_of(Setting({}, space.baseline), baseline, baseline)
        measured = tuple(row_of(s, scored(s.knobs), baseline) for s in chosen)
        result = Ablation("shapes", scores.shape[1], varied, fixed, own, measured)
        plot_ablation(result, DOCS / f"study_table_{name}.png")
        found[name] = result.as_dict()
        for row in result.rows:
            print(f"{row.label:<16} {row.share:6.1%}  {row.measures['clip'].difference}")
    path = RESULTS / "study_table.json"
    path.write_text(json.dumps({"about": about, **found}, ensure_ascii=False, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
