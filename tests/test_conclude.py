"""Scores → profile, on scores whose answer is known."""

from typing import get_args

import numpy as np
import pytest
from profiles import profile_data

from postdiff_calib.budget import Limit, PlanCost, parse_budget
from postdiff_calib.conclude import Facts, Scored, conclude, finalists
from postdiff_calib.errors import BudgetError, CheckError, StudyError
from postdiff_calib.knobs import Knobs
from postdiff_calib.profile import GuardEntry, parse_profile
from postdiff_calib.quality import METRICS
from postdiff_calib.search.guards import Guard, read
from postdiff_calib.search.select import PlanScores

N = 400
BASE = 80 + np.random.default_rng(0).normal(0, 5, N)


def plan(knobs, macs, loss, noise=1.0, n=N, seed=1):
    scores = BASE - loss + np.random.default_rng(seed).normal(0, noise, N)
    scores[n:] = np.nan
    return PlanScores(knobs, PlanCost(macs=macs, macs_paper=0.9 * macs, seconds=macs / 1e9), scores)


BASELINE = PlanScores(Knobs(20), PlanCost(macs=100.0, macs_paper=90.0, seconds=1e-7), BASE)
FEWER = plan(Knobs(12), 60.0, 0.5, seed=2)
CHEAPER = plan(Knobs(20, cache_interval=2), 55.0, 0.05, seed=3)
JOINT = plan(Knobs(16, 0.3, 0.5), 58.0, 1.0, seed=4)
TOO_DEAR = plan(Knobs(19), 95.0, 0.0, seed=5)
LADDER = (Limit("macs", "median", 25.0, 100.0), Limit("macs", "median", 80.0, 100.0))


def facts():
    data = profile_data()
    evidence = {k: v for k, v in data["evidence"].items() if k not in ("smallest_difference", "notes")}
    return Facts(data["model"], evidence, data["environment"], batch_size=10, noise="coupled", latent_multiple=2)


def run(plans, confirmed=None, delta=None):
    budget = parse_budget("60%")
    limit = budget.resolve(BASELINE.cost)
    return conclude(budget, limit, Scored(BASELINE, plans), confirmed, LADDER, facts(), delta)


def test_the_best_plan_within_the_budget_wins_and_the_profile_is_valid():
    profile = run([FEWER, CHEAPER, JOINT, TOO_DEAR])
    assert profile.knobs == CHEAPER.knobs
    assert profile.expected.relative_macs == 0.55
    assert profile.expected.verdict == "equivalent"
    assert profile.expected.delta == pytest.approx(BASE.mean() / 100)
    assert not profile.expected.confirmed
    assert parse_profile(profile.to_yaml()) == profile


def test_the_difference_is_the_mean_of_paired_differences():
    difference = run([CHEAPER]).expected.difference
    expected = CHEAPER.scores - BASE
    assert difference.mean == pytest.approx(expected.mean())
    half = 1.96 * expected.std(ddof=1) / np.sqrt(N)
    assert difference.high - difference.low == pytest.approx(2 * half, rel=0.01)


def test_held_out_scores_decide_where_there_are_any():
    confirmed = Scored(BASELINE, [plan(CHEAPER.knobs, 55.0, 2.0, seed=6), plan(FEWER.knobs, 60.0, 0.1, seed=7)])
    profile = run([FEWER, CHEAPER], confirmed)
    assert profile.knobs == FEWER.knobs
    assert profile.expected.confirmed
    own = next(row for row in profile.tradeoff.rows if row.share == pytest.approx(0.6))
    assert own.winner == "fewer"
    assert own.fewer.confirmed


def test_the_ladder_compares_the_families_at_other_budgets():
    profile = run([FEWER, CHEAPER, JOINT, TOO_DEAR])
    assert [row.share for row in profile.tradeoff.rows] == pytest.approx([0.25, 0.6, 0.8])
    assert profile.tradeoff.rows[0].fewer is None
    assert profile.tradeoff.rows[0].winner == "undecided"
    assert profile.tradeoff.rows[1].winner == "cheaper"
    assert "cheaper steps win" in profile.tradeoff.rows[1].answer


