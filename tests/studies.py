"""A study's folder made without a model: scores of known means, prices of a network that is easy to count."""

from pathlib import Path

import numpy as np
from profiles import profile_data

from postdiff_calib.cost.macs import Macs
from postdiff_calib.cost.meter import Meter, StepKey
from postdiff_calib.cost.table import CostTable, Latency, Timing
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.record import Study, StudyRecord
from postdiff_calib.search.evaluate import FileStore
from postdiff_calib.search.names import HELD_OUT, SCORES

N, N_HELD_OUT = 80, 60
BASELINE = Knobs(20)
#: What each plan loses against the unaccelerated model on average; its share of the MACs in the comment.
LOSSES = {
    BASELINE: 0.0,
    Knobs(5): 1.0,  # 25 %
    Knobs(8): 0.8,  # 40 %
    Knobs(12): 0.6,  # 60 %
    Knobs(16): 0.3,  # 80 %
    Knobs(20, cache_interval=10, guidance_fraction=0.25): 9.0,  # 17 %
    Knobs(20, cache_interval=5): 2.0,  # 36 %
    Knobs(20, cache_interval=3): 0.1,  # 48 %
    Knobs(20, cache_interval=2): 0.05,  # 60 %
    Knobs(20, 0.5, 0.5): 0.2,  # 63 %
    Knobs(12, cache_interval=2): 0.4,  # 36 %
    Knobs(16, cache_interval=2): 0.15,  # 48 %
}
#: The finalists of the study's own budget of 60 %: best two of all, best of fewer and of cheaper steps.
FINALISTS = (
    Knobs(12),
    Knobs(20, cache_interval=2),
    Knobs(20, cache_interval=3),
    Knobs(16, cache_interval=2),
)


class EasyMeter(Meter):
    """A full guided step costs 2000 MACs, a reuse step a fifth of it, a low-resolution step a quarter."""

    def __init__(self) -> None:
        super().__init__({"_class_name": "Easy"}, 4)

    def step(self, key: StepKey) -> Macs:
        items, share = (2 if key.guided else 1), (1 if key.refresh else 0.2) * (1 if key.cross_attention_live else 0.9)
        area = key.height * key.width / 256
        return Macs(conv=round(900 * items * share * area), attention=round(100 * items * share * area))


def latency(per_mac: float, device: str = "this machine", **environment: object) -> Latency:
    """Seconds in proportion to MACs, and nothing else."""
    keys = {key for knobs in LOSSES for key in _table(None).keys(compile_plan(knobs))}
    nothing = Timing(0.0, 0.0, 0.0, 3)
    steps = {key: Timing(*(per_mac * EasyMeter().step(key).full,) * 3, 3) for key in keys}
    return Latency(
        steps=steps,
        before=nothing,
        after=nothing,
        text=nothing,
        step_overhead=nothing,
        switch=0.0,
        scale=1.0,
        reuse_slope=0.0,
        p95_ratio=1.25,
        batch_size=10,
        environment={"device_name": device, "dtype": "float32", **environment},
    )


def _table(times: Latency | None, **changes: object) -> CostTable:
    facts = {"model": "shapes", "height": 64, "width": 64, "latent": (16, 16), "latent_multiple": 2, "guides": True}
    return CostTable(**{**facts, **changes}, meter=EasyMeter(), latency=times)


def cost_table(times: Latency | None = None, **changes: object) -> CostTable:
    """A table that has priced every plan of the study, so that its file needs no network."""
    table = _table(times, **changes)
    for knobs in LOSSES:
        table.price(compile_plan(knobs))
    return table


def write_scores(path: Path, losses: dict[Knobs, float], n: int, seed: int) -> None:
    """A block per plan: the baseline's score less the loss, with a noise of 0.5."""
    random = np.random.default_rng(seed)
    base, store = random.normal(80, 5, n), FileStore(path)
    for knobs, loss in losses.items():
        noise = np.zeros(n) if knobs == BASELINE else random.normal(0, 0.5, n)
        scores = base - loss + noise - noise.mean()
        block = {"plan": compile_plan(knobs).content, "knobs": knobs.as_dict(), "prompts": list(range(n))}
        store.append({**block, "scores": [float(score) for score in scores]})


def study_record(budget: str = "60%", **changes: object) -> StudyRecord:
    """What the study is about."""
    data = profile_data()
    model = {**data["model"], "scheduler": "DDIMScheduler", "guidance_scale": 3.6}
    derived = ("num_held_out", "trials", "images", "smallest_difference", "notes")
    fields = {
        "job": {"model": "shapes", "budget": budget, "seed": 0, "dtype": "float32", "delta": None},
        "settings": {"batch_size": 10, "noise": "coupled", "latent_multiple": 2},
        "fingerprint": {"model": "0123abcd"},
        "num_inference_steps": 20,
        "model": model,
        "evidence": {key: value for key, value in data["evidence"].items() if key not in derived},
        "environment": {key: value for key, value in data["environment"].items() if key != "latency_device"},
        "calibration": tuple(f"prompt {i}" for i in range(N)),
        "held_out": tuple(f"unseen prompt {i}" for i in range(N_HELD_OUT)),
        "cost": cost_table(latency(1e-6)),
        "trials": len(LOSSES),
    }
    return StudyRecord(**{**fields, **changes})


def make_study(folder: Path, *, scores: bool = True, held_out: bool = True, **changes: object) -> Study:
    """Write a study's folder; in it, cheaper steps win at the study's 60 % and fewer steps at 25 and 40 %."""
    folder.mkdir(parents=True)
    study = Study(folder, study_record(**changes))
    study.save()
    if scores:
        write_scores(folder / SCORES, LOSSES, N, 0)
    if scores and held_out:
        write_scores(folder / HELD_OUT, {knobs: LOSSES[knobs] for knobs in (BASELINE, *FINALISTS)}, N_HELD_OUT, 1)
    return study
