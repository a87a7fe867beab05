"""The embedded world: captions and scenes are inverse to each other, images show what captions say."""

from random import Random

import pytest
import torch

from postdiff_calib.models.shapes import world
from postdiff_calib.models.shapes.drawing import render
from postdiff_calib.models.shapes.tokenizer import CONTEXT_LENGTH, build_tokenizer
from postdiff_calib.models.shapes.world import IGNORE, Object, Scene, parse_caption, sample_scene, scene_code


def scenes(n, seed=0):
    rng = Random(seed)
    return [sample_scene(rng) for _ in range(n)]


def test_captions_read_back_as_their_scene():
    for scene in scenes(300):
        assert parse_caption(scene.caption()) == scene


def test_a_caption_by_hand():
    scene = Scene(
        (Object("red", "circle", "top", "large"), Object("orange", "ring", "bottom", None, striped=True)),
        "orange",
        "above",
    )
    assert scene.caption() == "a large red circle above a striped orange ring on an orange background"


@pytest.mark.parametrize(
    ("caption", "at"),
    [
        ("a red dog on a green background", "dog"),
        ("a pink circle on a green background", "pink"),
        ("a red circle near a blue star on a green background", "near"),
        ("a red circle on a green background please", "please"),
        ("a red circle", "the end"),
    ],
)
def test_other_captions_are_refused_at_the_word(caption, at):
    with pytest.raises(ValueError, match=at):
        parse_caption(caption)


def test_an_edit_changes_one_attribute():
    rng = Random(1)
    for scene in scenes(200, seed=2):
        edited, kind = world.edit_scene(scene, rng)
        assert edited.caption() != scene.caption()
        changed = [a != b for a, b in zip(scene.objects, edited.objects, strict=True)]
        if kind == "background":
            assert not any(changed)
            assert edited.background != scene.background
        elif kind == "layout":
            assert edited.background == scene.background
            for a, b in zip(scene.objects, edited.objects, strict=True):
                assert (a.color, a.shape, a.size, a.striped) == (b.color, b.shape, b.size, b.striped)
        else:
            assert sum(changed) == 1


def test_the_code_of_a_scene_by_hand():
    scene = parse_caption("a small striped red circle below a blue ring on a black background")
    empty = [0, 0, 0, 0]
    # slots: center, top, bottom, left, right; per slot colour, shape, size, texture (from 1; 0 is empty)
    assert scene_code(scene) == [*empty, 6, 6, IGNORE, 1, 1, 1, 1, 2, *empty, *empty, 9]


def test_images_show_the_colours_where_the_caption_puts_them():
    scene = parse_caption("a large red square to the left of a large blue circle on a white background")
    image = render([scene], seed=0)[0]
    assert image.shape == (3, 64, 64)
    palette = {name: torch.tensor(rgb) for name, rgb in world.PALETTE.items()}

    def nearest(x, y):
        return min(palette, key=lambda name: float((palette[name] - image[:, y, x]).abs().sum()))

    assert nearest(17, 32) == "red"
    assert nearest(47, 32) == "blue"
    assert {nearest(1, 1), nearest(62, 62), nearest(32, 2)} == {"white"}


def test_sizes_stripes_and_seeds_show():
    small = parse_caption("a small red circle on a white background")
    large = parse_caption("a large red circle on a white background")
    striped = parse_caption("a large striped red circle on a white background")

    def ink(scene):
        return float((render([scene], seed=3)[0, 1] < 0.6).float().mean())

    assert ink(large) > 2 * ink(small)
    plain, dark = render([large, striped], seed=3)
    assert float(dark.min()) < float(plain.min()) / 2
    assert torch.equal(render([large], seed=3), render([large], seed=3))
    assert not torch.equal(render([large], seed=3), render([large], seed=4))


def test_a_smaller_side_is_the_same_image_seen_coarsely():
    batch = scenes(8)
    fine, coarse = render(batch, seed=5), render(batch, seed=5, side=32)
    down = torch.nn.functional.avg_pool2d(fine, 2)
    assert float((down - coarse).abs().mean()) < 0.01


def test_every_shape_is_distinct():
    images = [
        render([parse_caption(f"a large red {shape} on a white background")], seed=1)[0] for shape in world.SHAPES
    ]
    for i, a in enumerate(images):
        for b in images[:i]:
            assert float((a - b).abs().mean()) > 0.01


def test_each_word_is_one_token_and_other_text_still_encodes():
    tokenizer = build_tokenizer()
    for scene in scenes(50):
        ids = tokenizer(scene.caption()).input_ids
        assert len(ids) == len(scene.caption().split()) + 2 <= CONTEXT_LENGTH
        assert tokenizer.decode(ids, skip_special_tokens=True).split() == scene.caption().split()
    assert tokenizer.eos_token_id == len(tokenizer) - 1
    assert len(tokenizer("xylophone").input_ids) > 3
