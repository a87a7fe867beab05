"""Does postdiff keep its promises on a GPU? One command, under nine minutes on one GPU like an H100 or H200, offline.

Full-size networks with random weights (``random_models.py``), in bfloat16. The sections, most telling first, are those
of ``NAMES``. One that does not fit into the time left is recorded as not run, one that raises is recorded with its
error, and the others go on; the file is written anew after every row, so a killed run keeps what it had.

    python benchmarks/gpu_acceptance.py --out benchmarks/results/gpu_acceptance.json
    python benchmarks/gpu_acceptance.py --only compiled prediction-sdxl --out more.json
    python benchmarks/gpu_acceptance.py --miniature --out tiny.json

``--miniature`` runs tiny networks on the CPU: it shows that the script works, nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acceptance_table import markdown
from journal import version_of

from postdiff_calib.cost.store import device_name
from postdiff_calib.files import write_atomically

if TYPE_CHECKING:
    from acceptance_bench import Bench

PACKAGES = ("torch", "diffusers", "transformers", "DeepCache", "tgate", "triton", "postdiff")


@dataclass(frozen=True)
class Section:
    """A section and what it may take on an H100, in seconds; it is not begun with less time left."""

    name: str
    seconds: float
    run: Callable[[Bench], None]


#: In this order. A profiler may slow what is launched after it, so what it is used for comes last.
NAMES = (
    "identity",
    "equality",
    "efficiency",
    "prediction",
    "memory",
    "second-device",
    "prediction-sdxl",
    "further",
    "compiled",
    "host-reads",
)


def sections() -> tuple[Section, ...]:
    """All of them; imported here, so that the time this takes counts."""
    import acceptance_checks as checks
    import acceptance_timing as timing

    # From the seconds of a run on an H100 (results/gpu_acceptance_h100.json); compiling takes what is left.
    runs: dict[str, tuple[float, Callable[[Bench], None]]] = {
        "identity": (35, checks.identity),
        "equality": (25, checks.equality),
        "efficiency": (80, timing.efficiency),
        "prediction": (60, timing.prediction),
        "host-reads": (15, checks.host_reads),
        "memory": (25, checks.memory),
        "second-device": (10, checks.second_device),
        "compiled": (90, timing.compiled),
        "prediction-sdxl": (60, timing.prediction_sdxl),
        "further": (60, timing.further),
    }
    return tuple(Section(name, *runs[name]) for name in NAMES)


def machine(device: str) -> dict[str, Any]:
    """What everything was measured on."""
    import torch

    facts: dict[str, Any] = {"device": device, "device_name": device_name(device), "python": platform.python_version()}
    facts["versions"] = {name: version_of(name) for name in PACKAGES}
    facts["cpus"] = os.cpu_count()
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        facts |= {"memory_bytes": properties.total_memory, "gpus": torch.cuda.device_count()}
        facts |= {"capability": [properties.major, properties.minor], "cuda": torch.version.cuda}
        facts["cudnn"] = torch.backends.cudnn.version()
    return facts


def run(chosen: list[Section], bench: Bench, out: Path | None, minutes: float) -> dict[str, Any]:
    """Run sections in turn; what comes out is also in the file, row by row."""
    record: dict[str, Any] = {"machine": machine(bench.device), "minutes": minutes, "miniature": bench.tiny}
    record["sections"] = {section.name: {"state": "not run", "rows": []} for section in chosen}

    def write() -> None:
        if out is not None:
            write_atomically(out, json.dumps(record, indent=1) + "\n")

    bench.write = write
    for section in chosen:
        entry = record["sections"][section.name]
        bench.rows = entry["rows"]
        if bench.left < (0 if bench.tiny else section.seconds):
            entry["state"] = f"not run: time ({bench.left:.0f} s left, it takes {section.seconds:.0f} s)"
            write()
            continue
        entry["state"], begin = "stopped while it ran", time.monotonic()
        write()
        try:
            section.run(bench)
            entry["state"] = "ran"
        except Exception as error:  # whatever it is, the other sections are worth running
            entry["state"] = f"failed: {type(error).__name__}: {str(error)[:600]}"
            entry["traceback"] = traceback.format_exc()[-4000:]
        entry["seconds"] = time.monotonic() - begin
        bench.empty()
        write()
        print(f"{section.name}: {entry['state']} ({entry['seconds']:.0f} s)", file=sys.stderr, flush=True)
    return record


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="nothing is begun that would take longer than this")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="SECTION", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--miniature", action="store_true", help="tiny networks on the CPU")
    parser.add_argument("--out", type=Path, help="JSON file, written after every row")
    options = parser.parse_args(arguments)
    import diffusers
    import torch
    from acceptance_bench import Bench

    device = "cpu" if options.miniature else options.device
    if device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no CUDA GPU here; --miniature runs on the CPU")
    diffusers.utils.logging.set_verbosity_error()
    bench = Bench(device, options.miniature, began + 60 * options.minutes)
    chosen = [section for section in sections() if not options.only or section.name in options.only]
    with tempfile.TemporaryDirectory() as folder:
        # Seconds are measured anew, and nothing is left on the machine.
        before = os.environ.get("POSTDIFF_CACHE")
        os.environ["POSTDIFF_CACHE"] = folder
        try:
            record = run(chosen, bench, options.out, options.minutes)
        finally:
            if before is None:
                del os.environ["POSTDIFF_CACHE"]
            else:
                os.environ["POSTDIFF_CACHE"] = before
    print(markdown(record))
    return record


if __name__ == "__main__":
    main()
