"""Set-ups of other packages: equal to the package's own use, off without a trace, runs kept apart."""

import pipelines as P
import pytest
import torch

from postdiff_calib.accelerate.foreign import FOREIGN

OTHERS = {one.name: one for one in FOREIGN}


def test_tome_is_the_packages_own():
    tomesd = pytest.importorskip("tomesd")
    pipe = P.sd("ddim")
    before, stock = P.fingerprint(pipe), P.latents(pipe, num_inference_steps=3)
    with OTHERS["ToMe"].on(pipe, 0.5):
        ours = P.latents(pipe, num_inference_steps=3)
    assert P.fingerprint(pipe) == before
    assert torch.equal(P.latents(pipe, num_inference_steps=3), stock)
    tomesd.apply_patch(pipe, ratio=0.5, max_downsample=8, use_rand=False)
    assert torch.equal(P.latents(pipe, num_inference_steps=3), ours)
    assert not torch.equal(ours, stock)


@pytest.mark.parametrize(("name", "value"), [("FirstBlockCache", 10.0), ("TaylorSeer", 3)])
def test_diffusers_caches_keep_runs_apart_and_come_off(name, value):
    build, call = P.FAMILIES["pixart-alpha"]
    pipe, call = build(), {**call, "num_inference_steps": 6, "height": 128, "width": 128, "count": 1}
    before, stock = P.fingerprint(pipe), P.latents(pipe, **call)
    with OTHERS[name].on(pipe, value):
        first, second = (P.latents(pipe, **call) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, stock)
    assert P.fingerprint(pipe) == before
    assert torch.equal(P.latents(pipe, **call), stock)


def test_why_not():
    assert OTHERS["ToMe"].why_not(P.sd3()) == "it is for U-Nets"
    assert OTHERS["TaylorSeer"].why_not(P.sd("ddim")) == "it is for transformers"
    assert OTHERS["TaylorSeer"].why_not(P.sd3()) == ""


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("postdiff_calib.accelerate.foreign.find_spec", lambda name: None)
    assert OTHERS["ToMe"].why_not(P.sd("ddim")) == "the package tomesd is not installed"
