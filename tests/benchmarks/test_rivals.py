"""Rivals keep to their images, choose plans within the budget, and find what is easy to find."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import finalist_choice as choice
import purse as p
import replayed_search
import rivals as r
import worlds as w

PROMPTS = 60


@pytest.fixture
def world():
    return w.make_world("table")


def test_purse_counts_the_baseline_and_no_prompt_twice(world):
    scores = world.draw(np.random.default_rng(0), PROMPTS)
    purse = p.Purse(world, scores, PROMPTS, 60)
    assert purse.take(3, 10)
    assert purse.used == 20
    assert purse.take(4, 10)
    assert purse.used == 30
    assert purse.take(3, 10)
    assert (purse.used, purse.n(3)) == (50, 20)
    assert purse.take_at(4, range(5, 15))
    assert (purse.used, purse.n(4)) == (55, 15)
    assert not purse.take(5, 10)
    assert (purse.used, purse.left) == (55, 5)
    assert purse.mean(3) == pytest.approx((scores[3] - scores[world.baseline])[:20].mean())


def test_reserve_is_what_the_finalists_take(world):
    purse = p.Purse(world, world.draw(np.random.default_rng(0), PROMPTS), PROMPTS, 1000)
    for row in range(5):
        purse.take(row, 10)
    before, kept = purse.used, purse.reserve(2, 10)
    purse.take(0, PROMPTS)
    purse.take(1, PROMPTS)
    assert purse.used - before == kept


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", [name for name in r.RIVALS if name not in ("gp", "smac")])
def test_rival_keeps_to_its_images_and_the_budget(world, name):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search, setting = r.RIVALS[name]
    found = []
    for _ in range(2):
        purse = p.Purse(world, world.draw(np.random.default_rng(1), PROMPTS), PROMPTS, 700)
        choice = search(world, purse, 0.25, 5, setting)
        assert 600 <= purse.used <= 700
        assert choice in world.allowed_rows(0.25)
        assert purse.n(choice) == PROMPTS
        assert purse.curve[-1][1] == choice
        found.append((choice, purse.curve))
    assert found[0] == found[1]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", ["random", "tpe", "halving", "halving + ridge", "postdiff"])
def test_a_search_finds_what_is_plain(world, name):
    """Noise a hundred times smaller, and half of the plans are as good as the best."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    noise = world.noise
    quiet = replace(
        world,
        truth=np.minimum(world.truth, np.median(world.truth)),
        noise=lambda rng, columns: lambda row: noise(rng, columns)(row) / 100,
    )
    scores = quiet.draw(np.random.default_rng(1), PROMPTS + PROMPTS // 2)
    if name == "postdiff":
        choice, curve, used = replayed_search.run_postdiff(quiet, scores, 0.4, PROMPTS, 0)
        assert curve[-1] == (used, choice)
    else:
        search, setting = r.RIVALS[name]
        choice = search(quiet, p.Purse(quiet, scores.split(PROMPTS)[0], PROMPTS, 700), 0.4, 0, setting)
    assert quiet.truth[quiet.best(0.4)] - quiet.truth[choice] < 0.1


def test_every_plan_has_values_within_optunas_ranges():
    world = w.make_world("grid")
    knobs = r.Knobs(world, 1.0)
    for position in range(len(knobs.rows)):
        for name, value in knobs.values(position).items():
            assert r.KNOBS[name].low <= value <= r.KNOBS[name].high


def test_nearest_plan_of_a_plan_is_itself(world):
    for knobs in (r.Knobs(world, 0.4), r.Knobs(w.make_world("grid"), 0.25)):
        for position in range(0, len(knobs.rows), max(1, len(knobs.rows) // 20)):
            found = knobs.nearest(knobs.values(position))
            np.testing.assert_allclose(knobs.points[found], knobs.points[position])


def test_every_rule_names_three_finalists_of_one_search():
    assert {believed + doubted for believed, doubted, _ in choice.RULES.values()} == {3}
    run = choice.scored("cheaper wins", 0.25, 24, 0)
    assert run["key"] == ["cheaper wins", 0.25, 24, 0]
    assert run["regret"].keys() == choice.RULES.keys()
    assert all(regret >= 0 for regret in run["regret"].values())
    assert run == choice.scored("cheaper wins", 0.25, 24, 0)
