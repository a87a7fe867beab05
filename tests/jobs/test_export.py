"""A study's scores give a profile for any budget and machine, and scripts that make the very same images."""

import ast
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from PIL import Image
from profiles import profile_data
from studies import BASELINE, EasyMeter, cost_table, latency, make_study

from postdiff_calib.cost.budget import parse_budgets
from postdiff_calib.cost.macs import Macs
from postdiff_calib.cost.store import write_json
from postdiff_calib.errors import BudgetError, ModelError, OutputError, ProfileError, StudyError, UsageError
from postdiff_calib.jobs.export import ExportJob, as_json, run_export
from postdiff_calib.jobs.scripts import diffusers_script, python_script
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.profile import Profile, TimesSection, json_schema, load_profile, parse_profile
from postdiff_calib.profile.sections import EvidenceSection
from postdiff_calib.search.unfound import Unfound
from postdiff_calib.study.arms import compare_arms
from postdiff_calib.study.record import Study

SCHEMA = Path(__file__).parents[2] / "postdiff_calib" / "profile" / "profile.schema.json"
COMMIT = "0123456789" * 4
NASTY = 'a"""\'\n\\x {0} %s\nimport os; os.abort() #'


@pytest.fixture
def study(tmp_path):
    return make_study(tmp_path / "study").folder


def export(study, **options):
    return run_export(ExportJob(study, **{"out": study.parent / "p.yaml", **options}))


def test_another_budget_is_concluded_from_the_scores(study):
    (fast,) = export(study, budget="48%")
    assert fast.profile.knobs == Knobs(20, cache_interval=3)
    assert fast.profile.expected.difference.mean == pytest.approx(-0.1)
    assert fast.profile.expected.relative_macs == pytest.approx(0.48)
    assert load_profile(fast.path) == fast.profile
    (own,) = export(study)
    assert own.profile.budget.text == "60%"
    assert own.profile.knobs == Knobs(20, cache_interval=2)


def test_thin_evidence_is_told_apart(study):
    (own,) = export(study)
    assert own.profile.expected.confirmed
    assert own.profile.expected.difference.num_prompts == 60
    assert [note[:21] for note in own.profile.evidence.notes] == ["Quality is judged by "]
    (searched,) = export(study, budget="40%")
    assert searched.profile.expected.confirmed
    (other,) = export(study, budget="48%")
    assert other.profile.expected.confirmed
    assert sum(note.startswith("The budget of 48% was not searched") for note in other.profile.evidence.notes) == 1
    (whole,) = export(study, budget="100%")
    assert whole.profile.knobs == BASELINE
    assert any("The budget of 100% was not searched" in note for note in whole.profile.evidence.notes)


def test_what_is_not_confirmed_is_never_better_or_equivalent(tmp_path):
    study = make_study(tmp_path / "study", held_out=False).folder
    verdicts = []
    for budget in ("25%", "40%", "60%", "100%"):
        (file,) = export(study, budget=budget)
        assert not file.profile.expected.confirmed
        assert file.profile.expected.difference.num_prompts == 80
        assert any("same prompts of the search" in note for note in file.profile.evidence.notes)
        verdicts.append(file.profile.expected.verdict)
    assert verdicts == ["worse", "worse", "undecided", "undecided"]


def test_several_budgets_go_to_a_file_each(study):
    files = export(study, budgets="40%, 90ms,1.25x", format="json", out=study.parent / "p.json")
    assert [file.path.name for file in files] == ["p-40pct.json", "p-90ms.json", "p-1.25x.json"]
    assert [file.profile.budget.kind for file in files] == ["macs", "seconds", "seconds"]
    assert all(load_profile(file.path) == file.profile for file in files)


def test_nothing_is_written_when_one_budget_fails(study):
    with pytest.raises(BudgetError, match="1%"):
        export(study, budgets="40%,1%")
    assert [path.name for path in study.parent.iterdir()] == ["study"]


