"""Two threads and one pipeline, network or scheduler: forced interleavings end in the right image or a refusal."""

import gc
import threading
import weakref
from contextlib import contextmanager

import pipelines as P
import pytest
import torch

from postdiff_calib.accelerate import accelerated, disable, enable
from postdiff_calib.errors import UsageError
from postdiff_calib.knobs import Knobs

FULL = Knobs(6, low_res_fraction=0.5, low_res_scale=0.5, cache_interval=2, guidance_fraction=0.75)
SIZE = {"height": 128, "width": 128}
PATIENCE = 120  # seconds until a test that hangs fails


class Gate:
    """A thread stops here until it is let through."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()

    def stop(self):
        self.reached.set()
        assert self.opened.wait(PATIENCE)


@contextmanager
def in_a_thread(work, gate):
    """Run ``work`` in a thread up to its gate; the block runs meanwhile. Yields the list of what it returned."""
    results = []

    def run():
        try:
            results.append(work())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert gate.reached.wait(PATIENCE)
    try:
        yield results
    finally:
        gate.opened.set()
        thread.join(PATIENCE)


def stopping_after(step, gate):
    def callback(pipe, index, timestep, given):
        if index == step:
            gate.stop()
        return given

    return callback


def sharing(pipe, **changes):
    """A second pipeline over the same networks, with a scheduler of its own."""
    from diffusers import StableDiffusionPipeline

    parts = {**pipe.components, "scheduler": P.scheduler("ddim"), **changes}
    return P.quiet(StableDiffusionPipeline(**parts, requires_safety_checker=False))


def same(results, expected):
    return len(results) == 1 and isinstance(results[0], torch.Tensor) and torch.equal(results[0], expected)


def test_a_second_call_is_refused_while_the_first_is_still_checking_its_arguments():
    pipe, gate = P.sd("ddim"), Gate()
    enable(pipe, FULL)
    alone = P.latents(pipe, **SIZE)
    attachment = pipe.__dict__["_postdiff"]
    check = attachment._check

    def slow_check(pipe):
        attachment._check = check
        gate.stop()
        check(pipe)

    attachment._check = slow_check
    with in_a_thread(lambda: P.latents(pipe, **SIZE), gate) as results:
        with pytest.raises(UsageError, match="serves one call at a time"):
            P.latents(pipe, **SIZE)
        for change in (lambda: enable(pipe, Knobs(4)), lambda: disable(pipe)):
            with pytest.raises(UsageError, match="during a call"):
                change()
    assert same(results, alone)
    assert "step" not in pipe.scheduler.__dict__
    assert torch.equal(P.latents(pipe, **SIZE), alone)


def test_a_stock_pipeline_takes_no_step_of_a_call_in_another_thread():
    pipe, gate = P.sd("ddim"), Gate()
    stock = sharing(pipe)
    enable(pipe, FULL)
    alone, stock_alone = P.latents(pipe, **SIZE), P.latents(stock, num_inference_steps=3)
    call = {**SIZE, "callback_on_step_end": stopping_after(2, gate)}
    with (
        in_a_thread(lambda: P.latents(pipe, **call), gate) as results,
        pytest.raises(UsageError, match="from another thread during an accelerated call"),
    ):
        P.latents(stock, num_inference_steps=3)
    assert same(results, alone)
    assert torch.equal(P.latents(stock, num_inference_steps=3), stock_alone)


def test_a_call_does_not_begin_while_a_stock_pipeline_is_inside_the_network():
    pipe, gate = P.sd("ddim"), Gate()
    stock = sharing(pipe)
    stock_alone = P.latents(stock, num_inference_steps=3)
    enable(pipe, FULL)
    alone = P.latents(pipe, **SIZE)

    def stop_once(*_):
        handle.remove()
        gate.stop()

    handle = pipe.unet.mid_block.register_forward_pre_hook(stop_once)
    with (
        in_a_thread(lambda: P.latents(stock, num_inference_steps=3), gate) as results,
        pytest.raises(UsageError, match="a stock pipeline is running in another thread"),
    ):
        P.latents(pipe, **SIZE)
    assert same(results, stock_alone)
    assert torch.equal(P.latents(pipe, **SIZE), alone)


def test_a_stock_call_that_failed_inside_the_network_blocks_nobody():
    pipe, gate = P.sd("ddim"), Gate()
    stock = sharing(pipe)
    enable(pipe, FULL)
    alone = P.latents(pipe, **SIZE)

    def fail(*_):
        handle.remove()
        raise RuntimeError("stop")

    def work():
        try:
            return P.latents(stock, num_inference_steps=3)
        finally:
            gate.stop()

    handle = pipe.unet.mid_block.register_forward_pre_hook(fail)
    with in_a_thread(work, gate) as results:
        assert torch.equal(P.latents(pipe, **SIZE), alone)
    assert [str(result) for result in results] == ["stop"]


def test_a_block_keeps_its_plan_although_another_thread_wants_one():
    pipe, gate = P.sd("ddim"), Gate()
    with accelerated(pipe, FULL):
        alone = P.latents(pipe, **SIZE)

    def work():
        with accelerated(pipe, FULL):
            gate.stop()
            return P.latents(pipe, **SIZE)

    with in_a_thread(work, gate) as results:
        with pytest.raises(UsageError, match="enable in another thread than the with block"), accelerated(pipe, FULL):
            pass
        with pytest.raises(UsageError, match="disable in another thread than the with block"):
            disable(pipe)
    assert same(results, alone)
    assert "_postdiff" not in pipe.__dict__


def test_a_scheduler_inside_a_call_is_refused_to_another():
    pipe, other, gate = P.sd("ddim"), P.sd("ddim", seed=1), Gate()
    other.scheduler = pipe.scheduler
    enable(pipe, FULL)
    enable(other, FULL)
    alone = P.latents(pipe, **SIZE)
    call = {**SIZE, "callback_on_step_end": stopping_after(2, gate)}
    with (
        in_a_thread(lambda: P.latents(pipe, **call), gate) as results,
        pytest.raises(UsageError, match="a scheduler that is inside another accelerated call"),
    ):
        P.latents(other, **SIZE)
    assert same(results, alone)
    assert "step" not in pipe.scheduler.__dict__
    P.latents(other, **SIZE)


def test_a_call_that_comes_too_late_for_its_plan_is_refused():
    pipe = P.sd("ddim")
    enable(pipe, FULL)
    late = pipe.__dict__["_postdiff"]  # what a thread holds that another thread's ``disable`` overtakes
    base = type(pipe).__mro__[1]
    disable(pipe)
    with pytest.raises(UsageError, match="has just disabled or enabled anew"):
        late.call(base.__call__, pipe, (["a"],), {})


def test_dropping_an_accelerated_pipeline_frees_its_network_at_once():
    pipe = P.sd("ddim")
    enable(pipe, FULL)
    P.latents(pipe, **SIZE)
    network = weakref.ref(pipe.unet)
    gc.collect()
    gc.disable()
    try:
        del pipe
        assert network() is None
    finally:
        gc.enable()


def test_enabling_again_and_again_leaves_no_trace():
    pipe = P.sd("ddim")
    gone = []
    for _ in range(3):
        with accelerated(pipe, FULL):
            gone.append(weakref.ref(pipe.__dict__["_postdiff"]))
    gc.collect()
    assert [one() for one in gone] == [None] * 3


def test_dropping_one_of_two_pipelines_takes_its_hooks_off():
    pipe = P.sd("ddim")
    before = P.fingerprint(pipe)
    other = sharing(pipe)
    enable(other, FULL)
    del other
    gc.collect()
    assert P.fingerprint(pipe) == before
