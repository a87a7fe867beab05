"""A study's folder made without a model: scores of known means, prices of a network that is easy to count."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from profiles import profile_data

from postdiff_calib.cost.budget import Limit, parse_budget
from postdiff_calib.cost.macs import Macs
from postdiff_calib.cost.meter import Meter, StepKey
from postdiff_calib.cost.table import CostTable, Latency, Timing
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.profile.sections import EnvironmentSection, EvidenceSection, ModelSection
from postdiff_calib.scores.names import HELD_OUT, SCORES
from postdiff_calib.scores.objective import Objective, Term
from postdiff_calib.scores.select import ARMS, Arm, PlanScores
from postdiff_calib.scores.store import FileStore
from postdiff_calib.search.finalists import FURTHER_FINALISTS, OWN_FINALISTS
from postdiff_calib.search.unfound import Unfound
from postdiff_calib.study.asked import Asked
from postdiff_calib.study.record import Study, StudyRecord
from postdiff_calib.study.searched import SearchedBudget, further_limits

N, N_HELD_OUT = 80, 60
BASELINE = Knobs(20)
#: What each plan loses against the baseline on average; its share of the MACs in the comment.
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
#: The metrics that the study's search improves: spreads of 5 points and of a fifth of the scenes, δ a tenth of each.
CLIP, SCENE = Term("clip", 5.0, 1.0, 0.5), Term("scene", 0.2, 1.0, 0.02)


class EasyMeter(Meter):
    """A full guided step costs 2000 MACs, a cached step a fifth of it, a low-resolution step a quarter."""

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


def finalists(limit: Limit, counts: Mapping[Arm, int]) -> tuple[str, ...]:
    """Content hashes of the plans of the least loss within a budget, so many of each arm."""
    table, found = cost_table(latency(1e-6)), {}
    for arm, count in counts.items():
        plans = [PlanScores(knobs, table.price(compile_plan(knobs)), np.zeros(1)) for knobs in LOSSES]
        plans = [p for p in plans if p.knobs != BASELINE and limit.allows(p.cost) and arm in p.arms(20)]
        found |= {p.plan.plan_id: p for p in sorted(plans, key=lambda p: LOSSES[p.knobs])[:count]}
    return tuple(found)


def searched(budget: str, widened: Unfound | None = None) -> tuple[SearchedBudget, ...]:
    """What the searches of the own budget and of the further ones (25, 40 and 80 %) came to, the own one first.

    Every plan counts as judged, so nothing better may lie elsewhere, but for what ``widened`` says of the own budget.
    """
    own = parse_budget(budget).resolve(cost_table(latency(1e-6)).price(compile_plan(BASELINE)))
    fits = dict.fromkeys(ARMS, True)
    budgets = [SearchedBudget(own, finalists(own, OWN_FINALISTS), widened or Unfound(), fits)]
    budgets += [
        SearchedBudget(limit, finalists(limit, FURTHER_FINALISTS), Unfound(), fits) for limit in further_limits(own)
    ]
    return tuple(budgets)


def write_scores(path: Path, losses: dict[Knobs, float], n: int, seed: int, *, scene: bool = False) -> None:
    """A block per plan: the baseline's score less the loss, with a noise of 0.5.

    With ``scene``, a second metric beside it loses a twentieth of the loss, with a noise of 0.03.
    """
    random, other = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    base, scenes, store = random.normal(80, 5, n), other.normal(0.8, 0.1, n), FileStore(path)
    for knobs, loss in losses.items():
        noise = np.zeros(n) if knobs == BASELINE else random.normal(0, 0.5, n)
        scores = base - loss + noise - noise.mean()
        block = {"plan": compile_plan(knobs).plan_id, "knobs": knobs.as_dict(), "prompts": list(range(n))}
        block["scores"] = [float(score) for score in scores]
        if scene:
            noise = np.zeros(n) if knobs == BASELINE else other.normal(0, 0.03, n)
            block["measures"] = {"scene": [float(v) for v in scenes - loss / 20 + noise - noise.mean()]}
        store.append(block)


def study_record(
    budget: str = "60%", *, scene: bool = False, widened: Unfound | None = None, **changes: object
) -> StudyRecord:
    """What the study is about.

    Args:
        budget: its own.
        scene: the search improves the share of right scenes beside the score.
        widened: what may not have been found at the own budget; nothing where None.
        changes: other fields of the record.
    """
    data = profile_data()
    model = {**data["model"], "scheduler": "DDIMScheduler", "guidance_scale": 3.6, "num_inference_steps": 20}
    derived = {"num_held_out": 0, "trials": 0, "images": 0, "minimum_detectable_difference": 0.0, "notes": []}
    fields = {
        "asked": Asked("shapes", parse_budget(budget), trials=len(LOSSES), seed=0),
        "settings": GenerationSettings(64, 64, 3.6, batch_size=10, latent_multiple=2),
        "fingerprint": {"model": "0123abcd"},
        "num_inference_steps": 20,
        "model": ModelSection.model_validate(model),
        "evidence": EvidenceSection(**{**data["evidence"], **derived, "num_prompts": N_HELD_OUT}),
        "environment": EnvironmentSection(**data["environment"]),
        "calibration": tuple(f"prompt {i}" for i in range(N)),
        "held_out": tuple(f"unseen prompt {i}" for i in range(N_HELD_OUT)),
        "cost": cost_table(latency(1e-6)),
        "trials": len(LOSSES),
        "objective": Objective((CLIP, SCENE) if scene else (CLIP,)),
        "searched": searched(budget, widened),
    }
    return StudyRecord(**{**fields, **changes})


def make_study(
    folder: Path, *, scores: bool = True, held_out: bool = True, scene: bool = False, **changes: object
) -> Study:
    """Write a study's folder; in it, cheaper steps win at the study's 60 % and step reduction at 25 and 40 %.

    All plans but ``T=20 s=0.5 β=0.5`` are finalists of a budget, so the held-out prompts have their scores.

    Args:
        folder: to be made.
        scores, held_out: whether there are scores on the calibration and on the held-out prompts.
        scene, changes: as ``study_record``.
    """
    folder.mkdir(parents=True)
    study = Study(folder, study_record(scene=scene, **changes))
    study.save()
    if scores:
        write_scores(folder / SCORES, LOSSES, N, 0, scene=scene)
    if scores and held_out:
        judged = {plan for budget in study.record.searched for plan in budget.finalists}
        losses = {k: loss for k, loss in LOSSES.items() if k == BASELINE or compile_plan(k).plan_id in judged}
        write_scores(folder / HELD_OUT, losses, N_HELD_OUT, 1, scene=scene)
    return study