def test_a_loss_is_called_worse_and_a_small_delta_undecided():
    assert run([JOINT], delta=0.2).expected.verdict == "worse"
    noisy = plan(Knobs(20, cache_interval=2), 55.0, 0.0, noise=8.0, seed=8)
    expected = run([noisy], delta=0.1).expected
    assert expected.verdict == "undecided"
    assert expected.prompts_to_decide > N


def test_plans_scored_on_few_prompts_do_not_win():
    with pytest.raises(BudgetError, match="scored on 50 prompts"):
        run([plan(Knobs(12), 60.0, 0.0, n=49)])


def test_thin_evidence_is_said():
    notes = run([plan(Knobs(8), 40.0, 0.0, n=80)]).evidence.notes
    assert any("80 of the 400" in note for note in notes)
    assert any("67% of the budget" in note for note in notes)
    assert any("same calibration prompts" in note for note in notes)
    confirmed = Scored(BASELINE, [plan(Knobs(12), 60.0, 0.0)])
    assert run([FEWER], confirmed).evidence.notes == []


# --- guard rails ---------------------------------------------------------------------------------------------------


def like(scores, ssim, apart=0.0):
    """The same plan with pictures: SSIM around a mean, embeddings that are apart from the unaccelerated model's."""
    rows = np.random.default_rng(99).normal(size=(N, 6)) + np.eye(6)[0] * apart
    features = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    measures = {"ssim": np.where(np.isfinite(scores.scores), ssim + 0.05 * (-1) ** np.arange(N), np.nan)}
    return PlanScores(scores.knobs, scores.cost, scores.scores, measures, features)


SEEN = like(BASELINE, 1.0)
UNLIKE, ALIKE, WORSE = like(CHEAPER, 0.6, 2.0), like(FEWER, 0.9, 0.1), like(JOINT, 0.95)


def guarded(plans, *guards, confirmed=None):
    budget = parse_budget("60%")
    limit = budget.resolve(BASELINE.cost)
    return conclude(budget, limit, Scored(SEEN, plans), confirmed, LADDER, facts(), None, guards)


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
    assert run([FEWER]).expected.ssim is None


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
        guarded([UNLIKE, like(TOO_DEAR, 1.0)], Guard("ssim", 0.9))
    with pytest.raises(StudyError, match="no such measurements"):
        guarded([ALIKE], Guard("psnr", 20))


def test_held_out_readings_decide_on_guards_too():
    confirmed = Scored(SEEN, [like(CHEAPER, 0.9), like(FEWER, 0.7)])
    assert guarded([UNLIKE, ALIKE], Guard("ssim", 0.8), confirmed=confirmed).knobs == CHEAPER.knobs
    confirmed = Scored(SEEN, [like(CHEAPER, 0.7), like(FEWER, 0.7)])
    with pytest.raises(CheckError, match="on the held-out prompts"):
        guarded([UNLIKE, ALIKE], Guard("ssim", 0.8), confirmed=confirmed)


def test_finalists_obey_the_guards_and_one_does_so_surely():
    limit = parse_budget("60%").resolve(BASELINE.cost)
    close = [like(plan(Knobs(11, cache_interval=k), 50.0, 0.1 * k, noise=0.1, seed=k), 0.802) for k in (2, 3)]
    scored = Scored(SEEN, [UNLIKE, *close, WORSE])
    chosen = [p.knobs for p in finalists(scored, limit, (Guard("ssim", 0.801),))]
    assert [p.knobs for p in finalists(scored, limit)][:2] == [UNLIKE.knobs, close[0].knobs]
    # the two best that just meet it, then the best that surely does, then the best of each family by score
    assert chosen == [close[0].knobs, close[1].knobs, WORSE.knobs, UNLIKE.knobs]


def test_a_profile_knows_every_metric_that_can_be_guarded():
    assert get_args(GuardEntry.model_fields["metric"].annotation) == tuple(m.name for m in METRICS)
