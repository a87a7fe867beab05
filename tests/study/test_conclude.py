"""Scores → profile, on scores whose answer is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
from profiles import profile_data

from postdiff_calib.cost.budget import Limit, PlanCost, parse_budget
from postdiff_calib.errors import BudgetError, CheckError, StudyError
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.knobs import Knobs
from postdiff_calib.profile import GuardEntry, parse_profile
from postdiff_calib.profile.sections import EnvironmentSection, EvidenceSection, ModelSection
from postdiff_calib.quality import METRICS
from postdiff_calib.scores.guards import Guard, read
from postdiff_calib.scores.objective import Objective, Term
from postdiff_calib.scores.select import ARMS, PlanScores
from postdiff_calib.search.unfound import Unfound
from postdiff_calib.study.choose import choose
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


def facts(held_out=N):
    data = profile_data()
    evidence = {**data["evidence"], "num_held_out": held_out, "num_prompts": N}
    return Facts(
        model=ModelSection.model_validate(data["model"]),
        evidence=EvidenceSection.model_validate(evidence),
        environment=EnvironmentSection.model_validate(data["environment"]),
        settings=GenerationSettings(64, 64, 4.0, batch_size=10, latent_multiple=2),
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
    assert "postdiff calibrate --budget 75%" in note
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


# --- the trade-off -------------------------------------------------------------------------------------------------


def test_rows_decide_where_both_arms_were_searched():
    cheap = plan(Knobs(20, cache_interval=5), 20.0, 3.0, seed=8)
    few = plan(Knobs(5), 25.0, 1.0, seed=9)
    budgets = [searched(0.25, [cheap, few]), searched(0.6, [STEP_REDUCTION, CHEAPER_STEPS])]
    profile = run([STEP_REDUCTION, CHEAPER_STEPS, COMBINED, TOO_EXPENSIVE, cheap, few], budgets=budgets)
    low, own, high = profile.tradeoff.rows
    assert [row.share for row in (low, own, high)] == pytest.approx([0.25, 0.6, 0.8])
    assert [row.winner for row in (low, own, high)] == ["step_reduction", "cheaper_steps", "undecided"]
    assert [row.searched for row in (low, own, high)] == [True, True, False]
    assert own.cheaper_steps_minus_step_reduction.mean == pytest.approx(0.45)
    assert "cheaper steps win" in own.answer
    assert "were not searched" in high.answer
    assert "between 25% and 60%" in profile.tradeoff.crossover


def test_a_row_waits_for_all_of_its_finalists():
    missing = SearchedBudget(
        at(0.6), (STEP_REDUCTION.plan.plan_id, CHEAPER_STEPS.plan.plan_id, "elsewhere"), Unfound(), {}
    )
    row = run([STEP_REDUCTION, CHEAPER_STEPS], budgets=[missing], rows=(0.6,)).tradeoff.rows[0]
    assert (row.winner, row.searched) == ("undecided", False)
    # struck off, it is not waited for
    row = run(
        [STEP_REDUCTION, CHEAPER_STEPS], budgets=[searched(0.6, [STEP_REDUCTION, CHEAPER_STEPS])], rows=(0.6,)
    ).tradeoff.rows[0]
    assert row.winner == "cheaper_steps"


def test_plans_not_found_widen_the_row():
    budgets = [searched(0.6, [STEP_REDUCTION, CHEAPER_STEPS], Unfound(step_reduction=-0.4))]
    row = run([STEP_REDUCTION, CHEAPER_STEPS], budgets=budgets, rows=(0.6,)).tradeoff.rows[0]
    assert row.winner == "tie"
    assert row.cheaper_steps_minus_step_reduction.low == pytest.approx(-2.0)  # 0.4 spreads of 5 points


def test_an_optuna_search_decides_nothing_between_arms():
    budgets = [searched(0.6, [STEP_REDUCTION, CHEAPER_STEPS], None)]
    row = run([STEP_REDUCTION, CHEAPER_STEPS], budgets=budgets, rows=(0.6,)).tradeoff.rows[0]
    assert (row.winner, row.searched) == ("undecided", False)


def test_a_budget_is_found_again_by_its_terms():
    seen = evidence(budgets=[searched(0.6, []), SearchedBudget(Limit("seconds", "median", 60.0, 100.0), (), None, {})])
    assert seen.at(at(0.6)).unfound == Unfound()
    assert seen.at(at(0.6 * (1 + 1e-9))) is not None
    assert seen.at(at(0.61)) is None
    assert seen.at(Limit("seconds", "median", 60.0, 100.0)).unfound is None
    assert seen.at(Limit("seconds", "p95", 60.0, 100.0)) is None
    assert [row.value for row in seen.rows_beside(at(0.4))] == [40.0, 60.0]
    assert [row.value for row in seen.rows_beside(at(0.6))] == [60.0]


# --- guard rails ---------------------------------------------------------------------------------------------------


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
    assert GuardEntry.model_json_schema()["properties"]["metric"]["enum"] == [m.name for m in METRICS]
    with pytest.raises(ValueError, match="should be 'clip', 'scene', 'cmmd', 'ssim', 'psnr' or 'lpips'"):
        GuardEntry(metric="fid", **entry)
