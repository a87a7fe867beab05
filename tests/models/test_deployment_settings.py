"""The deployment's own settings: refused before weights are read, and put in the place of the card's."""

from dataclasses import replace

import pipelines
import pytest
import torch

from postdiff_calib.accelerate.schedulers import SWITCHES
from postdiff_calib.errors import ModelError, UnsupportedError, UsageError
from postdiff_calib.models.cards import get_card
from postdiff_calib.models.deployment import (
    MODELS_OWN,
    DeploymentSettings,
    describe_baseline,
    parse_scheduler_config,
)
from postdiff_calib.models.load import load_pipeline
from postdiff_calib.models.scheduler import SCHEDULERS

ASKED = DeploymentSettings(
    768, 512, 30, 6, "DPMSolverMultistepScheduler", (("use_karras_sigmas", True),), "blurry", batch_size=2
)


def test_schedulers_that_may_be_asked_for_are_those_whose_switch_is_known():
    assert set(SCHEDULERS) == set(SWITCHES)


def test_settings_are_plain_data_and_back_and_nothing_is_nothing():
    assert DeploymentSettings.from_dict(ASKED.asked) == ASKED
    assert ASKED.asked["scheduler_config"] == {"use_karras_sigmas": True}
    assert MODELS_OWN.asked == {}
    assert DeploymentSettings.from_dict({}) == MODELS_OWN


def test_the_card_takes_them_and_the_search_ends_at_the_steps():
    card = ASKED.card(get_card("sd15"))
    assert (card.height, card.width, card.guidance_scale) == (768, 512, 6.0)
    assert (card.num_inference_steps, card.step_range) == (30, (4, 30))
    for steps, lowest in ((16, 4), (15, 3), (8, 2), (6, 1), (3, 1), (1, 1)):  # a quarter is step reduction's least
        assert replace(ASKED, num_inference_steps=steps).card(get_card("sd15")).step_range == (lowest, steps)
    assert MODELS_OWN.card(get_card("sd15")) == get_card("sd15")
    said = "baseline: 30 steps DPMSolverMultistepScheduler, guidance 6, 768×512"
    assert describe_baseline(30, card) == said
    assert describe_baseline(30, card, "blurry") == f"{said}, negative prompt 'blurry'"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"height": 0}, "--height 0: it must be at least 1"),
        ({"width": 8.0}, "--width 8.0"),
        ({"num_inference_steps": 1001}, "--steps 1001: it must be a whole number from 1 to 1000"),
        ({"num_inference_steps": True}, "--steps True"),
        ({"guidance_scale": -1}, "--guidance-scale -1"),
        ({"guidance_scale": float("inf")}, "--guidance-scale inf"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"scheduler": "PNDMScheduler"}, "--scheduler PNDMScheduler: schedulers are DDIMScheduler"),
    ],
)
def test_what_is_out_of_range_is_refused_where_it_is_made(change, says):
    with pytest.raises(UsageError, match=says):
        replace(ASKED, **change)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["use_karras_sigmas"], "it is KEY=VALUE"),
        (["=1"], "it is KEY=VALUE"),
        (["a=1", "a=2"], "a is given twice"),
        (["a=[1]"], "finite number"),
        (["a=NaN"], "finite number"),
    ],
)
def test_a_setting_of_the_scheduler_is_a_pair(texts, says):
    with pytest.raises(UsageError, match=says):
        parse_scheduler_config(texts)


def test_values_of_scheduler_settings_are_read_as_what_they_are():
    texts = ["a=true", "b=2", "c=0.5", "d=trailing", "e=None", "f=False"]
    assert parse_scheduler_config(texts) == (
        ("a", True), ("b", 2), ("c", 0.5), ("d", "trailing"), ("e", None), ("f", False)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "asked", "error", "says"),
    [
        ("sd15", {"height": 100}, ModelError, "sides are multiples of 8; take 104×512"),
        ("sd15", {"scheduler": "FlowMatchEulerDiscreteScheduler"}, UnsupportedError, "not a model of flow matching"),
        ("sd3-medium", {"scheduler": "DDIMScheduler"}, UnsupportedError, "this is a model of flow matching"),
        ("lcm", {"negative_prompt": "blurry"}, UnsupportedError, "it has no unconditional half"),
        ("flux-dev", {"negative_prompt": "blurry"}, UnsupportedError, "it has no unconditional half; leave it out"),
        ("z-image-turbo", {"negative_prompt": "blurry"}, UnsupportedError, "does nothing at guidance 0, .* above 0"),
        (
            "sd15",
            {"negative_prompt": "", "guidance_scale": 1},
            UnsupportedError,
            "does nothing at guidance 1, .* above 1",
        ),
        ("sd15", {"scheduler_config": (("karras", True),)}, UsageError, "DPMSolverMultistepScheduler takes"),
        ("sd15", {"scheduler_config": (("use_karras_sigmas", 1),)}, UsageError, "it must be true or false"),
        ("sd15", {"scheduler_config": (("num_train_timesteps", 1.5),)}, UsageError, "it must be a whole number"),
        ("sd15", {"scheduler_config": (("algorithm_type", "best"),)}, UsageError, "refuses it"),
        (
            "sd15",
            {"scheduler_config": (("beta_start", -1.0),)},
            UsageError,
            r"negative or have no .*\(alphas_cumprod\)",
        ),
        ("sd35-medium", {"scheduler_config": (("shift", -1),)}, UsageError, r"negative or have no bound \(sigmas\)"),
    ],
)
def test_what_does_not_fit_a_card_is_refused_in_one_line(model, asked, error, says):
    with pytest.raises(error, match=says) as caught:
        DeploymentSettings(**asked).card(get_card(model))
    assert "\n" not in str(caught.value)


