"""Is this the pipeline that a profile or a study was made for? Every fact that tells, and none that does not."""

from types import SimpleNamespace

import pipelines as P
import pytest
from profiles import profile_data

from postdiff_calib.models.fingerprint import configuration_of
from postdiff_calib.profile.match import (
    Fact,
    class_facts,
    configuration_fact,
    mismatches,
    other_settings,
    pipeline_mismatches,
    weights_fact,
)
from postdiff_calib.profile.sections import ModelSection

KNOWN = {"model": "0123abcd", "seed": 0, "size": [64, 64]}


@pytest.fixture(scope="module")
def pipe():
    return P.sd()


def section(pipe, **changes):
    own = {"scheduler": type(pipe.scheduler).__name__, "configuration": configuration_of(pipe)}
    return ModelSection.model_validate({**profile_data()["model"], **own, **changes})


def test_a_fact_says_what_differs():
    fact = Fact("scheduler", "DDIMScheduler", "DDPMScheduler")
    assert not fact.same
    assert str(fact) == "scheduler (DDPMScheduler, profile: DDIMScheduler)"
    assert Fact("scheduler", "DDIMScheduler", "DDIMScheduler").same


def test_the_same_pipeline_has_no_mismatch(pipe):
    model = section(pipe)
    assert all(fact.same for fact in class_facts(model, pipe))
    assert configuration_fact(model, pipe).same
    assert pipeline_mismatches(model, pipe) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pipeline_class": "FluxPipeline"}, "pipeline class (StableDiffusionPipeline, profile: FluxPipeline)"),
        ({"denoiser_class": "Other"}, "denoiser class (UNet2DConditionModel, profile: Other)"),
        ({"scheduler": "Other"}, "scheduler (DDIMScheduler, profile: Other)"),
    ],
)
def test_another_class_is_named_and_the_configuration_is_not_asked_then(pipe, changes, says):
    assert pipeline_mismatches(section(pipe, configuration="other", **changes), pipe) == [says]


def test_another_configuration_is_named(pipe):
    found = configuration_of(pipe)
    says = f"the configuration of a network or the scheduler ({found}, profile: other)"
    assert pipeline_mismatches(section(pipe, configuration="other"), pipe) == [says]


def test_a_profile_that_states_no_configuration_asks_for_none(pipe):
    model = section(pipe, configuration=None)
    assert configuration_fact(model, pipe) is None
    assert pipeline_mismatches(model, pipe) == []


def test_a_compiled_denoiser_is_the_same_denoiser(pipe):
    compiled = SimpleNamespace(unet=SimpleNamespace(_orig_mod=pipe.unet), scheduler=pipe.scheduler)
    assert [fact.same for fact in class_facts(section(pipe), compiled)] == [False, True, True]


def test_weights_are_compared_by_the_loaders_fingerprint(pipe):
    model = section(pipe)
    same, other = (SimpleNamespace(pipe=pipe, fingerprint=text) for text in (model.fingerprint, "ffff"))
    assert weights_fact(model, same).same
    assert mismatches(model, same) == []
    assert mismatches(model, other) == ["weights or configuration (ffff, profile: 0123abcd)"]


def test_a_pipeline_without_parts_differs_and_does_not_fail(pipe):
    assert [fact.found for fact in class_facts(section(pipe), SimpleNamespace())][1:] == ["NoneType", "NoneType"]


def test_settings_of_a_study_are_compared_as_json_keeps_them():
    assert other_settings(KNOWN, {**KNOWN, "size": (64, 64)}) == ""
    assert other_settings(KNOWN, {**KNOWN, "seed": 1}) == "seed was 0, now 1"
    assert other_settings(KNOWN, {"model": "0123abcd", "seed": 0}) == "size was [64, 64], now None"
