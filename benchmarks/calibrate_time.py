"""How long the default calibration of an embedded model takes, from the command to the profile.

    python benchmarks/calibrate_time.py --models shapes shapes-flow --out benchmarks/results/calibrate_time.json

Runs ``postdiff calibrate --model NAME --budget 60%`` as its own process, in a new folder and with a new cache, so that
steps are timed and every image is made. Run it on a machine that does nothing else: a second process doubles the time.
Both wall-clock and processor seconds are recorded, and how busy the machine was when each run began.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

RESULTS = Path(__file__).parent / "results"


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def timed(model: str) -> dict[str, Any]:
    """One calibration.

    Raises:
        CalledProcessError: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).with_name("postdiff")), "calibrate", "--model", model, "--budget", "60%"]
        load, used = os.getloadavg()[0], resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        environment = {**os.environ, "POSTDIFF_CACHE": str(Path(folder) / "cache")}
        subprocess.run([*command, "--quiet", "--out", "p.yaml"], cwd=folder, env=environment, check=True)
        seconds = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        profile = yaml.safe_load((Path(folder) / "p.yaml").read_text())
    return {
        "model": model,
        "seconds": round(seconds, 1),
        "processor_seconds": round(after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime, 1),
        "load_before": round(load, 2),
        "num_prompts": profile["expected"]["difference"]["num_prompts"],
        "plan": profile["plan"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--models", nargs="+", default=["shapes", "shapes-flow"])
    parser.add_argument("--out", type=Path, default=RESULTS / "calibrate_time.json")
    options = parser.parse_args()
    runs = []
    for model in options.models:
        runs.append(timed(model))
        print(f"{model}: {runs[-1]['seconds']:.0f} s, {runs[-1]['processor_seconds']:.0f} s of processor time")
    versions = {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "optuna")}
    about = {"processor": processor(), "cpus": os.cpu_count(), "python": platform.python_version(), **versions}
    options.out.write_text(json.dumps({"about": about, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
