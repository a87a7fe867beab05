"""How many prompts are enough: scores whose answer is known beforehand."""

import numpy as np
import pytest

from postdiff_calib.study.prompt_sizes import PromptSizes, SizeRow, sizes_study


def noisy(gaps, noise, prompts=400):
    """Settings whose means are exactly these, with noise of this size on each prompt."""
    draws = np.random.default_rng(1).standard_normal((len(gaps), prompts))
    draws = (draws - draws.mean(1, keepdims=True)) / draws.std(1, keepdims=True)
    return np.asarray(gaps)[:, None] + noise * draws


def test_without_noise_any_set_ranks_as_the_whole_does():
    scores = noisy([0.0, -1.0, -2.0], 0.0)
    (row,) = sizes_study(scores, 0.5, [2], draws=20)
    assert row == SizeRow(2, 1.0, 1.0, 1.0, 1.0, 0.0)


def test_the_chance_is_that_of_a_normal_difference():
    # Two settings 1 apart, independent noise of 5 each: the mean difference of n prompts has error √2·5/√n. Its chance
    # to have the right sign is Φ(√n / 7.07): 0.921 for n = 100, 0.9977 for 400.
    scores = noisy([0.0, -1.0], 5.0)
    spread = (scores[0] - scores[1]).std()
    assert spread == pytest.approx(50**0.5, rel=0.1)
    first, second = sizes_study(scores, 0.5, [100, 400], draws=2000)
    assert first.chance == pytest.approx(0.921, abs=0.025)
    assert second.chance == pytest.approx(0.9977, abs=0.005)
    # A wrong order of two has τ = −1, and loses 1.
    assert first.tau == pytest.approx(2 * first.chance - 1)
    assert first.loss == pytest.approx(1 - first.chance)


def test_a_loss_within_delta_is_no_miss():
    scores = noisy([0.0, -0.3, -9.0], 1.0)
    (row,) = sizes_study(scores, 0.3, [5], draws=200)
    assert row.chance == 1.0
    assert row.tau < 1.0


def result(*chances, scored=400):
    rows = tuple(SizeRow(n, 1.0, 1.0, 1.0, c, 0.0) for n, c in zip((50, 100, 200), chances, strict=True))
    return PromptSizes("it", "clip", 3, scored, 0.3, 0.95, rows)


def test_the_recommended_size_is_the_smallest_that_holds_from_there_on():
    assert result(0.9, 0.95, 0.99).recommended == 100
    assert result(0.96, 0.9, 0.99).recommended == 200
    assert result(0.9, 0.9, 0.9).recommended is None
    assert "100 prompts pick a setting within 0.3" in result(0.9, 0.95, 0.99).answer()
    assert "None of these sizes" in result(0.9, 0.9, 0.9).answer()


def test_no_size_above_half_of_the_scored_prompts_is_recommended():
    assert result(0.9, 0.9, 0.99, scored=400).recommended == 200
    assert result(0.9, 0.9, 0.99, scored=399).recommended is None
    # what a larger size does says nothing of the smaller ones
    assert result(0.96, 0.9, 0.9, scored=199).recommended == 50
    assert "None of these sizes up to 199" in result(0.9, 0.9, 0.99, scored=399).answer()
    assert "100 prompts do with 90%" in result(0.9, 0.9, 0.99, scored=399).answer()


@pytest.mark.parametrize("scored", [99, 49])
def test_too_few_scored_prompts_are_said_to_be_too_few(scored):
    found = result(1.0, 1.0, 1.0, scored=scored)
    assert found.recommended is None
    assert f"{scored} scored prompts are too few to recommend a size of 50 or more" in found.answer()
    assert "score 100 prompts" in found.answer()


def test_sizes_above_the_scored_prompts_are_extrapolated():
    found = result(0.9, 0.96, 0.99, scored=199)
    assert [row["extrapolated"] for row in found.as_dict()["sizes"]] == [False, False, True]
    assert [note[:17] for note in found.notes] == ["Sizes above 199, "]
    assert result(0.9, 0.96, 0.99, scored=200).notes == []
    assert PromptSizes.from_dict(found.as_dict()) == found
