"""Scores of made-up plans whose answer is known, and the profile that a study concludes from them."""

from dataclasses import replace

import numpy as np
from profiles import profile_data

from postdiff_calib.cost.budget import Limit, PlanCost, parse_budget
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.knobs import Knobs
from postdiff_calib.profile.sections import EnvironmentSection, EvidenceSection, ModelSection
from postdiff_calib.scores.objective import Objective, Term
from postdiff_calib.scores.select import ARMS, PlanScores
from postdiff_calib.search.unfound import Unfound
from postdiff_calib.study.conclude import Facts, conclude
from postdiff_calib.study.evidence import Evidence, Scored
from postdiff_calib.study.searched import SearchedBudget

N = 400
BASE = 80 + np.random.default_rng(0).normal(0, 5, N)
SCENES = 100.0 * (np.arange(N) % 10 > 0)
CLIP, SCENE = Term("clip", 5.0, 1.0, 0.5), Term("scene", 20.0, 1.0, 2.0)


def plan(knobs, macs, loss, noise=1.0, n=N, seed=1, scene=0.0):
    """Loses ``loss`` on average exactly, and on n prompts only; one scene in ``scene`` of all is wrong beyond those."""
    wobble = np.random.default_rng(seed).normal(0, noise, N)
    scores = BASE - loss + wobble - wobble[:n].mean()
    wrong = np.arange(N) % 100 < 100 * scene
    right = np.where(wrong, 0.0, SCENES)
    scores[n:] = right[n:] = np.nan
    return PlanScores(knobs, PlanCost(macs=macs, macs_paper=0.9 * macs, seconds=macs / 1e9), scores, {"scene": right})


BASELINE = PlanScores(Knobs(20), PlanCost(macs=100.0, macs_paper=90.0, seconds=1e-7), BASE, {"scene": SCENES})
STEP_REDUCTION = plan(Knobs(12), 60.0, 0.5, seed=2)
CHEAPER_STEPS = plan(Knobs(20, cache_interval=2), 55.0, 0.05, seed=3)
COMBINED = plan(Knobs(16, 0.3, 0.5), 58.0, 1.0, seed=4)
TOO_EXPENSIVE = plan(Knobs(19), 95.0, 0.0, seed=5)
NOTHING = Scored(replace(BASELINE, scores=np.full(N, np.nan), measures={}), [])


def at(share):
    return Limit("macs", "median", 100.0 * share, 100.0)


def facts(held_out=N, categories=()):
    data = profile_data()
    evidence = {**data["evidence"], "num_held_out": held_out, "num_prompts": N}
    return Facts(
        model=ModelSection.model_validate(data["model"]),
        evidence=EvidenceSection.model_validate(evidence),
        environment=EnvironmentSection.model_validate(data["environment"]),
        settings=GenerationSettings(64, 64, 4.0, batch_size=10, latent_multiple=2),
        categories=categories,
    )


def searched(share, plans, unfound=Unfound(), fits=dict.fromkeys(ARMS, True)):  # noqa: B008  # not changed
    return SearchedBudget(at(share), tuple(p.plan.plan_id for p in plans), unfound, fits)


def evidence(held_out=(), calibration=(), budgets=(), delta=0.5, scene=False):
    terms = (replace(CLIP, delta=delta), SCENE) if scene else (replace(CLIP, delta=delta),)
    judged = Scored(BASELINE, list(held_out)) if held_out else NOTHING
    return Evidence(Scored(BASELINE, list(calibration)), judged, budgets, Objective(terms))


def told(profile):
    """What is thin about the evidence; that the CLIP score alone judges these made-up plans is said every time."""
    one_score, rest = "Quality is judged by the CLIP score alone", profile.evidence.notes
    assert any(note.startswith(one_score) for note in rest)
    return [note for note in rest if not note.startswith(one_score)]


def run(held_out=(), calibration=(), budgets=None, budget="60%", guards=(), rows=(0.25, 0.6, 0.8), **more):
    """The profile at a budget; it was searched at 60 and 80 % with all plans judged, unless said otherwise."""
    if budgets is None:
        inside = [p for p in held_out if p.cost.macs <= 60]
        budgets = [searched(0.6, inside), searched(0.8, inside)]
    asked = parse_budget(budget)
    seen = evidence(held_out, calibration, budgets, **more)
    known = facts(N if held_out else 0)
    return conclude(asked.resolve(BASELINE.cost), seen, [at(row) for row in rows], known, guards)