def test_what_is_reachable_is_said(study):
    with pytest.raises(BudgetError, match=r"the cheapest that is \(T=20 k=10 m=0.25\) costs 7.02 kMACs, 17.6% of the"):
        export(study, budget="10%")


def test_delta_decides_what_is_equivalent(study):
    assert export(study, budget="48%", delta=("0.5",))[0].profile.expected.verdict == "equivalent"
    assert export(study, budget="48%", delta=("clip=0.001",))[0].profile.expected.verdict in ("worse", "undecided")
    with pytest.raises(UsageError, match="--delta 0: it must be above 0"):
        export(study, delta=("0",))
    with pytest.raises(UsageError, match="the metrics of this study are clip"):
        export(study, delta=("scene=1",))


def test_two_metrics_are_stated_and_their_deltas_can_be_set(tmp_path):
    study = make_study(tmp_path / "study", scene=True).folder
    (own,) = export(study)
    assert [m.metric for m in own.profile.expected.metrics] == ["clip", "scene"]
    assert [m.delta for m in own.profile.expected.metrics] == [0.5, 0.02]
    assert own.profile.expected.metrics[1].difference.mean == pytest.approx(-0.0025)  # a twentieth of 0.05
    assert own.profile.expected.verdict == "equivalent"
    (strict,) = export(study, delta=("scene=0.001",))
    assert [m.delta for m in strict.profile.expected.metrics] == [0.5, 0.001]
    assert strict.profile.expected.verdict == "undecided"
    assert own.profile.tradeoff.rows[2].unit == "spreads"
    assert own.profile.tradeoff.rows[2].metrics["scene"].mean == pytest.approx(0.0275)


def test_another_machine_does_not_inherit_searches_in_seconds(tmp_path):
    study = make_study(tmp_path / "study", budget="24ms per image").folder
    table = table_file(tmp_path / "h100.json", latency(1e-9, "H100"))
    (here,) = export(study, budget="24ms per image")
    assert here.profile.tradeoff.crossover is not None
    assert not any("not searched" in note for note in here.profile.evidence.notes)
    (there,) = export(study, budget="0.024ms per image", latency_table=table)
    assert there.profile.knobs == here.profile.knobs
    assert [row.winner for row in there.profile.tradeoff.rows] == ["undecided"]
    assert any("was not searched" in note for note in there.profile.evidence.notes)


def table_file(path, times, **changes):
    write_json(path, cost_table(times, **changes).as_dict())
    return path


def test_another_machines_table_prices_the_same_scores(study):
    table = table_file(study.parent / "h100.json", latency(1e-9, "H100", dtype="float16"))
    # The baseline's 40,000 MACs take 40 ms here and 40 µs there.
    with pytest.raises(BudgetError, match=r"costs 7.02 ms"):
        export(study, budget="0.024ms per image")
    (fast,) = export(study, budget="0.024ms per image", latency_table=table)
    assert fast.profile.knobs == Knobs(20, cache_interval=2)
    assert fast.profile.times.plan.per_image == pytest.approx(24e-6)
    assert fast.profile.times.plan.call == pytest.approx(240e-6)
    assert fast.profile.times.device == "H100"
    assert fast.profile.model.dtype == "float32"
    assert "The seconds are of float16, the scores of float32." in fast.profile.times.notes
    (here,) = export(study, budget="24ms per image")
    assert here.profile.times.device == "this machine"
    assert here.profile.knobs == fast.profile.knobs


def test_a_table_of_calls_of_another_size_says_so(study):
    table = table_file(study.parent / "t.json", replace(latency(1e-9, "H100"), batch_size=4))
    (made,) = export(study, budget="0.096ms", latency_table=table)
    assert made.profile.budget.batch_size == 4
    assert made.profile.times.plan.call == pytest.approx(4 * made.profile.times.plan.per_image)
    note = "The seconds are of calls of 4 images, the study's own of 10 images: a call takes another time."
    assert note in made.profile.times.notes
    (own,) = export(study, budget="240ms")
    assert not any("calls of" in note for note in own.profile.times.notes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "sd15"}, "model is sd15"),
        ({"height": 128}, "size is 128×64"),
        ({"latent_multiple": 4}, "multiple is 4"),
    ],
)
def test_a_table_of_something_else_is_refused(study, change, says):
    with pytest.raises(ModelError, match=says):
        export(study, latency_table=table_file(study.parent / "t.json", latency(1e-9), **change))


