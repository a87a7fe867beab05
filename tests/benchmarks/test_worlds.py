"""The worlds are what they say, and draws have the truth as their mean."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import worlds as w

SHARES = (0.15, 0.25, 0.4, 0.6, 0.8)


@pytest.mark.parametrize("name", [name for name in w.WORLDS if name != "grid"])
def test_draws_have_the_truth_as_their_mean(name):
    world = w.make_world(name)
    assert world.truth[world.baseline] == 0
    assert world.reference.knobs.num_inference_steps == 20
    rows = np.random.default_rng(1).choice(len(world.candidates), 15, replace=False)
    scores = world.draw(np.random.default_rng(2), 20_000)
    difference = scores[rows] - scores[world.baseline]
    error = difference.std(1) / np.sqrt(scores.shape[1])
    np.testing.assert_array_less(np.abs(difference.mean(1) - world.truth[rows]), 4.5 * error + 1e-9)


def test_grid_holds_the_table_and_is_drawn_on_demand():
    grid, table = w.make_world("grid"), w.make_world("table")
    assert len(grid.candidates) == 17_489
    at = [grid.rows[c.plan_id] for c in table.candidates]
    np.testing.assert_allclose(grid.truth[at], table.truth, atol=1e-9)
    one, other = (world.draw(np.random.default_rng(3), 300) for world in (grid, table))
    np.testing.assert_allclose(one[at[7]], other[7])
    rows = np.random.default_rng(1).choice(len(grid.candidates), 20, replace=False)
    scores = grid.draw(np.random.default_rng(2), 20_000)
    difference = scores[rows] - scores[grid.baseline]
    np.testing.assert_array_less(
        np.abs(difference.mean(1) - grid.truth[rows]), 4.5 * difference.std(1) / np.sqrt(20_000)
    )


def test_scores_split_and_index():
    scores = w.make_world("heavy tails").draw(np.random.default_rng(0), 30)
    first, rest = scores.split(20)
    assert first.shape == (469, 20)
    assert rest.shape == (469, 10)
    np.testing.assert_array_equal(np.concatenate([first[5], rest[5]]), scores[5])
    np.testing.assert_array_equal(rest[[4, 5], [0, 9]], np.array([scores[i][[20, 29]] for i in (4, 5)]))
    assert scores[:].shape == (469, 30)


def test_flat_has_no_best():
    assert np.all(w.make_world("flat").truth == 0)


@pytest.mark.parametrize("share", SHARES)
def test_cheaper_wins_by_about_a_point(share):
    world = w.make_world("cheaper wins")
    margin = world.truth[world.best(share, "cheaper_steps")] - world.truth[world.best(share, "step_reduction")]
    assert 0.8 <= margin <= 1.2


@pytest.mark.parametrize("share", SHARES)
def test_lone_optimum_is_within_the_budget(share):
    table = w.make_world("table")
    found = set()
    for seed in range(5):
        world = w.make_world("lone optimum", np.random.default_rng(seed), share)
        best = world.best(share)
        found.add(best)
        assert world.truth[best] == table.truth[table.allowed_rows(share)].max() + 2.5
        assert world.limit(share).allows(world.candidates[best].cost)
    assert len(found) > 1


def test_no_structure_permutes_plans_of_similar_cost():
    table, world = w.make_world("table"), w.make_world("no structure")
    np.testing.assert_allclose(np.sort(world.truth), np.sort(table.truth))
    assert world.truth[world.baseline] == 0
    one, other = (np.corrcoef(t.truth, t.macs)[0, 1] for t in (table, world))
    assert abs(one - other) < 0.05


def test_cliffs_fall_off():
    world = w.make_world("cliffs")
    points = np.array([c.coordinates() for c in world.candidates])
    over = (points[:, 3] >= 4) & (points[:, 1] >= 0.4)
    before = (points[:, 3] == 3) & (points[:, 1] >= 0.4)
    assert over.sum() > 20
    assert np.median(world.truth[over]) < np.median(world.truth[before]) - 4
