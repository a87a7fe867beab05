import json
import math

import numpy as np
import pytest
from synthetic_surface import SMALL, Surface

from postdiff_calib.cost.budget import PlanCost
from postdiff_calib.errors import OutputError, PostdiffError, StudyError
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.quality.health import HealthError
from postdiff_calib.scores.book import ScoreBook
from postdiff_calib.scores.measured import Measured
from postdiff_calib.scores.objective import Objective, Term
from postdiff_calib.scores.store import FileStore, MemoryStore

BASE = SMALL.baseline
OTHER = Knobs(8)


def plan_id(knobs):
    return compile_plan(knobs).plan_id


def book(surface, store=None):
    return ScoreBook(surface, surface.num_prompts, BASE, store or MemoryStore())


def test_scores_are_made_once_and_shared_by_knobs_of_one_plan():
    surface = Surface(20, space=SMALL)
    scores = book(surface)
    first = scores.scores(OTHER, [3, 1])
    # k = 12 of 12 steps refreshes once, as k = 20 does; β does nothing without low steps
    assert scores.scores(Knobs(8, low_res_scale=0.5), [1, 3, 4]) == [*first[::-1], surface.row(OTHER)[4]]
    assert surface.images == scores.images_made == 3
    assert scores.count(plan_id(OTHER)) == 3
    assert scores.scores(OTHER, []) == []


def test_differences_are_paired_with_the_baseline():
    surface = Surface(4, space=SMALL)
    scores = book(surface)
    scores.scores(BASE, [0, 1, 2])
    scores.scores(OTHER, [1, 2, 3])
    difference = scores.differences(plan_id(OTHER))
    assert np.isnan(difference[[0, 3]]).all()
    assert difference[1:3] == pytest.approx((surface.row(OTHER) - surface.row(BASE))[1:3])
    assert not scores.complete(plan_id(OTHER))
    assert math.isnan(scores.known("unknown")[0])


def test_differences_follow_new_scores_of_either_side_whoever_made_them(tmp_path):
    surface = Surface(6, space=SMALL)
    path, other = tmp_path / "scores.jsonl", plan_id(OTHER)
    one, two = book(surface, FileStore(path)), book(surface, FileStore(path))
    expected = surface.row(OTHER) - surface.row(BASE)

    def known(scores):
        found = scores.differences(other)
        known = np.flatnonzero(np.isfinite(found)).tolist()
        assert found[known] == pytest.approx(expected[known])
        return known

    assert known(one) == known(two) == []
    one.scores(OTHER, [0, 1, 2])
    assert known(one) == []
    one.scores(BASE, [1, 2, 3])
    assert known(one) == [1, 2]
    one.scores(OTHER, [3])
    assert known(one) == [1, 2, 3]
    two.refresh()
    assert known(two) == [1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        one.differences(other)[0] = 1.0


def test_file_is_read_back_and_shared_between_books(tmp_path):
    surface = Surface(10, space=SMALL)
    path = tmp_path / "scores.jsonl"
    one, two = book(surface, FileStore(path)), book(surface, FileStore(path))
    one.scores(OTHER, [0, 1])
    two.refresh()
    assert two.scores(OTHER, [0, 1]) == one.scores(OTHER, [0, 1])
    assert surface.images == 2
    assert book(surface, FileStore(path)).plans == {plan_id(OTHER): OTHER}


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_line_cut_short_by_a_kill_loses_that_block_only(tmp_path, cut):
    surface = Surface(10, space=SMALL)
    path = tmp_path / "scores.jsonl"
    first = book(surface, FileStore(path))
    first.scores(OTHER, [0, 1])
    first.scores(OTHER, [2, 3])
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    resumed = book(surface, FileStore(path))
    assert resumed.count(plan_id(OTHER)) == 2
    resumed.scores(OTHER, [2, 3, 4])
    again = book(surface, FileStore(path))
    assert np.isfinite(again.known(plan_id(OTHER))).nonzero()[0].tolist() == [0, 1, 2, 3, 4]
    assert again.known(plan_id(OTHER))[:5] == pytest.approx(surface.row(OTHER)[:5])


def test_foreign_files_and_other_sizes_are_refused(tmp_path):
    path = tmp_path / "scores.jsonl"
    path.write_text('{"a": 1}\n')
    with pytest.raises(StudyError, match="not a block of scores"):
        book(Surface(5, space=SMALL), FileStore(path))
    path.write_text(json.dumps({"plan": "x", "knobs": OTHER.as_dict(), "prompts": [7], "scores": [1.0]}) + "\n")
    with pytest.raises(StudyError, match="has 5 prompts"):
        book(Surface(5, space=SMALL), FileStore(path))


def test_scores_that_are_not_finite_are_refused_and_not_kept():
    class Broken(Surface):
        def scores(self, knobs, indices):
            return [math.nan for _ in indices]

    scores = book(Broken(5, space=SMALL))
    with pytest.raises(PostdiffError, match="prompt 2 under T=8"):
        scores.scores(OTHER, [2])
    assert scores.count(plan_id(OTHER)) == 0


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        book(Surface(5, space=SMALL), FileStore(tmp_path / "missing" / "scores.jsonl")).scores(OTHER, [0])


# --- measures and embeddings beside scores -------------------------------------------------------------------------


class Measuring(Surface):
    def features(self, knobs):
        rows = np.random.default_rng([3, *plan_id(knobs).encode()]).normal(size=(self.num_prompts, 4))
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)

    def measured(self, knobs, indices):
        ssim = [i / 10 for i in indices]
        return Measured(self.scores(knobs, indices), {"ssim": ssim}, self.features(knobs)[list(indices)])