def test_settings_replace_those_of_a_profile_one_by_one():
    mine = DeploymentSettings(height=256, scheduler="EulerDiscreteScheduler").over(ASKED)
    assert (mine.height, mine.width, mine.scheduler) == (256, 512, "EulerDiscreteScheduler")
    assert mine.scheduler_config == ()  # another class's settings do not go over
    assert MODELS_OWN.over(ASKED) == ASKED


@pytest.fixture
def folder(tmp_path):
    pipelines.sd("ddim").save_pretrained(tmp_path, safe_serialization=True)
    return tmp_path


def test_a_folder_takes_steps_size_guidance_and_scheduler(folder):
    asked = replace(ASKED, height=128, width=64, num_inference_steps=7)
    loaded = load_pipeline(str(folder), device="cpu", settings=asked)
    card = loaded.card
    assert (card.height, card.width, card.guidance_scale, card.num_inference_steps) == (128, 64, 6.0, 7)
    assert (card.step_range, card.scheduler) == ((1, 7), "DPMSolverMultistepScheduler")
    assert type(loaded.pipe.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert loaded.pipe.scheduler.config.use_karras_sigmas is True
    assert loaded.notes == ("DDIMScheduler replaced by DPM++ 2M, as asked",)
    assert load_pipeline(str(folder), device="cpu").fingerprint == loaded.fingerprint


def test_settings_of_the_models_own_scheduler_alone(folder):
    loaded = load_pipeline(
        str(folder), device="cpu", settings=DeploymentSettings(scheduler_config=(("timestep_spacing", "trailing"),))
    )
    assert type(loaded.pipe.scheduler).__name__ == "DDIMScheduler"
    assert loaded.pipe.scheduler.config.timestep_spacing == "trailing"
    assert loaded.notes == ()


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"height": 99}, "--height 99"),
        ({"width": 20000}, "--width 20000"),
        ({"scheduler": "FlowMatchEulerDiscreteScheduler"}, "flow matching"),
        ({"negative_prompt": "blurry", "guidance_scale": 1.0}, "does nothing at guidance 1"),
        ({"scheduler_config": (("karras", True),)}, "DDIMScheduler takes"),
    ],
)
def test_what_does_not_fit_a_folder_is_refused_before_weights_are_read(folder, monkeypatch, asked, says):
    for path in folder.rglob("*.safetensors"):
        path.unlink()  # nothing to read: only what comes before can be said
    with pytest.raises((ModelError, UnsupportedError, UsageError), match=says):
        load_pipeline(str(folder), device="cpu", settings=DeploymentSettings(**asked))


def test_a_negative_prompt_of_the_settings_reaches_the_images():
    from postdiff_calib.generate.images import generate
    from postdiff_calib.generate.settings import GenerationSettings
    from postdiff_calib.knobs import Knobs

    pipe = pipelines.sd("ddim")
    plain = GenerationSettings(64, 64, 5.0, 2, latent_multiple=8)
    asked = replace(plain, negative_prompt="blue")
    images = {
        name: torch.cat(list(generate(pipe, Knobs(2), ["a cat", "a dog"], [1, 2], settings, **more)))
        for name, settings, more in (
            ("plain", plain, {}), ("asked", asked, {}), ("given", plain, {"negative_prompt": "blue"})
        )
    }  # fmt: skip
    assert torch.equal(images["asked"], images["given"])
    assert not torch.equal(images["asked"], images["plain"])
    assert {**plain.of_images, "switch": "renoise"} == {**plain.call, **plain.attachment}
    assert asked.of_images == {**plain.of_images, "negative_prompt": "blue"}
