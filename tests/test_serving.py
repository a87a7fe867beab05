"""The example server: queue, tiers, workers, limits, metrics and its end, with painters that only pretend to paint."""

import asyncio
import importlib.util
import io
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from profiles import profile_data

from postdiff_calib.errors import UsageError
from postdiff_calib.generate import generate
from postdiff_calib.jobs.generate import to_image
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.load import load_pipeline
from postdiff_calib.profile import Profile

ROOT = Path(__file__).parent.parent
PROMPTS = ["a large red circle on a white background", "a small blue square on a yellow background", "a green ring"]


def module_of(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def server():
    yield module_of(ROOT / "docs" / "serve_fastapi.py")
    del sys.modules["serve_fastapi"]


def profile_of(batch_size, knobs=None):
    data = profile_data(knobs)
    data["budget"]["batch_size"] = batch_size
    return Profile.model_validate(data)


class Stub:
    """A painter without a model: each image is its tier, prompt and seed as bytes. It keeps the batches it got."""

    notes = ()

    def __init__(self, paint=None, device="cpu", sizes=(25,)):
        names = ("fast", "quality", "slow")
        self.profiles = {name: profile_of(size) for name, size in zip(names, sizes, strict=False)}
        self.device, self.batches, self.threads, self._paint = device, [], set(), paint

    def paint(self, tier, prompts, seeds):
        self.batches.append((tier, list(prompts)))
        self.threads.add(threading.get_ident())
        if self._paint is not None:
            self._paint(prompts)
        return [f"{tier} {p} {s}".encode() for p, s in zip(prompts, seeds, strict=True)]


class Held(Stub):
    """A painter whose batches begin when they are told to."""

    def __init__(self, **options):
        super().__init__(self._wait, **options)
        self.begun, self.go_on = threading.Semaphore(0), threading.Event()

    def _wait(self, prompts):
        self.begun.release()
        assert self.go_on.wait(120)


def ask(client, prompt, **more):
    return client.post("/image", json={"prompt": prompt, **more})


def wait_for(client, waiting):
    while client.get("/healthz").json()["waiting"] != waiting:
        pass


def metric(client, name):
    lines = client.get("/metrics").text.splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)}


# --- batches, tiers, workers ----------------------------------------------------------------------------------------


def put(queue, server, *requests):
    return [queue.put(server.Waiting(tier, prompt, 0)) for tier, prompt in requests]


def taken(queue):
    return [(request.tier, request.prompt) for request in queue.take()]


def test_a_batch_is_the_oldest_request_and_others_of_its_tier_up_to_the_limit(server):
    queue = server.Queue({"fast": 3, "quality": 2}, room=9, window=0.0)
    put(queue, server, ("quality", "1"), ("fast", "2"), ("quality", "3"), ("quality", "4"), ("fast", "5"))
    assert taken(queue) == [("quality", "1"), ("quality", "3")]
    assert taken(queue) == [("fast", "2"), ("fast", "5")]
    assert taken(queue) == [("quality", "4")]


def test_what_waits_becomes_one_batch_of_its_tier(server):
    painter = Held(sizes=(3, 2))
    app = server.create_app([painter], window=0.0)
    with TestClient(app) as client, ThreadPoolExecutor(6) as threads:
        answers = [threads.submit(ask, client, "first")]
        assert painter.begun.acquire(timeout=120)
        for i, tier in enumerate(["quality", "fast", "quality", "fast"]):
            answers.append(threads.submit(ask, client, f"{i}", tier=tier, seed=i))
            wait_for(client, i + 1)
        painter.go_on.set()
        texts = [answer.result().text for answer in answers]
        assert metric(client, "postdiff_batch_size_sum") == {
            'postdiff_batch_size_sum{tier="fast"}': 3.0,
            'postdiff_batch_size_sum{tier="quality"}': 2.0,
        }
    assert texts == ["fast first 0", "quality 0 0", "fast 1 1", "quality 2 2", "fast 3 3"]
    assert painter.batches == [("fast", ["first"]), ("quality", ["0", "2"]), ("fast", ["1", "3"])]


