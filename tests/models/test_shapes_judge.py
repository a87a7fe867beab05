"""The judge: true scenes are right, any named thing that differs is wrong, and what it cannot read is refused."""

from random import Random

import pytest
import torch

from postdiff_calib.errors import ModelError, PromptError
from postdiff_calib.files import file_sha256
from postdiff_calib.models.shapes import judge, train
from postdiff_calib.models.shapes.drawing import render
from postdiff_calib.models.shapes.judge import SceneJudge, all_right, require_captions
from postdiff_calib.models.shapes.world import IGNORE, parse_caption, sample_scene, scene_code

RED_STAR = "a large red star on a green background"
BLUE_RING = "a blue ring at the top on a white background"


@pytest.fixture(scope="module")
def shipped():
    return SceneJudge()


def test_it_reads_true_images_right(shipped):
    rng = Random(0)
    scenes = [sample_scene(rng) for _ in range(100)]
    scores = shipped.score(render(scenes, seed=1), [scene.caption() for scene in scenes])
    assert set(scores) <= {0.0, 100.0}
    assert sum(scores) / 100 >= 98


@pytest.mark.parametrize(
    ("caption", "right"),
    [
        (RED_STAR, 100.0),
        ("a red star on a green background", 100.0),  # the size is not named, so any is right
        ("a small red star on a green background", 0.0),
        ("a large striped red star on a green background", 0.0),
        ("a large blue star on a green background", 0.0),
        ("a large red ring on a green background", 0.0),
        ("a large red star on a white background", 0.0),
        ("a large red star at the top on a green background", 0.0),
        ("a large red star above a blue ring on a green background", 0.0),
    ],
)
def test_any_named_thing_that_differs_makes_it_wrong(shipped, caption, right):
    assert shipped.score(render([parse_caption(RED_STAR)], seed=0), [caption]) == [right]


def test_each_image_is_compared_with_its_own_prompt(shipped):
    images = render([parse_caption(RED_STAR), parse_caption(BLUE_RING)], seed=0)
    assert shipped.score(images, [RED_STAR, BLUE_RING]) == [100.0, 100.0]
    assert shipped.score(images, [BLUE_RING, RED_STAR]) == [0.0, 0.0]
    assert SceneJudge(batch_size=1).score(images, [RED_STAR, RED_STAR]) == [100.0, 0.0]


def test_an_unnamed_size_is_not_counted():
    scene = parse_caption("a red circle on a blue background")
    code = torch.tensor([scene_code(scene)] * 2)
    assert (code == IGNORE).sum() == 2
    code[code == IGNORE] = 2
    code[1, -1] += 1  # another background
    assert all_right(code, [scene, scene]).tolist() == [True, False]


def test_an_image_and_its_8_bit_file_read_alike(shipped):
    images = render([sample_scene(Random(i)) for i in range(8)], seed=2)
    saved = (images * 255).round() / 255
    assert torch.equal(shipped.codes(images), shipped.codes(saved))


def test_prompts_that_are_no_captions_are_refused_before_any_image():
    require_captions([RED_STAR, BLUE_RING])
    with pytest.raises(PromptError, match=r"'a red cow': no scene can be read off it \(expected a shape") as refused:
        require_captions([RED_STAR, "a red cow"])
    assert "\n" not in str(refused.value)
    assert "such as 'a red circle above" in refused.value.remedy


def test_what_cannot_be_scored_is_an_error(shipped):
    with pytest.raises(ValueError, match="1 images for 2 prompts"):
        shipped.score(torch.zeros(1, 3, 64, 64), [RED_STAR, BLUE_RING])
    with pytest.raises(ValueError, match="images of 3×64×64"):
        shipped.score(torch.zeros(1, 3, 32, 32), [RED_STAR])
    with pytest.raises(PromptError):
        shipped.score(torch.zeros(1, 3, 64, 64), ["a photo of a cat"])
    assert shipped.score(torch.zeros(0, 3, 64, 64), []) == []


def test_weights_that_are_absent_cut_or_anothers_are_refused(tmp_path):
    with pytest.raises(ModelError, match="its weights cannot be loaded"):
        SceneJudge(tmp_path / "none.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(judge.WEIGHTS.read_bytes()[:1000])
    with pytest.raises(ModelError, match="its weights cannot be loaded"):
        SceneJudge(tmp_path / "cut.safetensors")
    with pytest.raises(ModelError, match="its weights cannot be loaded"):
        SceneJudge(train.WEIGHTS / "pipeline" / "text_encoder" / "model.safetensors")


def test_what_is_exported_is_what_is_loaded(tmp_path, shipped):
    path = tmp_path / "judge" / "model.safetensors"
    judge.export(shipped.network, path)
    assert path.read_bytes() == judge.WEIGHTS.read_bytes()
    assert SceneJudge(path).weights_sha256 == shipped.weights_sha256 == file_sha256(judge.WEIGHTS)
