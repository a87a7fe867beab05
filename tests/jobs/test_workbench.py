"""What every stage measures with: a judge where the model has one and can read the prompts, and what scores rest on."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from diffusers import DDIMScheduler, DDPMScheduler

from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.jobs.workbench import Workbench, judge_for, why_unjudged
from postdiff_calib.models.cards import get_card
from postdiff_calib.models.deployment import DeploymentSettings
from postdiff_calib.models.shapes.judge import SceneJudge
from postdiff_calib.profile.match import other_settings
from postdiff_calib.prompts import PromptSet, content_hash

CAPTIONS = ("a red circle on a white background", "a blue star at the top on a green background")
OTHERS = ("a photo of a cat",)
#: What a study's fingerprint names with any model.
ALWAYS = {"model", "configuration", "scheduler", "tokenizers", "prompts", "held_out", "scorer", "seed", "dtype"}
ALWAYS |= {"height", "width", "guidance_scale", "noise", "latent_multiple"}


def prompt_set(*prompts):
    return PromptSet(tuple(prompts), content_hash(prompts), name="some")


def bench(card="shapes", calibration=CAPTIONS, held_out=CAPTIONS[:1]):
    pipe = SimpleNamespace(scheduler=DDIMScheduler())
    loaded = SimpleNamespace(card=get_card(card), device="cpu", pipe=pipe, fingerprint="f", dtype="float32")
    scorer = SimpleNamespace(fingerprint="s")
    sets = prompt_set(*calibration), prompt_set(*held_out)
    return Workbench(loaded, scorer, *sets, 0, GenerationSettings(64, 64, 4.0, 10, latent_multiple=2))


def test_the_embedded_model_has_a_judge_that_is_loaded_once():
    made = bench()
    assert isinstance(made.judge, SceneJudge)
    assert made.judge is made.judge
    assert made.unjudged == ""
    evaluators = [made.evaluator(made.calibration, 0), made.evaluator(made.held_out, 2)]
    assert all(evaluator.judge is made.judge for evaluator in evaluators)


def test_a_study_rests_on_its_judge_too():
    assert bench().fingerprint() == {**bench("sd15").fingerprint(), "judge": bench().judge.weights_sha256}


def test_a_study_rests_on_scheduler_and_configuration():
    made, known = bench("sd15"), bench("sd15").fingerprint()
    made.loaded.pipe.scheduler = DDPMScheduler()
    assert other_settings(known, made.fingerprint()) == "scheduler was 'DDIMScheduler', now 'DDPMScheduler'"
    made = bench("sd15")
    made.loaded.pipe.scheduler = DDIMScheduler(prediction_type="v_prediction")
    assert other_settings(known, made.fingerprint()).startswith("configuration was ")
    older = {name: value for name, value in known.items() if name not in ("configuration", "scheduler", "tokenizers")}
    assert other_settings(older, made.fingerprint()) == ""


def test_seconds_are_of_calls_of_one_image_but_for_the_embedded_model_or_as_asked():
    assert [bench(card).call_batch for card in ("shapes", "shapes-flow", "sd15", "sdxl")] == [10, 10, 1, 1]
    assert replace(bench("sd15"), deployment=DeploymentSettings(batch_size=4)).call_batch == 4


@pytest.mark.parametrize("card", ["sd15", "sdxl"])
def test_other_models_have_none_and_their_studies_stay_the_same(card):
    made = bench(card)
    assert made.judge is None
    assert made.unjudged == ""
    assert set(made.fingerprint()) == ALWAYS
    assert made.evaluator(made.calibration, 0).judge is None


@pytest.mark.parametrize("sets", [{"calibration": CAPTIONS + OTHERS}, {"held_out": OTHERS}])
def test_prompts_that_are_no_captions_are_not_judged_and_it_is_said_why(sets):
    made = bench(**sets)
    assert made.judge is None
    assert made.unjudged.startswith("scenes are not judged: prompt 'a photo of a cat': no scene can be read off it")
    assert "\n" not in made.unjudged
    assert set(made.fingerprint()) == ALWAYS


def test_a_card_decides_what_is_measured():
    card = replace(get_card("shapes"), metrics=("clip",))
    assert judge_for(card, CAPTIONS) is None
    assert why_unjudged(card, OTHERS) == ""
    assert judge_for(get_card("shapes"), CAPTIONS) is not None
