"""An accelerated pipeline, its network and their blocks are refused to copy and pickle, by name and with the remedy."""

import copy
import io
import pickle

import pipelines as P
import pytest
import torch

from postdiff_calib.accelerate import accelerated, disable, enable
from postdiff_calib.errors import UsageError
from postdiff_calib.knobs import Knobs

FULL = Knobs(6, low_res_fraction=0.5, low_res_scale=0.5, cache_interval=2, guidance_fraction=0.75)
SIZE = {"height": 128, "width": 128}
WAYS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "torch.save": lambda thing: torch.save(thing, io.BytesIO()),
}


@pytest.mark.parametrize("knobs", [FULL, Knobs(6)], ids=["all techniques", "baseline"])
@pytest.mark.parametrize("way", WAYS)
def test_a_copy_of_an_accelerated_pipeline_is_refused(way, knobs):
    pipe = P.sd("ddim")
    enable(pipe, knobs)
    with pytest.raises(UsageError, match=r"a copy or pickle of an accelerated pipeline.*disable\(pipe\) first"):
        WAYS[way](pipe)
    disable(pipe)
    WAYS["copy" if way == "copy" else "deepcopy"](pipe)


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_so_is_one_of_its_network_or_a_block_of_it(way):
    pipe = P.sd("ddim")
    enable(pipe, FULL)
    for part in (pipe.unet, pipe.unet.mid_block):
        with pytest.raises(UsageError, match="a copy or pickle of an accelerated pipeline"):
            WAYS[way](part)


def test_the_remedy_works():
    pipe = P.sd("ddim")
    enable(pipe, FULL)
    first = P.latents(pipe, **SIZE)
    disable(pipe)
    twin = copy.deepcopy(pipe)
    enable(twin, FULL)
    with torch.no_grad():
        pipe.unet.conv_in.weight.zero_()
    assert torch.equal(P.latents(twin, **SIZE), first)


def test_a_refused_copy_leaves_the_pipeline_as_it_was():
    pipe = P.sd("ddim")
    with accelerated(pipe, FULL):
        first = P.latents(pipe, **SIZE)
        with pytest.raises(UsageError):
            copy.deepcopy(pipe)
        assert torch.equal(P.latents(pipe, **SIZE), first)
