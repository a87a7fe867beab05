"""What a study answers from: rows wait for all their finalists, budgets are known by their terms."""

import pytest
from made_up_scores import CHEAPER_STEPS, COMBINED, STEP_REDUCTION, TOO_EXPENSIVE, at, evidence, plan, run, searched

from postdiff_calib.cost.budget import Limit
from postdiff_calib.knobs import Knobs
from postdiff_calib.search.unfound import Unfound
from postdiff_calib.study.searched import SearchedBudget


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
