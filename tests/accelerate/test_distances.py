"""Distances between neighbouring steps: values told in the head, images left as they are, one output kept a module."""

import numpy as np
import pipelines as P
import pytest
import torch

from postdiff_calib.accelerate import accelerated
from postdiff_calib.accelerate.distances import Distances, Watched, watched_blocks, watched_layers
from postdiff_calib.accelerate.observed import observed_steps
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.families import denoiser_of, family_of


class Pass(torch.nn.Module):
    def forward(self, value):
        return value


class Pair(torch.nn.Module):
    def forward(self, value):
        return torch.zeros_like(value), value


def watched_run(module, steps, images, *, last=False, twice=False):
    """Distances of a module that returns these values, one a step."""
    distances = Distances([Watched("it", "block", module, last)])
    with distances.watching():
        for value in steps:
            module(value)
            if twice:
                module(100 * value)
            distances.next_step()
        kept = len(distances._before)
        found = distances.taken(images)
    assert kept == 1
    assert not module._forward_hooks
    assert not distances._before
    return [part[:, 0].tolist() for part in found]


def test_distances_are_those_told_in_the_head():
    # Four ones, then four twos, then four fives: 4/4 and 12/8 in L1, √(4·1) and √(4·9) in L2, of √4 and √16.
    steps = [torch.full((1, 2, 2), value) for value in (1.0, 2.0, 5.0)]
    assert watched_run(Pass(), steps, 1) == [[[1.0, 1.5]], [[2.0, 6.0]], [[1.0, 1.5]]]


def test_each_image_has_its_own_and_halves_of_guidance_are_averaged():
    # Entries: unconditional a, b, conditional a, b. Image a moves by 1 of 1 in one half only, image b not at all.
    first = torch.ones(4, 3)
    second = torch.tensor([[2.0], [1.0], [1.0], [1.0]]).expand(4, 3)
    l1, _, l2 = watched_run(Pass(), [first, second], 2)
    assert l1 == l2 == [[0.5], [0.0]]


def test_of_two_calls_in_a_step_the_first_counts():
    steps = [torch.full((1, 4), value) for value in (1.0, 3.0)]
    assert watched_run(Pass(), steps, 1, twice=True)[0] == [[2.0]]


def test_the_image_part_of_an_output_counts():
    steps = [torch.full((1, 4), value) for value in (1.0, 3.0)]
    assert watched_run(Pair(), steps, 1, last=True)[0] == [[2.0]]
    assert watched_run(Pair(), steps, 1)[0] == [[0.0]]


def test_another_size_has_no_distance():
    l1, *_ = watched_run(Pass(), [torch.ones(1, 4), torch.ones(1, 16), torch.ones(1, 16)], 1)
    assert np.isnan(l1[0][0])
    assert l1[0][1] == 0.0


CHAIN = {"self-attention", "cross-attention", "feed-forward"}
JOINT = {"joint attention", "feed-forward"}
#: Family → types of layer, and arguments of a call beside its own.
KINDS = {
    "sd": {"convolution", *CHAIN},
    "pixart-alpha": CHAIN,
    "sana": CHAIN,
    "sd3": JOINT,
    "flux": JOINT,
    "qwen-image": JOINT,
    "z-image": JOINT,
}


@pytest.mark.parametrize("name", KINDS)
def test_images_are_the_same_with_hooks_on_and_nothing_stays_behind(name):
    make, own = P.FAMILIES[name]
    pipe, call = make(), {"height": 128, "width": 128, **own}
    stock = P.latents(pipe, 2, num_inference_steps=3, **call)
    before = P.fingerprint(pipe)
    network = getattr(pipe, family_of(pipe).denoiser)
    blocks, layers = watched_blocks(network), watched_layers(network)
    assert {layer.kind for layer in layers} == KINDS[name]
    chain = denoiser_of(network).blocks(network)
    assert [block.module for block in blocks][: len(chain)] == chain
    distances = Distances([*blocks, *layers])
    with distances.watching(), observed_steps(pipe.scheduler, lambda _: distances.next_step()):
        with accelerated(pipe, Knobs(3)):
            assert torch.equal(P.latents(pipe, 2, **call), stock)
        l1, l2, relative = distances.taken(2)
    assert l1.shape == l2.shape == relative.shape == (2, len(blocks) + len(layers), 2)
    assert (l1[:, : len(blocks)] > 0).all()
    assert P.fingerprint(pipe) == before
    assert torch.equal(P.latents(pipe, 2, num_inference_steps=3, **call), stock)


def test_steps_are_heard_with_low_resolution_samples():
    pipe, heard = P.sd(), []
    knobs = Knobs(4, 0.5, 0.5)
    with accelerated(pipe, knobs):
        stock = P.latents(pipe, 1, height=128, width=128)
    with (
        observed_steps(pipe.scheduler, lambda given: heard.append(given["sample"].shape[-1])),
        accelerated(pipe, knobs),
    ):
        assert torch.equal(P.latents(pipe, 1, height=128, width=128), stock)
    assert heard == [8, 8, 16, 16]
    assert "step" not in pipe.scheduler.__dict__
