"""Long chains of kills on small calibrations of ``shapes``: a single process, and two on PostgreSQL with the server.

    python benchmarks/kills.py --kills 60 --seed 1 --out benchmarks/results/kills.json

Single: one command is killed (SIGKILL, SIGTERM or SIGINT) after a random number of events, again and again, and then
let end; its profile, trials and scores must be those of an undisturbed run. Shared: a leader and a worker, of which
either or the server is killed (SIGKILL) at random; every trial must be accounted for, nobody may hang, and plans that
an undisturbed run scored too must have its scores. Events are progress, files and transactions (``tests/killing.py``).
Studies are begun anew until there were as many kills as asked for. Chains that the file of ``--out`` holds already,
with as many kills, are left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import postgres
from killing import Calibration
from killing_workers import TRIALS, SharedStudy, unaccounted

from postdiff_calib.profile import load_profile
from postdiff_calib.study.record import Study

#: Signals, and what a command then leaves with; a killed one has no say.
CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
#: A kill of a single process comes after so many events at most, a start's included.
EVENTS = 160
#: Kills of a shared study; the next are on another.
EACH = 20


def single(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Chains of one process; stops at the first fault."""
    draw = random.Random(seed)
    straight = Calibration(folder / "straight")
    assert straight.run().code == 0
    found: Counter[str] = Counter()
    studies = 0
    while found.total() < kills:
        chain, studies = Calibration(folder / f"chain{studies}"), studies + 1
        while True:
            fuse, kind = chain.fuse(), draw.choice(list(CODES))
            if found.total() < kills:
                fuse.light(draw.randint(1, EVENTS), kind=kind)
            ended = chain.run(fuse=fuse)
            assert chain.database() == "ok", ended
            if ended.code == 0:
                break
            assert ended.code == CODES[kind], (kind, ended)
            found[f"{kind.name}, {fuse.stage}"] += 1
        assert chain.profile() == straight.profile()
        assert chain.trials() == straight.trials()
        assert chain.leftovers() == []
    return {"kills": found.total(), "studies": studies, "where": dict(sorted(found.items()))}


def shared(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Chains of a leader, a worker and a server; stops at the first fault."""
    straight = Calibration(folder / "straight", "--trials", str(TRIALS))
    assert straight.run().code == 0
    alone = scores_of(straight.study)
    victims: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    states: Counter[str] = Counter()
    compared = studies = 0
    while victims.total() < kills:
        home = folder / f"shared{studies}"
        home.mkdir()
        with postgres.server(home / "pg") as server:
            study = SharedStudy(home / "study", server)
            study.chain(min(EACH, kills - victims.total()), seed + studies)
            trials = study.frozen_trials()
        assert unaccounted(trials) == []
        assert load_profile(study.out).expected.confirmed
        assert study.leftovers() == []
        for key, scores in scores_of(study.study).items():
            difference = np.abs(scores - alone.get(key, np.nan))
            compared += int(np.isfinite(difference).sum())
            # batches are put together differently, which moves the last digits only
            assert not (difference > 0.05).any(), key
        victims.update(study.kills)
        ends.update({f"{who} {code}": count for (who, code), count in study.ends.items()})
        states.update(t.state.name.lower() for t in trials)
        studies += 1
    return {
        "kills": victims.total(),
        "studies": studies,
        "of": dict(sorted(victims.items())),
        "exit_codes": dict(sorted(ends.items())),
        "trials": dict(sorted(states.items())),
        "scores_compared": compared,
    }


def scores_of(folder: Path) -> dict[tuple[str, str], Any]:
    """Scores of a finished study by prompt set and plan id, (N,) each."""
    found = {}
    for name, scored in zip(("calibration", "held out"), Study.load(folder).scored(), strict=True):
        for plan in (scored.baseline, *scored.plans):
            found[name, plan.plan.plan_id] = plan.scores
    return found


def main() -> None:
    """Run both kinds of chain, or one, and record what came out."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--kills", type=int, default=60, help="of each kind of chain")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--chain", action="append", choices=["single", "shared"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    known = json.loads(options.out.read_text()) if options.out is not None and options.out.exists() else {}
    chains = known.get("chains", {})
    for name in options.chain or ("single", "shared"):
        if chains.get(name, {}).get("kills") == options.kills:
            continue
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="postdiff-kills-") as folder:
            found = {"single": single, "shared": shared}[name](Path(folder), options.kills, options.seed)
        chains[name] = {**found, "seed": options.seed, "seconds": round(time.perf_counter() - start)}
        print(name, chains[name], flush=True)
        if options.out is not None:
            about = {
                "command": f"python benchmarks/kills.py --kills {options.kills} --seed {options.seed}",
                "python": platform.python_version(),
                **{package: version(package) for package in ("postdiff", "torch", "optuna", "SQLAlchemy", "psycopg")},
                "processor": platform.processor() or platform.machine(),
            }
            options.out.write_text(json.dumps({"about": about, "chains": chains}, indent=1) + "\n")


if __name__ == "__main__":
    main()
