"""The embedded models' trade-offs side by side, from the records of ``shapes_tradeoff.py``; prints Markdown.

    python benchmarks/side_by_side.py
    python benchmarks/side_by_side.py --low-res     (the rows with low-resolution steps alone)

Per plan and model: share of the baseline's MACs, and the mean difference to the baseline of the CLIP score and of right
scenes, in points and percentage points, each with one standard error.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from postdiff_calib.knobs import Knobs

RESULTS = Path(__file__).parent / "results"
RECORDS = {"shapes": "shapes_tradeoff.json", "shapes-flow": "shapes_flow_tradeoff.json"}


def mean(values: list[float]) -> str:
    found = np.array(values, dtype=float)
    return f"{found.mean():+.2f} ± {found.std(ddof=1) / np.sqrt(len(found)):.2f}"


def rows_of(record: dict[str, Any]) -> dict[Knobs, str]:
    """Plan → its cells. Cross-attention that is not there is no difference between plans."""
    found = {}
    for row in record["plans"]:
        knobs = Knobs.from_dict({**row["knobs"], "cross_attention_cache": "cond"})
        scenes = row.get("scene_difference")
        cells = [f"{100 * row['relative_macs']:.0f} %", mean(row["difference"]), mean(scenes) if scenes else "not read"]
        found[knobs] = " | ".join(cells)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--low-res", action="store_true", help="plans with low-resolution steps alone")
    options = parser.parse_args()
    tables = {name: rows_of(json.loads((RESULTS / file).read_text())) for name, file in RECORDS.items()}
    plans = dict.fromkeys(knobs for rows in tables.values() for knobs in rows)
    heads = [f"`{name}`: {head}" for name in tables for head in ("MACs", "CLIP", "scenes")]
    print(f"| plan | {' | '.join(heads)} |\n|" + " --- |" * (1 + len(heads)))
    for knobs in plans:
        if knobs.low_res_fraction or not options.low_res:
            cells = [rows.get(knobs, "broken or not run | | ") for rows in tables.values()]
            print(f"| `{knobs.describe()}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
