"""A longer run of the fuzz targets of the tests, with the number of inputs recorded.

    python benchmarks/fuzz.py --examples 2000 --out benchmarks/results/fuzz.json

Every target is run with inputs that no earlier run is known to have used; the first input that raises anything but the
project's own errors ends the run with that input, made as small as it can be.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

from hypothesis import HealthCheck, given, seed, settings

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import fuzzing


def run(name: str, examples: int, number: int) -> dict[str, float | int]:
    """Run one target; how many inputs it saw, and the seconds it took."""
    strategy, check = fuzzing.TARGETS[name]
    seen = 0

    @seed(number)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def target(example: object) -> None:
        nonlocal seen
        seen += 1
        check(example)

    start = time.perf_counter()
    target()
    return {"inputs": seen, "seconds": round(time.perf_counter() - start, 1)}


def main() -> None:
    """Run every target, or those that are named, and record what was run."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--examples", type=int, default=2000, help="inputs per target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", choices=list(fuzzing.TARGETS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    targets = {}
    for name in options.target or fuzzing.TARGETS:
        targets[name] = run(name, options.examples, options.seed)
        print(f"{name}: {targets[name]['inputs']} inputs, {targets[name]['seconds']} s")
    about = {
        "command": "python " + " ".join(sys.argv),
        "seed": options.seed,
        "python": platform.python_version(),
        **{name: version(name) for name in ("postdiff", "hypothesis", "pydantic", "PyYAML", "pyarrow", "SQLAlchemy")},
        "processor": platform.processor() or platform.machine(),
    }
    total = sum(int(target["inputs"]) for target in targets.values())
    print(f"{total} inputs, nothing but the project's own errors")
    if options.out is not None:
        options.out.write_text(json.dumps({"about": about, "inputs": total, "targets": targets}, indent=1) + "\n")


if __name__ == "__main__":
    main()
