"""The example server under load: a real process, many clients, every image compared with its single run.

    python benchmarks/serve_load.py --out benchmarks/results/serve_load.json

``docs/serve_fastapi.py`` is started with two tiers of the embedded model and a worker for each device. Clients in
threads send one request after another. Recorded are the seconds from request to answer, requests per second, how many
batches there were, and how far each image is from the one that ``generate`` makes of its prompt and seed alone. Then
the server is asked to end while requests run and wait.

An image may differ from its single run by ``LEVELS`` of 255: matrix products of another batch size round differently.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from postdiff_calib import Knobs, Profile, load_profile
from postdiff_calib.generate import generate
from postdiff_calib.jobs.generate import load_for, to_image
from postdiff_calib.plan import compile_plan, plan_facts

ROOT = Path(__file__).parent.parent
SERVER = ROOT / "docs" / "serve_fastapi.py"
#: A profile of the embedded model; the tiers are it with other knobs.
BASIS = ROOT / "benchmarks" / "results" / "readme_profile.yaml"
TIERS = {"fast": Knobs(6, 0.5, 0.5, 2, 0.5), "quality": Knobs(12)}
#: Most that a pixel may differ from its single run, of 255.
LEVELS = 1
COLOURS, SHAPES = ("red", "blue", "green", "yellow"), ("circle", "square", "triangle", "ring")


@dataclass(frozen=True)
class Sent:
    """One request."""

    tier: str
    prompt: str
    seed: int

    @property
    def body(self) -> str:
        """As JSON."""
        return json.dumps({"prompt": self.prompt, "seed": self.seed, "tier": self.tier})


@dataclass(frozen=True)
class Answer:
    """What came back, and after how many seconds."""

    status: int
    seconds: float
    content: bytes


@dataclass
class Running:
    """A server process, its port, and, once it has ended, the lines that it wrote since."""

    process: subprocess.Popen[str]
    port: int
    said: Future[list[str]]

    def get(self, path: str) -> str:
        """The body of a page."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request("GET", path)
        text = connection.getresponse().read().decode()
        connection.close()
        return text


def tiers() -> dict[str, Profile]:
    """The profiles that are served."""
    profiles = {}
    for tier, knobs in TIERS.items():
        data = load_profile(BASIS).to_dict()
        plan_id, n_low, gate_step, refresh_steps = plan_facts(compile_plan(knobs))
        facts = {"plan_id": plan_id, "n_low": n_low, "gate_step": gate_step, "refresh_steps": list(refresh_steps)}
        data |= {"knobs": knobs.as_dict(), "plan": data["plan"] | facts}
        profiles[tier] = Profile.model_validate(data)
    return profiles


@contextmanager
def serving(profiles: dict[str, Profile], devices: Sequence[str]) -> Iterator[Running]:
    """A server process of these tiers on a free port, from when it answers."""
    with TemporaryDirectory() as folder:
        options = [f"--profile={name}={one.save(Path(folder) / f'{name}.yaml')}" for name, one in profiles.items()]
        command = [sys.executable, str(SERVER), *options, f"--device={','.join(devices)}", "--port=0"]
        with (
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process,
            ThreadPoolExecutor(1) as reader,
        ):
            assert process.stderr is not None
            said: list[str] = []
            try:
                for line in process.stderr:
                    said.append(line)
                    if found := re.search(r"running on http://[\d.]+:(\d+)", line):
                        break
                else:
                    raise RuntimeError(f"the server did not start: {''.join(said)}")
                rest = reader.submit(process.stderr.readlines)  # so that its pipe never fills
                yield Running(process, int(found[1]), rest)
            finally:
                process.kill()


def requests(number: int) -> list[Sent]:
    """Different requests of both tiers, mixed."""
    names = list(TIERS)
    return [
        Sent(names[i % 3 % 2], f"a {COLOURS[i % 4]} {SHAPES[i // 4 % 4]} on a white background", i)
        for i in range(number)
    ]


def send_all(server: Running, sent: Sequence[Sent], clients: int) -> list[Answer]:
    """Answers in the order of the requests, from clients that each wait for one answer before they ask again."""
    connections = [HTTPConnection("127.0.0.1", server.port, timeout=600) for _ in range(clients)]
    free: SimpleQueue[HTTPConnection] = SimpleQueue()
    for connection in connections:
        free.put(connection)

    def ask(one: Sent) -> Answer:
        mine = free.get()  # there are as many as threads
        start = time.perf_counter()
        mine.request("POST", "/image", one.body, {"content-type": "application/json"})
        response = mine.getresponse()
        content = response.read()
        seconds = time.perf_counter() - start
        free.put(mine)
        return Answer(response.status, seconds, content)

    with ThreadPoolExecutor(clients) as threads:
        answers = list(threads.map(ask, sent))
    for connection in connections:
        connection.close()
    return answers