def test_a_full_batch_does_not_wait_for_the_window(server):
    painter = Stub(sizes=(3,))
    with TestClient(server.create_app([painter], window=600.0)) as client, ThreadPoolExecutor(3) as threads:
        assert {answer.status_code for answer in threads.map(lambda p: ask(client, p), "abc")} == {200}
    assert [len(prompts) for _, prompts in painter.batches] == [3]


def test_the_server_s_batch_limit_counts_beside_the_profile_s(server):
    app = server.create_app([Stub(sizes=(3, 9))], batch=4)
    assert app.state.queue.limits == {"fast": 3, "quality": 4}


def test_each_worker_has_its_painter_and_its_thread(server):
    painters = [Held(sizes=(1,)), Held(sizes=(1,))]
    with TestClient(server.create_app(painters, window=0.0)) as client, ThreadPoolExecutor(2) as threads:
        answers = [threads.submit(ask, client, prompt) for prompt in "ab"]
        for painter in painters:  # both run at once: neither goes on before both have begun
            assert painter.begun.acquire(timeout=120)
        for painter in painters:
            painter.go_on.set()
        assert sorted(answer.result().text for answer in answers) == ["fast a 0", "fast b 0"]
        assert client.get("/healthz").json()["workers"] == {"0 cpu": True, "1 cpu": True}
    assert len(painters[0].threads | painters[1].threads) == 2


# --- limits ---------------------------------------------------------------------------------------------------------


def test_a_wrong_request_is_told_what_is_wrong(server):
    with TestClient(server.create_app([Stub(sizes=(3, 3))], prompt=10, window=0.0)) as client:
        for bad in ({"prompt": ""}, {"seed": 3}, {"prompt": "a", "seed": -1}, {"prompt": "a", "tear": "fast"}):
            refused = client.post("/image", json=bad)
            assert refused.status_code == 422
            assert refused.json()["detail"][0]["loc"]
        answer = ask(client, "a", tier="slow")
        assert (answer.status_code, answer.json()["detail"]) == (422, "tier 'slow': tiers are fast, quality")
        answer = ask(client, "a" * 11)
        assert answer.status_code == 422
        assert answer.json()["detail"] == "a prompt of 11 characters: at most 10 are taken"
        assert ask(client, "a" * 10).status_code == 200


