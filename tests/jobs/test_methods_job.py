"""``postdiff compare-methods`` on the embedded model, small: files, going on, a price, refusals."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml
from profiles import profile_data

from postdiff_calib.accelerate import foreign
from postdiff_calib.cli.main import main
from postdiff_calib.errors import ProfileError
from postdiff_calib.generate import images
from postdiff_calib.jobs.method_settings import OURS
from postdiff_calib.jobs.methods import refuse_other_pipeline
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.profile import Profile


def run(capsys, *argv):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in ("compare-methods", *argv)])
    return ended.value.code, *capsys.readouterr()


def paper_alone(card, table, profiles):
    """The paper's setting, in four steps."""
    from postdiff_calib.study.methods import Setting

    knobs = Knobs(4, 0.5, 0.5)
    return {OURS: [Setting(OURS, knobs.describe(), table.price(compile_plan(knobs)), knobs)]}


def test_it_compares_draws_and_goes_on(tmp_path, capsys, monkeypatch):
    pytest.importorskip("tomesd")
    monkeypatch.setattr(foreign, "FOREIGN", (replace(foreign.FOREIGN[0], values=(0.5,)), *foreign.FOREIGN[1:]))
    study, out = tmp_path / "s", tmp_path / "r.json"
    base = ("--study", study, "--out", out, "--num-prompts", 2, "--no-measure", "--quiet")
    code, printed, _ = run(capsys, *base, "--budgets", "85%", "--json")
    assert code == 0
    data = json.loads(printed)
    assert data == json.loads(out.read_text())
    rows = {row["method"]: row for row in data["budgets"]["85%"]}
    assert list(rows) == [
        "step reduction",
        "DeepCache",
        "Faster Diffusion",
        "T-GATE",
        "PostDiff, the paper's setting",
        "ToMe",
    ]
    for row in rows.values():
        assert row["why"] or 0.3 < row["share"] <= 0.85
    assert rows["step reduction"]["label"] == "T=17"
    # A setting of the baseline's knobs that is not the baseline differs from its images.
    assert rows["ToMe"]["why"] or rows["ToMe"]["measures"]["ssim"]["mean"] < 1
    assert data["baseline"]["measures"]["ssim"]["mean"] == 1
    assert out.with_suffix(".png").exists()

    before = {path.name: path.stat().st_mtime_ns for path in study.glob("scores*.jsonl")}
    code, printed, _ = run(capsys, *base, "--budgets", "85%")
    assert code == 0
    assert "within 85%" in printed
    assert {path.name: path.stat().st_mtime_ns for path in study.glob("scores*.jsonl")} == before


def test_a_batch_that_does_not_fit_into_memory_is_halved_for_other_packages_too(tmp_path, capsys, monkeypatch):
    pytest.importorskip("tomesd")
    monkeypatch.setattr(foreign, "FOREIGN", (replace(foreign.FOREIGN[0], values=(0.5,)),))
    monkeypatch.setattr("postdiff_calib.jobs.method_study.plan_settings", paper_alone)
    real = images.generate

    def small(pipe, knobs, prompts, seeds, settings):
        if len(prompts) > 2 and settings.batch_size > 1:
            raise RuntimeError("CUDA out of memory")
        return real(pipe, knobs, prompts, seeds, settings)

    monkeypatch.setattr(images, "generate", small)
    argv = ("--study", tmp_path, "--num-prompts", 3, "--quiet", "--json", "--budgets", "99%", "--no-measure")
    code, printed, _ = run(capsys, *argv)
    rows = {row["method"]: row for row in json.loads(printed)["budgets"]["99%"]}
    assert (code, rows["ToMe"]["why"], rows[OURS]["why"]) == (0, "", "")
    assert rows["ToMe"]["measures"]


def test_a_price_makes_nothing(tmp_path, capsys):
    argv = ("--dry-run", "--num-prompts", 10, "--json", "--budgets", "85%", "--study", tmp_path / "s")
    code, printed, _ = run(capsys, *argv)
    found = json.loads(printed)
    # The baseline, five methods that are plans, and ToMe.
    assert (code, found["images"]) == (0, 70)
    assert 40 < found["baseline_images"] < 70
    assert not (tmp_path / "s").exists()


def test_nonsense_is_refused_before_anything_is_loaded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("postdiff_calib.models.load.load_pipeline", lambda *_, **__: pytest.fail("it was loaded"))
    code, _, line = run(capsys, "--study", tmp_path / "s", "--budgets", "fast")
    assert code == 2
    assert "a budget is a number above zero and a unit" in line
    code, _, line = run(capsys, "--study", tmp_path / "s", "--profile", tmp_path / "none.yaml")
    assert (code, "none.yaml: it cannot be read" in line) == (2, True)
    few = tmp_path / "few"
    few.mkdir()
    for reference, says in ((tmp_path / "none", "none"), (few, "2,048"), ("own", "no images of its own")):
        model = "sd15" if reference == "own" else "shapes"
        argv = ("--study", tmp_path / "s", "--model", model, "--fid-reference", reference, "--num-prompts", 2048)
        code, _, line = run(capsys, *argv)
        assert (code, says in line, line.count("\n")) == (2, True, 1), line


def test_a_profile_of_another_pipeline_takes_no_part(tmp_path, capsys, monkeypatch):
    profile = Profile.model_validate(profile_data())
    facts = {"model": None, "generation": profile.generation}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(profile_data()))
    argv = ("--study", tmp_path / "s", "--quiet", "--profile", tmp_path / "p.yaml")
    code, _, line = run(capsys, *argv)
    assert code == 2
    assert "it was calibrated on another pipeline: this one differs in" in line
    assert "weights or configuration (" in line
    monkeypatch.setattr("postdiff_calib.profile.match.mismatches", lambda model, loaded: [])
    for plan, says in ((profile.knobs, ["noise", "switch"]), (Knobs(20, cache_interval=2), [])):
        settings = replace(profile.generation, noise="independent", switch="expand", guidance_scale=1.0)
        bench = SimpleNamespace(loaded=None, settings=settings)
        with pytest.raises(ProfileError) as refused:
            refuse_other_pipeline(tmp_path, SimpleNamespace(**facts, knobs=plan), bench)
        assert re.findall(r"(\w+) \(", refused.value.rule) == ["guidance_scale", *says]
    assert not (tmp_path / "s").exists()


def test_the_way_to_full_size_is_the_study_s(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(foreign, "FOREIGN", ())
    monkeypatch.setattr("postdiff_calib.jobs.method_study.plan_settings", paper_alone)
    base = ("--model", "shapes-flow", "--study", tmp_path, "--num-prompts", 2, "--no-measure", "--quiet", "--json")
    base += ("--budgets", "60%")
    found = {}
    for way in ("expand-own-grid", "renoise"):
        code, printed, _ = run(capsys, *base, "--switch", way, "--fresh")
        found[way] = json.loads(printed)
        assert (code, found[way]["switch"], found[way]["noise"]) == (0, way, "complement")
    first, second = ([row["measures"] for row in one["budgets"]["60%"]] for one in found.values())
    assert first != second
    code, _, line = run(capsys, *base, "--switch", "expand-own-grid")
    assert code == 2
    assert "it was made with other settings" in line
    assert "switch" in line
    code, _, line = run(capsys, "--model", "shapes", "--study", tmp_path / "s", "--quiet", "--switch", "expand")
    assert (code, "expand" in line) == (2, True)
