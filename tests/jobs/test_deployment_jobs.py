"""The deployment's own settings from the command line to the study, and compared by verify and generate."""

import json
from dataclasses import replace

import pytest
import yaml
from profiles import profile_data
from studies import study_record

from postdiff_calib.cli.main import main
from postdiff_calib.errors import ProfileError, StudyError
from postdiff_calib.jobs.generate import load_for
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.jobs.preflight import check_job
from postdiff_calib.jobs.same_pipeline import deployment_checks
from postdiff_calib.jobs.workbench import generation_settings, why_unjudged
from postdiff_calib.models.cards import get_card
from postdiff_calib.models.deployment import DeploymentSettings
from postdiff_calib.profile import Profile
from postdiff_calib.profile.deployment import generation_with
from postdiff_calib.study.record import Study, StudyRecord

ASKED = DeploymentSettings(32, 64, 30, 6.0, "EulerDiscreteScheduler", (("timestep_spacing", "trailing"),), "blurry", 2)


def forbidden(*_, **__):
    raise AssertionError("too early")


def test_every_option_reaches_the_job(monkeypatch):
    jobs = []
    monkeypatch.setattr("postdiff_calib.jobs.calibrate.run_calibrate", lambda job, *_: jobs.append(job) or stop())
    options = ["--height", "32", "--width", "64", "--steps", "30", "--guidance-scale", "6"]
    options += ["--scheduler", "EulerDiscreteScheduler", "--scheduler-config", "timestep_spacing=trailing"]
    options += ["--negative-prompt", "blurry", "--batch-size", "2"]
    with pytest.raises(SystemExit):
        main(["calibrate", "--quiet", *options])
    assert [job.deployment for job in jobs] == [ASKED]


def stop():
    raise KeyboardInterrupt


def test_settings_of_images_are_those_that_were_asked_for():
    card = get_card("shapes")
    settings = generation_settings(ASKED.card(card), noise="coupled", deployment=ASKED)
    assert (settings.height, settings.width, settings.guidance_scale) == (32, 64, 6.0)
    assert (settings.batch_size, settings.negative_prompt) == (2, "blurry")
    own = generation_settings(card, noise="coupled", deployment=DeploymentSettings())
    assert (own.height, own.batch_size, own.negative_prompt) == (64, 10, None)


def test_a_record_keeps_what_was_asked_for():
    record = study_record()
    record = replace(record, asked=replace(record.asked, deployment=ASKED))
    assert StudyRecord.from_dict(record.as_dict()).asked.deployment == ASKED
    data = record.as_dict()
    del data["asked"]["deployment"]  # as studies before had none
    assert StudyRecord.from_dict(data).asked.deployment == DeploymentSettings()


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"num_inference_steps": 30}, "num_inference_steps was 20, now 30"),
        ({"height": 32}, "height was 64, now 32"),
        ({"guidance_scale": 6}, "guidance_scale was 3.6, now 6.0"),
        ({"scheduler": "EulerDiscreteScheduler"}, "scheduler was '.*', now 'EulerDiscreteScheduler'"),
        ({"negative_prompt": "blurry"}, "negative_prompt was None, now 'blurry'"),
        ({"scheduler_config": (("timestep_spacing", "trailing"),)}, "scheduler_config was None, now {'timestep_spac"),
    ],
)
def test_a_study_made_with_other_settings_is_refused_by_name_before_loading(tmp_path, monkeypatch, asked, says):
    monkeypatch.setattr("postdiff_calib.models.load.load_pipeline", forbidden)
    Study(tmp_path, study_record()).save()
    asked_for = {"study": tmp_path, "out": tmp_path.parent / "p.yaml", "num_prompts": 60}
    job = CalibrateJob(**asked_for, deployment=DeploymentSettings(**asked))
    with pytest.raises(StudyError, match=says):
        check_job(job)
    check_job(replace(job, deployment=DeploymentSettings(height=64, num_inference_steps=20, batch_size=7)))


