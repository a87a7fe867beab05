"""What computes attention and how weights lie in memory: told, part of a measurement's key, compared by verify."""

from dataclasses import replace

import pipelines
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from profiles import profile_data

from postdiff_calib.cost.setting import Setting
from postdiff_calib.cost.store import environment_of, latency_path
from postdiff_calib.cost.table import Latency, Timing
from postdiff_calib.jobs.same_pipeline import computed_checks
from postdiff_calib.models.backends import attention_backends, memory_format
from postdiff_calib.models.load import LoadedModel, derive_card
from postdiff_calib.profile import Profile
from postdiff_calib.study.seconds import environment_of_seconds, notes_of_seconds

SETTING = Setting(height=128, width=128, guidance_scale=5.0, batch_size=1, scales=())


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("POSTDIFF_CACHE", str(tmp_path))
    pipe = pipelines.sd("dpm")
    return LoadedModel(pipe, derive_card(pipe, "tiny"), "tiny", "", (), "f", "cpu", "float32")


def key_of(loaded):
    return latency_path(loaded, SETTING, environment_of(loaded, 1))


def profile_of(loaded):
    data = profile_data()
    data["environment"] |= {"attention": attention_backends(loaded.pipe), "memory_format": "contiguous"}
    return Profile.model_validate(data)


def compared(loaded, profile):
    return {check.name: check for check in computed_checks(profile, loaded)}


def test_another_processor_is_another_measurement_and_a_note(loaded):
    before, profile = key_of(loaded), profile_of(loaded)
    assert attention_backends(loaded.pipe)["unet"] == "AttnProcessor2_0"
    assert {name: check.outcome for name, check in compared(loaded, profile).items()} == {
        "attention": "passed",
        "memory format": "passed",
    }
    loaded.pipe.unet.set_attn_processor(AttnProcessor())
    assert attention_backends(loaded.pipe)["unet"] == "AttnProcessor"
    assert key_of(loaded) != before  # a table that was measured before is not taken for this one
    check = compared(loaded, profile)["attention"]
    assert check.outcome == "warning"
    assert "unet AttnProcessor2_0" in f"{check.wanted};"
    assert "unet AttnProcessor;" in f"{check.found};"
    assert "computes otherwise" in check.reason


def test_the_backend_that_diffusers_chooses_is_named():
    pipe = pipelines.flux()
    assert attention_backends(pipe)["transformer"] == "FluxAttnProcessor native"
    pipe.transformer.set_attention_backend("_native_math")
    assert attention_backends(pipe)["transformer"] == "FluxAttnProcessor _native_math"


def test_channels_last_is_another_measurement_and_a_note(loaded):
    before, profile = key_of(loaded), profile_of(loaded)
    assert memory_format(loaded.pipe.unet) == "contiguous"
    loaded.pipe.unet.to(memory_format=torch.channels_last)
    assert memory_format(loaded.pipe.unet) == "channels_last"
    assert key_of(loaded) != before
    check = compared(loaded, profile)["memory format"]
    assert (check.wanted, check.found, check.outcome) == ("contiguous", "channels_last", "warning")


def test_an_older_profile_that_does_not_say_is_not_compared(loaded):
    data = profile_data()
    for name in ("attention", "memory_format"):
        del data["environment"][name]
    assert computed_checks(Profile.model_validate(data), loaded) == []


def latency(**environment):
    one = Timing(1.0, 1.0, 1.0, 1)
    return Latency({}, one, one, one, one, 0.0, 1.0, 0.0, 1.0, 1, environment={"device_name": "there", **environment})


def test_a_table_of_another_machine_says_what_it_computes_with():
    section = Profile.model_validate(profile_data()).environment
    other = latency(attention={"unet": "XFormersAttnProcessor"}, memory_format="channels_last")
    stated = environment_of_seconds(section, other)
    assert (stated.attention, stated.memory_format) == ({"unet": "XFormersAttnProcessor"}, "channels_last")
    assert notes_of_seconds(section, "float32", None, other) == (
        "Seconds were measured on there, scores were not.",
        "The seconds are of attention by unet XFormersAttnProcessor, the scores by unet AttnProcessor2_0.",
        "The seconds are of channels_last weights, the scores of contiguous ones.",
    )
    # hardware of the same name is no other machine
    (said, *_) = notes_of_seconds(section.model_copy(update={"device": "there"}), "float32", None, other)
    assert said == "Seconds are of a table of their own, measured on hardware of the scores' kind (there)."
    for damaged in ({}, {"attention": {"unet": 3}, "memory_format": 7}, {"attention": "x"}):
        stated = environment_of_seconds(section, latency(**damaged))
        assert (stated.attention, stated.memory_format) == (None, None)
        assert notes_of_seconds(section, "float32", None, latency(**damaged)) == (
            "Seconds were measured on there, scores were not.",
        )


def test_unstable_seconds_are_a_note():
    section = Profile.model_validate(profile_data()).environment
    own = replace(latency(), disagreement=0.034)
    assert notes_of_seconds(section, "float32", own, own) == ("Seconds are unstable (rounds disagree by 3.4 %).",)
    steady = replace(own, disagreement=0.02)
    assert notes_of_seconds(section, "float32", steady, steady) == ()