def test_a_table_of_another_network_is_refused(study, monkeypatch):
    monkeypatch.setattr(EasyMeter, "step", lambda self, key: Macs(conv=7))
    with pytest.raises(ModelError, match=r"step is 7 MACs, the study's 2,000"):
        export(study, latency_table=table_file(study.parent / "t.json", None))


def test_a_table_without_seconds_serves_macs_only(study):
    table = table_file(study.parent / "t.json", None)
    with pytest.raises(StudyError, match="holds no seconds"):
        export(study, budget="24ms per image", latency_table=table)
    (profile,) = (file.profile for file in export(study, budget="60%", latency_table=table))
    assert profile.times == TimesSection()


@pytest.mark.parametrize("text", ["[]", "{}", "not json"])
def test_what_is_no_table_is_refused(study, text):
    (study.parent / "t.json").write_text(text)
    with pytest.raises(ModelError, match="cost table"):
        export(study, latency_table=study.parent / "t.json")


def test_faults(study, tmp_path):
    with pytest.raises(UsageError, match="formats are yaml, json, python, diffusers"):
        export(study, format="toml")
    with pytest.raises(UsageError, match="same thing"):
        export(study, budget="60%", budgets="40%")
    with pytest.raises(StudyError, match=r"no readable study\.json"):
        export(tmp_path / "none")
    with pytest.raises(StudyError, match="holds no scores"):
        export(make_study(tmp_path / "empty", scores=False).folder)
    with pytest.raises(OutputError, match="it is a folder"):
        export(study, out=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        export(study, out=tmp_path / "file" / "p.yaml")


def test_a_password_is_never_kept(tmp_path):
    address = "postgresql+psycopg://me:s3cr@t@host:5432/db?sslmode=on&password=s3cret2"
    data = profile_data()
    evidence = {**data["evidence"], "study": address}
    made = make_study(tmp_path / "study")
    section, asked = EvidenceSection.model_validate(evidence), replace(made.record.asked, prompts=address)
    study = Study(made.folder, replace(made.record, evidence=section, asked=asked))
    study.save()
    text = (made.folder / "study.json").read_text()
    assert "s3cr" not in text
    assert "@t@" not in text
    assert "postgresql+psycopg://me:***@host:5432/db?sslmode=on&password=***" in text
    again = Profile.model_validate({**data, "evidence": evidence})
    assert again.evidence.study == "postgresql+psycopg://me:***@host:5432/db?sslmode=on&password=***"
    for form in (again.to_yaml(), as_json(again), python_script(again)):
        assert "s3cr" not in form
    # What is no password stays: ports, folders, hub ids, e-mail addresses, prompts.
    for plain in ("postgresql://host:5432/db", "studies/a@b", "owner/name", "C:/studies/x", "me@host.org"):
        assert Profile.model_validate({**data, "evidence": {**evidence, "study": plain}}).evidence.study == plain
    prompt = "a sign that says http://me:word@home"
    assert replace(made.record, calibration=(prompt,)).as_dict()["calibration"] == [prompt]


def test_json_reads_back_where_yaml_would_not():
    data = profile_data()
    data["times"]["plan"]["per_image"] = 1e-05
    profile = Profile.model_validate(data)
    assert "1e-05" in as_json(profile)
    assert parse_profile(as_json(profile)) == profile


def test_the_shipped_schema_is_the_codes_and_accepts_a_written_profile(study):
    shipped = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert shipped == json_schema(), "postdiff profile schema > postdiff_calib/profile/profile.schema.json"
    jsonschema.Draft202012Validator.check_schema(shipped)
    (file,) = export(study, format="json", out=study.parent / "p.json")
    jsonschema.validate(json.loads(file.path.read_text(encoding="utf-8")), shipped)


def constants(script):
    tree = ast.parse(script)
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper()
        if not isinstance(node.value, ast.Call)
    }