def test_measures_and_embeddings_are_kept_beside_the_scores(tmp_path):
    surface = Measuring(6, space=SMALL)
    path = tmp_path / "scores.jsonl"
    first = book(surface, FileStore(path))
    first.scores(OTHER, [4, 1])
    again = book(surface, FileStore(path))
    for known in (first, again):
        ssim = known.measures(plan_id(OTHER), "ssim")
        assert ssim[[1, 4]].tolist() == [0.1, 0.4]
        assert np.isnan(ssim[[0, 2, 3, 5]]).all()
        features = known.features(plan_id(OTHER))
        assert features.shape == (6, 4)
        assert np.array_equal(features[[1, 4]], surface.features(OTHER)[[1, 4]])
        assert np.isnan(features[0]).all()
    assert np.isnan(again.measures(plan_id(OTHER), "psnr")).all()
    assert again.features(plan_id(BASE)) is None
    scored = again.plan_scores(OTHER, PlanCost(1.0, 1.0))
    assert scored.n == 2
    assert np.isfinite(scored.measures["ssim"]).sum() == 2
    assert surface.images == 2


def test_old_lines_without_measures_are_read_and_rewritten_as_they_are(tmp_path):
    surface = Measuring(6, space=SMALL)
    path, copy = FileStore(tmp_path / "scores.jsonl"), FileStore(tmp_path / "copy.jsonl")
    book(Surface(6, space=SMALL), path).scores(OTHER, [0, 1])
    mixed = book(surface, path)
    mixed.scores(OTHER, [0, 1, 2, 3])
    assert mixed.count(plan_id(OTHER)) == 4
    assert np.isfinite(mixed.measures(plan_id(OTHER), "ssim")).nonzero()[0].tolist() == [2, 3]
    copy.replace(mixed.blocks())
    again = book(surface, copy)
    assert np.array_equal(again.known(plan_id(OTHER)), mixed.known(plan_id(OTHER)), equal_nan=True)
    assert np.array_equal(
        again.measures(plan_id(OTHER), "ssim"), mixed.measures(plan_id(OTHER), "ssim"), equal_nan=True
    )
    assert np.array_equal(again.features(plan_id(OTHER)), mixed.features(plan_id(OTHER)), equal_nan=True)
    assert "NaN" not in copy.path.read_text()


def test_measures_that_are_not_finite_or_too_few_are_refused_and_not_kept():
    class Broken(Measuring):
        def measured(self, knobs, indices):
            good = super().measured(knobs, indices)
            return Measured(good.scores, {"ssim": [math.nan for _ in indices]}, good.features)

    class Short(Measuring):
        def measured(self, knobs, indices):
            return Measured(self.scores(knobs, indices), {"ssim": [0.5]})

    scores = book(Broken(5, space=SMALL))
    with pytest.raises(PostdiffError, match="ssim of prompt 2 under T=8"):
        scores.scores(OTHER, [2])
    assert scores.count(plan_id(OTHER)) == 0
    with pytest.raises(ValueError, match="1 ssims for 2 prompts"):
        book(Short(5, space=SMALL)).scores(OTHER, [2, 3])


