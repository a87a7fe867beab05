"""The real evaluator on the embedded model: measures against the baseline's images, which are made once."""

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from postdiff_calib.errors import OutputError
from postdiff_calib.generate.images import generate
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.load import load_pipeline
from postdiff_calib.models.shapes.judge import SceneJudge
from postdiff_calib.plan import compile_plan
from postdiff_calib.prompts import load_prompt_set
from postdiff_calib.quality.clip import ClipScorer
from postdiff_calib.quality.fidelity import PSNR_CAP, psnr, ssim
from postdiff_calib.scores.book import ScoreBook
from postdiff_calib.scores.evaluator import BaselineImages, ImageEvaluator
from postdiff_calib.scores.store import FileStore

BASE, OTHER = Knobs(4), Knobs(3)
SEED = 50
SIZE = GenerationSettings(height=64, width=64, guidance_scale=4.0, batch_size=2, latent_multiple=2)


@pytest.fixture(scope="module")
def shapes():
    return load_pipeline("shapes", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def scorer(shapes):
    return ClipScorer(shapes.card.scorer, device="cpu")


PROMPTS = load_prompt_set("shapes").prompts[:3]


@pytest.fixture
def evaluator(shapes, scorer, tmp_path):
    kept = BaselineImages(tmp_path / "baseline", BASE, {"model": "shapes"})
    return ImageEvaluator(shapes.pipe, scorer, PROMPTS, SEED, SIZE, None, kept)


@pytest.fixture
def made(monkeypatch):
    """Knobs and number of prompts of every call that makes images."""
    calls = []

    def counted(pipe, knobs, prompts, seeds, settings):
        calls.append((knobs, len(prompts)))
        return generate(pipe, knobs, prompts, seeds, settings)

    monkeypatch.setattr("postdiff_calib.generate.images.generate", counted)
    return calls


def eight_bits(pipe, knobs):
    images = torch.cat(list(generate(pipe, knobs, PROMPTS, range(SEED, SEED + 3), SIZE)))
    return (images * 255).round() / 255


def test_measures_are_those_of_the_two_models_own_images(shapes, evaluator, scorer):
    base = evaluator.measured(BASE, [0, 1, 2])
    assert base.measures == {"ssim": [1.0] * 3, "psnr": [PSNR_CAP] * 3}
    other = evaluator.measured(OTHER, [2, 0, 1])
    images, reference = eight_bits(shapes.pipe, OTHER), eight_bits(shapes.pipe, BASE)
    order = [2, 0, 1]
    # the batches are others, so a value may round to its neighbour here and there
    assert other.measures["ssim"] == pytest.approx([ssim(images, reference)[i] for i in order], abs=2e-3)
    assert other.measures["psnr"] == pytest.approx([psnr(images, reference)[i] for i in order], abs=0.05)
    assert all(value < 0.99 for value in other.measures["ssim"])
    features = scorer.image_features(images)[order].numpy()
    assert np.abs(other.features - features).max() < 2e-3
    assert other.scores == pytest.approx(scorer.score(images[order], [PROMPTS[i] for i in order]), abs=0.05)
    assert evaluator.scores(OTHER, [0]) == pytest.approx([other.scores[1]], abs=0.05)


def test_a_plan_with_the_same_images_is_as_like_as_can_be(evaluator):
    evaluator.measured(BASE, [0, 1])
    # s = 0 makes β meaningless, so these knobs are the baseline; 1 step more is not
    assert evaluator.measured(Knobs(4, low_res_scale=0.5), [0, 1]).measures["ssim"] == [1.0, 1.0]
    assert evaluator.measured(Knobs(5), [0]).measures["psnr"][0] < PSNR_CAP


def test_the_baseline_images_are_made_once_and_shared_by_processes(shapes, scorer, evaluator, made):
    evaluator.measured(BASE, [0, 1, 2])
    evaluator.measured(OTHER, [0, 1])
    second = ImageEvaluator(shapes.pipe, scorer, PROMPTS, SEED, SIZE, None, evaluator.baseline)
    second.measured(OTHER, [1, 2])
    assert made == [(BASE, 3), (OTHER, 2), (OTHER, 2)]
    names = sorted(path.name for path in evaluator.baseline.folder.iterdir())
    assert [name.split("-")[0] for name in names] == ["000050", "000051", "000052"]


def another_size(path):
    Image.new("RGB", (328, 1246)).save(path)


def other_pixels(path):
    with Image.open(path) as image:
        note = PngInfo()
        note.add_text(*image.info.popitem())
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path, pnginfo=note)


