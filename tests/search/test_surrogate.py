import numpy as np
import pytest
from synthetic_surface import SMALL, SPACE, loss, price

from postdiff_calib.plan import compile_plan
from postdiff_calib.search.space import candidate, coordinate_matrix
from postdiff_calib.search.surrogate import Features, Observation, Posterior, Scales, variances_of_means

REFERENCE = candidate(compile_plan(SPACE.baseline), price)


@pytest.fixture(scope="module")
def grid():
    candidates = [c for c in SPACE.candidates(price) if c.plan_id != REFERENCE.plan_id][::13]
    points = coordinate_matrix(candidates)
    features = Features(points, np.array(REFERENCE.coordinates()))
    return candidates, features(points), features


def fitted(grid, rows, noise, seed=0):
    candidates, matrix, features = grid
    truth = -np.array([loss(c) for c in candidates])
    means = truth[rows] + noise * np.random.default_rng(seed).standard_normal(len(rows))
    return truth, Posterior(matrix, features.groups, np.asarray(rows), means, np.full(len(rows), noise**2))


def test_features_vanish_at_the_baseline_and_cover_every_group(grid):
    _, matrix, features = grid
    assert np.abs(features(np.array([REFERENCE.coordinates()]))).max() < 1e-12
    assert sum(g.stop - g.start for g in features.groups.values()) == matrix.shape[1]
    assert list(features.groups) == [
        "offset",
        "main0",
        "main1",
        "main2",
        "main3",
        "main4",
        "trend",
        "pairs",
        "residual",
    ]


def test_knobs_with_one_value_have_no_main_effect():
    points = coordinate_matrix([c for c in SMALL.candidates(price) if c.step_reduction])
    features = Features(points, points[-1])
    assert "main3" not in features.groups
    assert np.isfinite(features(points)).all()


def test_sixty_noisy_plans_predict_the_rest(grid):
    rows = np.random.default_rng(1).choice(len(grid[0]), 60, replace=False)
    truth, posterior = fitted(grid, rows, noise=0.3)
    others = np.setdiff1d(np.arange(len(truth)), rows)
    predicted = posterior.mean()[others]
    assert np.corrcoef(predicted, truth[others])[0, 1] > 0.93
    assert np.mean((predicted - truth[others]) ** 2) < 0.15 * truth[others].var()


def test_precise_observations_are_believed_and_vague_ones_are_not(grid):
    _, matrix, features = grid
    rows = np.array([5, 5 + 400])
    posterior = Posterior(matrix, features.groups, rows, np.array([-1.0, -1.0]), np.array([1e-6, 100.0]))
    mean = posterior.mean()
    assert mean[5] == pytest.approx(-1, abs=0.02)
    assert abs(mean[405] + 1) > 0.1
    spread = posterior.draw(np.random.default_rng(0), 400).std(0)
    assert spread[5] < 0.02 < spread[405]


def test_draws_agree_with_the_mean(grid):
    _, posterior = fitted(grid, np.arange(0, 1200, 40), noise=0.3)
    draws = posterior.draw(np.random.default_rng(0), 2000)
    error = np.abs(draws.mean(0) - posterior.mean()) / (draws.std(0) / np.sqrt(2000))
    assert np.quantile(error, 0.95) < 3


def test_no_observation_at_all_is_a_valid_state(grid):
    _, matrix, features = grid
    empty = np.empty(0)
    posterior = Posterior(matrix, features.groups, np.empty(0, dtype=int), empty, empty)
    assert posterior.mean() == pytest.approx(np.zeros(len(matrix)))
    assert posterior.draw(np.random.default_rng(0)).std() > 0


def test_variances_are_shrunk_towards_the_typical_one():
    seen = [Observation("a", 20, 0, 4.0), Observation("b", 20, 0, 0.0), Observation("c", 20, 0, 4.0)]
    a, b, _ = variances_of_means(seen)
    assert a == pytest.approx(4 / 20)
    assert 0.03 < b < 0.2
    certain = variances_of_means([Observation("a", 500, 0, 4.0), Observation("b", 500, 0, 1.0)])
    assert certain[1] == pytest.approx(1 / 500, rel=0.03)


# --- scales --------------------------------------------------------------------------------------------------------


def posterior_of(grid, values, noise=0.01):
    _, matrix, features = grid
    rows = np.arange(0, len(matrix), max(1, len(matrix) // 80))[:80]
    return rows, Posterior(matrix, features.groups, rows, values[rows], np.full(len(rows), noise**2))


def test_knobs_that_explain_everything_leave_little_to_the_plans_themselves(grid):
    truth = -np.array([loss(c, private=0.0) for c in grid[0]])
    own = np.random.default_rng(0).normal(0, truth.std(), len(truth))
    _, smooth = posterior_of(grid, truth)
    _, wild = posterior_of(grid, own)
    assert smooth.scales.own < 0.2
    assert wild.scales.own > 1
    assert Scales().log_prior == 0.0
    assert Scales(own=1.2).log_prior < Scales(own=0.4).log_prior < 0


def test_without_observations_the_usual_scales_are_believed(grid):
    _, matrix, features = grid
    empty = np.empty(0)
    assert Posterior(matrix, features.groups, np.empty(0, dtype=int), empty, empty).scales == Scales()


def test_only_surprising_plans_deviate_by_themselves(grid):
    _, wild = posterior_of(grid, np.random.default_rng(0).normal(0, 3, len(grid[0])))
    first, last = 1, len(grid[0]) - 2  # neither is observed
    surprising = np.zeros(len(grid[0]), dtype=bool)
    surprising[first] = True
    plain = wild.draw(np.random.default_rng(1), 500).std(0)
    drawn = wild.draw(np.random.default_rng(1), 500, surprising).std(0)
    assert drawn[first] > 1.5 * plain[first]
    assert drawn[last] == pytest.approx(plain[last])
    assert wild.draw(np.random.default_rng(1), 7).shape == (7, len(grid[0]))


def test_a_plans_own_scores_count_for_more_than_its_neighbours(grid):
    values = np.random.default_rng(0).normal(0, 3, len(grid[0]))
    rows, wild = posterior_of(grid, values)
    assert wild.mean()[rows] == pytest.approx(values[rows], abs=0.5)
