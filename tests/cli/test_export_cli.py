"""The commands export, compare and profile: what a person sees, what a script reads, and faults in one line."""

import json

import pytest
import yaml
from profiles import profile_data
from studies import make_study

from postdiff_calib.cli.main import main
from postdiff_calib.profile import json_schema, load_profile
from postdiff_calib.report.wording import result_text, results

#: The made-up study's, first in what each command says.
BASELINE = "baseline: 20 steps DDIMScheduler, guidance 3.6, 64×64"


def run(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in argv])
    out = capsys.readouterr()
    return stop.value.code or 0, out.out, out.err


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_study(tmp_path / "study")
    return tmp_path


def test_export_prints_what_it_promises_and_what_is_thin(capsys, here):
    code, out, _ = run(capsys, "export", "study", "--budget", "38%", "--out", "fast.yaml")
    assert code == 0
    assert out.startswith(f"{BASELINE}\n")
    assert "T=12 k=2" in out
    assert "note: The budget of 38% was not searched" in out
    assert "the study's own command with --budget 38%" in " ".join(out.split())
    assert "written to fast.yaml" in out
    assert load_profile("fast.yaml").budget.text == "38%"
    code, out, _ = run(capsys, "export", "study")
    assert code == 0
    profile = load_profile("profile.yaml")
    assert result_text(results(profile)[0]) in out
    assert f"{profile.expected.verdict} on 60 held-out prompts" in out
    assert "not searched" not in out
    assert "No image" not in out
    assert profile.budget.text == "60%"


def test_export_without_held_out_scores_promises_nothing(capsys, here):
    make_study(here / "other", held_out=False)
    code, out, _ = run(capsys, "export", "other")
    assert code == 0
    assert "note: The plan was chosen and judged on the same prompts of the search" in out
    assert "on 80 calibration prompts" in out
    assert "No image was made." in out
    assert load_profile("profile.yaml").expected.verdict in ("undecided", "worse")


def test_export_replaces_only_what_it_wrote(capsys, here):
    other = here / "mine.yaml"
    other.write_text("my own notes")
    code, out, err = run(capsys, "export", "study", "--out", "mine.yaml")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "output mine.yaml: it is there already" in err
    assert "--force" in err
    assert other.read_text() == "my own notes"
    # one of several is enough: nothing is written
    (here / "p-60pct.yaml").write_text("mine too")
    code, _, err = run(capsys, "export", "study", "--budgets", "40%,60%", "--out", "p.yaml")
    assert (code, "p-60pct.yaml" in err) == (2, True)
    assert not (here / "p-40pct.yaml").exists()
    assert run(capsys, "export", "study", "--out", "mine.yaml", "--force")[0] == 0
    written = other.read_text()
    assert load_profile("mine.yaml").budget.text == "60%"
    # its own file is replaced by another budget's, from wherever it is named
    assert run(capsys, "export", "study", "--out", str(other), "--budget", "40%")[0] == 0
    assert load_profile("mine.yaml").budget.text == "40%"
    # one that was edited since is not
    other.write_text(other.read_text() + "# edited\n")
    assert run(capsys, "export", "study", "--out", "mine.yaml")[0] == 2
    # what would stay as it is may be there, whoever wrote it
    other.write_text(written)
    assert run(capsys, "export", "study", "--out", "mine.yaml")[0] == 0
    # the list of what was written is the study's own file, and a damaged one is none
    assert run(capsys, "export", "study", "--out", "study/exported.json")[0] == 2
    (here / "study" / "exported.json").write_text("{")
    assert run(capsys, "export", "study", "--out", "mine.yaml", "--budget", "40%")[0] == 2


def test_export_for_a_script(capsys, here):
    code, out, _ = run(
        capsys, "export", "study", "--budgets", "40%,60%", "--out", "p.py", "--format", "python", "--json"
    )
    assert code == 0
    assert json.loads(out)["baseline"] == BASELINE
    files = json.loads(out)["files"]
    assert [file["path"] for file in files] == ["p-40pct.py", "p-60pct.py"]
    assert files[0]["profile"]["budget"]["text"] == "40%"
    for file in files:
        compile((here / file["path"]).read_text(encoding="utf-8"), file["path"], "exec")


@pytest.mark.parametrize(
    ("file_format", "name"), [("yaml", "p.yml"), ("yaml", "p"), ("json", "p.JSON"), ("python", "p")]
)
def test_an_ending_is_the_formats_own_or_none(capsys, here, file_format, name):
    assert run(capsys, "export", "study", "--format", file_format, "--out", name)[0] == 0
    assert (here / name).exists()


