"""Methods at equal budgets: which setting takes part, and what is said of one that cannot."""

import pytest

from postdiff_calib.cost.budget import PlanCost, parse_budget
from postdiff_calib.jobs.method_settings import plan_methods
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.cards import get_card
from postdiff_calib.study.methods import (
    MethodComparison,
    MethodRow,
    Setting,
    largest_within,
    out_of_reach,
    relative_time,
)
from postdiff_calib.techniques import registered
from postdiff_calib.techniques.encoder_propagation import EncoderPropagation

WHOLE = PlanCost(100.0, 100.0, 2.0, 2.0)


def settings(*costs):
    return [Setting("m", str(macs), PlanCost(macs, macs, seconds, seconds), Knobs(4)) for macs, seconds in costs]


def test_the_costliest_that_fits_takes_part():
    own = settings((90.0, 1.0), (60.0, 1.6), (60.0, 0.5), (30.0, 0.4))
    assert largest_within(own, parse_budget("60%").resolve(WHOLE)) is own[1]
    assert largest_within(own, parse_budget("59%").resolve(WHOLE)) is own[3]
    assert largest_within(own, parse_budget("60% time").resolve(WHOLE)) is own[0]
    assert largest_within(own, parse_budget("20%").resolve(WHOLE)) is None
    assert out_of_reach(own, parse_budget("20%").resolve(WHOLE)) == "costs 30% at least"


def test_seconds_are_told_by_their_median():
    assert MethodRow("m").median is None
    assert MethodRow("m", seconds=(3.0, 1.0, 9.0)).median == 3.0
    assert MethodRow("m", seconds=(3.0, 1.0)).median == 2.0


@pytest.mark.parametrize(
    ("card", "names"),
    [
        ("shapes", ["step reduction", "DeepCache", "Faster Diffusion", "T-GATE", "PostDiff, the paper's setting"]),
        ("sd3-medium", ["step reduction", "block caching", "guidance dropped", "PostDiff, the paper's setting"]),
        (
            "lcm",
            ["step reduction", "DeepCache", "Faster Diffusion", "guidance dropped", "PostDiff, the paper's setting"],
        ),
    ],
)
def test_methods_of_a_model_and_their_settings(card, names):
    with registered(EncoderPropagation()):
        found, steps = plan_methods(get_card(card)), get_card(card).num_inference_steps
        assert list(found) == names
        assert [k.num_inference_steps for k in found["step reduction"]] == list(range(steps - 1, 0, -1))
        ours = found["PostDiff, the paper's setting"][0]
        assert (ours.low_res_fraction, ours.cache_interval, ours.num_inference_steps) == (0.5, 2, steps)
        if "T-GATE" in found:
            assert {k.cross_attention_cache for k in found["T-GATE"]} == {"mean"}
        for name, plans in found.items():
            if name not in ("step reduction", "PostDiff, the paper's setting"):
                assert {k.num_inference_steps for k in plans} == {steps}


def test_times_are_of_pairs_of_the_same_round():
    # Every round is slower than the one before, by a half and then twofold: the pairs agree, the seconds do not.
    whole = MethodRow("baseline", seconds=(1.0, 1.5, 3.0))
    half, odd = MethodRow("half", seconds=(0.5, 0.75, 1.5)), MethodRow("odd", seconds=(2.0, 0.75, 0.9))
    found = MethodComparison("m", 2, whole, {"60%": [half, odd, MethodRow("none", why="costs 97% at least")]})
    time = found.time(half)
    assert (time.share, time.low, time.high, time.agreement.stable, str(time)) == (0.5, 0.5, 0.5, True, "50%")
    # 2, 0.5 and 0.3: the median of the medians would say 0.9 / 1.5.
    time = found.time(odd)
    assert (time.share, time.low, time.high) == (0.5, pytest.approx(0.3), 2.0)
    assert (time.agreement.stable, str(time)) == (False, "50%, unstable")
    assert found.time(found.budgets["60%"][2]) is None
    assert found.pace.disagreement == pytest.approx(2.0)
    assert [note[:40] for note in found.notes] == [
        "Seconds are unstable (rounds disagree by",
        "A time is unstable where its rounds disa",
    ]
    rows = found.as_dict()["budgets"]["60%"]
    assert rows[0]["time"] == {"share": 0.5, "low": 0.5, "high": 0.5, "stable": True, "disagreement": 0.0}
    assert [rows[1]["time"]["stable"], rows[2]["time"], found.as_dict()["stable"]] == [False, None, False]


def test_rounds_within_the_tolerance_are_stable_and_none_say_nothing():
    whole, kept = MethodRow("baseline", seconds=(1.0, 1.0)), {"60%": [MethodRow("m", seconds=(0.5, 0.509))]}
    found = MethodComparison("m", 2, whole, kept)
    assert (found.time(kept["60%"][0]).agreement.stable, found.pace.stable, found.notes) == (True, True, [])
    assert not relative_time((0.5, 0.5101), whole.seconds).agreement.stable
    nothing = MethodComparison("m", 2, MethodRow("baseline"), {"60%": [MethodRow("m")]})
    assert (nothing.pace, nothing.time(nothing.baseline), nothing.notes) == (None, None, [])
    assert nothing.as_dict()["stable"] is None
