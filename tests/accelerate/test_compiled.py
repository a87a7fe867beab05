"""Compiled networks: every step compiled or an error by name, and nothing left behind."""

import pipelines as P
import pytest
import torch

from postdiff_calib.accelerate import accelerated, compiled
from postdiff_calib.accelerate.compiled import count_kinds, mode_of, parse_compile, stated_mode
from postdiff_calib.errors import UnsupportedError, UsageError
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan

SMALL = {
    "block_out_channels": (8, 8),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
SIZE = {"height": 128, "width": 128}
LOW = {"low_res_fraction": 0.5, "low_res_scale": 0.5}
#: Together more than the 8 graphs at which dynamo stops by default.
PLANS = (
    Knobs(6, cache_interval=2, guidance_fraction=0.75, **LOW),
    Knobs(4),
    Knobs(4, cache_interval=2),
    Knobs(4, guidance_fraction=0.5),
)


@pytest.fixture(autouse=True)
def eager_backend(monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "eager")


def images(pipe, knobs):
    with accelerated(pipe, knobs):
        return P.latents(pipe, **SIZE)


def test_modes_by_name():
    assert [parse_compile(name) for name in ("off", "default", "repeated-blocks")] == list(compiled.MODES)
    with pytest.raises(UsageError, match=r"--compile fast: it must be off, default or repeated-blocks"):
        parse_compile("fast")
    with pytest.raises(UsageError, match=r"overwrites the features that a plan keeps.*; take --compile default"):
        parse_compile("reduce-overhead")


def test_what_older_measurements_state():
    assert [stated_mode(value) for value in (False, True, "repeated-blocks", "fast", None)] == [
        "off", "default", "repeated-blocks", None, None,
    ]  # fmt: skip


def test_kinds_are_counted_over_plans():
    # Refresh and reuse at each of two sizes.
    both = compile_plan(Knobs(8, cache_interval=2, **LOW))
    assert count_kinds([both]) == count_kinds([both, both]) == 4
    assert count_kinds([both, compile_plan(Knobs(8))]) == 5
    smaller = compile_plan(Knobs(8, cache_interval=2, low_res_fraction=0.5, low_res_scale=0.375))
    # The full-size steps of both are the same graphs.
    assert count_kinds([both, smaller]) == 6


def test_off_changes_nothing():
    pipe = P.sd("ddim", **SMALL)
    before = P.fingerprint(pipe)
    with compiled.compiled(pipe, "off", 0) as done:
        assert P.fingerprint(pipe) == before
    assert (done.graphs, done.seconds, done.describe()) == (0, 0.0, "")


def settings():
    from torch._dynamo import config

    return config.recompile_limit, config.accumulated_recompile_limit, config.fail_on_recompile_limit_hit


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["default", "repeated-blocks"])
def test_every_step_of_many_plans_is_compiled(mode):
    pipe = P.sd("ddim", **SMALL)
    network, before, limits = pipe.unet, P.fingerprint(pipe), settings()
    expected = [images(pipe, knobs) for knobs in PLANS]
    with compiled.compiled(pipe, mode, count_kinds(map(compile_plan, PLANS))) as done:
        assert mode_of(pipe.unet) == mode
        assert settings()[2]
        for knobs, wanted in zip(PLANS, expected, strict=True):
            assert torch.equal(images(pipe, knobs), wanted)
        graphs = done.graphs
        assert 8 < graphs <= done.limit
        # The same plans again need no further graph.
        assert torch.equal(images(pipe, PLANS[0]), expected[0])
        assert done.graphs == graphs
        assert f"compiled ({mode}): {graphs} graphs in " in done.describe()
    assert pipe.unet is network
    assert mode_of(network) == "off"
    assert P.fingerprint(pipe) == before
    assert settings() == limits
    assert torch.equal(images(pipe, PLANS[0]), expected[0])


@pytest.mark.slow
def test_the_real_compiler_draws_the_same(monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "inductor")
    pipe, plan = P.sd("ddim", **SMALL), Knobs(2, cache_interval=2)
    expected = images(pipe, plan)
    with compiled.compiled(pipe, "default", count_kinds([compile_plan(plan)])) as done:
        # Fused operations round otherwise.
        assert torch.allclose(images(pipe, plan), expected, rtol=1e-3, atol=1e-3)
        assert done.graphs == 2
        assert done.seconds > 0


def test_more_graphs_than_the_plans_explain_are_an_error(monkeypatch):
    monkeypatch.setattr(compiled, "_LEAST", 1)
    monkeypatch.setattr(compiled, "_PER_KIND", 1)
    pipe = P.sd("ddim", **SMALL)
    network = pipe.unet
    with (
        pytest.raises(UnsupportedError, match=r"--compile default: the network needs more than 1 graphs"),
        compiled.compiled(pipe, "default", 1),
    ):
        images(pipe, Knobs(4, cache_interval=2))
    assert pipe.unet is network


def test_what_torch_cannot_compile_is_named(monkeypatch):
    def broken(*_):
        raise RuntimeError("no C++ compiler\nand more")

    monkeypatch.setattr(compiled, "BACKEND", broken)
    pipe = P.sd("ddim", **SMALL)
    with (
        pytest.raises(UnsupportedError, match=r"torch cannot compile this network \(.*no C\+\+ compiler") as caught,
        compiled.compiled(pipe, "default", 1),
    ):
        images(pipe, Knobs(2))
    assert "\n" not in str(caught.value)


def test_other_errors_pass_as_they_are():
    with pytest.raises(ZeroDivisionError), compiled.compiled(P.sd("ddim", **SMALL), "default", 1):
        raise ZeroDivisionError


def test_blocks_must_be_named_and_a_network_is_compiled_once():
    with (
        pytest.raises(UnsupportedError, match=r"PixArtTransformer2DModel: it names no repeated blocks"),
        compiled.compiled(P.pixart(), "repeated-blocks", 1),
    ):
        pass
    pipe = P.sd("ddim", **SMALL)
    with (
        compiled.compiled(pipe, "default", 1),
        pytest.raises(UsageError, match="compiled already"),
        compiled.compiled(pipe, "default", 1),
    ):
        pass
    assert mode_of(pipe.unet) == "off"
