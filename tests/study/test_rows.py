"""Step reduction or cheaper steps at one budget: what the interval spans, what decides, what is said."""

import math

import numpy as np
import pytest
from scipy import stats

from postdiff_calib.cost.budget import PlanCost
from postdiff_calib.knobs import Knobs
from postdiff_calib.scores.objective import Objective, Term
from postdiff_calib.scores.select import PlanScores
from postdiff_calib.search.unfound import Unfound
from postdiff_calib.study.answers import crossover_text, overall_answer, row_answer
from postdiff_calib.study.rows import Judged, Row, crossover, make_row

LEVEL = np.array([10.0, 20.0, 30.0, 40.0])
#: Mean 0, and a standard error of 1 over four prompts: they are ±√3.
NOISE = np.array([1.0, -1.0, 1.0, -1.0]) * math.sqrt(3)
#: Student's 97.5 % quantile for 3 degrees of freedom.
T3 = float(stats.t.ppf(0.975, 3))
CLIP = Objective((Term("clip", 1.0, 1.0, 0.1),))
BOTH = Objective((Term("clip", 1.0, 1.0, 0.1), Term("scene", 1.0, 1.0, 0.1)))
FITS = {"step_reduction": True, "cheaper_steps": True, "combined": True}


def plan(knobs, shift, noise=0.0, scene=None):
    measures = {} if scene is None else {"scene": LEVEL + scene}
    return PlanScores(knobs, PlanCost(1.0, 1.0), LEVEL + shift + noise, measures)


def step_reduction(steps, shift, **more):
    return plan(Knobs(steps), shift, **more)


def cheaper_steps(interval, shift, **more):
    return plan(Knobs(20, cache_interval=interval), shift, **more)


BASE = plan(Knobs(20), 0.0, scene=0.0)


def row(plans, share=0.5, unfound=Unfound(), fits=FITS, objective=CLIP):  # noqa: B008  # immutable
    return make_row(Judged(BASE, plans, objective), share, unfound=unfound, fits=fits)


# --- the interval --------------------------------------------------------------------------------------------------


def test_without_noise_the_interval_is_the_difference_of_the_best():
    found = row([step_reduction(5, -3.0), step_reduction(8, -1.0), cheaper_steps(3, -2.0), cheaper_steps(2, -0.5)])
    assert (found.step_reduction.knobs, found.cheaper_steps.knobs) == (Knobs(8), Knobs(20, cache_interval=2))
    assert found.difference.mean == found.difference.low == found.difference.high == 0.5
    assert found.winner == "cheaper_steps"
    assert found.decided


def test_the_lower_end_is_against_the_step_reduction_plan_that_may_be_best():
    # T=8 is 1 worse than k=2 for sure; T=5 is 2 worse on average, give or take 1
    found = row([step_reduction(8, -1.0), step_reduction(5, -2.0, noise=NOISE), cheaper_steps(2, 0.0)])
    assert found.difference.mean == 1.0
    assert found.difference.low == pytest.approx(2 - T3)
    assert found.difference.high == 1.0
    assert found.winner == "tie"
    # noise that cannot carry T=5 past T=8 changes nothing
    assert (
        row(
            [step_reduction(8, -1.0), step_reduction(5, -1.0 - T3 - 0.01, noise=NOISE), cheaper_steps(2, 0.0)]
        ).difference.low
        == 1.0
    )


def test_the_upper_end_is_of_the_cheaper_steps_plan_that_may_be_best():
    found = row([step_reduction(8, 0.0), cheaper_steps(2, -1.0), cheaper_steps(3, -2.0, noise=NOISE)])
    assert found.difference.mean == -1.0
    assert found.difference.low == -1.0
    assert found.difference.high == pytest.approx(T3 - 2)
    assert found.winner == "tie"