def test_text_of_a_profile_enters_a_script_as_text_only():
    data = profile_data()
    data["model"] |= {"id": NASTY, "card": None, "revision": COMMIT}
    data["budget"]["text"] = NASTY
    profile = Profile.model_validate(data)
    for script in (python_script(profile), diffusers_script(profile)):
        found = constants(script)
        assert found["MODEL"] == NASTY
        assert NASTY in found["ABOUT"]
        called = {ast.unparse(node.func) for node in ast.walk(ast.parse(script)) if isinstance(node, ast.Call)}
        assert "os.abort" not in called
    assert found["REVISION"] == COMMIT
    for key in ("pipeline_class", "scheduler", "dtype"):
        bad = {**data, "model": {**data["model"], key: "x; import os"}}
        with pytest.raises(ProfileError, match="not a name"):
            diffusers_script(Profile.model_validate(bad))


def test_a_hub_models_script_is_plain_diffusers():
    data = profile_data(Knobs(10, cache_interval=2))
    data["model"] |= {"id": "owner/name", "card": "sd15", "revision": COMMIT, "dtype": "float16"}
    script = diffusers_script(Profile.model_validate(data))
    lines = [line for line in script.splitlines() if "postdiff_calib" in line]
    assert lines == ["from postdiff_calib import Knobs, enable"]
    assert "DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, algorithm_type='dpmsolver++'" in script
    assert "dtype=torch.float16" in script
    assert "revision=REVISION" in script
    assert "safety_checker=None" in script
    found = constants(script)
    assert (found["HEIGHT"], found["WIDTH"], found["GUIDANCE_SCALE"]) == (64, 64, 4.0)
    data["model"] |= {"card": "sdxl-lcm", "pipeline_class": "StableDiffusionXLPipeline", "scheduler": "LCMScheduler"}
    data["model"]["unet_revision"] = COMMIT
    script = diffusers_script(Profile.model_validate(data))
    assert "unet=unet" in script
    assert constants(script)["UNET"] == "latent-consistency/lcm-sdxl"
    assert constants(script)["UNET_REVISION"] == COMMIT
    assert "safety_checker" not in script


#: Runs a script where the packages that only a search or a command line needs are not to be found.
DEPLOYED = """
import importlib.machinery, runpy, sys
absent = {"optuna", "typer", "rich", "sqlalchemy", "alembic", "open_clip", "torchmetrics", "fvcore", "scipy", "jinja2"}
absent |= {"matplotlib", "pydantic", "psycopg"}
find = importlib.machinery.PathFinder.find_spec
def without(name, *more):
    return None if name.partition(".")[0] in absent else find(name, *more)
importlib.machinery.PathFinder.find_spec = without
try:
    import optuna
except ImportError:
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
    assert not absent & sys.modules.keys()
"""


def run_script(script, folder, *arguments):
    path = folder / "script.py"
    path.write_text(script, encoding="utf-8")
    command = [sys.executable, "-W", "error::SyntaxWarning", "-c", DEPLOYED, path.name, *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, check=False)
    assert result.returncode == 0, result.stderr
    return np.array(Image.open(folder / "image.png"))


def pixels(pipe, profile, prompt, seed):
    from postdiff_calib.generate.images import generate

    settings = replace(profile.generation, batch_size=1)
    (image,) = generate(pipe, profile.knobs, [prompt], [seed], settings)
    return (image[0] * 255).round().byte().permute(1, 2, 0).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("write", [python_script, diffusers_script])