# --- prompts of which the baseline's own image is broken -----------------------------------------------------------


class Blind(Surface):
    """The baseline's images of some prompts are broken; ``also`` names a plan with broken images of its own."""

    def __init__(self, broken, *args, also=None, **more):
        super().__init__(*args, **more)
        self.broken, self.also = set(broken), also

    def scores(self, knobs, indices):
        bad = self.broken & set(indices) if knobs == BASE else set()
        if bad or knobs == self.also:
            raise HealthError(f"{max(len(bad), 1)} of {len(indices)} images", "are constant", "use float32")
        return super().scores(knobs, indices)


def test_a_broken_baseline_image_sets_its_prompt_aside_for_every_plan(tmp_path):
    surface = Blind([3], 20, space=SMALL)
    scores = book(surface, FileStore(tmp_path / "scores.jsonl"))
    found = scores.scores(BASE, range(10))
    assert [i for i, score in enumerate(found) if math.isnan(score)] == [3]
    assert list(scores.set_aside) == [3]
    assert "are constant" in scores.set_aside[3]
    other = scores.scores(OTHER, range(10))
    assert math.isnan(other[3])
    assert all(3 not in indices for knobs, indices in surface.calls if knobs == OTHER)
    assert np.isnan(scores.differences(plan_id(OTHER))[3])
    # it is complete without that prompt
    scores.scores(OTHER, range(20))
    assert scores.count(plan_id(OTHER)) == 19
    assert scores.complete(plan_id(OTHER))
    assert scores.images_made == 9 + 19


def test_what_is_set_aside_is_remembered_shared_and_rewritten(tmp_path):
    path, copy = tmp_path / "scores.jsonl", tmp_path / "copy.jsonl"
    beside = book(Surface(20, space=SMALL), FileStore(path))
    first = book(Blind([3], 20, space=SMALL), FileStore(path))
    first.scores(BASE, range(10))
    sound = Surface(20, space=SMALL)
    FileStore(copy).replace(first.blocks())
    for again in (book(sound, FileStore(path)), book(sound, FileStore(copy))):
        assert again.set_aside == first.set_aside
        assert math.isnan(again.scores(BASE, [3])[0])
        assert again.count(plan_id(BASE)) == 9
    assert sound.images == 0
    # another process takes it in
    assert beside.set_aside == {}
    beside.refresh()
    assert beside.set_aside == first.set_aside


@pytest.mark.parametrize(("broken", "refused"), [([0], False), ([0, 1], False), ([0, 1, 2], True)])
def test_more_than_one_prompt_in_ten_is_a_model_that_does_not_work(broken, refused):
    scores = book(Blind(broken, 20, space=SMALL))
    if refused:
        with pytest.raises(StudyError, match="the baseline's images of 3 of 20 prompts: they are broken"):
            scores.scores(BASE, range(20))
    else:
        scores.scores(BASE, range(20))
        assert sorted(scores.set_aside) == broken


def test_one_prompt_of_few_may_be_set_aside():
    scores = book(Blind([1], 3, space=SMALL))
    scores.scores(BASE, range(3))
    assert list(scores.set_aside) == [1]


def test_a_plans_own_broken_image_is_that_plans_fault():
    scores = book(Blind([], 20, space=SMALL, also=OTHER))
    scores.scores(BASE, range(10))
    with pytest.raises(HealthError, match="are constant"):
        scores.scores(OTHER, range(10))
    assert scores.set_aside == {}
    assert scores.count(plan_id(OTHER)) == 0
    assert scores.scores(Knobs(6), range(10))


def test_the_objective_is_what_plans_are_compared_by():
    surface = Measuring(6, space=SMALL)
    both = Objective((Term("clip", 2.0), Term("ssim", 0.1, 3.0)))
    scores = ScoreBook(surface, 6, BASE, MemoryStore(), both)
    scores.scores(BASE, [0, 1])
    scores.scores(OTHER, [1, 2])
    clip = surface.row(OTHER)[1] / 2 * 0.25 + 0.75 * 0.1 / 0.1  # SSIM of prompt 1 is 0.1 in every plan
    assert scores.quality(plan_id(OTHER))[1] == pytest.approx(clip)
    difference = scores.differences(plan_id(OTHER))
    assert difference[1] == pytest.approx((surface.row(OTHER)[1] - surface.row(BASE)[1]) / 8)
    assert np.isnan(difference[[0, 2, 3, 4, 5]]).all()
