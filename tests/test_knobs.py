"""Knobs accept what method.md allows and refuse the rest in one line."""

import dataclasses

import pytest

from postdiff_calib.errors import KnobError, PostdiffError
from postdiff_calib.knobs import Knobs


def test_defaults_are_the_unaccelerated_model():
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