def test_a_large_request_is_turned_away(server):
    with TestClient(server.create_app([Stub()], window=0.0)) as client:
        body = b"x" * (server.BODY_BYTES + 1)
        answer = client.post("/image", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 413
        assert "at most 65536 bytes" in answer.json()["detail"]
        assert ask(client, "é" * 2000, seed=2**63 - 1).status_code == 200


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


def test_a_full_queue_turns_requests_away_and_says_when_to_come_again(server):
    painter = Held()
    with (
        TestClient(server.create_app([painter], room=1, window=0.0)) as client,
        ThreadPoolExecutor(2) as threads,
    ):
        running = threads.submit(ask, client, "first")
        assert painter.begun.acquire(timeout=120)
        waiting = threads.submit(ask, client, "second")
        wait_for(client, 1)
        answer = ask(client, "third")
        assert metric(client, "postdiff_waiting") == {"postdiff_waiting": 1.0}
        painter.go_on.set()
        assert (answer.status_code, int(answer.headers["retry-after"])) == (503, 1)
        assert answer.json() == {"detail": "1 requests are waiting already; try again later"}
        assert (running.result().text, waiting.result().text) == ("fast first 0", "fast second 0")
        assert metric(client, "postdiff_requests_total") == {
            'postdiff_requests_total{status="200",tier="fast"}': 2.0,
            'postdiff_requests_total{status="503",tier="fast"}': 1.0,
        }


# --- faults and the end ---------------------------------------------------------------------------------------------


def refuse_bad(prompts):
    if "bad" in prompts:
        raise UsageError("a bad prompt", "it cannot be drawn", "take another")


def test_an_error_is_one_sentence_and_spoils_no_other_request_of_its_batch(server):
    with TestClient(server.create_app([Stub(refuse_bad, sizes=(2,))], window=600.0)) as client:
        with ThreadPoolExecutor(2) as threads:
            bad, good = threads.map(lambda prompt: ask(client, prompt), ["bad", "good"])
        assert (bad.status_code, good.text) == (500, "fast good 0")
        assert bad.json() == {"detail": "a bad prompt: it cannot be drawn; take another"}
        assert client.get("/healthz").status_code == 200


def test_the_end_finishes_what_runs_and_answers_what_waits(server):
    painter = Held(sizes=(1,))
    app = server.create_app([painter], window=0.0)
    with TestClient(app) as client, ThreadPoolExecutor(2) as threads:
        running = threads.submit(ask, client, "running")
        assert painter.begun.acquire(timeout=120)
        waiting = threads.submit(ask, client, "waiting")
        wait_for(client, 1)
        app.state.queue.close()
        assert (waiting.result().status_code, waiting.result().headers["retry-after"]) == (503, "1")
        assert ask(client, "late").json() == {"detail": "the server is ending; try again later"}
        health = client.get("/healthz")
        assert (health.status_code, health.json()["status"]) == (503, "ending")
        painter.go_on.set()
        assert running.result().text == "fast running 0"


def workers_of(server):
    return [thread for thread in threading.enumerate() if isinstance(thread, server.Worker)]


def refuses_work(client, said="a worker has stopped"):
    health, answer = client.get("/healthz"), ask(client, "late")
    assert (health.status_code, health.json()["status"]) == (503, said)
    assert (answer.status_code, answer.json()) == (503, {"detail": f"{said}; try again later"})
    assert answer.headers["retry-after"] == "1"


def test_a_worker_that_dies_answers_what_it_took_and_what_waits(server):
    class Stopped(BaseException):
        pass

    def stop(prompts):
        raise Stopped

    painter = Stub(stop, sizes=(2, 1))
    with TestClient(server.create_app([painter], window=0.0)) as client:
        queue, (worker,) = client.app.state.queue, workers_of(server)
        seen, hook = [], threading.excepthook
        threading.excepthook = seen.append
        try:
            with queue._changed:  # the worker takes nothing before all three wait
                answers = put(queue, server, ("fast", "a"), ("fast", "b"), ("quality", "c"))
            worker.join(120)
        finally:
            threading.excepthook = hook
        assert seen[0].exc_type is Stopped
        assert painter.batches == [("fast", ["a", "b"])]
        for answer in answers:
            with pytest.raises(server.BusyError, match="a worker has stopped; try again later"):
                answer.result(0)
        refuses_work(client)


def broken_card(prompts):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize("size", [1, 5])
def test_a_worker_that_only_fails_stops_before_it_has_emptied_the_queue(server, size):
    painter = Stub(broken_card, sizes=(size,))
    with TestClient(server.create_app([painter], window=0.0)) as client:
        queue, (worker,) = client.app.state.queue, workers_of(server)
        with queue._changed:
            answers = put(queue, server, *[("fast", f"{i}") for i in range(6)])
        worker.join(120)
        told = [answer.exception(0) for answer in answers]
        assert [type(error) for error in told] == [RuntimeError] * server.FAILURES + [server.BusyError] * 3
        tried = [prompts for _, prompts in painter.batches if len(prompts) == 1]
        assert tried == [["0"], ["1"], ["2"]]
        refuses_work(client)


def test_failures_that_are_not_in_a_row_or_the_request_s_own_stop_nobody(server):
    def sometimes(prompts):
        refuse_bad(prompts)
        if "broken" in prompts:
            broken_card(prompts)

    with TestClient(server.create_app([Stub(sometimes, sizes=(1,))], window=0.0)) as client:
        for prompt in ("broken", "broken", "good", "broken", "broken", "good", *["bad"] * 4):
            asked = server.Waiting("fast", prompt, 0)
            error = client.app.state.queue.put(asked).exception(120)
            assert type(error) is {"broken": RuntimeError, "bad": UsageError, "good": type(None)}[prompt]
        assert client.get("/healthz").json()["status"] == "ok"


def test_another_worker_goes_on_where_one_has_stopped(server):
    good, broken = Held(sizes=(1,)), Stub(broken_card, sizes=(1,))
    with TestClient(server.create_app([good, broken], window=0.0)) as client:
        # The good one holds what it takes, so the other one takes the rest, whoever comes first.
        answers = put(client.app.state.queue, server, *[("fast", f"{i}") for i in range(server.FAILURES + 1)])
        next(worker for worker in workers_of(server) if worker.painter is broken).join(120)
        health = client.get("/healthz")
        assert (health.status_code, health.json()["status"]) == (503, "a worker has stopped")
        assert health.json()["workers"] == {"0 cpu": True, "1 cpu": False}
        good.go_on.set()
        assert sorted(type(answer.exception(120)).__name__ for answer in answers) == ["NoneType", *["RuntimeError"] * 3]
        assert ask(client, "more").text == "fast more 0"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["none.yaml"], "none.yaml"),
        (["fast=broken.yaml"], "broken.yaml"),
        (["good.yaml", "good.yaml"], "tiers default, default: two are of one name"),
        (["good.yaml", "--room=0"], "a limit below 1"),
    ],
)
def test_a_server_that_cannot_serve_ends_with_one_line(server, capsys, monkeypatch, tmp_path, given, told):
    monkeypatch.chdir(tmp_path)
    Path("broken.yaml").write_text("schema_version: 1\n")
    profile_of(25).save("good.yaml")
    options = [option if option.startswith("--") else f"--profile={option}" for option in given]
    monkeypatch.setattr(sys, "argv", ["serve_fastapi.py", *options])
    with pytest.raises(SystemExit) as stop:
        server.main()
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("serve: ")
    assert told in err
    assert err.count("\n") == 1


