"""A model folder whose tokenizer lost a file is another pipeline, although its networks are the same."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from profiles import profile_data
from studies import study_record

from postdiff_calib.errors import StudyError
from postdiff_calib.files import StudyLock
from postdiff_calib.jobs import checks
from postdiff_calib.jobs.calibrate import load_stage, set_up
from postdiff_calib.jobs.given import NOTHING
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.jobs.materials import materials_of
from postdiff_calib.jobs.same_pipeline import identity_checks
from postdiff_calib.models.fingerprint import fingerprint_tokenizers
from postdiff_calib.models.load import load_pipeline
from postdiff_calib.profile import Profile
from postdiff_calib.profile.match import mismatches
from postdiff_calib.progress import Silent
from postdiff_calib.study.record import Study


@pytest.fixture(scope="module")
def whole():
    return load_pipeline("shapes", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def broken(whole, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    whole.pipe.save_pretrained(folder)
    same = load_pipeline(str(folder), device="cpu", dtype="float32")
    assert fingerprint_tokenizers(same.pipe) == fingerprint_tokenizers(whole.pipe)
    (folder / "tokenizer" / "tokenizer.json").unlink()
    return load_pipeline(str(folder), device="cpu", dtype="float32")


def test_a_study_is_not_resumed_with_another_tokenizer(whole, broken, tmp_path, monkeypatch):
    scorer = SimpleNamespace(fingerprint="0123", name="made up")  # the folder's own would be fetched
    monkeypatch.setattr("postdiff_calib.quality.clip.ClipScorer", lambda *_, **__: scorer)
    job = CalibrateJob(broken.source, prompts="shapes", num_prompts=10, study=tmp_path / "s", out=tmp_path / "p.yaml")
    bench = set_up(job, replace(whole, card=broken.card), materials_of(job, NOTHING))
    record = study_record(fingerprint=bench.fingerprint(), held_out=bench.held_out.prompts)
    job.folder.mkdir()
    Study(job.folder, record).save()
    before = sorted(path.name for path in job.folder.iterdir())
    with pytest.raises(StudyError) as caught, StudyLock(job.folder) as lock:
        load_stage(replace(job, device="cpu", dtype="float32"), Silent(), lock)
    assert "it was made with other settings: tokenizers was '" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted({*(path.name for path in job.folder.iterdir())} - {"study.lock"}) == before


def profile(whole, **changes):
    data = profile_data()
    data["model"] |= {"fingerprint": whole.fingerprint, "tokenizer": fingerprint_tokenizers(whole.pipe), **changes}
    return Profile.model_validate(data)


def test_a_missing_tokenizer_file_is_told_by_verify_and_generate(whole, broken):
    assert broken.fingerprint == whole.fingerprint
    outcome = {check.name: check for check in identity_checks(profile(whole), broken)}
    assert outcome["weights"].outcome == "passed"
    assert outcome["tokenizer"].outcome == "failed"
    assert any("its tokenizers (" in line for line in mismatches(profile(whole).model, broken))
    assert not any("tokenizers" in line for line in mismatches(profile(whole).model, whole))


def test_older_profiles_name_no_tokenizer(whole, broken):
    old = profile(whole, tokenizer=None)
    assert "tokenizer" not in {check.name for check in identity_checks(old, broken)}
    assert not any("tokenizers" in line for line in mismatches(old.model, broken))


def test_a_pipeline_without_a_tokenizer_has_none():
    assert fingerprint_tokenizers(SimpleNamespace()) == ""


@pytest.mark.parametrize(
    ("stated", "outcome"), [(60.0, "passed"), (64.0, "passed"), (75.0, "failed"), (40.0, "passed")]
)
def test_a_baseline_that_is_far_worse_than_stated_is_told(stated, outcome):
    # mean 60, standard deviation 8.08: four standard errors over 50 and 100 prompts are 5.6 points
    fresh = [52.0, 68.0] * 25
    check = checks.baseline_score("clip", stated, 100, fresh, "fresh prompts")
    assert (check.name, check.outcome) == ("baseline clip", outcome)
    assert 5.5 < check.figures["allowed"] < 5.7