def test_a_script_makes_the_calibrated_image(write, tmp_path):
    from postdiff_calib.models.load import load_pipeline

    data = profile_data(Knobs(6, 0.3, 0.5, 2, 0.75))
    data["model"] |= {"scheduler": "DDIMScheduler", "guidance_scale": 3.6}
    profile = Profile.model_validate(data)
    prompt = 'a large "red" circle on a white background'
    found = run_script(write(profile), tmp_path, prompt, "--seed", "7")
    pipe = load_pipeline("shapes", device="cpu", dtype="float32").pipe
    expected = pixels(pipe, profile, prompt, 7)
    assert expected.std() > 10
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("write", [python_script, diffusers_script])
def test_a_script_loads_what_was_merged_and_replaced(write):
    data = profile_data()
    data["model"] |= {"loras": ["style.safetensors:0.8"], "vae": "my_vae", "variant": "fp16"}
    script = write(Profile.model_validate(data))
    assert "DeploymentSettings(loras=('style.safetensors:0.8',), vae='my_vae', variant='fp16')" in script
    assert "load_pipeline(MODEL, dtype=DTYPE, settings=settings)" in script
    data["model"] |= {"loras": [], "vae": None, "variant": None, "id": "a.safetensors", "card": None}
    data["model"] |= {"revision": "local"}
    script = write(Profile.model_validate(data))
    assert "MODEL = 'a.safetensors'" in script
    assert "load_pipeline(MODEL, dtype=DTYPE).pipe" in script


def test_a_script_of_a_local_pipeline(tmp_path):
    import pipelines

    from postdiff_calib.models.load import load_pipeline

    folder = tmp_path / "model"
    pipelines.sd("pndm").save_pretrained(folder, safe_serialization=True)
    loaded = load_pipeline(str(folder), device="cpu", dtype="float32")
    data = profile_data(Knobs(4, cache_interval=2))
    data["model"] |= {
        "id": str(folder),
        "card": None,
        "revision": "local",
        "pipeline_class": type(loaded.pipe).__name__,
        "scheduler": type(loaded.pipe.scheduler).__name__,
    }
    profile = Profile.model_validate(data)
    found = run_script(diffusers_script(profile), tmp_path, "a red circle", "--seed", "3")
    np.testing.assert_array_equal(found, pixels(loaded.pipe, profile, "a red circle", 3))


def test_the_question_at_every_budget(study):
    tradeoff = compare_arms(Study.load(study))
    assert [row.share for row in tradeoff.rows] == pytest.approx([0.25, 0.4, 0.6, 0.8])
    low, medium, own, high = tradeoff.rows
    assert [row.winner for row in tradeoff.rows] == [
        "step_reduction",
        "step_reduction",
        "cheaper_steps",
        "cheaper_steps",
    ]
    assert medium.step_reduction.difference.mean == pytest.approx(-0.8)
    assert medium.cheaper_steps_minus_step_reduction.mean == pytest.approx(-1.2)
    assert medium.combined.knobs == "T=12 k=2"
    assert (low.step_reduction.knobs, low.cheaper_steps.knobs) == ("T=5", "T=20 k=10 m=0.25")
    assert own.cheaper_steps_minus_step_reduction.mean == pytest.approx(0.55)
    assert high.cheaper_steps_minus_step_reduction.mean == pytest.approx(0.25)
    assert all(row.step_reduction.confirmed and row.cheaper_steps.confirmed and row.searched for row in tradeoff.rows)
    profile = export(study)[0].profile
    assert [row.answer for row in profile.tradeoff.rows] == [row.answer for row in tradeoff.rows]


def test_a_budget_that_was_not_searched_decides_nothing(study):
    (row,) = compare_arms(Study.load(study), parse_budgets("48%")).rows
    assert (row.winner, row.searched, row.cheaper_steps_minus_step_reduction) == ("undecided", False, None)
    assert (row.step_reduction.knobs, row.cheaper_steps.knobs) == ("T=8", "T=20 k=3")
    assert "were not searched" in row.answer


