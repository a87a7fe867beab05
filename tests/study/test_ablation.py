"""An ablation from scores told in the head: paired differences, curves, what the paper saw."""

import json

import numpy as np
import pytest

from postdiff_calib.cost.budget import PlanCost
from postdiff_calib.knobs import Knobs
from postdiff_calib.scores.select import PlanScores
from postdiff_calib.search.vary import Setting
from postdiff_calib.study.ablation import Ablation, label_of, row_of, trace_of

HARD = np.array([10.0, 20.0, 30.0, 40.0])


def plan(knobs, scores, macs, **measures):
    return PlanScores(knobs, PlanCost(macs, macs), np.asarray(scores, dtype=float), measures)


BASELINE = plan(Knobs(20), HARD, 100.0, ssim=np.ones(4))


def row(loss, macs, failed="", **values):
    knobs = Knobs.from_dict({"num_inference_steps": 20, **values})
    return row_of(Setting(values, knobs), plan(knobs, HARD - loss, macs, ssim=np.full(4, 0.8)), BASELINE, failed)


def test_differences_are_paired_and_those_of_images_are_their_own():
    found = row(2.0, 60.0, cache_interval=2)
    assert (found.label, found.share) == ("k=2", 0.6)
    clip, ssim = found.measures["clip"], found.measures["ssim"]
    # Every prompt loses 2: no spread, although the prompts themselves are far apart.
    assert (clip.mean, clip.difference.mean, clip.difference.low, clip.difference.high) == (23.0, -2.0, -2.0, -2.0)
    assert clip.high - clip.low > 20
    assert (ssim.mean, ssim.difference) == (pytest.approx(0.8), None)


def test_curves_run_along_the_number_and_leave_out_what_failed():
    varied = {"num_inference_steps": (8, 20), "low_res_scale": (0.5, 0.75)}
    rows = [
        row(
            1.0,
            30.0,
            "broken" if (t, b) == (8, 0.75) else "",
            num_inference_steps=t,
            low_res_scale=b,
            low_res_fraction=0.5,
        )
        for t in (8, 20)
        for b in (0.5, 0.75)
    ]
    found = Ablation(
        "m", 4, varied, {"low_res_fraction": 0.5}, row_of(Setting({}, Knobs(20)), BASELINE, BASELINE), tuple(rows)
    )
    assert found.along == "low_res_scale"
    assert {name: [r.values["low_res_scale"] for r in part] for name, part in found.curves().items()} == {
        "T=8": [0.5],
        "T=20": [0.5, 0.75],
    }
    assert found.metrics == ["clip", "ssim"]
    assert "figure 2" in found.paper[0]
    data = json.loads(json.dumps(found.as_dict()))
    assert data["settings"][1]["failed"] == "broken"
    assert data["baseline"]["label"] == "baseline"


def test_a_choice_makes_curves_and_t_alone_is_run_along():
    nothing = row_of(Setting({}, Knobs(20)), BASELINE, BASELINE)
    both = Ablation("m", 4, {"cross_attention_cache": ("cond",), "guidance_fraction": (0.5,)}, {}, nothing, ())
    assert both.along == "guidance_fraction"
    assert Ablation("m", 4, {"num_inference_steps": (4, 8)}, {}, nothing, ()).along == "num_inference_steps"


def test_labels_and_traces():
    assert (
        label_of({"low_res_scale": 0.5, "num_inference_steps": 8, "cross_attention_cache": "off"})
        == "T=8 β=0.5 cross=off"
    )
    found = trace_of("x", np.array([[1.0, 5.0], [3.0, 5.0]]))
    assert (found.mean, found.low[1], found.high[1]) == ([2.0, 5.0], 5.0, 5.0)
    assert found.low[0] < 1 < 3 < found.high[0]
