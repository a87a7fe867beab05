"""Bad input to the commands: one line on standard error, exit code 2, nothing written."""

import pytest
import yaml
from profiles import profile_data

from postdiff_calib.cli.main import main


def run(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main(list(argv))
    out = capsys.readouterr()
    return stop.value.code, out.out, out.err


@pytest.fixture
def quick(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["calibrate", "--budget", "fast"], "fast"),
        (["calibrate", "--budget", "-5%"], "-5%"),
        (["calibrate", "--model", "sd99"], "sd99"),
        (["calibrate", "--noise", "loud"], "loud"),
        (["calibrate", "--search", "grid"], "grid"),
        (["calibrate", "--delta", "-1"], "delta"),
        (["calibrate", "--guard", "fid=20"], "cmmd, ssim, psnr, lpips"),
        (["calibrate", "--guard", "clip=0.3"], "--max-drop"),
        (["calibrate", "--guard", "ssim=0,8"], "NAME=NUMBER"),
        (["calibrate", "--max-drop", "clip=-1"], "at least 0"),
        (["calibrate", "--model", "sd15", "--max-drop", "scene=2"], "sd15 is not measured by it"),
        (["calibrate", "--prompts", "none.txt"], "none.txt"),
        (["calibrate", "--num-prompts", "5000"], "2000"),
        (["generate", "a red circle", "--profile", "none.yaml"], "none.yaml"),
    ],
)
def test_one_line_and_exit_code_two(capsys, quick, argv, says):
    code, out, err = run(capsys, *argv, *(["--quiet"] if argv[0] == "calibrate" else []))
    assert code == 2
    assert out == ""
    assert says in err
    assert err.startswith("postdiff: ")
    assert err.count("\n") == 1
    assert not (quick / "profile.yaml").exists()


def test_an_empty_prompt_file(capsys, quick):
    (quick / "empty.txt").write_text("\n\n")
    code, _, err = run(capsys, "calibrate", "--prompts", "empty.txt", "--quiet")
    assert code == 2
    assert "empty.txt" in err
    assert err.count("\n") == 1


def test_an_unwritable_output_is_refused_before_anything_is_computed(capsys, quick):
    (quick / "file").write_text("")
    code, _, err = run(capsys, "calibrate", "--out", "file/p.yaml", "--quiet")
    assert code == 2
    assert "file/p.yaml" in err
    code, _, err = run(capsys, "calibrate", "--out", ".", "--quiet")
    assert code == 2
    assert "is a folder" in err


def test_a_profile_with_a_typo_names_line_and_key(capsys, quick):
    data = profile_data()
    data["knobs"]["cache_intervall"] = 2
    (quick / "p.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    code, _, err = run(capsys, "generate", "a red circle", "--profile", "p.yaml")
    assert code == 2
    assert "cache_intervall" in err
    assert "line " in err


def test_ranges_of_options_are_the_command_lines_own(capsys):
    code, _, err = run(capsys, "calibrate", "--num-prompts", "3")
    assert code == 2
    assert "--num-prompts" in err


@pytest.mark.parametrize("command", ["calibrate", "generate", "cost", "models"])
def test_every_commands_help_has_an_example(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert f"Example: postdiff {command}" in " ".join(out.split())


def test_version(capsys):
    code, out, _ = run(capsys, "--version")
    assert code == 0
    assert out.startswith("postdiff 0.")