@pytest.mark.parametrize(("cheap", "few"), [(5, 1), (1, 5)])
def test_arms_of_equal_plans_are_told_apart_in_one_of_forty_cases_a_side(cheap, few, monkeypatch):
    monkeypatch.setattr("postdiff_calib.scores.paired._DRAWS", 1000)
    rng, runs, n = np.random.default_rng(0), 400, 40
    zero = PlanScores(Knobs(20), PlanCost(1.0, 1.0), np.zeros(n))
    wrong = np.zeros(2)
    for _ in range(runs):
        knobs = [Knobs(20, cache_interval=2 + i) for i in range(cheap)] + [Knobs(5 + i) for i in range(few)]
        plans = [PlanScores(k, PlanCost(1.0, 1.0), rng.normal(size=n)) for k in knobs]
        found = make_row(Judged(zero, plans, CLIP), 0.5, unfound=Unfound(), fits=FITS).difference
        wrong += [found.low > 0, found.high < 0]
    assert (wrong / runs <= 0.025 + 2.5 * math.sqrt(0.025 / runs)).all()


def test_unfound_plans_widen_the_interval_and_never_narrow_it():
    plans = [step_reduction(8, -1.0), cheaper_steps(2, 0.0)]
    assert row(plans, unfound=Unfound(cheaper_steps=4.0, step_reduction=-2.0)).difference.low == -2.0
    assert row(plans, unfound=Unfound(cheaper_steps=4.0, step_reduction=-2.0)).difference.high == 4.0
    assert row(plans, unfound=Unfound(cheaper_steps=4.0, step_reduction=-2.0)).difference.mean == 1.0
    assert row(plans, unfound=Unfound(cheaper_steps=4.0, step_reduction=-2.0)).winner == "tie"
    assert row(plans, unfound=Unfound(cheaper_steps=0.5, step_reduction=2.0)).difference == row(plans).difference
    # better cheaper plans elsewhere cannot take the win from the cheaper arm
    assert row(plans, unfound=Unfound(cheaper_steps=4.0)).winner == "cheaper_steps"


def test_the_baseline_belongs_to_no_arm():
    found = row([BASE, step_reduction(8, -1.0), cheaper_steps(2, -0.5)])
    assert found.step_reduction.knobs == Knobs(8)
    assert found.cheaper_steps.knobs == Knobs(20, cache_interval=2)
    assert found.combined is BASE
    alone = row([BASE])
    assert alone.step_reduction is alone.cheaper_steps is None
    assert alone.combined is BASE


def test_intervals_are_shown_in_points_of_one_metric_and_in_spreads_of_several():
    wide = Objective((Term("clip", 4.0, 1.0, 0.1),))
    found = row([step_reduction(8, -1.0), cheaper_steps(2, 0.0)], objective=wide)
    assert found.difference.mean == 0.25
    assert found.in_points(wide).mean == found.in_points(wide).low == 1.0
    several = row([step_reduction(8, -1.0, scene=0.0), cheaper_steps(2, 0.0, scene=0.0)], objective=BOTH)
    assert several.difference.mean == several.in_points(BOTH).mean == 0.5


# --- who wins ------------------------------------------------------------------------------------------------------


def test_a_budget_that_was_not_searched_decides_nothing():
    found = row([step_reduction(8, -1.0), cheaper_steps(2, 0.0)], unfound=None)
    assert (found.winner, found.searched, found.decided, found.difference) == ("undecided", False, False, None)
    assert found.cheaper_steps.knobs == Knobs(20, cache_interval=2)
    assert "were not searched, so neither is known to be better" in row_answer(found, CLIP)
    alone = row([step_reduction(8, -1.0)], unfound=None, fits={**FITS, "cheaper_steps": False})
    assert alone.winner == "undecided"
    nothing = make_row(None, 0.5, unfound=None, fits=dict.fromkeys(FITS))
    assert nothing.winner == "undecided"


def test_an_arm_has_lost_only_where_no_plan_of_it_fits():
    only = [step_reduction(8, -1.0)]
    assert row(only, fits={**FITS, "cheaper_steps": False}).winner == "step_reduction"
    assert "no plan of cheaper steps that may be searched fits the budget" in row_answer(
        row(only, fits={**FITS, "cheaper_steps": False}), CLIP
    )
    for fits in (FITS, {**FITS, "cheaper_steps": None}):
        assert row(only, fits=fits).winner == "undecided"
        assert "the arms were not compared" in row_answer(row(only, fits=fits), CLIP)
    assert row([cheaper_steps(2, -1.0)], fits={**FITS, "step_reduction": False}).winner == "cheaper_steps"
    assert not row(only, fits={**FITS, "cheaper_steps": False}).decided
    assert make_row(None, 0.5, unfound=Unfound(), fits={**FITS, "cheaper_steps": False}).winner == "undecided"