def differences(profiles: dict[str, Profile], sent: Sequence[Sent], answers: Sequence[Answer]) -> list[int]:
    """By request: the largest difference of a pixel from the image of its single run, in levels of 255."""
    loaded, _ = load_for(next(iter(profiles.values())), device="cpu", dtype="auto", override=False)
    found = []
    for one, answer in zip(sent, answers, strict=True):
        profile = profiles[one.tier]
        (batch,) = generate(loaded.pipe, profile, [one.prompt], [one.seed], profile.generation)
        alone = np.asarray(to_image(batch[0]), dtype=int)
        served = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"), dtype=int)
        found.append(int(abs(alone - served).max()))
    return found


def ended_under_load(server: Running, sent: Sequence[Sent]) -> dict[str, Any]:
    """Send requests, tell the server to end while some run and some wait; what each was answered."""
    connections = [HTTPConnection("127.0.0.1", server.port, timeout=600) for _ in sent]
    for connection in connections:
        connection.connect()
    for connection, one in zip(connections, sent, strict=True):
        connection.request("POST", "/image", one.body, {"content-type": "application/json"})
    while json.loads(server.get("/healthz"))["waiting"] == 0:
        pass
    server.process.send_signal(signal.SIGTERM)
    responses = [connection.getresponse() for connection in connections]
    statuses = Counter(response.status for response in responses)
    told = [response.getheader("Retry-After") for response in responses if response.status == 503]
    for response, connection in zip(responses, connections, strict=True):
        response.read()
        connection.close()
    code = server.process.wait(600)
    log = [line.strip() for line in server.said.result() if "shutdown" in line or "rror" in line]
    return {"statuses": dict(statuses), "retry_after": sorted(set(told), key=str), "exit_code": code, "log": log}


def under_load(number: int, clients: int, devices: Sequence[str]) -> dict[str, Any]:
    """The whole measurement; see the module."""
    profiles, sent = tiers(), requests(number)
    with serving(profiles, devices) as server:
        start = time.perf_counter()
        answers = send_all(server, sent, clients)
        seconds = time.perf_counter() - start
        metrics = server.get("/metrics")
        ending = ended_under_load(server, requests(3 * clients))
    found = differences(profiles, sent, answers)
    latencies = np.array([answer.seconds for answer in answers])
    return {
        "requests": number,
        "clients": clients,
        "devices": list(devices),
        "tiers": {name: profile.knobs.describe() for name, profile in profiles.items()},
        "statuses": dict(Counter(answer.status for answer in answers)),
        "by_tier": dict(Counter(one.tier for one in sent)),
        "seconds": seconds,
        "requests_per_second": number / seconds,
        "p50_seconds": float(np.percentile(latencies, 50)),
        "p95_seconds": float(np.percentile(latencies, 95)),
        "batches": sum_of(metrics, "postdiff_batch_size_count"),
        "requests_in_batches": sum_of(metrics, "postdiff_batch_size_sum"),
        "answered_in_metrics": sum_of(metrics, "postdiff_requests_total"),
        "largest_difference_levels": max(found),
        "images_equal": found.count(0),
        "images_over_bound": sum(levels > LEVELS for levels in found),
        "bound_levels": LEVELS,
        "ending": ending,
        "latencies": [round(float(value), 4) for value in latencies],
    }


def sum_of(metrics: str, name: str) -> float:
    """The sum of a metric over its labels, from Prometheus' text."""
    return sum(float(line.rpartition(" ")[2]) for line in metrics.splitlines() if line.startswith(f"{name}{{"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--devices", default="cpu")
    parser.add_argument("--note", default="", help="what else is to be known, e.g. that the machine was shared")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    record = under_load(given.requests, given.clients, given.devices.split(","))
    packages = ("postdiff", "torch", "diffusers", "fastapi", "uvicorn", "prometheus_client")
    record["machine"] = {
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "note": given.note,
    }
    text = json.dumps(record, indent=1)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")
    print(re.sub(r'"latencies": \[[^]]*\]', '"latencies": "…"', text))


if __name__ == "__main__":
    main()