def test_plans_that_may_not_have_been_found_keep_a_budget_open(tmp_path):
    study = make_study(tmp_path / "study", widened=Unfound(step_reduction=-1.0))
    own = compare_arms(study).rows[2]
    assert own.winner == "tie"
    assert own.cheaper_steps_minus_step_reduction.low == pytest.approx(-5.0)  # one spread of 5 points
    assert compare_arms(study).crossover == pytest.approx((0.4, 0.8))


def test_the_answer_is_one_sentence(study):
    found = compare_arms(Study.load(study), parse_budgets("18%,25%,40%,60%,80%,100%"))
    assert found.answer == (
        "Step reduction wins at 25% to 40% of the baseline's MACs, cheaper steps win at 60% to 80%, "
        "not searched at 18% and 100%."
    )
    assert found.crossover == pytest.approx((0.4, 0.6))
    assert compare_arms(Study.load(study), parse_budgets("100%")).answer == (
        "Not searched at 100% of the baseline's MACs."
    )


def test_points_and_frontiers(study):
    tradeoff = compare_arms(Study.load(study))
    step_reduction = {point.knobs: point for point in tradeoff.points["step_reduction"]}
    assert list(step_reduction) == ["T=5", "T=8", "T=12", "T=16", "T=20"]
    assert all(point.on_frontier for point in step_reduction.values())
    assert step_reduction["T=8"].share == pytest.approx(0.4)
    combined = {point.knobs: point for point in tradeoff.points["combined"]}
    assert len(combined) == 12
    assert not combined["T=8"].on_frontier
    assert combined["T=12 k=2"].on_frontier
    assert combined["T=12 k=2"].arms == ("combined",)
    # what was not judged is shown by its scores of the search, on a frontier of its own
    assert [knobs for knobs, point in combined.items() if not point.held_out] == ["T=20 s=0.5 β=0.5"]
    assert combined["T=8"].difference.num_prompts == 60
    assert combined["T=20 s=0.5 β=0.5"].difference.num_prompts == 80
    assert combined["T=20 s=0.5 β=0.5"].on_frontier
    json.dumps(tradeoff.as_dict(), allow_nan=False)


def test_budgets_of_one_kind(study):
    loaded = Study.load(study)
    seconds = compare_arms(loaded, parse_budgets("160ms,240ms"))
    assert seconds.kind == "seconds"
    assert seconds.budget_share is None
    assert [row.share for row in seconds.rows] == pytest.approx([0.4, 0.6])
    assert seconds.times[1].cheaper_steps == pytest.approx(0.24)
    with pytest.raises(BudgetError, match="not in both"):
        compare_arms(loaded, parse_budgets("40%,24ms"))
    with pytest.raises(BudgetError, match="not in both"):
        compare_arms(loaded, parse_budgets("240ms,24ms per image"))
    # the study was searched in MACs
    assert [row.winner for row in seconds.rows] == ["undecided", "undecided"]
    cheapest = compare_arms(loaded, parse_budgets("5%,10%"))
    assert all(row.step_reduction is row.cheaper_steps is row.combined is None for row in cheapest.rows)


def test_an_incomplete_study_is_compared_on_what_it_has(tmp_path):
    tradeoff = compare_arms(make_study(tmp_path / "study", held_out=False))
    assert {row.winner for row in tradeoff.rows} == {"undecided"}
    assert tradeoff.points["combined"]
    assert not any(point.held_out for points in tradeoff.points.values() for point in points)
    with pytest.raises(StudyError, match="holds no scores"):
        compare_arms(make_study(tmp_path / "empty", scores=False))


def test_the_fixture_costs_what_it_says():
    table = cost_table()
    shares = [
        table.price(compile_plan(k)).macs / table.price(compile_plan(BASELINE)).macs for k in (Knobs(8), BASELINE)
    ]
    assert shares == [0.4, 1.0]
