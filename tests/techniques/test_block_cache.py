"""Block caching against the published DeepCache package, and its bookkeeping."""

import pipelines as P
import pytest
import torch

from postdiff_calib.accelerate import accelerated, enable, summary
from postdiff_calib.errors import UnsupportedError
from postdiff_calib.knobs import Knobs
from postdiff_calib.techniques.block_cache import span_of


def deepcache(pipe, interval, branch, **call):
    from DeepCache import DeepCacheSDHelper

    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=branch)
    helper.enable()
    try:
        return P.latents(pipe, **call)
    finally:
        helper.disable()


@pytest.mark.parametrize("branch", [0, 1, 2, 3, 5, 7, 8, 11])
@pytest.mark.parametrize("interval", [2, 3])
def test_equal_to_deepcache(branch, interval):
    pipe = P.sd("ddim")
    with accelerated(pipe, Knobs(6, cache_interval=interval, cache_branch=branch)):
        ours = P.latents(pipe)
    reference = deepcache(pipe, interval, branch, num_inference_steps=6)
    assert torch.equal(ours, reference)
    assert not torch.equal(ours, P.latents(pipe, num_inference_steps=6))


@pytest.mark.parametrize("branch", [0, 1, 2])
def test_equal_to_deepcache_at_an_odd_size(branch):
    # 17 × 15 latents: the blocks pass explicit up-sampling sizes on.
    pipe = P.sd("ddim")
    with accelerated(pipe, Knobs(4, cache_interval=2, cache_branch=branch)):
        ours = P.latents(pipe, height=136, width=120)
    assert torch.equal(ours, deepcache(pipe, 2, branch, num_inference_steps=4, height=136, width=120))


@pytest.mark.parametrize(("branch", "executed"), [(0, 2), (1, 6), (2, 10)])
def test_deep_layers_do_not_run_on_a_reuse_step(branch, executed):
    # A level has 2 (resnet, attention) pairs down, 3 up; branch b runs b pairs down and b + 1 up.
    pipe = P.sd("ddim")
    ran = []
    deep = [pipe.unet.mid_block.resnets[0], pipe.unet.down_blocks[2].resnets[0], pipe.unet.up_blocks[1].resnets[0]]
    handles = [module.register_forward_hook(lambda *_: ran.append(1)) for module in deep]
    enable(pipe, Knobs(3, cache_interval=3, cache_branch=branch))
    P.latents(pipe)
    assert len(ran) == len(deep)
    for handle in handles:
        handle.remove()
    steps = summary(pipe).steps
    assert [step.layers_skipped for step in steps] == [0, 44 - executed, 44 - executed]
    assert [step.layers_executed for step in steps] == [44, executed, executed]


def test_unet_without_middle_block_or_third_up_layer():
    # BK-SDM-Tiny's form: three levels, one layer per block, no middle block.
    small = {
        "block_out_channels": (8, 8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3,
        "up_block_types": ("CrossAttnUpBlock2D",) * 3,
        "mid_block_type": None,
    }
    pipe = P.sd("ddim", **small)
    stock = P.latents(pipe, num_inference_steps=4)
    for branch in (0, 1, 3, 4, 6):
        with accelerated(pipe, Knobs(4, cache_interval=2, cache_branch=branch)):
            assert not torch.equal(P.latents(pipe), stock)
    for branch in (2, 5, 7, 9):
        with pytest.raises(UnsupportedError, match="this U-Net has branches 0, 1, 3, 4, 6"):
            enable(pipe, Knobs(4, cache_interval=2, cache_branch=branch))
    assert torch.equal(P.latents(pipe, num_inference_steps=4), stock)


def test_span_of_a_transformer():
    assert list(span_of(28, 0)) == list(range(1, 28))
    assert list(span_of(28, 1)) == list(range(2, 26))
    assert list(span_of(6, 1)) == [1, 2, 3, 4]
    with pytest.raises(UnsupportedError, match="leaves none to reuse"):
        span_of(2, 1)