@pytest.mark.parametrize(
    "spoil", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:200]), another_size, other_pixels]
)
def test_an_image_that_is_gone_or_not_the_one_that_was_saved_is_made_anew(evaluator, made, spoil):
    evaluator.measured(BASE, [0, 1])
    before = evaluator.measured(OTHER, [0, 1]).measures
    spoil(evaluator.baseline.path(PROMPTS[1], SEED + 1))
    del made[:]
    after = evaluator.measured(OTHER, [0, 1]).measures
    assert made == [(OTHER, 2), (BASE, 1)]
    assert after["ssim"] == pytest.approx(before["ssim"], abs=2e-3)
    evaluator.measured(OTHER, [1])
    assert made[2:] == [(OTHER, 1)]


def test_an_image_is_never_taken_for_that_of_another_model_prompt_or_seed(tmp_path):
    def name(about, knobs=BASE, prompt="a", seed=1):
        return BaselineImages(tmp_path, knobs, about).path(prompt, seed).name

    names = [name({"x": 1}), name({"x": 2}), name({"x": 1}, OTHER), name({"x": 1}, prompt="b"), name({"x": 1}, seed=2)]
    assert len(set(names)) == 5
    assert name({"x": 1, "y": 2}) == name({"y": 2, "x": 1})


def test_images_come_back_in_eight_bits(tmp_path):
    kept = BaselineImages(tmp_path / "deep" / "er", BASE, {})
    images = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    kept.save(images, ["a", "b"], [1, 2])
    assert torch.equal(kept.load("b", 2), (images[1] * 255).round() / 255)
    assert kept.load("c", 3) is None
    assert all(path.suffix == ".png" for path in kept.folder.iterdir())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    kept = BaselineImages(tmp_path / "file" / "baseline", BASE, {})
    with pytest.raises(OutputError, match="cannot be written"):
        kept.save(torch.zeros(1, 3, 8, 8), ["a"], [0])


def test_without_a_folder_there_are_scores_and_embeddings_alone(shapes, scorer):
    plain = ImageEvaluator(shapes.pipe, scorer, PROMPTS, SEED, SIZE).measured(OTHER, [0])
    assert plain.measures == {}
    assert len(plain.features) == 1


class FakeJudge:
    """Knows which images are right by their prompt, and remembers what it was shown."""

    def __init__(self, right):
        self.right, self.seen = right, []

    def score(self, images, prompts):
        assert images.shape == (len(prompts), 3, 64, 64)
        self.seen += prompts
        return [100.0 * (prompt in self.right) for prompt in prompts]


def test_a_judge_sees_every_image_of_the_baseline_and_of_plans(shapes, scorer, evaluator):
    judge = FakeJudge({PROMPTS[0], PROMPTS[2]})
    judged = ImageEvaluator(shapes.pipe, scorer, PROMPTS, SEED, SIZE, None, evaluator.baseline, judge)
    base, other = judged.measured(BASE, [0, 1, 2]), judged.measured(OTHER, [2, 1])
    assert base.measures == {"scene": [100.0, 0.0, 100.0], "ssim": [1.0] * 3, "psnr": [PSNR_CAP] * 3}
    assert other.measures["scene"] == [100.0, 0.0]
    assert judge.seen == [*PROMPTS, PROMPTS[2], PROMPTS[1]]


def test_a_judge_needs_no_images_of_the_baseline(shapes, scorer):
    plain = ImageEvaluator(shapes.pipe, scorer, PROMPTS, SEED, SIZE, judge=FakeJudge({PROMPTS[1]}))
    assert plain.measured(BASE, [0, 1, 2]).measures == {"scene": [0.0, 100.0, 0.0]}


def test_what_is_judged_is_kept_with_the_scores(shapes, scorer, tmp_path):
    store = FileStore(tmp_path / "scores.jsonl")
    plain = ImageEvaluator(shapes.pipe, scorer, PROMPTS, SEED, SIZE, judge=FakeJudge({PROMPTS[1]}))
    ScoreBook(plain, 3, BASE, store).scores(OTHER, [0, 1])
    found = ScoreBook(None, 3, BASE, FileStore(tmp_path / "scores.jsonl"))
    plan = compile_plan(OTHER).plan_id
    np.testing.assert_equal(found.measures(plan, "scene"), [0.0, 100.0, np.nan])


def test_the_shipped_judge_finds_true_scenes_in_the_models_images(shapes, scorer):
    prompts = load_prompt_set("shapes").prompts[:10]
    plain = ImageEvaluator(shapes.pipe, scorer, prompts, 0, SIZE, judge=SceneJudge())
    assert np.mean(plain.measured(Knobs(8), range(10)).measures["scene"]) >= 70