# --- with the embedded model ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def load():
    yield module_of(ROOT / "benchmarks" / "serve_load.py")
    del sys.modules["serve_load"]


@pytest.mark.slow
def test_the_server_makes_the_images_that_generate_makes(server, load):
    profiles = load.tiers()
    painter = server.Painter(profiles, device="cpu")
    shapes = load_pipeline("shapes", device="cpu", dtype="float32")
    with TestClient(server.create_app([painter], window=0.0)) as client:
        for tier, profile in profiles.items():
            images = torch.cat(list(generate(shapes.pipe, profile, PROMPTS, [7, 8, 9], profile.generation)))
            expected = np.asarray(to_image(images[1]), dtype=int)
            answer = ask(client, PROMPTS[1], seed=8, tier=tier)
            assert answer.headers["content-type"] == "image/png"
            made = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"), dtype=int)
            assert abs(made - expected).max() <= load.LEVELS


@pytest.mark.slow
def test_tiers_of_different_models_are_refused(server, load):
    profiles = load.tiers()
    profiles["quality"] = profile_of(3, Knobs(12))
    with pytest.raises(server.ProfileError, match="profile of tier quality: the first tier's model differs in"):
        server.Painter(profiles, device="cpu")


@pytest.mark.slow
def test_a_server_process_under_load_loses_nothing_and_ends_clean(load):
    record = load.under_load(40, 8, ["cpu", "cpu"])
    assert record["statuses"] == {200: 40}
    assert record["requests_in_batches"] == record["answered_in_metrics"] == 40
    assert record["images_over_bound"] == 0
    ending = record["ending"]
    assert sum(ending["statuses"].values()) == 24
    assert set(ending["statuses"]) == {200, 503}
    assert len(ending["retry_after"]) == 1
    assert ending["exit_code"] == -15
    assert ending["log"] == ["INFO:     Waiting for application shutdown.", "INFO:     Application shutdown complete."]
