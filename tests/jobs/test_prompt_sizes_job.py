"""``postdiff prompts study`` on folders made without a model."""

import json

import pytest
from studies import make_study

from postdiff_calib.cli.main import main
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan


def run(capsys, *argv):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in ("prompts", "study", *argv)])
    return ended.value.code, *capsys.readouterr()


def ablation(folder, losses, count=60):
    """Settings that lose so much on every prompt."""
    folder.mkdir()
    (folder / "about.json").write_text(json.dumps({"study": "ablation"}))
    with (folder / "scores.jsonl").open("w") as file:
        for k, loss in losses.items():
            knobs = Knobs(20, cache_interval=k)
            scores = [50 + 7 * (i % 5) - loss for i in range(count)]
            block = {"plan": compile_plan(knobs).plan_id, "knobs": knobs.as_dict(), "prompts": list(range(count))}
            file.write(json.dumps({**block, "scores": scores}) + "\n")


def test_an_ablations_settings_are_ranked(tmp_path, capsys):
    folder, out = tmp_path / "s", tmp_path / "r.json"
    ablation(folder, {1: 0.0, 2: 0.2, 3: 1.0})
    code, printed, _ = run(capsys, folder, "--sizes", "100,50,30", "--delta", 0.1, "--out", out, "--json")
    assert code == 0
    data = json.loads(printed)
    assert data == json.loads(out.read_text())
    assert (data["settings"], data["num_prompts"], data["recommended"]) == (3, 60, 30)
    assert [(row["tau"], row["extrapolated"]) for row in data["sizes"]] == [(1.0, False), (1.0, False), (1.0, True)]
    assert out.with_suffix(".png").exists()
    code, printed, _ = run(capsys, folder, "--sizes", "50,100")
    assert code == 0
    assert "100, extrapolated" in printed
    assert "60 scored prompts are too few to recommend a size of 50 or more" in " ".join(printed.split())
    assert "The paper (SD1.5), figure 3" in printed


def test_a_calibrations_plans_are_ranked(tmp_path, capsys):
    study = make_study(tmp_path / "s")
    code, printed, _ = run(capsys, study.folder, "--sizes", "50", "--out", tmp_path / "r.json", "--json")
    assert code == 0
    data = json.loads(printed)
    assert data["settings"] >= 3
    assert 0 < data["sizes"][0]["tau"] <= 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--sizes", "50,few"), "'few' is no whole number"),
        (("--metric", "beauty"), "metrics are clip"),
        (("--delta", "-1"), "above 0"),
        (("--chance", "2"), "between 0 and 1"),
    ],
)
def test_nonsense_is_refused(tmp_path, capsys, argv, said):
    ablation(tmp_path / "s", {1: 0.0, 2: 0.2, 3: 1.0})
    code, _, line = run(capsys, tmp_path / "s", *argv)
    assert code == 2
    assert said in line


def test_two_settings_and_no_study_are_refused(tmp_path, capsys):
    ablation(tmp_path / "s", {1: 0.0, 2: 0.2})
    code, _, line = run(capsys, tmp_path / "s")
    assert (code, "2 settings are scored on every prompt" in line) == (2, True)
    code, _, line = run(capsys, tmp_path / "nothing")
    assert (code, "make it: postdiff calibrate" in line) == (2, True)
    ablation(tmp_path / "t", {})
    code, _, line = run(capsys, tmp_path / "t")
    assert (code, "no scores yet" in line) == (2, True)
