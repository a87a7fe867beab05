"""The options of the checkpoint that people have reach the job, and what is wrong with them is one line."""

import pytest

from postdiff_calib.cli.main import main
from postdiff_calib.models.deployment import DeploymentSettings


def test_they_reach_the_job(monkeypatch):
    jobs = []

    def run(job, *_):
        jobs.append(job)
        raise KeyboardInterrupt

    monkeypatch.setattr("postdiff_calib.jobs.calibrate.run_calibrate", run)
    options = ["--lora", "a/b:0.5", "--lora", "c/d", "--vae", "e/f", "--variant", "fp16", "--revision", "abc"]
    with pytest.raises(SystemExit):
        main(["calibrate", "--quiet", "--model", "owner/name", *options])
    assert jobs[0].deployment == DeploymentSettings(loras=("a/b:0.5", "c/d"), vae="e/f", variant="fp16", revision="abc")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--lora", "none.safetensors"], "--lora none.safetensors: it cannot be read"),
        (["--model", "none.safetensors"], "model 'none.safetensors': it cannot be read"),
        (["--model", "none.ckpt"], "weights are read from .safetensors alone"),
        (["--revision", "abc"], "is not on the hub"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, monkeypatch, capsys, options, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["calibrate", "--quiet", "--device", "cpu", "--budget", "60% time", "--prompts", "shapes", *options])
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert says in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