def test_compare_a_study(capsys, here):
    pytest.importorskip("matplotlib")
    code, out, _ = run(capsys, "compare", "study", "--plot", "c.png")
    assert code == 0
    baseline, answer = out.splitlines()[:2]
    assert baseline == BASELINE
    assert answer.startswith("Step reduction or cheaper steps?")
    assert (here / "c.png").exists()
    code, out, _ = run(capsys, "compare", "study", "--budgets", "40%,60%", "--json")
    assert code == 0
    data = json.loads(out)
    assert [row["winner"] for row in data["rows"]] == ["step_reduction", "cheaper_steps"]
    assert data["crossover"] == pytest.approx([0.4, 0.6])
    assert data["answer"].endswith(".")
    assert data["baseline"]["text"] == BASELINE
    code, out, _ = run(capsys, "compare", "study", "--budgets", "1%")
    assert code == 0
    answer = out.splitlines()[1]
    assert answer.startswith("Step reduction or cheaper steps? Not searched at 1% of the baseline's MACs.")


def test_compare_two_profiles(capsys, here):
    run(capsys, "export", "study", "--budgets", "40%,60%", "--out", "p.yaml")
    code, out, _ = run(capsys, "compare", "p-40pct.yaml", "p-60pct.yaml")
    assert code == 0
    assert out.startswith(f"{BASELINE}\n")
    assert "Second minus first: CLIP score +0.35" in out
    make_study(here / "other", held_out=False)
    run(capsys, "export", "other", "--out", "q.yaml")
    code, out, _ = run(capsys, "compare", "p-40pct.yaml", "q.yaml")
    assert "warning: the profiles are of different prompts" in out
    code, out, _ = run(capsys, "compare", "p-40pct.yaml", "q.yaml", "--json")
    data = json.loads(out)
    assert "budget" in data["differs"]
    assert "model" not in data["differs"]
    assert [one["baseline"] for one in data["profiles"]] == [BASELINE, BASELINE]
    assert len(data["warnings"]) == 1


def test_profile_show_and_schema(capsys, here):
    run(capsys, "export", "study", "--out", "p.yaml")
    code, out, _ = run(capsys, "profile", "show", "p.yaml")
    assert code == 0
    assert "held-out prompts" in out
    assert "Step reduction or cheaper steps?" in out
    assert "minimum detectable difference" in out
    code, out, _ = run(capsys, "profile", "show", "p.yaml", "--json")
    assert json.loads(out) == {"schema": "postdiff.profile/1", **load_profile("p.yaml").to_dict()}
    code, out, _ = run(capsys, "profile", "schema")
    assert code == 0
    assert json.loads(out) == json_schema()


def test_profile_show_names_line_and_key(capsys, here):
    data = profile_data()
    data["knobs"]["cache_interval"] = "two"
    text = yaml.safe_dump(data, sort_keys=False)
    line = next(i for i, line in enumerate(text.splitlines(), 1) if "cache_interval" in line)
    (here / "bad.yaml").write_text(text)
    code, out, err = run(capsys, "profile", "show", "bad.yaml")
    assert (code, out) == (2, "")
    assert f"bad.yaml, line {line}, knobs.cache_interval" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["export", "none"], "none"),
        (["export", "study", "--budget", "1%"], "17.6%"),
        (["export", "study", "--budget", "soon"], "soon"),
        (["export", "study", "--budgets", "40%,,60%"], "budget ''"),
        (["export", "study", "--format", "toml"], "toml"),
        (["export", "study", "--out", "."], "folder"),
        (["export", "study", "--out", "study/study.json/p.yaml"], "cannot be written"),
        (["export", "study", "--latency-table", "none.json"], "none.json"),
        (["export", "study", "--delta", "-1"], "delta"),
        (["compare", "none"], "none"),
        (["compare", "study", "--budgets", "40%,9ms"], "not in both"),
        (["compare", "study", "--plot", "none/c.png"], "c.png"),
        (["compare", "study", "study"], "cannot be read"),
        (["compare", "a", "b", "c"], "3 paths"),
        (["compare", "a.yaml", "b.yaml", "--plot", "c.png"], "--plot"),
        (["profile", "show", "none.yaml"], "none.yaml"),
    ],
)
def test_a_fault_is_one_line_and_exit_code_two(capsys, here, argv, says):
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert says in err
    assert err.startswith("postdiff: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", [["export"], ["compare"], ["profile", "show"], ["profile", "schema"]])
def test_help_has_an_example(capsys, command):
    code, out, _ = run(capsys, *command, "--help")
    assert code == 0
    assert f"Example: postdiff {' '.join(command)}" in " ".join(out.split())
