"""``postdiff grid``: baseline and the best plan of each budget, on the first held-out prompts."""

import pytest
from PIL import Image
from report_study import make_study

from postdiff_calib.cli.main import main
from postdiff_calib.cost.budget import parse_budget
from postdiff_calib.report.grid import GridJob, grid_rows, run_grid
from postdiff_calib.report.html.images import Album

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """With an image of a colour of its own for each row of 60 % and 25 %."""
    study = make_study(tmp_path_factory.mktemp("grid") / "study")
    album = Album(study, held_out=True)
    for row, colour in zip(grid_rows(study, "60%,25%"), COLOURS, strict=False):
        for index in range(3):
            path = album.path(row.knobs, index)
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (64, 64), colour).save(path)
    return study


def test_rows_are_the_baseline_and_the_plan_of_each_budget_cheapest_first(study):
    rows = grid_rows(study, "60%,25%")
    plans = [study.conclude(parse_budget(text)) for text in ("25%", "60%")]
    assert [row.knobs for row in rows] == [study.record.baseline, *(profile.knobs for profile in plans)]
    assert rows[0].label == "baseline\n20 full steps"
    for row, profile, text in zip(rows[1:], plans, ("25%", "60%"), strict=True):
        assert row.label == f"{text}: {1 / profile.expected.relative_macs:.2f}× in compute\n{profile.words}"


def test_the_image_has_a_row_for_each_and_a_column_for_each_prompt(study, tmp_path, monkeypatch, capsys):
    def never(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("postdiff_calib.models.load.load_pipeline", never)
    drawn = run_grid(GridJob(study.folder, "60%,25%", tmp_path / "g.png", num_prompts=3))
    out = drawn.path
    sheet = Image.open(out)
    # three images of 128 pixels beside each other, and three below each other
    left, step = sheet.width - 3 * 132, 132
    for row in range(3):
        for column in range(3):
            assert sheet.getpixel((left + column * step + 64, row * step + 64)) == COLOURS[row]
    with pytest.raises(SystemExit) as stop:
        main(["grid", str(study.folder), "--budgets", "60%,25%", "--num-prompts", "3", "--out", str(out), "--quiet"])
    assert stop.value.code in (None, 0)
    baseline = "baseline: 20 steps DPMSolverMultistepScheduler, guidance 4, 64×64"
    assert drawn.baseline == baseline
    assert capsys.readouterr().out.splitlines() == [baseline, f"drawn into {out}"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--num-prompts", "0"], "held-out prompts"),
        (["--num-prompts", "61"], "the study has 60 held-out prompts"),
        (["--budgets", "1%"], "1%"),
        (["--budgets", "soon"], "soon"),
        (["--out", "g.txt"], "g.txt"),
        (["--out", "g.svg"], ".webp"),
    ],
)
def test_faults_are_one_line(study, tmp_path, monkeypatch, capsys, given, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["grid", str(study.folder), "--quiet", *given])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