@pytest.fixture
def profile():
    data = profile_data()
    data["model"] |= {"num_inference_steps": 20, "scheduler_config": {}, "scheduler": "DDIMScheduler"}
    return Profile.model_validate(data)


def test_a_profile_says_how_its_model_is_to_be_loaded(profile):
    deployment = profile.deployment
    assert (deployment.scheduler, deployment.num_inference_steps, deployment.height) == ("DDIMScheduler", 20, 64)
    assert profile.baseline_text == "baseline: 20 steps DDIMScheduler, guidance 4, 64×64"
    older = Profile.model_validate(profile_data())
    assert older.deployment.scheduler is None
    assert older.baseline_text == "baseline: DPMSolverMultistepScheduler, guidance 4, 64×64"


def test_verify_compares_what_was_asked_for(profile):
    same = deployment_checks(profile, DeploymentSettings(64, 64, 20, 4.0, "DDIMScheduler"))
    assert {check.outcome for check in same} == {"passed"}
    other = deployment_checks(profile, replace(ASKED, height=64))
    outcomes = {check.name: check.outcome for check in other}
    assert outcomes == {
        "height": "passed",
        "width": "passed",
        "num inference steps": "failed",
        "guidance scale": "failed",
        "scheduler": "failed",
        "scheduler config": "failed",
        "negative prompt": "failed",
        "batch size": "warning",
    }
    assert deployment_checks(profile, DeploymentSettings()) == []


def test_generate_refuses_other_settings_before_it_loads_and_runs_them_when_told_to(profile, monkeypatch):
    loads = []
    monkeypatch.setattr("postdiff_calib.models.load.load_pipeline", forbidden)
    with pytest.raises(ProfileError, match=r"differs in num_inference_steps \(30, profile: 20\)"):
        load_for(
            profile, device="cpu", dtype="auto", override=False, deployment=DeploymentSettings(num_inference_steps=30)
        )
    monkeypatch.setattr(
        "postdiff_calib.models.load.load_pipeline", lambda *_, **given: loads.append(given["settings"]) or stop()
    )
    with pytest.raises(KeyboardInterrupt):
        load_for(profile, device="cpu", dtype="auto", override=True, deployment=DeploymentSettings(height=32))
    assert (loads[0].height, loads[0].width, loads[0].scheduler) == (32, 64, "DDIMScheduler")
    assert generation_with(profile, DeploymentSettings(height=32, batch_size=3)).call["height"] == 32


@pytest.mark.slow
def test_a_calibration_with_its_own_settings_from_the_command_line_to_the_images(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POSTDIFF_CACHE", str(tmp_path / "cache"))
    own = ["--height", "48", "--steps", "8", "--scheduler", "EulerDiscreteScheduler", "--negative-prompt", "red"]
    small = ["--num-prompts", "10", "--trials", "0", "--device", "cpu", "--quiet", "--batch-size", "5"]
    with pytest.raises(SystemExit):
        main(["calibrate", *small, *own])
    out, err = capsys.readouterr()
    assert err == ""
    first = out.splitlines()[0]
    assert first == "baseline: 8 steps EulerDiscreteScheduler, guidance 3.6, 48×64, negative prompt 'red'"
    data = yaml.safe_load((tmp_path / "profile.yaml").read_text())
    assert (data["model"]["num_inference_steps"], data["model"]["scheduler_config"]) == (8, {})
    assert data["knobs"]["num_inference_steps"] <= 8
    with pytest.raises(SystemExit) as stopped:
        main(["calibrate", *small, "--trials", "1"])  # the model's own settings are others
    assert stopped.value.code == 2
    assert "height was 48, now 64" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["generate", "a red circle on a white background", "--baseline", "--json", "--device", "cpu"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["baseline"] == first
    from PIL import Image

    with Image.open(shown["images"][0]["path"]) as image:
        assert image.size == (64, 48)


def test_scenes_of_another_size_are_not_judged():
    prompts = ["a red circle on a white background"]
    card = get_card("shapes")
    assert why_unjudged(card, prompts) == ""
    assert "reads images of 64×64, not 48×64" in why_unjudged(replace(card, height=48), prompts)
