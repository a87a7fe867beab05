"""A profile runs on the pipeline and with the calls it was made for; whatever else it runs on is on record."""

from dataclasses import replace
from types import SimpleNamespace

import pipelines as P
import pytest
import torch
from profiles import profile_for

from postdiff_calib import accelerated, disable, enable, summary
from postdiff_calib.accelerate.conditions import Conditions
from postdiff_calib.errors import ProfileWarning, UnsupportedError, UsageError
from postdiff_calib.generate.images import generate
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.families import family_named

KNOBS = Knobs(4, 0.5, 0.5, 2, 0.5)


@pytest.fixture
def pipe():
    return P.sd("ddim")


def image(pipe, **call):
    return pipe("a red circle", generator=P.generators(1)[0], output_type="pt", **call).images


def test_a_call_takes_size_and_guidance_from_the_profile(pipe):
    made = profile_for(pipe, height=128, width=64)
    explicit = {"height": 128, "width": 64, "guidance_scale": 5.0}
    with accelerated(pipe, KNOBS, noise=made.noise):
        expected = image(pipe, **explicit)
        other = image(pipe, height=128, width=64)
    with accelerated(pipe, made):
        assert torch.equal(image(pipe), expected)
        assert torch.equal(image(pipe, **explicit), expected)
        assert torch.equal(image(pipe, height=None, guidance_scale=None), expected)
    assert not torch.equal(other, expected)  # its guidance scale is the stock one


def test_a_call_takes_the_negative_prompt_from_the_profile_unless_it_has_its_own(pipe):
    plain, made = profile_for(pipe), profile_for(pipe, negative_prompt="blue")
    with accelerated(pipe, plain):
        without, expected = image(pipe), image(pipe, negative_prompt="blue")
        embeds = pipe.encode_prompt("red", "cpu", 1, True, negative_prompt="blue")[1]
    with accelerated(pipe, made):
        assert torch.equal(image(pipe), expected)
        assert torch.equal(image(pipe, negative_prompt=""), without)
        assert torch.equal(image(pipe, negative_prompt_embeds=embeds), expected)
        assert len(pipe(["a", "b"], output_type="pt").images) == 2
    assert not torch.equal(without, expected)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"height": 64}, "height=64.*height=128"),
        ({"width": 192}, "width=192.*width=128"),
        ({"guidance_scale": 7.5}, "guidance_scale=7.5.*guidance_scale=5.0"),
        ({"num_inference_steps": 9}, "9.*4 steps"),
    ],
)
def test_a_call_that_differs_from_the_profile_is_refused(pipe, call, says):
    with accelerated(pipe, profile_for(pipe)), pytest.raises(UsageError, match=says):
        image(pipe, **call)


def test_an_overridden_call_is_on_record(pipe):
    enable(pipe, profile_for(pipe), override=True)
    assert image(pipe, height=192).shape[-2] == 192
    assert summary(pipe).notes == ("override: called with height=192, profile: 128",)
    assert "override: called with height=192" in str(summary(pipe))
    image(pipe)
    assert summary(pipe).notes == ()


def change_scheduler(pipe):
    pipe.scheduler = P.scheduler("euler")


def change_scheduler_settings(pipe):
    pipe.scheduler = P.scheduler("ddim", beta_end=0.02)


def change_network(pipe):
    pipe.unet = P.unet(norm_num_groups=2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (change_scheduler, "scheduler .EulerDiscreteScheduler, profile: DDIMScheduler"),
        (change_scheduler_settings, "configuration of a network or the scheduler"),
        (change_network, "configuration of a network or the scheduler"),
    ],
)
def test_another_pipeline_is_refused_and_overriding_is_on_record(pipe, change, says):
    made = profile_for(pipe)
    enable(pipe, made)
    image(pipe)
    change(pipe)
    with pytest.raises(UnsupportedError, match=says):
        image(pipe)  # it changed since
    disable(pipe)
    with pytest.raises(UnsupportedError, match=says):
        enable(pipe, made)
    enable(pipe, made, override=True)
    image(pipe)
    (note,) = summary(pipe).notes
    assert note.startswith("override: the pipeline differs in ")
    with accelerated(pipe, Knobs(4)):
        image(pipe)
        assert summary(pipe).notes == ()
    image(pipe)
    assert summary(pipe).notes == (note,)  # a block in between does not lose it


