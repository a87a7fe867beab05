"""Categories and named columns on their way: from the options to the study's record, and back for a verification."""

import json
from dataclasses import replace

import pytest
from profiles import profile_data
from studies import cost_table, make_study

from postdiff_calib.errors import PromptError
from postdiff_calib.jobs.calibrate import set_up
from postdiff_calib.jobs.fresh import fresh_prompts
from postdiff_calib.jobs.given import NOTHING
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.jobs.materials import materials_of
from postdiff_calib.jobs.new_record import record_of
from postdiff_calib.models.load import load_pipeline
from postdiff_calib.profile import Profile
from postdiff_calib.prompts import Columns, draw, load_prompt_set
from postdiff_calib.study.asked import Asked

COLUMNS = Columns("wish", "kind")


@pytest.fixture
def kinds(tmp_path):
    """Prompt → kind of 60 captions, in a file whose columns have other names than the usual ones."""
    captions = load_prompt_set("shapes").prompts[:60]
    found = {text: ("one", "two")[i % 2] for i, text in enumerate(captions)}
    rows = [json.dumps({"wish": text, "kind": kind}) for text, kind in found.items()]
    (tmp_path / "kinds.jsonl").write_text("\n".join(rows))
    return found


def test_a_record_has_the_category_of_every_held_out_prompt(tmp_path, kinds):
    path = str(tmp_path / "kinds.jsonl")
    job = CalibrateJob(prompts=path, column="wish", category="kind", num_prompts=20, trials=4, study=tmp_path / "s")
    materials = materials_of(job, NOTHING)
    bench = set_up(job, load_pipeline("shapes", device="cpu", dtype="float32"), materials)
    record = record_of(job, bench, materials.prompt_set.name, cost_table())
    assert record.held_out_categories == tuple(kinds[prompt] for prompt in record.held_out)
    assert sorted(record.held_out_categories) == ["one"] * 10 + ["two"] * 10
    assert (record.asked.column, record.asked.category) == ("wish", "kind")
    assert Asked.from_dict(record.asked.as_dict()) == record.asked


def test_a_profile_of_before_that_was_drawn_without_categories_still_finds_fresh_prompts(tmp_path):
    path = tmp_path / "set.jsonl"
    rows = [{"prompt": f"p{i}", "category": "ab"[i % 3 == 0]} for i in range(60)]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = load_prompt_set(path)
    calibration, held_out = draw(replace(found, categories={}), 20, 0)
    assert held_out.prompts != draw(found, 20, 0)[1].prompts
    data = profile_data()
    data["evidence"] |= {
        "prompt_set_sha256": calibration.sha256,
        "held_out_sha256": held_out.sha256,
        "num_prompts": 20,
        "seed": 0,
        "study": str(tmp_path / "s"),
    }
    fresh = fresh_prompts(Profile.model_validate(data), 30, str(path))
    assert set(fresh.prompts) == set(found) - {*calibration, *held_out}


def test_fresh_prompts_are_read_by_the_columns_of_the_study(tmp_path, kinds):
    path = str(tmp_path / "kinds.jsonl")
    calibration, held_out = draw(load_prompt_set(path, COLUMNS), 20, 0)
    data = profile_data()
    data["evidence"] |= {
        "prompt_set": "kinds",
        "prompt_set_sha256": calibration.sha256,
        "held_out_sha256": held_out.sha256,
        "num_prompts": 20,
        "seed": 0,
        "study": str(tmp_path / "s"),
    }
    profile = Profile.model_validate(data)
    rest = set(kinds) - {*calibration, *held_out}
    assert set(fresh_prompts(profile, 30, path, COLUMNS).prompts) == rest
    with pytest.raises(PromptError, match="no text under 'prompt'"):
        fresh_prompts(profile, 30, path)  # the study is not here, so nothing says which columns
    asked = Asked("shapes", CalibrateJob().budget, 4, 0, path, "wish", "kind")
    make_study(tmp_path / "s", scores=False, asked=asked, held_out=False).save()
    record = json.loads((tmp_path / "s" / "study.json").read_text())
    (tmp_path / "s" / "study.json").write_text(json.dumps({**record, "held_out": list(held_out)}))
    assert set(fresh_prompts(profile, 30).prompts) == rest