def test_a_metric_that_is_surely_on_the_other_side_blocks_the_win():
    few = step_reduction(8, 0.0, scene=0.0)
    assert row([few, cheaper_steps(2, 3.0, scene=0.0)], objective=BOTH).winner == "cheaper_steps"
    blocked = row([few, cheaper_steps(2, 3.0, scene=-1.0)], objective=BOTH)
    assert blocked.difference.low == 1.0
    assert (blocked.metrics["clip"].low, blocked.metrics["scene"].high) == (3.0, -1.0)
    assert blocked.winner == "tie"
    assert "CLIP score +3.000 [+3.000, +3.000], scenes right -1.000 [-1.000, -1.000]" in row_answer(blocked, BOTH)
    # one that only may be on the other side does not
    assert row([few, cheaper_steps(2, 6.0, scene=-1.0 + NOISE)], objective=BOTH).winner == "cheaper_steps"
    # and the same for the other arm
    assert row([few, cheaper_steps(2, -3.0, scene=1.0)], objective=BOTH).winner == "tie"
    assert row([few, cheaper_steps(2, -3.0, scene=0.0)], objective=BOTH).winner == "step_reduction"


# --- several budgets -----------------------------------------------------------------------------------------------


def decided(share, winner):
    return row([step_reduction(8, 0.0), cheaper_steps(2, 1.0 if winner == "cheaper_steps" else -1.0)], share=share)


def tied(share):
    return row([step_reduction(8, 0.0), cheaper_steps(2, 1.0)], share=share, unfound=Unfound(step_reduction=-1.0))


def alone(share):
    return row([step_reduction(8, 0.0)], share=share, fits={**FITS, "cheaper_steps": False})


def unsearched(share):
    return row([step_reduction(8, 0.0), cheaper_steps(2, 1.0)], share=share, unfound=None)


def test_the_better_arm_changes_between_decided_budgets_only():
    assert crossover([decided(0.6, "cheaper_steps"), decided(0.4, "step_reduction")]) == (0.4, 0.6)
    assert crossover([decided(0.25, "step_reduction"), tied(0.4), decided(0.6, "cheaper_steps")]) == (0.25, 0.6)
    assert crossover([decided(0.25, "step_reduction"), unsearched(0.4), decided(0.6, "cheaper_steps")]) == (0.25, 0.6)
    assert crossover([decided(0.25, "step_reduction"), unsearched(0.4)]) is None
    assert crossover([alone(0.25), decided(0.6, "cheaper_steps")]) is None
    assert crossover([decided(0.25, "step_reduction"), decided(0.6, "step_reduction")]) is None
    assert crossover([tied(0.25)]) is None
    assert crossover([]) is None


def test_the_change_is_one_sentence():
    assert "between 40% and 60% of the baseline's cost" in crossover_text((0.4, 0.6))
    assert crossover_text(None) is None


def test_one_row_is_one_sentence():
    assert row_answer(decided(0.4, "cheaper_steps"), CLIP) == (
        "At 40% of the baseline's cost, cheaper steps win by 1.000 points [1.000, 1.000] "
        "(best found: 20 steps, deep blocks on 10 of them; against 8 full steps)."
    )
    assert (
        "neither is shown to be better: cheaper steps minus step reduction is +1.000 [-1.000, +1.000] points"
        in row_answer(tied(0.4), CLIP)
    )
    small = Objective((Term("aesthetics", 0.00025, 1.0, 0.1),))
    assert "cheaper steps win by 0.00025 points [0.00025, 0.00025]" in row_answer(decided(0.4, "cheaper_steps"), small)


def test_all_rows_are_one_sentence():
    rows = [
        alone(0.16),
        decided(0.25, "step_reduction"),
        decided(0.4, "step_reduction"),
        tied(0.5),
        decided(0.6, "cheaper_steps"),
    ]
    assert overall_answer([*rows, unsearched(0.8)], "MACs") == (
        "Step reduction wins at 25% to 40% of the baseline's MACs, only step reduction fits at 16%, "
        "cheaper steps win at 60%, neither is shown to be better at 50%, not searched at 80%."
    )
    nothing = Row(0.3, None, None, None, True, FITS)
    assert overall_answer([nothing], "time") == "The arms were not compared at 30% of the baseline's time."
