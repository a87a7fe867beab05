"""A study's folder made by hand, for tests of what is read from it: known scores, no model, no image."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from profiles import profile_data

from postdiff_calib.cost import table_for_card
from postdiff_calib.cost.budget import Limit, parse_budget
from postdiff_calib.cost.table import CostTable, Latency, Timing
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.cards import get_card
from postdiff_calib.plan import compile_plan
from postdiff_calib.profile.sections import EnvironmentSection, EvidenceSection, ModelSection
from postdiff_calib.report.html.choices import PROMPTS, choices, plans_of
from postdiff_calib.report.html.findings import Findings
from postdiff_calib.report.html.images import Album, choose
from postdiff_calib.scores.names import HELD_OUT, SCORES
from postdiff_calib.scores.objective import Objective, Term
from postdiff_calib.scores.select import ARMS, Arm, PlanScores
from postdiff_calib.scores.store import FileStore
from postdiff_calib.search.unfound import Unfound
from postdiff_calib.study.asked import Asked
from postdiff_calib.study.record import Study, StudyRecord
from postdiff_calib.study.searched import SearchedBudget, further_limits

N = 60
SCRIPT = "a red circle <script>window.hacked=1</script>"
BREAKOUT = 'a "blue" square \'"><img src=x onerror=window.hacked=2>'
#: The two prompts on which every plan loses most, so that the report shows them.
ATTACKS = (SCRIPT, BREAKOUT)
#: The metrics that the study measures, with their spreads and δ.
CLIP, SCENE = Term("clip", 7.0, 1.0, 0.7), Term("scene", 30.0, 1.0, 3.0)
WINNER, STEP_REDUCTION = Knobs(20, cache_interval=2, guidance_fraction=0.9), Knobs(11)


def plans() -> list[Knobs]:
    step_reduction = [Knobs(steps) for steps in (4, 6, 8, 16)] + [STEP_REDUCTION]
    cheaper_steps = [
        Knobs(20, s, beta if s else 1.0, k, m)
        for s, beta, k, m in ((0, 1, 3, 1), (0.3, 0.5, 1, 1), (0.5, 0.5, 2, 0.75), (0.5, 0.75, 3, 0.75), (0, 1, 5, 0.6))
    ]
    combined = [
        Knobs(steps, s, beta if s else 1.0, k, m)
        for steps in (8, 12)
        for s, beta, k, m in ((0, 1, 2, 1), (0.2, 0.5, 1, 0.9), (0.4, 0.75, 3, 1), (0, 1, 2, 0.6))
    ]
    return [WINNER, *step_reduction, *cheaper_steps, *combined]


def judged() -> list[Knobs]:
    """The finalists: these have scores on held-out prompts."""
    return [p for p in plans() if p.cache_interval < 3 or p.num_inference_steps == 20]


def loss(knobs: Knobs) -> float:
    """Mean loss in points: steps matter most, guidance not at all."""
    plan = compile_plan(knobs)
    low = (1 - knobs.low_res_scale) * plan.n_low / len(plan)
    return 20 * (1 / len(plan) - 1 / 20) + 4 * low + 1.6 * (1 - len(plan.refresh_steps) / len(plan)) ** 2


def fits(limit: Limit, table: CostTable) -> dict[Arm, bool]:
    """Whether any plan of each arm is within a budget."""
    costs = {knobs: table.price(compile_plan(knobs)) for knobs in plans()}
    within = [PlanScores(knobs, cost, np.zeros(1)) for knobs, cost in costs.items() if limit.allows(cost)]
    return {arm: any(arm in plan.arms(20) for plan in within) for arm in ARMS}


@cache
def counted() -> dict[str, Any]:
    """The embedded model's cost table with the steps of all plans counted, as plain data: counting takes seconds."""
    table = table_for_card(get_card("shapes"))
    for knobs in (Knobs(20), *plans()):
        table.price(compile_plan(knobs))
    return table.as_dict()


