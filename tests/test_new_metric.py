"""Two metrics come from this one file and are measured, guarded, improved, written, read back and shown.

One is of quality: how bright an image is, in per cent. One compares with the baseline's images: their mean absolute
difference. Nothing else in the package knows of them.
"""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from report.report_study import CLIP, make_study
from rich.console import Console

from postdiff_calib.cost.budget import parse_budget
from postdiff_calib.errors import GuardError, ModelError, ProfileError
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.jobs.preflight import check_guards
from postdiff_calib.jobs.workbench import metrics_of
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.cards import CARDS
from postdiff_calib.profile import json_schema, load_profile, parse_profile
from postdiff_calib.quality.metric import DISTANCE, Metric
from postdiff_calib.quality.metrics import METRICS, metrics, registered
from postdiff_calib.report.html.findings import Findings
from postdiff_calib.report.html.page import render
from postdiff_calib.report.terminal import print_profile
from postdiff_calib.scores import guards as rails
from postdiff_calib.scores.evaluator import BaselineImages, ImageEvaluator
from postdiff_calib.scores.guards import Guard, parse_guards
from postdiff_calib.scores.names import HELD_OUT, SCORES
from postdiff_calib.scores.objective import Objective, Term, parse_per_metric
from postdiff_calib.scores.store import FileStore


def brightness(given):
    return [100 * float(image.mean()) for image in given.images]


def mean_absolute_difference(given):
    images, reference = given.pair
    return [float((a - b).abs().mean()) for a, b in zip(images, reference, strict=True)]


BRIGHT = Metric(
    "bright", "brightness", "higher", "% of white", brightness, digits=1, difference_unit="percentage points"
)
MAE = Metric("mae", "mean absolute difference", "lower", "share of white", mean_absolute_difference, DISTANCE, equal=0)
BUDGET = parse_budget("60%")


@pytest.fixture
def _toys():
    with registered(BRIGHT, MAE):
        yield


class Scorer:
    """A score and an embedding that need no network."""

    def image_features(self, images):
        return torch.nn.functional.normalize(images.flatten(1)[:, :4] + 1e-3, dim=-1)

    def score_features(self, features, prompts):
        return [50.0] * len(prompts)


def generate(pipe, knobs, prompts, seeds, settings):
    """Noise of the seed, brighter with fewer steps."""
    for seed in seeds:
        noise = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        yield noise / 2 + 0.05 * (8 - knobs.num_inference_steps)


def study_with_toys(folder, **job):
    """A study whose plans are all brighter than the baseline by 2 points, and 0.1 away from its images."""
    study = make_study(folder, scene=False, **job)
    terms = (CLIP, Term("bright", 10.0, 1.0, 1.0))
    study = replace(study, record=replace(study.record, objective=Objective(terms)))
    study.save()
    for name in (SCORES, HELD_OUT):
        store, blocks = FileStore(folder / name), []
        for block in store.read():
            is_baseline, n = block["knobs"] == Knobs(20).as_dict(), len(block["prompts"])
            level = 40.0 + np.arange(n) % 7 + (0.0 if is_baseline else 2.0)
            toys = {"bright": level.tolist(), "mae": [0.0 if is_baseline else 0.1] * n}
            blocks.append({**block, "measures": {**block.get("measures", {}), **toys}})
        store.replace(blocks)
    return study


def test_they_are_gone_afterwards():
    with registered(BRIGHT, MAE):
        assert metrics() == (*METRICS, BRIGHT, MAE)
        with pytest.raises(ValueError, match="'mae' already"), registered(MAE):
            pass
    assert metrics() == METRICS
    with pytest.raises(GuardError, match="knows clip, scene"):
        parse_guards(["bright=1"])


@pytest.mark.usefixtures("_toys")
def test_they_are_measured(monkeypatch, tmp_path):
    monkeypatch.setattr("postdiff_calib.generate.images.generate", generate)
    baseline = BaselineImages(tmp_path, Knobs(8), {})
    evaluator = ImageEvaluator(None, Scorer(), ["a", "b"], 3, {}, baseline=baseline)
    own, other = evaluator.measured(Knobs(8), [0, 1]), evaluator.measured(Knobs(4), [0, 1])
    assert own.measures["mae"] == [0, 0]
    assert own.measures["bright"] == pytest.approx([25, 25], abs=1)
    assert other.measures["mae"] == pytest.approx([0.2, 0.2], abs=1e-3)
    assert np.subtract(other.measures["bright"], own.measures["bright"]) == pytest.approx([20, 20])


