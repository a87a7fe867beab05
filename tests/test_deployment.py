"""Profiles at work: light imports, several pipelines in several threads, and the example server."""

import asyncio
import hashlib
import importlib.util
import io
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pipelines as P
import pytest
import torch
from PIL import Image
from profiles import profile_data

from postdiff_calib import enable, summary
from postdiff_calib.deploy import to_image, to_picture
from postdiff_calib.generate.images import generate
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.fingerprint import configuration_of
from postdiff_calib.models.load import load_pipeline
from postdiff_calib.profile import Profile, load_profile

DOCS = Path(__file__).parent.parent / "docs"
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
        "from postdiff_calib.deploy import load_for\n"
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


# --- the example server ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server():
    spec = importlib.util.spec_from_file_location("serve_fastapi", DOCS / "serve_fastapi.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["serve_fastapi"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["serve_fastapi"]


def test_the_earlier_name_still_works():
    assert to_picture is to_image


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=int)


@pytest.mark.slow
def test_the_server_makes_the_images_that_generate_makes(server, shapes, path):
    from fastapi.testclient import TestClient

    profile = load_profile(path)
    images = torch.cat(list(generate(shapes.pipe, profile, PROMPTS, [7, 8, 9], profile.generation)))
    expected = [np.asarray(to_image(image), dtype=int) for image in images]
    painter = server.Painter(path, device="cpu")

    with TestClient(server.create_app(painter, window=0.0)) as client:
        health = client.get("/health").json()
        assert (health["status"], health["plan"], health["batch_size"]) == ("ok", profile.knobs.describe(), 3)
        answer = client.post("/image", json={"prompt": PROMPTS[1], "seed": 8})
        assert answer.headers["content-type"] == "image/png"
        assert abs(pixels(answer.content) - expected[1]).max() <= 1  # batches round differently
        for bad in ({"prompt": ""}, {"seed": 3}, {"prompt": "a", "seed": -1}, {"prompt": "a", "seed": "x"}):
            refused = client.post("/image", json=bad)
            assert refused.status_code == 422
            assert refused.json()["detail"][0]["loc"]

    # A batch begins when it is full, long before the window closes: so these three are one batch.
    with TestClient(server.create_app(painter, window=600.0)) as client, ThreadPoolExecutor(3) as threads:
        wishes = [{"prompt": prompt, "seed": seed} for prompt, seed in zip(PROMPTS, (7, 8, 9), strict=True)]
        answers = list(threads.map(lambda wish: client.post("/image", json=wish), wishes))
        assert client.get("/health").json()["batches"] == {"3": 1}
    for answer, image in zip(answers, expected, strict=True):
        assert abs(pixels(answer.content) - image).max() <= 1


class Stub:
    """A painter without a model; each image is its prompt and seed as bytes."""

    notes = ()

    def __init__(self, paint=None):
        self.profile = Profile.model_validate(profile_data())
        self.paint = paint or (
            lambda prompts, seeds: [f"{p} {s}".encode() for p, s in zip(prompts, seeds, strict=True)]
        )


def test_an_error_is_one_sentence_and_the_server_goes_on(server):
    from fastapi.testclient import TestClient

    from postdiff_calib.errors import UsageError

    def paint(prompts, seeds):
        if "bad" in prompts:
            raise UsageError("a bad prompt", "it cannot be drawn", "take another")
        return [b"image"] * len(prompts)

    with TestClient(server.create_app(Stub(paint), window=0.0)) as client:
        answer = client.post("/image", json={"prompt": "bad"})
        assert answer.status_code == 500
        assert answer.json() == {"detail": "a bad prompt: it cannot be drawn; take another"}
        assert client.post("/image", json={"prompt": "good"}).content == b"image"


def test_a_large_request_is_turned_away(server):
    from fastapi.testclient import TestClient

    with TestClient(server.create_app(Stub(), window=0.0)) as client:
        body = b"x" * (server.BODY_BYTES + 1)
        answer = client.post("/image", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 413
        assert "at most 65536 bytes" in answer.json()["detail"]
        assert client.post("/image", json={"prompt": "é" * 2000, "seed": 2**63 - 1}).status_code == 200


@pytest.mark.parametrize(("headers", "most"), [([], 3), ([(b"content-length", b"50000000")], 0)])
def test_of_a_large_request_no_more_than_the_limit_is_read(server, headers, most):
    received, sent = [], []

    async def receive():
        received.append(1)
        return {"type": "http.request", "body": b"x" * 32_768, "more_body": True}

    async def send(message):
        sent.append(message)

    async def behind(scope, receive, send):
        raise AssertionError("it must not be reached")

    asyncio.run(server.BodyLimit(behind)({"type": "http", "headers": headers}, receive, send))
    assert sent[0]["status"] == 413
    assert len(received) == most


def test_a_full_queue_turns_requests_away(server):
    from fastapi.testclient import TestClient

    begun, go_on = threading.Event(), threading.Event()

    def paint(prompts, seeds):
        begun.set()
        assert go_on.wait(120)
        return [b"image"] * len(prompts)

    stub = Stub(paint)
    with TestClient(server.create_app(stub, window=0.0, room=1)) as client, ThreadPoolExecutor(2) as threads:
        try:
            running = threads.submit(client.post, "/image", json={"prompt": "first"})
            assert begun.wait(120)
            waiting = threads.submit(client.post, "/image", json={"prompt": "second"})
            while client.get("/health").json()["waiting"] == 0:
                pass
            answer = client.post("/image", json={"prompt": "third"})
        finally:
            go_on.set()
        assert answer.status_code == 503
        assert "try again later" in answer.json()["detail"]
        assert running.result().content == waiting.result().content == b"image"


@pytest.mark.parametrize("name", ["none.yaml", "broken.yaml"])
def test_a_server_without_a_profile_ends_with_one_line(server, capsys, monkeypatch, tmp_path, name):
    (tmp_path / "broken.yaml").write_text("schema_version: 1\n")
    monkeypatch.setattr(sys, "argv", ["serve_fastapi.py", "--profile", str(tmp_path / name)])
    with pytest.raises(SystemExit) as stop:
        server.main()
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("serve: ")
    assert name in err
    assert err.count("\n") == 1
