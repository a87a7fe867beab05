"""Knobs accept what method.md allows and refuse the rest in one line."""

import dataclasses

import pytest

from postdiff_calib.errors import KnobError, PostdiffError
from postdiff_calib.knobs import Knobs, searched, settled, table


def test_defaults_are_the_baseline():
    assert Knobs() == Knobs(
        num_inference_steps=20,
        low_res_fraction=0.0,
        low_res_scale=1.0,
        cache_interval=1,
        guidance_fraction=1.0,
        cache_branch=1,
        cross_attention_cache="cond",
    )


@pytest.mark.parametrize(
    "accepted",
    [
        {"num_inference_steps": 1},
        {"num_inference_steps": 1000},
        {"low_res_fraction": 0.999, "low_res_scale": 0.25},
        {"low_res_scale": 0.5},
        {"cache_interval": 1000},
        {"guidance_fraction": 0.001},
        {"guidance_fraction": 1},
        {"cache_branch": 0},
        {"cross_attention_cache": "off"},
    ],
)
def test_both_ends_of_each_range_are_accepted(accepted):
    knobs = Knobs(**accepted)
    assert Knobs.from_dict(knobs.as_dict()) == knobs


@pytest.mark.parametrize(
    ("refused", "named"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps=0"),
        ({"num_inference_steps": 20.0}, "num_inference_steps=20.0"),
        ({"num_inference_steps": True}, "num_inference_steps=True"),
        ({"low_res_fraction": -0.1}, "low_res_fraction=-0.1"),
        ({"low_res_fraction": 1.0, "low_res_scale": 0.5}, "low_res_fraction=1.0"),
        ({"low_res_fraction": 0.5}, "low_res_scale=1"),
        ({"low_res_fraction": float("nan")}, "low_res_fraction=nan"),
        ({"low_res_scale": 0.2}, "low_res_scale=0.2"),
        ({"cache_interval": 0}, "cache_interval=0"),
        ({"guidance_fraction": 0.0}, "guidance_fraction=0.0"),
        ({"guidance_fraction": "0.5"}, "guidance_fraction='0.5'"),
        ({"cache_branch": -1}, "cache_branch=-1"),
        ({"cross_attention_cache": "guided"}, "cross_attention_cache='guided'"),
    ],
)
def test_beyond_each_range_is_refused_by_name(refused, named):
    with pytest.raises(KnobError) as caught:
        Knobs(**refused)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, PostdiffError)
    assert caught.value.exit_code == 2


def test_unknown_names_are_refused():
    with pytest.raises(KnobError, match="cache_intervall"):
        Knobs.from_dict({"cache_intervall": 2})


def test_knobs_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Knobs().cache_interval = 2  # type: ignore[misc]


def test_description_names_only_what_acts():
    assert Knobs().describe() == "T=20"
    assert Knobs(20, 0.5, 0.5, 2, 0.75).describe() == "T=20 s=0.5 β=0.5 k=2 m=0.75"
    assert Knobs(8, low_res_scale=0.5, cache_branch=0).describe() == "T=8"


def test_the_table_is_consistent():
    rows = {row.field: row for row in table()}
    assert list(rows) == list(Knobs().as_dict())
    assert [row.symbol for row in searched()] == ["T", "s", "β", "k", "m"]
    for attribute in ("symbol", "flag", "meaning"):
        assert len({getattr(row, attribute) for row in rows.values()}) == len(rows)
    for row in rows.values():
        assert row.check(row.neutral) == row.neutral == getattr(Knobs(), row.field)
        assert not row.needs or not rows[row.needs].needs
        assert set(row.interacts) <= set(rows)
        assert not row.grid or row.grid[0] == row.neutral
        if row.searched:
            assert row.severity is not None
            values = [row.severity(value) for value in row.grid or (row.low or 0.01, row.high)]
            assert all(0 <= value <= 1 for value in values)
            assert not row.grid or values == sorted(values)
            assert not row.grid or values[0] == 0


def test_the_docstring_says_what_each_knob_is():
    text = Knobs.__doc__
    assert "num_inference_steps: T, denoising steps; 1 to 1000" in text
    assert "guidance_fraction: m, share of the steps with guidance; 0 to 1 without 0" in text
    assert "cross_attention_cache: cross, what stands in for" in text
    assert "; cond or mean or off" in text


def test_settled_knobs_leave_out_what_does_nothing():
    assert settled({}, 12) == Knobs(12)
    assert settled({"low_res_scale": 0.5, "cache_branch": 2, "num_inference_steps": None}, 12) == Knobs(12)
    assert settled({"low_res_fraction": 0.3}, 12) == Knobs(12, 0.3, 0.5)
    assert settled({"low_res_fraction": 0.3, "low_res_scale": 0.75}, 12) == Knobs(12, 0.3, 0.75)
    assert settled({"cache_interval": 2.0, "cache_branch": 2}, 12) == Knobs(12, cache_interval=2, cache_branch=2)
    with pytest.raises(KnobError, match=r"cache_interval=2\.5"):
        settled({"cache_interval": 2.5}, 12)


def test_a_knob_that_a_model_lacks_is_idle_only_where_it_is_left_out():
    half, lacks = {"guidance_fraction": 0.5}, {"cross_attention_cache"}
    assert settled(half, 12, lacks) == Knobs(12, guidance_fraction=0.5, cross_attention_cache="off")
    given = Knobs(12, guidance_fraction=0.5, cross_attention_cache="mean")
    assert settled(given.as_dict(), 12, lacks) == given
    assert settled({}, 12, lacks) == Knobs(12)
    assert settled(Knobs(9, guidance_fraction=0.5).chosen(), 12, lacks).cross_attention_cache == "off"
    assert Knobs(20, cache_interval=2).chosen() == {"num_inference_steps": 20, "cache_interval": 2}
