"""Which plan is the answer where guard rails bind, and what is said where none meets them."""

import math

import numpy as np
import pytest
from made_up_scores import (
    BASELINE,
    CHEAPER_STEPS,
    CLIP,
    COMBINED,
    NOTHING,
    STEP_REDUCTION,
    TOO_EXPENSIVE,
    N,
    at,
    facts,
    plan,
    run,
    searched,
)

from postdiff_calib.cost.budget import parse_budget
from postdiff_calib.errors import CheckError, StudyError
from postdiff_calib.knobs import Knobs
from postdiff_calib.profile import GuardEntry, parse_profile
from postdiff_calib.quality import METRICS
from postdiff_calib.scores.guards import Guard, read
from postdiff_calib.scores.objective import Objective
from postdiff_calib.scores.select import PlanScores
from postdiff_calib.study.conclude import conclude
from postdiff_calib.study.evidence import Evidence, Scored


def like(scores, ssim, apart=0.0):
    """The same plan with images: SSIM around a mean, embeddings that are apart from the baseline's."""
    rows = np.random.default_rng(99).normal(size=(N, 6)) + np.eye(6)[0] * apart
    features = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    measures = {"ssim": np.where(np.isfinite(scores.scores), ssim + 0.05 * (-1) ** np.arange(N), np.nan)}
    return PlanScores(scores.knobs, scores.cost, scores.scores, measures, features)


SEEN = like(BASELINE, 1.0)
UNLIKE, ALIKE, WORSE = like(CHEAPER_STEPS, 0.6, 2.0), like(STEP_REDUCTION, 0.9, 0.1), like(COMBINED, 0.95)


def guarded(plans, *guards, confirmed=()):
    budget = parse_budget("60%")
    held_out = Scored(SEEN, list(confirmed)) if confirmed else NOTHING
    seen = Evidence(Scored(SEEN, plans), held_out, [searched(0.6, confirmed)], Objective((CLIP,)))
    return conclude(budget.resolve(BASELINE.cost), seen, [at(0.6)], facts(), guards)


def test_a_plan_that_breaks_a_guard_is_not_chosen_and_the_guard_is_named():
    free = guarded([UNLIKE, ALIKE, WORSE])
    assert free.knobs == UNLIKE.knobs
    assert free.budget.guards == []
    kept = guarded([UNLIKE, ALIKE, WORSE], Guard("ssim", 0.8), Guard("clip", -0.9))
    assert kept.knobs == ALIKE.knobs
    ssim, clip = kept.budget.guards
    assert (ssim.metric, ssim.rule, ssim.limit, ssim.bound) == ("ssim", "at least", 0.8, True)
    assert ssim.value == kept.expected.ssim == pytest.approx(0.9, abs=0.01)
    assert (clip.limit, clip.bound) == (-0.9, False)
    assert clip.value == kept.expected.difference.mean
    assert any("SSIM at least 0.8" in note for note in kept.evidence.notes)
    assert parse_profile(kept.to_yaml()) == kept
    # a guard that all meet binds nothing
    assert not guarded([UNLIKE, ALIKE], Guard("ssim", 0.3)).budget.guards[0].bound
    assert guarded([UNLIKE, ALIKE], Guard("cmmd", 0.3)).knobs == ALIKE.knobs


def test_the_profile_states_what_was_measured():
    expected = guarded([ALIKE]).expected
    assert expected.cmmd == pytest.approx(read("cmmd", ALIKE, SEEN).value)
    assert 0 < expected.cmmd < guarded([UNLIKE]).expected.cmmd
    assert expected.psnr is None
    assert run([STEP_REDUCTION]).expected.ssim is None


def test_when_nothing_meets_the_guards_the_nearest_is_named_with_its_distance():
    with pytest.raises(CheckError) as caught:
        guarded([UNLIKE, ALIKE], Guard("ssim", 0.97), Guard("clip", -0.2))
    text = str(caught.value)
    assert caught.value.exit_code == 3
    assert "\n" not in text
    assert "SSIM at least 0.97" in text
    assert f"nearest ({ALIKE.knobs.describe()}" in text
    assert "SSIM 0.9 (0.07 too low)" in text
    assert "CLIP score difference -0.5" in text
    assert "study is kept" in text


def test_a_plan_over_the_budget_is_no_help_and_missing_measurements_are_said():
    with pytest.raises(CheckError, match="no plan scored within the budget"):
        guarded([UNLIKE, like(TOO_EXPENSIVE, 1.0)], Guard("ssim", 0.9))
    with pytest.raises(StudyError, match="did not measure"):
        guarded([ALIKE], Guard("psnr", 20))


def test_held_out_readings_decide_on_guards_too():
    confirmed = [like(CHEAPER_STEPS, 0.9), like(STEP_REDUCTION, 0.7)]
    assert guarded([UNLIKE, ALIKE], Guard("ssim", 0.8), confirmed=confirmed).knobs == CHEAPER_STEPS.knobs
    confirmed = [like(CHEAPER_STEPS, 0.7), like(STEP_REDUCTION, 0.7)]
    with pytest.raises(CheckError, match="on the held-out prompts"):
        guarded([UNLIKE, ALIKE], Guard("ssim", 0.8), confirmed=confirmed)


def test_a_guard_on_scenes_can_pass_over_a_better_score():
    drawn = plan(Knobs(12), 60.0, -1.0, seed=2, scene=0.1)
    plain = plan(Knobs(11), 55.0, 0.0, seed=3)
    kept = run([drawn, plain], guards=(Guard("scene", -2.0),))
    assert kept.knobs == plain.knobs
    assert kept.budget.guards[0].bound
    assert any("A plan of a higher score was passed over: scenes right" in note for note in kept.evidence.notes)
    assert math.isclose(kept.budget.guards[0].value, 0.0)


def test_a_profile_knows_every_metric_that_can_be_guarded():
    entry = {"rule": "at least", "limit": 0.5, "value": None, "bound": False}
    assert [GuardEntry(metric=m.name, **entry).metric for m in METRICS] == [m.name for m in METRICS]
    listed, scorers = GuardEntry.model_json_schema()["properties"]["metric"]["anyOf"]
    assert listed["enum"] == [m.name for m in METRICS]
    assert GuardEntry(metric="hpsv2", **entry).metric == "hpsv2"
    assert scorers["type"] == "string"
    with pytest.raises(ValueError, match="should be 'clip', 'scene', 'cmmd', 'ssim', 'psnr' or 'lpips'"):
        GuardEntry(metric="No name", **entry)
