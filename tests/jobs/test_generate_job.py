"""``generate`` writes whole, healthy images or none, and shows what others wrote without obeying it."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml
from fuzzing import shows_safely
from PIL import Image
from profiles import profile_data

from postdiff_calib.cli.main import main
from postdiff_calib.errors import OutputError, PromptError
from postdiff_calib.jobs import generate
from postdiff_calib.jobs.generate import GenerateJob, run_generate
from postdiff_calib.profile import load_profile
from postdiff_calib.quality.health import HealthError

PROMPTS = ("a red circle", "../../a\x1b[31m blue\nsquare" + "ü" * 200)


@pytest.fixture
def job(tmp_path, monkeypatch):
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(profile_data(), sort_keys=False))
    loaded = SimpleNamespace(pipe=None, card=SimpleNamespace(num_inference_steps=20))
    monkeypatch.setattr(generate, "load_for", lambda *_, **__: (loaded, ()))
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("postdiff_calib.generate.images.generate", lambda *_, **__: iter([images]))
    job = GenerateJob(PROMPTS, tmp_path / "p.yaml", True, tmp_path / "new" / "out", 7, "cpu", "float32", False)
    return SimpleNamespace(job=job, images=images, folder=tmp_path)


def test_images_and_pairs_are_written_under_safe_names(job):
    result = run_generate(job.job)
    files = sorted(job.job.out.iterdir())
    assert len(files) == 6
    assert {p.suffix for p in files} == {".png"}
    assert all(shows_safely(p.name) and len(p.name.encode()) < 255 for p in files)
    assert sorted([i.path for i in result.images] + [i.baseline for i in result.images]) == [
        str(p) for p in files if not p.name.endswith(".pair.png")
    ]
    with Image.open(result.images[0].pair) as sheet:
        assert sheet.size == (36, 16)


@pytest.mark.parametrize(("value", "says"), [(0.0, "are constant"), (float("nan"), "NaN or infinity")])
def test_a_broken_image_is_refused_and_nothing_is_written(job, value, says):
    job.images[1] = value
    with pytest.raises(HealthError, match=says):
        run_generate(job.job)
    assert [p.name for p in job.folder.iterdir()] == ["p.yaml"]


class Device:
    """A made-up one: the first call with some knobs takes 100 s more, later ones 2 s an image, and 1 s accelerated."""

    def __init__(self, monkeypatch, accelerated):
        self.now, self.accelerated, self.known, self.calls = 0.0, accelerated, set(), []
        monkeypatch.setattr(generate.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr("postdiff_calib.generate.images.generate", self.generate)

    def generate(self, pipe, knobs, prompts, seeds, settings):
        own = knobs == self.accelerated
        self.now += (0 if own in self.known else 100) + len(prompts) * (1 if own else 2)
        self.known.add(own)
        self.calls.append((own, len(prompts)))
        yield torch.rand(len(prompts), 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_both_sides_of_a_comparison_are_warm_before_either_is_timed(job, monkeypatch):
    device = Device(monkeypatch, load_profile(job.job.profile).knobs)
    result = run_generate(job.job)
    assert (result.seconds_per_image, result.baseline_seconds_per_image) == (1, 2)
    assert device.calls == [(True, 2), (False, 2), (True, 2), (False, 2)]


def test_without_a_comparison_nothing_is_run_twice(job, monkeypatch):
    device = Device(monkeypatch, load_profile(job.job.profile).knobs)
    result = run_generate(replace(job.job, baseline=False))
    assert (result.seconds_per_image, result.baseline_seconds_per_image) == (51, None)
    assert device.calls == [(True, 2)]


def test_a_full_disk_leaves_no_empty_image(job, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", full)
    with pytest.raises(OutputError, match="No space left"):
        run_generate(job.job)
    assert list(job.job.out.iterdir()) == []


def test_what_would_fail_at_the_end_is_refused_before_loading(job, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("too early")

    monkeypatch.setattr(generate, "load_for", forbidden)
    with pytest.raises(OutputError, match="not a folder"):
        run_generate(GenerateJob(**{**vars(job.job), "out": job.folder / "p.yaml"}))
    for seed in (-1, 2**63 - 1, 2**64):
        with pytest.raises(PromptError, match="whole number from 0 to 9223372036854775806"):
            run_generate(GenerateJob(**{**vars(job.job), "seed": seed}))


def shown(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main(list(argv))
    assert not stop.value.code
    return capsys.readouterr().out


def test_escape_sequences_of_a_profile_are_shown_and_not_obeyed(capsys, tmp_path):
    data = profile_data()
    evil = "\x1b]0;owned\x07\x1b[2J\u202e\x9b31m"
    data["model"] |= {"id": f"id{evil}", "notes": [f"note{evil}"]}
    data["tradeoff"]["rows"][0] |= {"answer": f"answer{evil}"}
    data["tradeoff"]["crossover"] = f"cross{evil}"
    data["times"]["device"] = f"device{evil}"
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    text = shown(capsys, "profile", "show", str(path))
    assert shows_safely(text.replace("\n", ""))
    for part in (r"\x1b]0;owned", r"\x1b[2J\u202e\x9b31m"):  # rich itself takes the bell out
        assert part in text
    as_json = shown(capsys, "profile", "show", str(path), "--json")
    assert shows_safely(as_json.replace("\n", ""))
    assert json.loads(as_json)["model"]["id"] == f"id{evil}"
    text = shown(capsys, "compare", str(path), str(path))
    assert shows_safely(text.replace("\n", ""))


def test_escape_sequences_of_prompts_are_shown_and_not_obeyed(capsys, job):
    argv = ("generate", *PROMPTS, "--profile", str(job.job.profile), "--out", str(job.job.out))
    text = shown(capsys, *argv)
    assert shows_safely(text.replace("\n", ""))
    assert r"a\x1b[31m blue" in text