def test_another_pipeline_class_is_refused():
    made = profile_for(P.sd("euler"))
    with pytest.raises(UnsupportedError, match=r"pipeline class .StableDiffusionXLPipeline"):
        enable(P.sdxl("euler"), made)


def test_a_compiled_network_is_the_same_network(pipe):
    made = profile_for(pipe)
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    assert made.pipeline_mismatches(pipe) == []


def test_without_a_stated_configuration_the_classes_decide(pipe):
    made = profile_for(pipe, configuration=None)
    change_scheduler_settings(pipe)
    assert made.pipeline_mismatches(pipe) == []


def test_a_lora_loaded_since_warns_once_and_names_verify(pipe):
    from peft import LoraConfig

    enable(pipe, profile_for(pipe))
    image(pipe)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]), adapter_name="style")
    with pytest.warns(ProfileWarning, match="LoRA 'style'.*postdiff verify") as caught:
        image(pipe)
    assert len(caught) == 1
    image(pipe)  # warnings are errors here: it says it once


def test_a_control_network_added_since_warns(pipe):
    made = profile_for(pipe)
    control = P.controlnet(pipe)
    with pytest.warns(ProfileWarning, match="control network.*postdiff verify"):
        enable(control, made)
    image(control, image=P.condition_image(1, 128, 128))
    # A profile that was made with one has nothing to say.
    enable(control, profile_for(control))


def test_generate_uses_a_profile_that_is_enabled_already(pipe):
    made = profile_for(pipe)
    options = replace(made.generation, batch_size=2)
    alone = torch.cat(list(generate(pipe, made, P.PROMPTS, [1, 2, 3], options)))
    enable(pipe, made)
    attachment = pipe.__dict__["_postdiff"]
    again = torch.cat(list(generate(pipe, made, P.PROMPTS, [1, 2, 3], options)))
    assert torch.equal(alone, again)
    assert pipe.__dict__["_postdiff"] is attachment
    # Equal knobs without the profile say nothing of calls, so a profile is enabled anew over them.
    enable(pipe, KNOBS, latent_multiple=8)
    with pytest.raises(UsageError, match="height=64"):
        list(generate(pipe, made, P.PROMPTS, [1, 2, 3], replace(options, height=64)))


def test_guidance_is_filled_in_as_the_pipeline_takes_it():
    made = SimpleNamespace(generation=GenerationSettings(128, 128, 4.0, 1))
    conditions, scale = Conditions(made, override=False), family_named("QwenImagePipeline").scale_arguments
    accepted = dict.fromkeys(("height", "width", "guidance_scale"))
    size = {"height": 128, "width": 128}
    filled = conditions.fill({"prompt": ["a", "b"]}, {}, accepted, scale)
    assert filled == {**size, "true_cfg_scale": 4.0, "negative_prompt": [" ", " "]}
    filled = conditions.fill({"prompt": "a", "negative_prompt": "blue", "true_cfg_scale": 4.0}, {}, accepted, scale)
    assert filled == size
    with pytest.raises(UsageError, match=r"true_cfg_scale=2.*made for true_cfg_scale=4"):
        conditions.fill({"prompt": "a", "true_cfg_scale": 2.0}, {}, accepted, scale)
    plain = family_named("StableDiffusion3Pipeline").scale_arguments
    assert conditions.fill({"prompt": ["a"]}, {}, accepted, plain) == {**size, "guidance_scale": 4.0}
