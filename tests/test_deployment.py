"""Profiles at work: light imports, and several pipelines in several threads."""

import hashlib
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pipelines as P
import pytest
import torch
from profiles import profile_data

from postdiff_calib import enable, summary
from postdiff_calib.generate.images import generate
from postdiff_calib.jobs.generate import to_image
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.fingerprint import configuration_of
from postdiff_calib.models.load import load_pipeline
from postdiff_calib.profile import Profile, load_profile

#: What a deployment does without.
UNUSED = ("optuna", "open_clip", "fvcore", "typer", "rich", "matplotlib", "torchmetrics", "scipy")
PROMPTS = ["a large red circle on a white background", "a small blue square on a yellow background", "a green ring"]


def profile_of(pipe, knobs, batch_size=3, **model):
    data = profile_data(knobs)
    data["model"] |= {
        "pipeline_class": type(pipe).__name__,
        "denoiser_class": type(pipe.unet).__name__,
        "scheduler": type(pipe.scheduler).__name__,
        "configuration": configuration_of(pipe),
        **model,
    }
    data["budget"]["batch_size"] = batch_size
    return Profile.model_validate(data)


@pytest.fixture(scope="module")
def shapes():
    return load_pipeline("shapes", device="cpu", dtype="float32")


@pytest.fixture
def path(shapes, tmp_path):
    """A profile of the embedded model, as a file."""
    made = profile_of(shapes.pipe, Knobs(6, 0.5, 0.5, 2, 0.5), fingerprint=shapes.fingerprint)
    return made.save(tmp_path / "profile.yaml")


@pytest.mark.slow
def test_a_deployment_needs_no_search_no_scorer_and_no_command_line(shapes, path):
    code = (
        "import sys\n"
        f"for name in {UNUSED!r}:\n    sys.modules[name] = None\n"
        "import hashlib, torch\n"
        "from postdiff_calib import enable, load_profile\n"
        "from postdiff_calib.jobs.generate import load_for\n"
        f"profile = load_profile({str(path)!r})\n"
        "loaded, _ = load_for(profile, device='cpu', dtype='float32', override=False)\n"
        "enable(loaded.pipe, profile)\n"
        f"image = loaded.pipe({PROMPTS[0]!r}, generator=torch.Generator().manual_seed(5)).images[0]\n"
        "print(image.size, hashlib.sha256(image.tobytes()).hexdigest())\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr
    (batch,) = generate(shapes.pipe, load_profile(path), PROMPTS[:1], [5], load_profile(path).generation)
    digest = hashlib.sha256(to_image(batch[0]).tobytes()).hexdigest()
    assert result.stdout.split() == ["(64,", "64)", digest]


def test_two_pipelines_with_two_profiles_run_at_once_as_they_run_alone():
    steps = 4
    pipes = [P.sd("ddim", seed=1), P.sd("euler", seed=2)]
    knobs = [Knobs(steps, 0.5, 0.5, 2, 0.5), Knobs(steps, cache_interval=3, guidance_fraction=0.7)]
    for pipe, own in zip(pipes, knobs, strict=True):
        size = {"height": 128, "width": 128}
        enable(pipe, profile_of(pipe, own, **size), latent_multiple=8)

    def run(index, **call):
        return pipes[index](P.PROMPTS[:1], generator=P.generators(1, seed=index), output_type="pt", **call).images

    alone = [run(0), run(1)]
    meeting = threading.Barrier(2, timeout=120)

    def meet(pipe, step, timestep, state):
        meeting.wait()  # both are between the same two steps
        return state

    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda index: run(index, callback_on_step_end=meet), range(2)))
    for first, second in zip(alone, together, strict=True):
        assert torch.equal(first, second)
    for pipe, own in zip(pipes, knobs, strict=True):
        assert summary(pipe).plan.knobs == own
        assert len(summary(pipe).steps) == steps
    assert not torch.equal(alone[0], alone[1])
