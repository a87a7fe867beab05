"""Ctrl-C and SIGTERM: one line of what was kept and how to go on, the cursor restored, no confirmed profile lost."""

import io
import os
import signal

import pytest
import typer
from profiles import profile_data
from rich.console import Console

from postdiff_calib.cli.ending import run
from postdiff_calib.cli.main import main
from postdiff_calib.jobs.calibrate import CalibrateResult
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.jobs.stopped import place_for_unfinished, saying_what_is_kept, stopped_line
from postdiff_calib.profile import Profile
from postdiff_calib.report.progress import console_progress


def profile(confirmed=True):
    data = profile_data()
    data["expected"]["confirmed"] = confirmed
    return Profile.model_validate(data)


def ended(capsys, work):
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command("work")(work)
    with pytest.raises(SystemExit) as stop:
        run(app, [])
    out = capsys.readouterr()
    return stop.value.code, out.err


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_ends_a_command_like_ctrl_c_with_its_own_code(capsys):
    before = signal.getsignal(signal.SIGTERM)
    assert ended(capsys, terminate) == (143, "postdiff: stopped\n")
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_sigterm_is_not_held_up(capsys):
    def stubborn() -> None:
        try:
            terminate()
        except KeyboardInterrupt:
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
            raise

    assert ended(capsys, stubborn)[0] == 143


def test_the_cursor_comes_back(capsys):
    screen = io.StringIO()

    def work() -> None:
        with console_progress(False, Console(file=screen, force_terminal=True, width=80)) as progress:
            progress.stage("searching", 10)
            terminate()

    assert ended(capsys, work)[0] == 143
    hidden, shown = screen.getvalue().rfind("\x1b[?25l"), screen.getvalue().rfind("\x1b[?25h")
    assert 0 <= hidden < shown


def test_an_unfinished_profile_never_takes_a_confirmed_ones_place(tmp_path):
    out = tmp_path / "p.yaml"
    assert place_for_unfinished(out) == out
    profile(confirmed=False).save(out)
    assert place_for_unfinished(out) == out
    profile().save(out)
    assert place_for_unfinished(out) == tmp_path / "p.interrupted.yaml"
    out.write_text("not a profile")
    assert place_for_unfinished(out) == out


def test_a_stopped_study_says_what_is_kept(tmp_path):
    def line(fresh):
        with pytest.raises(KeyboardInterrupt) as stopped, saying_what_is_kept(tmp_path, ["a.*"], fresh=fresh):
            raise KeyboardInterrupt
        return str(stopped.value)

    assert line(False) == "nothing was made yet, the same command starts again"
    (tmp_path / "a.jsonl").touch()
    assert line(False) == "nothing was made yet, the same command starts again"
    (tmp_path / "a.jsonl").write_text("{}")
    assert line(False) == f"what was made so far is kept in {tmp_path}; the same command goes on"
    assert line(True).endswith("; the same command without --fresh goes on")


STUDIES = [
    (["ablate", "--steps", "8"], "ablate.set_up", "ablation"),
    (["analyze", "redundancy"], "redundancy.set_up", "redundancy"),
    (["compare-methods"], "methods.set_up", "methods"),
    (["judge", "--with", "T=4"], "judge.materials_of", "judge"),
    (["finetune", "--device", "cpu"], "finetune._samples", "finetune"),
]


@pytest.mark.parametrize(("argv", "moment", "kind"), STUDIES)
def test_every_study_is_stopped_by_one_line(tmp_path, monkeypatch, capsys, argv, moment, kind):
    def stop(*given, **more):
        terminate()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(f"postdiff_calib.jobs.{moment}", stop)
    for name in ("state.safetensors", "scores.jsonl", "distances.jsonl"):
        place = tmp_path / "studies" / f"shapes-{kind}" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("{}")
    (place.parent / "about.json").write_text(f'{{"study": "{kind}"}}')
    with pytest.raises(SystemExit) as stopped:
        main([*argv, "--quiet"])
    assert stopped.value.code == 143
    line = f"postdiff: stopped: what was made so far is kept in studies/shapes-{kind}; the same command goes on\n"
    assert capsys.readouterr().err == line


def test_the_line_says_what_is_kept_and_how_to_go_on(tmp_path):
    job = CalibrateJob(study=tmp_path / "s", out=tmp_path / "p.yaml")
    assert stopped_line(job) == "nothing was scored yet, the same command starts again"
    job.folder.mkdir()
    (job.folder / "scores.jsonl").write_text("")
    assert stopped_line(job) == f"all scores so far are kept in {job.folder}; the same command goes on"
    fresh = CalibrateJob(study=job.folder, out=job.out, fresh=True)
    assert stopped_line(fresh, job.out).endswith("; the same command without --fresh goes on")
    beside = tmp_path / "p.interrupted.yaml"
    said = f"{job.out} holds a confirmed profile and stays as it is, the best plan so far is in {beside}; "
    assert stopped_line(job, beside).startswith(said)


@pytest.mark.parametrize("moment", ["before any plan is scored", "with a best plan so far"])
def test_a_stopped_calibration_says_so_in_one_line(tmp_path, monkeypatch, capsys, moment):
    out = tmp_path / "p.yaml"

    def stopped(job, progress):
        if moment == "before any plan is scored":
            raise KeyboardInterrupt
        return CalibrateResult(profile(False), out, interrupted=True)

    monkeypatch.setattr("postdiff_calib.jobs.calibrate.run_calibrate", stopped)
    with pytest.raises(SystemExit) as stop:
        main(["calibrate", "--quiet", "--out", str(out), "--study", str(tmp_path / "s")])
    assert stop.value.code == 130
    said = capsys.readouterr()
    assert said.err == "postdiff: stopped: nothing was scored yet, the same command starts again\n"
    assert (f"profile written to {out}" in said.out) == (moment == "with a best plan so far")
