"""A folder of another study is refused in one line before anything is loaded or locked, and stays as it was."""

import json

import pytest
from studies import make_study

from postdiff_calib.cli.main import main
from postdiff_calib.errors import StudyError
from postdiff_calib.jobs.paper_study import check_folder

#: Each command that keeps a study of its own, and the option that names its folder.
COMMANDS = {
    "judge": (["judge", "--with", "T=4"], "--study"),
    "ablation": (["ablate", "--vary", "k=1,2"], "--study"),
    "redundancy": (["analyze", "redundancy"], "--study"),
    "methods": (["compare-methods", "--budgets", "60%"], "--study"),
    "finetune": (["finetune", "--steps", "1"], "--work"),
}


@pytest.fixture(autouse=True)
def _nothing_is_loaded(monkeypatch):
    def never(*_, **__):
        raise AssertionError("a model or scorer was loaded")

    monkeypatch.setattr("postdiff_calib.models.load.load_pipeline", never)
    monkeypatch.setattr("postdiff_calib.quality.clip.ClipScorer.__init__", never)


def refused(capsys, folder, argv, option):
    """The line that a command says of a folder, which stays byte for byte as it was."""

    def content():
        return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}

    before = content()
    with pytest.raises(SystemExit) as stop:
        main([*argv, option, str(folder)])
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
    assert f"study folder {folder}: " in err
    assert err.endswith(f"give another ({option})\n")
    assert content() == before
    return err


@pytest.mark.parametrize("fresh", [[], ["--fresh"]])
@pytest.mark.parametrize("kind", COMMANDS)
def test_a_calibration_s_folder_is_refused(tmp_path, capsys, kind, fresh):
    study = make_study(tmp_path / "s")
    (study.folder / "study.lock").write_text("process 1 on another host\n")
    argv, option = COMMANDS[kind]
    assert "it holds a calibration" in refused(capsys, study.folder, [*argv, *fresh], option)


@pytest.mark.parametrize("fresh", [[], ["--fresh"]])
@pytest.mark.parametrize("kind", [*COMMANDS, "calibration"])
def test_a_folder_of_another_kind_is_refused(tmp_path, capsys, kind, fresh):
    other = "redundancy" if kind == "ablation" else "ablation"
    (tmp_path / "about.json").write_text(json.dumps({"study": other}))
    (tmp_path / "scores.jsonl").write_text("{}\n")
    argv, option = COMMANDS.get(kind, (["calibrate"], "--study"))
    assert f"it holds another kind of study ({other})" in refused(capsys, tmp_path, [*argv, *fresh], option)


@pytest.mark.parametrize("kind", ["judge", "ablation", "methods"])
def test_scores_of_something_unknown_are_left_alone(tmp_path, capsys, kind):
    (tmp_path / "scores.jsonl").write_text("{}\n")
    argv, option = COMMANDS[kind]
    assert "it holds scores of something else" in refused(capsys, tmp_path, argv, option)


def test_a_damaged_folder_is_refused_as_early_and_taken_over_by_fresh_alone(tmp_path):
    (tmp_path / "about.json").write_text("{")
    with pytest.raises(StudyError, match="it cannot be read"):
        check_folder(tmp_path, "judge", [], fresh=False)
    check_folder(tmp_path, "judge", [], fresh=True)
    (tmp_path / "about.json").write_text("[]")
    with pytest.raises(StudyError, match="it does not say what the study is of"):
        check_folder(tmp_path, "judge", [], fresh=False)
