"""Hundreds of calls of all kinds through one enabled pipeline of every family: memory, and images against fresh ones.

    python benchmarks/soak.py --calls 500 --out benchmarks/results/soak.json

Knobs, profiles, prompts, sizes, numbers of images and seeds change at random; one call in ten breaks off in the
middle, others ask for what is refused (see ``tests/soaking.py``). After every 50 calls a fixed call brings the pipeline
into one state, in which live tensors, their bytes and hooks are counted and the process's memory is read. Then calls
are made again, each on a fresh pipeline, and images compared bit for bit. Families that the file of ``--out`` holds
already, with as many calls, are left out, so a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import pipelines as P
import torch
from soaking import Soak, resident

#: Calls between two counts.
EVERY = 50


def soak(name: str, calls: int, share: float) -> dict[str, Any]:
    """One family: what was counted, and whether it held."""
    start, run, counts = time.perf_counter(), Soak(name), []
    for number in run.run(calls):
        if (number + 1) % EVERY == 0:
            counts.append({"calls": number + 1, **run.counts(), "resident_bytes": resident()})
    seconds = time.perf_counter() - start
    checked, different = run.other_images(share)
    return {
        "calls": calls,
        **run.done,
        "plans": len({(enabled.knobs, enabled.profile) for enabled, _, _ in run.seen}),
        "compared": checked,
        "other_images": [str(asked) for asked in different],
        "flat": len({(c["tensors"], c["tensor_bytes"], c["hooks"]) for c in counts}) == 1,
        "resident_bytes_per_call": growth(counts),
        "restored": run.restored(),
        "seconds": round(seconds, 1),
        "counts": counts,
    }


def growth(counts: list[dict[str, int]]) -> float:
    """Slope of the process's memory over the second half of the calls; allocators and caches fill up in the first."""
    late = [c for c in counts if 2 * c["calls"] >= counts[-1]["calls"]]
    if len(late) < 2:
        return 0.0
    return round(float(np.polyfit([c["calls"] for c in late], [c["resident_bytes"] for c in late], 1)[0]), 1)


def main() -> None:
    """Run every family, or those that are named, and record what came out."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--share", type=float, default=0.1, help="of the calls, made again on fresh pipelines")
    parser.add_argument("--family", action="append", choices=list(P.FAMILIES))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(options.out.read_text()) if options.out is not None and options.out.exists() else {}
    families = known.get("families", {})
    for name in options.family or P.FAMILIES:
        if families.get(name, {}).get("calls") == options.calls:
            continue
        found = families[name] = soak(name, options.calls, options.share)
        print(name, {key: value for key, value in found.items() if key != "counts"}, flush=True)
        if options.out is not None:
            about = {
                "command": f"python benchmarks/soak.py --calls {options.calls} --share {options.share}",
                "python": platform.python_version(),
                **{package: version(package) for package in ("postdiff", "torch", "diffusers", "transformers")},
                "processor": platform.processor() or platform.machine(),
            }
            options.out.write_text(json.dumps({"about": about, "families": families}, indent=1) + "\n")
    held = all(f["flat"] and f["restored"] and not f["other_images"] for f in families.values())
    print("held" if held else "FAILED")
    sys.exit(not held)


if __name__ == "__main__":
    main()
