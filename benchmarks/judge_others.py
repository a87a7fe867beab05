"""Other people's accelerations, judged: DeepCache, T-GATE and cache-dit on the embedded models, beside plain knobs.

    python benchmarks/judge_others.py --model shapes
    python benchmarks/judge_others.py --model shapes-flow

The functions below are the set-ups; ``postdiff judge --model shapes --with benchmarks/judge_others.py:deepcache``
judges one by itself. DeepCache 0.1.1 and T-GATE 1.0.0 are in the development extra; cache-dit is not, and is left out
where it is not installed (``pip install --target DIR --no-deps cache-dit==1.5.3`` and ``PYTHONPATH=DIR``).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from journal import version_of

from postdiff_calib.cost.store import device_name
from postdiff_calib.files import write_atomically
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.jobs.judge import JudgeJob, run_judge
from postdiff_calib.report.judged import print_judgement, write_grid
from postdiff_calib.report.progress import console_progress

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("postdiff", "torch", "diffusers", "DeepCache", "tgate", "cache-dit")


def deepcache(pipe: Any) -> Iterator[None]:
    """DeepCache with its defaults for Stable Diffusion: every third step in full, the outermost branch."""
    from DeepCache import DeepCacheSDHelper

    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=3, cache_branch_id=0)
    helper.enable()
    yield
    helper.disable()


def tgate(pipe: Any) -> Any:
    """T-GATE with its defaults: cross-attention is cached from the tenth step on, self-attention every fifth before."""
    from tgate import TgateSDLoader

    loaded = TgateSDLoader(pipe)
    return lambda **call: loaded.tgate(gate_step=10, **call)


def cache_dit(pipe: Any) -> Iterator[None]:
    """cache-dit's DBCache, for transformers only; its default of eight blocks in full is more than there are here."""
    package = importlib.import_module("cache_dit")  # declared nowhere: it is tried, not needed
    package.enable_cache(pipe, cache_config=package.DBCacheConfig(Fn_compute_blocks=1))
    yield
    package.disable_cache(pipe)


#: Set-ups by model; knobs that come to about the same cost stand beside the packages.
OWN = f"{__file__}:"
SETUPS = {
    "shapes": [f"{OWN}deepcache", "k=3", f"{OWN}tgate", "m=0.5", "T=12"],
    "shapes-flow": [f"{OWN}cache_dit", "k=2", "T=12"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SETUPS, default="shapes")
    parser.add_argument("--num-prompts", type=int, default=120)
    parser.add_argument("--study", type=Path, help="folder of the scores; the same one resumes")
    args = parser.parse_args()
    setups = SETUPS[args.model]
    if importlib.util.find_spec("cache_dit") is None:
        setups = [one for one in setups if not one.endswith(":cache_dit")]
    study = args.study or Path("studies") / f"{args.model}-others"
    base = CalibrateJob(model=args.model, num_prompts=args.num_prompts, study=study, device="cpu")
    with console_progress(quiet=not sys.stderr.isatty()) as progress:
        result = run_judge(JudgeJob(base, tuple(setups)), progress)
    name = f"judge_others_{args.model}"
    grid = write_grid(RESULTS / f"{name}.png", result.images, result.prompts)
    print_judgement(result.judgement, grid, as_json=False)
    blocks = {
        path.stem: [{key: value for key, value in json.loads(line).items() if key != "features"} for line in file]
        for path in sorted(study.glob("*.jsonl"))
        for file in [path.read_text().splitlines()]
    }
    data = {
        "command": f"python benchmarks/judge_others.py --model {args.model} --num-prompts {args.num_prompts}",
        "device": device_name("cpu"),
        "python": platform.python_version(),
        "versions": {package: version_of(package) for package in PACKAGES},
        **result.judgement.as_dict(),
        "raw": blocks,
    }
    for one in data["setups"]:
        one["setup"] = one["setup"].removeprefix(OWN)
    write_atomically(RESULTS / f"{name}.json", json.dumps(data, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
