"""Settings from texts: names, lists, ranges, combinations, and what is refused."""

import pytest

from postdiff_calib.errors import KnobError, UsageError
from postdiff_calib.knobs import knob_named, table
from postdiff_calib.models.cards import get_card
from postdiff_calib.search.space import SearchSpace
from postdiff_calib.search.vary import parse_fixed, parse_varied, settings

SPACE = SearchSpace.from_card(get_card("shapes"), latent_size=(16, 16))


def test_a_knob_goes_by_symbol_flag_or_field():
    for row in table():
        for name in (row.symbol, row.flag, row.flag.lstrip("-"), row.field, row.field.replace("_", "-")):
            assert knob_named(name) is row
    with pytest.raises(UsageError, match=r"--fix q=1: there is no knob 'q'; knobs are T, s, beta"):
        parse_fixed(["q=1"])


def test_lists_and_ranges():
    varied = parse_varied(["k=1..5", "beta=.375,.5,.5", "m=.3..0.75", "cross_attention_cache=cond,off", "T=8"], SPACE)
    assert list(varied.items()) == [
        ("cache_interval", (1, 2, 3, 4, 5)),
        ("low_res_scale", (0.375, 0.5)),
        ("guidance_fraction", (0.3, 0.45, 0.6, 0.75)),
        ("cross_attention_cache", ("cond", "off")),
        ("num_inference_steps", (8,)),
    ]
    assert parse_varied(["beta=0.4..0.8"], SPACE) == {"low_res_scale": (0.5, 0.625, 0.75)}
    assert parse_fixed(["s=.5", "k=2"]) == {"low_res_fraction": 0.5, "cache_interval": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("k", "a knob's name, = and what"),
        ("k=", "a knob's name, = and what"),
        ("k=two", "'two' is no number"),
        ("k=1.5", "whole number"),
        ("m=0", "above 0"),
        ("cross=cond..off", "has no order"),
        ("cross=never", "must be one of"),
        ("k=5..1", "holds no value"),
        ("T=1..900", "more than 200"),
        ("m=0.31..0.32", "holds no value"),
    ],
)
def test_nonsense_is_refused_in_a_line(text, said):
    with pytest.raises((UsageError, KnobError), match=said):
        parse_varied([text], SPACE)


def test_every_combination_the_last_fastest():
    chosen = settings({"low_res_scale": (0.5, 0.75), "num_inference_steps": (8, 20)}, {"low_res_fraction": 0.5}, SPACE)
    assert [s.knobs.describe() for s in chosen] == [
        "T=8 s=0.5 β=0.5",
        "T=20 s=0.5 β=0.5",
        "T=8 s=0.5 β=0.75",
        "T=20 s=0.5 β=0.75",
    ]
    assert chosen[0].values == {"low_res_fraction": 0.5, "low_res_scale": 0.5, "num_inference_steps": 8}


def test_a_cross_attention_cache_beside_full_guidance_is_the_baseline():
    varied = {"cross_attention_cache": ("cond", "off"), "guidance_fraction": (0.5, 1.0)}
    ids = [s.plan_id for s in settings(varied, {}, SPACE)]
    assert ids[1] == ids[3]
    assert len(set(ids)) == 3


def test_a_knob_that_does_nothing_is_refused():
    with pytest.raises(UsageError, match=r"--vary β: it does nothing while s=0; set it too, such as --fix s=0.5"):
        settings({"low_res_scale": (0.5,)}, {}, SPACE)
    with pytest.raises(UsageError, match="one or the other"):
        settings({"cache_interval": (1, 2)}, {"cache_interval": 3}, SPACE)
    flow = SearchSpace.from_card(get_card("shapes-flow"), latent_size=(16, 16))
    with pytest.raises(UsageError, match="does nothing for this model"):
        settings({"cross_attention_cache": ("cond",), "guidance_fraction": (0.5,)}, {}, flow)
    with pytest.raises(UsageError, match="given twice"):
        parse_varied(["k=1", "cache_interval=2"], SPACE)


@pytest.mark.parametrize("model", ["shapes-flow", "pixart-sigma", "sana-1600m", "flux-dev", "qwen-image", "z-image"])
def test_the_branch_acts_on_chains_of_blocks_too(model):
    space = SearchSpace.from_card(get_card(model))
    first, second = settings({"cache_branch": (0, 1)}, {"cache_interval": 2}, space)
    assert first.plan_id != second.plan_id
    assert first.knobs.describe() == f"T={space.default_steps} k=2 branch=0"
    with pytest.raises(UsageError, match="--vary branch: it does nothing while k=1"):
        settings({"cache_branch": (0, 1)}, {}, space)
