"""``postdiff verify`` on the command line: exit codes, one line per fault, a table for people and JSON for scripts."""

import json

import pytest
import yaml
from profiles import profile_data

from postdiff_calib.cli.main import main
from postdiff_calib.jobs.checks import Check, not_judged
from postdiff_calib.jobs.verify import VerifyResult


def run(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main(["verify", *argv])
    out = capsys.readouterr()
    return stop.value.code or 0, out.out, out.err


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A profile of a model that does not exist, drawn from no known set; and the folder is empty."""
    monkeypatch.chdir(tmp_path)
    data = profile_data()
    data["model"] |= {"id": "sd99", "card": None}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return tmp_path / "p.yaml"


def outcome(monkeypatch, *checks, notes=()):
    """Replace the work by its result; returns the jobs that were asked for."""
    asked = []

    def fake(job, progress):
        asked.append(job)
        progress.stage("timing", 1)
        return VerifyResult(job.profile, checks, notes)

    monkeypatch.setattr("postdiff_calib.jobs.verify.run_verify", fake)
    return asked


GOOD = Check("scheduler", "DDIMScheduler", "DDIMScheduler", "passed")
WARNED = Check("torch", "2.14", "2.15", "warning", "another version")
BAD = Check("latency", "p50 at most 1 s", "p50 2 s", "failed", "p50 is 100% over the budget", {"p50": 2.0})


def test_a_profile_that_holds_leaves_with_zero(capsys, monkeypatch, path):
    asked = outcome(monkeypatch, GOOD, WARNED, not_judged("quality scene", "[as stated]", "why"), notes=("a remark",))
    code, out, err = run(capsys, str(path), "--prompts", "30", "--model", "here", "--prompt-set", "there.txt")
    assert code == 0
    assert "timing" in err  # progress
    assert "postdiff:" not in err
    for text in (
        "DDIMScheduler",
        "✓ passed",
        "! warning",
        "– not judged",
        "[as stated]",
        "quality scene: why",
        "note: a remark",
    ):
        assert text in out
    assert out.splitlines()[-1] == f"profile {path} holds on this machine, with 1 warning; not judged: quality scene"
    assert (asked[0].num_prompts, asked[0].model, asked[0].prompt_set) == (30, "here", "there.txt")


def test_a_failed_check_leaves_with_three_and_its_name(capsys, monkeypatch, path):
    outcome(monkeypatch, GOOD, BAD)
    code, out, err = run(capsys, str(path), "--quiet")
    assert code == 3
    assert "latency: p50 is 100% over the budget" in out
    assert err == (
        f"postdiff: profile {path}: 1 of 2 checks failed: latency; "
        "do not deploy it here: restore what differs, or calibrate again\n"
    )


def test_json_is_all_that_is_printed(capsys, monkeypatch, path):
    outcome(monkeypatch, GOOD, BAD)
    code, out, err = run(capsys, str(path), "--json")
    data = json.loads(out)
    assert code == 3
    assert data["passed"] is False
    assert data["failed"] == ["latency"]
    assert data["checks"][1] == {
        "name": "latency",
        "wanted": "p50 at most 1 s",
        "found": "p50 2 s",
        "outcome": "failed",
        "passed": False,
        "reason": "p50 is 100% over the budget",
        "figures": {"p50": 2.0},
    }
    assert err.count("\n") == 1


def faulty(path, change):
    data = yaml.safe_load(path.read_text())
    change(data)
    path.write_text(yaml.safe_dump(data, sort_keys=False))


def real_draw(data):
    from postdiff_calib.prompts import draw, load_prompt_set

    calibration, held_out = draw(load_prompt_set("shapes"), 20, 0)
    data["evidence"] |= {"num_prompts": 20, "prompt_set_sha256": calibration.sha256}
    data["evidence"]["held_out_sha256"] = held_out.sha256


@pytest.mark.parametrize(
    ("change", "argv", "says"),
    [
        (lambda d: None, ["none.yaml"], "none.yaml"),
        (lambda d: None, ["."], "cannot be read"),
        (lambda d: d.pop("plan"), ["p.yaml"], "plan"),
        (lambda d: d["budget"].update(text="soon"), ["p.yaml"], "soon"),
        (lambda d: d["evidence"].update(prompt_set="gone"), ["p.yaml"], "--prompt-set"),
        (lambda d: None, ["p.yaml", "--prompt-set", "none.txt"], "none.txt"),
        (real_draw, ["p.yaml"], "sd99"),
        (real_draw, ["p.yaml", "--model", "nowhere"], "nowhere"),
        (real_draw, ["p.yaml", "--model", "shapes", "--device", "abacus"], "abacus"),
    ],
)
def test_what_cannot_be_checked_is_one_line_and_exit_code_two(capsys, path, change, argv, says):
    faulty(path, change)
    code, out, err = run(capsys, *argv, "--quiet")
    assert code == 2
    assert out == ""
    assert says in err
    assert err.startswith("postdiff: ")
    assert err.count("\n") == 1


def test_too_few_prompts_are_refused_by_the_option_itself(capsys, path):
    code, _, err = run(capsys, str(path), "--prompts", "3")
    assert code == 2
    assert "--prompts" in err


def test_help_has_an_example(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert "Example: postdiff verify" in " ".join(out.split())
