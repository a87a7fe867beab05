"""Calls of all kinds through one enabled pipeline: nothing grows, and every image is a fresh pipeline's."""

import random

import pipelines as P
import pytest
from soaking import Soak, draw


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_a_pipeline_neither_grows_nor_remembers(name):
    soak = Soak(name)
    list(soak.run(5))
    first = soak.counts()
    list(soak.run(7))
    assert soak.counts() == first
    checked, different = soak.other_images()
    assert checked > 3
    assert different == []
    assert soak.restored()


def test_calls_of_every_kind_are_drawn():
    chance = random.Random(0)
    drawn = [draw(chance) for _ in range(100)]
    for what in ("knobs", "profile", "noise", "prompts", "size", "seed", "output", "breaks"):
        assert len({getattr(asked, what) for asked in drawn}) > 1
    assert {"sd3", "sana", "flux", "qwen-image", "z-image", "sdxl", "lcm", "pixart-alpha"} <= set(P.FAMILIES)