@pytest.mark.usefixtures("_toys")
def test_they_are_guarded():
    assert parse_guards(["bright=2"], ["mae=0.3"]) == (Guard("bright", -2.0), Guard("mae", 0.3))
    assert str(Guard("bright", -2.0)) == "brightness difference at least -2"
    assert str(Guard("mae", 0.3)) == "mean absolute difference at most 0.3"
    assert (rails.deviation("bright", -2.0), rails.deviation("mae", 0.3)) == (2.0, 0.3)
    assert check_guards(CalibrateJob(max_drop=("bright=2",), guards=("mae=0.3",))).count("mean absolute") == 0
    assert all(BRIGHT in metrics_of(card) for card in CARDS)


def test_what_cannot_be_computed_here_is_noted_or_refused():
    def absent():
        raise ModelError("mae", "its table is not installed", "install it")

    with registered(replace(MAE, require=absent)):
        assert "mean absolute difference is not measured: its table is not installed" in check_guards(CalibrateJob())
        with pytest.raises(GuardError, match="--guard mae: it cannot be computed here: its table is not installed"):
            check_guards(CalibrateJob(guards=("mae=0.3",)))


@pytest.mark.usefixtures("_toys")
def test_it_is_improved(tmp_path):
    assert parse_per_metric("--weight", ["bright=2"], ["clip", "bright"]) == {"bright": 2.0}
    study = study_with_toys(tmp_path / "study")
    calibration, _ = study.scored()
    plan, base = calibration.plans[1], calibration.baseline
    found = plan.quality(study.record.objective) - base.quality(study.record.objective)
    assert found == pytest.approx((plan.scores - base.scores) / CLIP.spread / 2 + 2.0 / 10.0 / 2, nan_ok=True)


@pytest.mark.usefixtures("_toys")
def test_they_are_in_the_profile_and_read_back(tmp_path):
    profile = study_with_toys(tmp_path / "study", max_drop=["bright=1"], guards=["mae=0.3"]).conclude(BUDGET)
    _, result = profile.metric_results
    assert (result.metric, result.difference.mean, result.verdict) == ("bright", pytest.approx(2.0), "better")
    assert profile.expected.fidelity["mae"] == pytest.approx(0.1)
    assert [(guard.metric, guard.rule) for guard in profile.budget.guards] == [
        ("bright", "at least"),
        ("mae", "at most"),
    ]
    path = profile.save(tmp_path / "profile.yaml")
    assert load_profile(path) == profile
    comment = " ".join(line.removeprefix("# ") for line in path.read_text().splitlines())
    assert "psnr (higher) and lpips, mae (lower) compare images" in comment
    schema = json.dumps(json_schema())
    assert "mean absolute difference: share of white; lower is nearer." in schema
    assert '"lpips", "bright", "mae"]' in schema


def test_a_profile_with_them_is_refused_where_they_are_unknown(tmp_path):
    with registered(BRIGHT, MAE):
        text = study_with_toys(tmp_path / "study").conclude(BUDGET).to_yaml()
    with pytest.raises(ProfileError, match="mae: unknown key"):
        parse_profile(text)


@pytest.mark.usefixtures("_toys")
def test_they_are_shown_in_report_and_terminal(tmp_path):
    study = study_with_toys(tmp_path / "study", max_drop=["bright=1"], guards=["mae=0.3"])
    page = render(Findings(study, BUDGET))
    assert "Difference in brightness" in page
    assert "brightness +2.0 [+2.0, +2.0] over 60 held-out prompts" in page
    assert "44.9 %, baseline 42.9 %" in page
    console = Console(file=io.StringIO(), width=200)
    print_profile(study.conclude(BUDGET), as_json=False, console=console)
    shown = console.file.getvalue()
    assert "+2.0 [+2.0, +2.0] better" in shown
    assert "mean absolute difference 0.10" in shown
    assert "brightness difference at least -1, has 2; mean absolute difference at most 0.3, has 0.1" in shown
