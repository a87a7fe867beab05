"""The objective: metrics in spreads of the baseline, weighted, and the options that set δ and weights."""

import math

import numpy as np
import pytest

from postdiff_calib.errors import UsageError
from postdiff_calib.scores.objective import Objective, Term, make_objective, parse_per_metric, spread_of

CLIP, SCENE = Term("clip", 2.0, 1.0, 0.2), Term("scene", 10.0, 1.0, 1.0)
SCORES, RIGHT = np.array([4.0, 8.0]), np.array([100.0, 0.0])


def test_one_metric_is_the_score_in_spreads():
    assert Objective((CLIP,)).values(SCORES, {}).tolist() == [2.0, 4.0]
    # a weight alone weighs nothing
    assert Objective((Term("clip", 2.0, 7.0, 0.2),)).values(SCORES, {}).tolist() == [2.0, 4.0]


def test_metrics_are_added_in_spreads_by_weight():
    # (4/2 + 100/10) / 2 and (8/2 + 0/10) / 2
    assert Objective((CLIP, SCENE)).values(SCORES, {"scene": RIGHT}).tolist() == [6.0, 2.0]
    # (4/2 + 3 · 100/10) / 4 and (8/2 + 0) / 4
    heavy = Objective((CLIP, Term("scene", 10.0, 3.0, 1.0)))
    assert heavy.values(SCORES, {"scene": RIGHT}).tolist() == [8.0, 1.0]


def test_where_a_metric_is_missing_nothing_is_known():
    both = Objective((CLIP, SCENE))
    assert np.isnan(both.values(SCORES, {})).all()
    half = both.values(SCORES, {"scene": np.array([math.nan, 0.0])})
    assert np.isnan(half[0])
    assert half[1] == 2.0
    assert np.isnan(both.values(np.array([math.nan, 8.0]), {"scene": RIGHT})[0])


def test_it_is_shown_in_points_of_one_metric_and_in_spreads_of_several():
    assert (Objective((CLIP,)).unit, Objective((CLIP,)).shown) == ("points", 2.0)
    assert (Objective((CLIP, SCENE)).unit, Objective((CLIP, SCENE)).shown) == ("spreads", 1.0)
    assert Objective((CLIP, SCENE)).metrics == ("clip", "scene")


def test_plain_data_and_back():
    both = Objective((CLIP, SCENE))
    assert Objective.from_data(both.as_data()) == both
    assert both.as_data()[1] == {"metric": "scene", "spread": 10.0, "weight": 1.0, "delta": 1.0}


def test_other_deltas_change_nothing_else():
    changed = Objective((CLIP, SCENE)).with_deltas({"scene": 5.0})
    assert changed.terms == (CLIP, Term("scene", 10.0, 1.0, 5.0))


@pytest.mark.parametrize("bad", [{"spread": 0.0}, {"weight": -1.0}, {"delta": 0.0}, {"spread": math.nan}])
def test_a_term_is_of_numbers_above_nothing(bad):
    with pytest.raises(ValueError, match="must be above 0"):
        Term(**bad)


def test_spread_is_half_the_mean_squared_difference():
    # differences 2, −2, 2, −2: variance over seeds 4 / 2
    first, second = np.array([1.0, 1.0, 5.0, 5.0]), np.array([-1.0, 3.0, 3.0, 7.0])
    assert spread_of(first, second) == pytest.approx(math.sqrt(2))


def test_spread_is_the_deviation_over_seeds():
    rng, level = np.random.default_rng(0), np.linspace(0, 100, 4000)
    assert spread_of(level + 3 * rng.normal(size=4000), level + 3 * rng.normal(size=4000)) == pytest.approx(3, rel=0.03)


def test_where_seeds_change_nothing_prompts_stand_in_and_then_1():
    same = np.array([0.0, 2.0])
    assert spread_of(same, same) == 1.0  # two values of 0 and two of 2
    assert spread_of(5 * same, 5 * same) == 5.0
    assert spread_of(np.full(3, 4.0), np.full(3, 4.0)) == 1.0


def test_delta_is_a_tenth_of_the_spread_and_the_weight_1_unless_given():
    made = make_objective({"clip": 2.0, "scene": 10.0}, {"scene": 3.0}, {"clip": 4.0})
    assert made.terms == (Term("clip", 2.0, 4.0, 0.2), Term("scene", 10.0, 1.0, 3.0))


# --- options -------------------------------------------------------------------------------------------------------


def parse(*texts):
    return parse_per_metric("--delta", texts, ("clip", "scene"))


def test_options_name_a_metric_or_mean_the_score():
    assert parse("clip=0.5", " Scene =2") == {"clip": 0.5, "scene": 2.0}
    assert parse("0.5") == {"clip": 0.5}
    assert parse("1e-3") == {"clip": 0.001}
    assert parse() == {}


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["clip=a"], "--delta clip=a: it is NAME=NUMBER, or a number for the score"),
        (["clip"], "it is NAME=NUMBER"),
        (["clip="], "it is NAME=NUMBER"),
        (["clip=0"], "it must be above 0"),
        (["-1"], "it must be above 0"),
        (["clip=inf"], "it must be above 0"),
        (["clip=nan"], "it must be above 0"),
        (["fid=1"], "the metrics of this study are clip, scene"),
        (["clip=1", "clip=2"], "clip is given twice"),
        (["1", "clip=2"], "clip is given twice"),
    ],
)
def test_nonsense_is_one_line_that_names_the_option(texts, says):
    with pytest.raises(UsageError) as caught:
        parse(*texts)
    assert says in str(caught.value)
    assert "--delta" in str(caught.value)
    assert "\n" not in str(caught.value)