def timed(table: CostTable) -> CostTable:
    """The table with seconds as if 0.1 TMACs ran in a second."""
    steps = {}
    for knobs in (Knobs(20), *plans()):
        for key in table.keys(compile_plan(knobs)):
            seconds = table.step_macs(key).full * 1e-11
            steps[key] = Timing(seconds, seconds, seconds, 5)
    zero = Timing(1e-3, 1e-3, 1e-3, 5)
    table.latency = Latency(
        steps, zero, zero, zero, zero, 0.0, 1.0, 0.0, 1.1, 10, environment={"device_name": "test processor"}
    )
    return table


def make_study(
    folder: Path,
    *,
    with_held_out: bool = True,
    seconds: bool = False,
    scored: list[Knobs] | None = None,
    scene: bool = True,
    **asked: Any,
) -> Study:
    """Write a study's folder.

    Args:
        folder: to be made.
        with_held_out: finalists have scores on held-out prompts.
        seconds: something was timed.
        scored: the plans that have scores, ``plans`` by default.
        scene: scenes are judged beside the score.
        asked: what else was asked for.
    """
    data = profile_data()
    card = get_card("shapes")
    table = CostTable.from_dict(counted())
    rng = np.random.default_rng(0)
    record = StudyRecord(
        asked=replace(Asked("shapes", parse_budget("60%"), trials=len(plans()), seed=100), **asked),
        settings=GenerationSettings(64, 64, card.guidance_scale, 10, "coupled", card.latent_multiple),
        fingerprint={"model": data["model"]["fingerprint"], "seed": 100},
        num_inference_steps=20,
        model=ModelSection.model_validate(data["model"]),
        evidence=EvidenceSection(**{**data["evidence"], "prompt_set": "<i>set</i>"}),
        environment=EnvironmentSection(device="cpu", versions={"torch": "2.15.0"}),
        calibration=tuple(f"calibration prompt {i}" for i in range(N)),
        held_out=(*ATTACKS, *(f"held-out prompt {i}" for i in range(2, N))),
        cost=timed(table) if seconds else table,
        trials=len(plans()),
        failed=(("T=4 s=0.5 β=0.25", "<b>all images are black</b>"),),
    )
    own = record.asked.budget.resolve(table.price(compile_plan(Knobs(20))))
    searched = [SearchedBudget(limit, (), Unfound(), fits(limit, table)) for limit in (own, *further_limits(own))]
    terms = (CLIP, SCENE) if scene else (CLIP,)
    record = replace(record, objective=Objective(terms), searched=tuple(searched))
    study = Study(folder, record)
    folder.mkdir(parents=True, exist_ok=True)
    study.save()
    for name in (SCORES, HELD_OUT) if with_held_out else (SCORES,):
        level = 85 + 5 * rng.standard_normal(N)
        store = FileStore(folder / name)
        scenes = 88 + 8 * rng.standard_normal(N)
        for knobs in [Knobs(20), *((plans() if name == SCORES else judged()) if scored is None else scored)]:
            plan = compile_plan(knobs)
            scores = level - (0 if plan.is_identity and len(plan) == 20 else loss(knobs) + 0.3 * rng.standard_normal(N))
            if knobs != Knobs(20):
                scores[:2] -= 15
            count = 20 if knobs == Knobs(8, 0.4, 0.75, 3) else N  # one was stopped early
            block = {"plan": plan.plan_id, "knobs": knobs.as_dict(), "prompts": list(range(count))}
            lost = 0 if knobs == Knobs(20) else 4 * loss(knobs) + 2 * rng.standard_normal(N)
            measures = {"measures": {"scene": (scenes - lost)[:count].tolist()}} if scene else {}
            store.append({**block, "scores": scores[:count].tolist(), **measures})
    return study


def paint(study: Study, budget: str = "60%") -> None:
    """The images that the report would otherwise make, each of a single colour."""
    found = Findings(study, parse_budget(budget))
    album = Album(study, found.confirmed)
    for index in range(PROMPTS):
        for knobs in plans_of(choices(found), study.record.baseline):
            path = album.path(knobs, index)
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (64, 64), (99, index, 200)).save(path)
    for example in choose(found.differences()):
        for knobs in (
            study.record.baseline,
            found.winner.knobs,
            *([found.step_reduction.knobs] if found.step_reduction else []),
        ):
            path = album.path(knobs, example.index)
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (64, 64), (example.index, 99, 200)).save(path)
