"""Scores → profile, on scores whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest
from made_up_scores import (
    BASE,
    BASELINE,
    CHEAPER_STEPS,
    CLIP,
    COMBINED,
    STEP_REDUCTION,
    TOO_EXPENSIVE,
    N,
    plan,
    run,
    searched,
    told,
)

from postdiff_calib.cost.budget import parse_budget
from postdiff_calib.errors import BudgetError
from postdiff_calib.knobs import Knobs
from postdiff_calib.profile import parse_profile
from postdiff_calib.scores.objective import Objective
from postdiff_calib.study.choose import choose
from postdiff_calib.study.evidence import Evidence, Scored

# --- which plan, and what is said of it ----------------------------------------------------------------------------


def test_the_best_plan_within_the_budget_wins_and_the_profile_is_valid():
    profile = run([STEP_REDUCTION, CHEAPER_STEPS, COMBINED, TOO_EXPENSIVE])
    assert profile.knobs == CHEAPER_STEPS.knobs
    expected = profile.expected
    assert expected.relative_macs == 0.55
    assert (expected.verdict, expected.confirmed, expected.delta) == ("equivalent", True, 0.5)
    assert told(profile) == []
    assert parse_profile(profile.to_yaml()) == profile
    (only,) = expected.metrics
    assert (only.metric, only.spread, only.weight, only.delta, only.verdict) == ("clip", 5.0, 1.0, 0.5, "equivalent")


def test_the_difference_is_the_mean_of_paired_differences():
    expected = run([CHEAPER_STEPS]).expected
    values = CHEAPER_STEPS.scores - BASE
    assert expected.difference.mean == pytest.approx(-0.05)
    half = 1.966 * values.std(ddof=1) / np.sqrt(N)
    assert expected.difference.high == pytest.approx(-0.05 + half, rel=0.01)
    assert expected.difference.low == pytest.approx(-0.05 - half, rel=0.01)
    assert expected.score - expected.baseline_score == pytest.approx(-0.05)


def test_the_lower_end_allows_for_the_choice_and_the_upper_end_does_not():
    others = [plan(Knobs(steps), 50.0, 0.4, seed=steps) for steps in range(5, 11)]
    alone, chosen = run([CHEAPER_STEPS]).expected.difference, run([CHEAPER_STEPS, *others]).expected.difference
    assert chosen.mean == alone.mean
    assert chosen.low < alone.low - 0.02
    assert chosen.high == pytest.approx(alone.high)


def test_held_out_scores_decide_where_there_are_any():
    judged = [plan(CHEAPER_STEPS.knobs, 55.0, 2.0, seed=6), plan(STEP_REDUCTION.knobs, 60.0, 0.1, seed=7)]
    profile = run(judged, calibration=[STEP_REDUCTION, CHEAPER_STEPS])
    assert profile.knobs == STEP_REDUCTION.knobs
    assert profile.expected.confirmed
    own = next(row for row in profile.tradeoff.rows if row.share == pytest.approx(0.6))
    assert own.winner == "step_reduction"
    assert own.step_reduction.confirmed


def test_a_plan_surely_within_delta_comes_before_a_better_mean():
    sure = plan(Knobs(12), 60.0, 0.1, noise=0.5, seed=2)
    wild = plan(Knobs(11), 55.0, 0.05, noise=8.0, seed=3)
    assert run([sure, wild]).knobs == sure.knobs
    assert run([sure, wild], delta=5.0).knobs == wild.knobs
    # with none surely within δ, the mean alone counts, and it is said
    lost = run([plan(Knobs(12), 60.0, 2.0, seed=2), plan(Knobs(11), 55.0, 1.9, seed=3)])
    assert lost.knobs == Knobs(11)
    assert lost.expected.verdict == "worse"
    assert any("shown to keep the score within delta" in note for note in lost.evidence.notes)


def test_a_loss_is_called_worse_and_a_small_delta_undecided():
    assert run([COMBINED], delta=0.2).expected.verdict == "worse"
    noisy = plan(Knobs(20, cache_interval=2), 55.0, 0.0, noise=8.0, seed=8)
    expected = run([noisy], delta=0.1).expected
    assert expected.verdict == "undecided"
    assert expected.prompts_to_decide > N


def test_prompts_to_decide_are_in_the_unit_of_the_option():
    # a mean of −2 whose interval must shrink to half: four times the prompts, however many were set aside
    noise = 2 * 2 * np.sqrt(N) / 1.966
    wide = plan(Knobs(12), 60.0, 2.0, noise=noise, seed=2)
    wide = replace(wide, scores=BASE - 2.0 + (wide.scores - BASE + 2.0) * noise / np.std(wide.scores - BASE, ddof=1))
    assert run([wide], delta=0.1).expected.prompts_to_decide == pytest.approx(4 * N, rel=0.01)


# --- several metrics -----------------------------------------------------------------------------------------------


def test_every_metric_is_stated_and_one_verdict_covers_them():
    better = plan(Knobs(12), 60.0, -1.0, seed=2)
    both = run([better], scene=True)
    assert both.expected.verdict == "better"
    assert [(m.metric, m.verdict) for m in both.expected.metrics] == [("clip", "better"), ("scene", "equivalent")]
    assert both.expected.metrics[1].difference.mean == 0.0
    assert (both.expected.metrics[1].score, both.expected.metrics[1].baseline_score) == (90.0, 90.0)
    assert parse_profile(both.to_yaml()) == both


def test_a_better_score_with_wrong_scenes_is_not_better():
    # a tenth of the scenes is wrong already; of the others, another ninth in a hundred prompts
    mixed = run([plan(Knobs(12), 60.0, -1.0, seed=2, scene=0.1)], scene=True)
    assert mixed.expected.verdict == "worse"
    assert [m.verdict for m in mixed.expected.metrics] == ["better", "worse"]
    assert mixed.expected.metrics[1].difference.mean == pytest.approx(-9.0)
    assert any("every metric within delta" in note for note in mixed.evidence.notes)


def test_the_objective_chooses_the_plan():
    drawn = plan(Knobs(12), 60.0, -1.0, seed=2, scene=0.1)  # + 1 point, − 9 scenes in a hundred
    plain = plan(Knobs(11), 55.0, 0.0, seed=3)
    assert run([drawn, plain]).knobs == drawn.knobs
    assert run([drawn, plain], scene=True).knobs == plain.knobs


# --- unconfirmed and unsearched ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "verdict"), [(-2.0, "undecided"), (0.0, "undecided"), (2.0, "worse")])
def test_what_is_not_confirmed_is_never_better_or_equivalent(loss, verdict):
    profile = run(calibration=[plan(Knobs(12), 60.0, loss, seed=2)], budgets=[])
    expected = profile.expected
    assert not expected.confirmed
    assert expected.verdict == verdict
    assert [m.verdict for m in expected.metrics] == [verdict]
    assert any("same prompts of the search, which flatters it" in note for note in profile.evidence.notes)
    confirmed = run([plan(Knobs(12), 60.0, loss, seed=2)]).expected
    assert confirmed.verdict == {-2.0: "better", 0.0: "equivalent", 2.0: "worse"}[loss]


def test_a_budget_that_was_not_searched_is_said():
    profile = run(
        [STEP_REDUCTION, CHEAPER_STEPS], budget="75%", budgets=[searched(0.6, [STEP_REDUCTION, CHEAPER_STEPS])]
    )
    assert profile.knobs == CHEAPER_STEPS.knobs
    (note,) = told(profile)
    assert "The budget of 75% was not searched" in note
    assert "at 73% of it" in note  # 55 of 75
    assert "with --budget 75%" in note
    assert told(run([STEP_REDUCTION, CHEAPER_STEPS], budget="60%")) == []


def test_finalists_that_were_not_judged_yet_are_counted():
    budgets = [searched(0.6, [STEP_REDUCTION, CHEAPER_STEPS, COMBINED])]
    profile = run([STEP_REDUCTION, CHEAPER_STEPS], budgets=budgets)
    assert told(profile) == ["1 finalist is not judged yet: run the same calibrate command again."]
    own = next(row for row in profile.tradeoff.rows if row.share == pytest.approx(0.6))
    assert (own.searched, own.winner) == (False, "undecided")
    assert told(run([STEP_REDUCTION, CHEAPER_STEPS, COMBINED], budgets=budgets)) == []


def test_the_whole_budget_takes_the_baseline_itself():
    profile = run([BASELINE, STEP_REDUCTION], budget="100%")
    assert profile.knobs == Knobs(20)
    assert profile.expected.difference.mean == profile.expected.difference.low == 0.0
    assert profile.expected.verdict == "equivalent"
    assert any("The budget of 100% was not searched" in note for note in profile.evidence.notes)


def test_plans_scored_on_few_prompts_do_not_win():
    few = plan(Knobs(12), 60.0, 0.0, n=49)
    with pytest.raises(BudgetError, match="scored on 50 prompts"):
        run(calibration=[few])
    assert run(calibration=[plan(Knobs(12), 60.0, 0.0, n=50)]).knobs == Knobs(12)


def test_thin_evidence_is_said():
    notes = run(calibration=[plan(Knobs(8), 40.0, 0.0, n=80)], budgets=[]).evidence.notes
    assert any("80 of the 400" in note for note in notes)
    assert any("67% of it" in note for note in notes)
    assert any("which flatters it" in note for note in notes)
    assert told(run([CHEAPER_STEPS])) == []


def test_prompts_that_are_set_aside_are_asked_of_no_plan():
    few = np.r_[BASE[:19], np.nan]
    base = replace(BASELINE, scores=few, measures={})
    shift = np.tile([0.1, -0.1], 10)
    judged = replace(STEP_REDUCTION, scores=few - 1 + shift, measures={})
    seen = Evidence(Scored(base, []), Scored(base, [judged], set_aside=1), [], Objective((CLIP,)))
    budget = parse_budget("60%")
    choice = choose(budget.resolve(BASELINE.cost), seen)
    assert (choice.winner, choice.confirmed) == (judged, True)
    assert choice.comparisons[0].n == 19
    with pytest.raises(BudgetError, match="scored on 20 prompts"):
        choose(budget.resolve(BASELINE.cost), replace(seen, held_out=Scored(base, [judged])))
