"""An image server: a queue, a worker per GPU, profiles to choose from, batches of what waits, metrics.

    pip install fastapi uvicorn prometheus_client
    python docs/serve_fastapi.py --profile fast=fast.yaml --profile quality=quality.yaml --device cuda:0,cuda:1
    curl -s localhost:8000/image -H 'content-type: application/json' \
         -d '{"prompt": "a red circle on a white background", "seed": 7, "tier": "fast"}' -o image.png

A tier is a profile; all tiers are of one model. Each worker is a thread that owns one pipeline. It takes the oldest
request and others of its tier, up to the batch size that the profile was measured at. A seed gives the image that
``postdiff generate`` makes of it, whatever else is in the batch (up to float rounding).

503 with Retry-After says that the queue is full, no worker is left or the server is ending: on SIGTERM or Ctrl-C the
batches that run are finished, and requests that wait are answered with 503. A worker that fails at ``FAILURES``
requests in a row, as after a CUDA error, stops, and /healthz tells. There is no authentication: put that in front.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import math
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field

from postdiff_calib import enable, load_profile
from postdiff_calib.errors import PostdiffError, ProfileError, UsageError
from postdiff_calib.generate import generate
from postdiff_calib.jobs.generate import load_for, to_image
from postdiff_calib.profile import Profile
from postdiff_calib.profile.match import mismatches

#: Most bytes of a request: a prompt of 2,000 characters, each of them escaped, and a seed.
BODY_BYTES = 64 * 1024
#: Requests in a row at which a worker fails before it stops; what a request itself is refused for does not count.
FAILURES = 3
ENDING, STOPPED = "the server is ending", "a worker has stopped"


class Painter:
    """The model of some profiles, loaded once on one device; ``PostdiffError`` where they do not belong together.

    Args:
        profiles: by the name of their tier, one at least.
        device: auto, cpu, cuda:0 …
        override: serve although a profile was made for another pipeline.
    """

    def __init__(self, profiles: Mapping[str, Profile], device: str = "auto", override: bool = False) -> None:
        self.profiles, self.override = profiles, override
        loaded, self.notes = load_for(next(iter(profiles.values())), device=device, dtype="auto", override=override)
        self.pipe, self.device = loaded.pipe, loaded.device
        for tier, profile in profiles.items():
            if (found := mismatches(profile.model, loaded)) and not override:
                told = f"the first tier's model differs in {'; '.join(found)}"
                raise ProfileError(f"profile of tier {tier}", told, "serve each model by a process of its own")

    def paint(self, tier: str, prompts: Sequence[str], seeds: Sequence[int]) -> list[bytes]:
        """PNG files for prompts of one batch; one thread at a time may call it."""
        profile = self.profiles[tier]
        enable(self.pipe, profile, override=self.override)
        files = []
        for images in generate(self.pipe, profile, prompts, seeds, profile.generation):
            for image in images:
                to_image(image).save(file := io.BytesIO(), format="PNG")
                files.append(file.getvalue())
        return files


@dataclass(frozen=True, eq=False)
class Waiting:
    """One request in the queue, and where its PNG file will be."""

    tier: str
    prompt: str
    seed: int
    answer: Future[bytes] = field(default_factory=Future)


class BusyError(Exception):
    """A request that is not served now; it may be sent again."""


class Queue:
    """What waits, oldest first; workers take batches of one tier from it.

    Args:
        limits: most requests of a batch, by tier.
        room: requests that may wait; further ones are turned away.
        window: seconds that the first request of a batch waits for others of its tier.
        workers: that take from it.
    """

    def __init__(self, limits: Mapping[str, int], room: int, window: float, workers: int = 1) -> None:
        self.limits, self.room, self.window, self.workers = limits, room, window, workers
        self.waiting: deque[Waiting] = deque()
        self.closed = ""  # or the reason
        self._changed = threading.Condition()

    def put(self, request: Waiting) -> Future[bytes]:
        """Let a request wait; ``BusyError`` where there is no room, or the queue is closed."""
        with self._changed:
            if self.closed:
                raise BusyError(f"{self.closed}; try again later")
            if len(self.waiting) >= self.room:
                raise BusyError(f"{self.room} requests are waiting already; try again later")
            self.waiting.append(request)
            self._changed.notify_all()
        return request.answer

    def take(self) -> list[Waiting]:
        """The next batch, when there is one; none once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self.waiting or self.closed)
            if self.closed:
                return []
            batch = [self.waiting.popleft()]
            tier, end = batch[0].tier, time.monotonic() + self.window
            while True:
                same = [request for request in self.waiting if request.tier == tier]
                for request in same[: self.limits[tier] - len(batch)]:
                    self.waiting.remove(request)
                    batch.append(request)
                left = end - time.monotonic()
                if len(batch) >= self.limits[tier] or left <= 0 or self.closed:
                    return batch
                self._changed.wait(left)

    def close(self, reason: str = ENDING) -> None:
        """Take nothing more, and answer what waits; batches that were taken are finished by their workers."""
        with self._changed:
            self.closed = self.closed or reason
            for request in self.waiting:
                if request.answer.set_running_or_notify_cancel():
                    request.answer.set_exception(BusyError(f"{self.closed}; try again later"))
            self.waiting.clear()
            self._changed.notify_all()

    def leave(self) -> None:
        """A worker takes nothing more; the last one closes."""
        with self._changed:
            self.workers -= 1
            if not self.workers:
                self.close(STOPPED)


class Metrics:
    """What Prometheus reads; ``latest`` are the latest batch's seconds: about when there will be room again."""

    def __init__(self, queue: Queue) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("postdiff_requests", "Answered requests", ["tier", "status"], registry=registry)
        self.seconds = Histogram("postdiff_request_seconds", "From request to answer", ["tier"], registry=registry)
        powers = [2**i for i in range(7)]
        self.sizes = Histogram("postdiff_batch_size", "Requests in one", ["tier"], buckets=powers, registry=registry)
        self.running = Histogram("postdiff_batch_seconds", "One batch", ["tier", "device"], registry=registry)
        Gauge("postdiff_waiting", "Requests in the queue", registry=registry).set_function(lambda: len(queue.waiting))
        self.latest = 1.0


class Worker(threading.Thread):
    """Takes batches and makes their images, until the queue is closed or it fails; whatever it took is answered."""

    def __init__(self, painter: Any, queue: Queue, metrics: Metrics) -> None:
        super().__init__(daemon=True)
        self.painter, self.queue, self.metrics = painter, queue, metrics
        self.failures = 0

    def run(self) -> None:
        """Serve."""
        wanted: list[Waiting] = []
        try:
            device = torch.device(self.painter.device)
            if device.type == "cuda" and device.index is not None:
                torch.cuda.set_device(device)
            while self.failures < FAILURES and (batch := self.queue.take()):
                if wanted := [request for request in batch if request.answer.set_running_or_notify_cancel()]:
                    self._answer(wanted)
        finally:
            self.queue.leave()
            for request in wanted:
                if not request.answer.done():
                    request.answer.set_exception(BusyError(f"{STOPPED}; try again later"))

    def _answer(self, batch: list[Waiting]) -> None:
        tier, start = batch[0].tier, time.perf_counter()
        try:
            images = self.painter.paint(tier, [one.prompt for one in batch], [one.seed for one in batch])
            pairs = list(zip(batch, images, strict=True))
        except Exception as error:  # the server goes on
            if len(batch) == 1:
                self.failures += not isinstance(error, PostdiffError)
                batch[0].answer.set_exception(error)
            else:  # one bad request is not to spoil the others
                for request in batch:
                    if self.failures < FAILURES:
                        self._answer([request])
            return
        self.failures = 0
        self.metrics.latest = time.perf_counter() - start
        self.metrics.running.labels(tier, self.painter.device).observe(self.metrics.latest)
        self.metrics.sizes.labels(tier).observe(len(batch))
        for request, image in pairs:
            request.answer.set_result(image)


class BodyLimit:
    """Answers 413 to a body of more than ``BODY_BYTES``, by what it announces and by what it sends."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        too_large = announced.isdigit() and int(announced) > BODY_BYTES
        messages: deque[Any] = deque()
        size, more = 0, True
        while more and not too_large:
            messages.append(await receive())
            size += len(messages[-1].get("body", b""))
            too_large, more = size > BODY_BYTES, messages[-1].get("more_body", False)

        async def again() -> Any:
            return messages.popleft() if messages else await receive()

        refusal = JSONResponse({"detail": f"a request has at most {BODY_BYTES} bytes"}, status_code=413)
        await (refusal if too_large else self.app)(scope, again, send)


class Wish(BaseModel):
    """What a client asks for; without a tier, the first one."""

    model_config = ConfigDict(extra="forbid")
    prompt: str = Field(min_length=1)
    seed: int = Field(0, ge=0, lt=2**63)
    tier: str | None = None


def create_app(
    painters: Sequence[Any], *, batch: int = 64, room: int = 64, prompt: int = 2000, window: float = 0.02
) -> FastAPI:
    """The application around painters of the same tiers, one for each device; ``app.state.queue`` is its queue.

    ``batch``: most requests of a batch (a profile's own batch size counts where it is smaller); ``room`` and
    ``window`` as for ``Queue``; ``prompt``: most characters of a prompt.
    """
    profiles = painters[0].profiles
    sizes = {tier: min(batch, profile.budget.batch_size) for tier, profile in profiles.items()}
    queue = Queue(sizes, room, window, len(painters))
    metrics = Metrics(queue)
    workers = [Worker(painter, queue, metrics) for painter in painters]

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for worker in workers:
            worker.start()
        yield
        queue.close()
        for worker in workers:
            await asyncio.to_thread(worker.join)

    app = FastAPI(title="postdiff", lifespan=lifespan)
    app.state.queue = queue
    app.add_middleware(BodyLimit)

    @app.post("/image", response_class=Response)
    async def image(wish: Wish) -> Response:
        """A PNG image of the prompt."""
        tier = next(iter(profiles)) if wish.tier is None else wish.tier
        if tier not in profiles:
            raise HTTPException(422, f"tier {tier!r}: tiers are {', '.join(profiles)}")
        if len(wish.prompt) > prompt:
            raise HTTPException(422, f"a prompt of {len(wish.prompt)} characters: at most {prompt} are taken")
        status, start = 500, time.perf_counter()
        try:
            file = await asyncio.wrap_future(queue.put(Waiting(tier, wish.prompt, wish.seed)))
            status = 200
        except BusyError as busy:
            status = 503
            raise HTTPException(503, str(busy), {"Retry-After": str(max(1, math.ceil(metrics.latest)))}) from None
        except PostdiffError as error:
            raise HTTPException(500, str(error)) from error
        finally:
            metrics.requests.labels(tier, status).inc()
            metrics.seconds.labels(tier).observe(time.perf_counter() - start)
        return Response(file, media_type="image/png")

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        """200 while every worker serves, with what is served; 503 otherwise."""
        alive = [worker.is_alive() for worker in workers]
        healthy = all(alive) and not queue.closed
        about = {
            "status": "ok" if healthy else "ending" if queue.closed == ENDING else STOPPED,
            "model": next(iter(profiles.values())).model.id,
            "tiers": {name: {"plan": one.knobs.describe(), "batch": sizes[name]} for name, one in profiles.items()},
            "workers": {f"{i} {worker.painter.device}": alive[i] for i, worker in enumerate(workers)},
            "waiting": len(queue.waiting),
            "notes": list(painters[0].notes),
        }
        return JSONResponse(about, 200 if healthy else 503)

    @app.get("/metrics")
    async def metrics_page() -> Response:
        return Response(generate_latest(metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})

    return app


class Server(uvicorn.Server):
    """Closes the queue when it is asked to end, so that it waits for running batches only."""

    async def shutdown(self, sockets: Any = None) -> None:
        """End."""
        self.config.app.state.queue.close()  # type: ignore[union-attr]
        await super().shutdown(sockets)


def read_profiles(given: Sequence[str]) -> dict[str, Profile]:
    """Profiles by tier from ``TIER=PATH``, or from a path alone, whose tier is ``default``."""
    named = [text.split("=", 1) if "=" in text else ["default", text] for text in given]
    profiles = {tier: load_profile(Path(path)) for tier, path in named}
    if len(profiles) < len(named):
        raise UsageError(f"tiers {', '.join(tier for tier, _ in named)}", "two are of one name", "take other names")
    return profiles


def main() -> None:
    """Load, then serve; a profile that does not apply ends it with one line."""
    parser = argparse.ArgumentParser(description="Serve postdiff profiles over HTTP.")
    parser.add_argument("--profile", action="append", help="TIER=PATH, once for each tier; the first is the default")
    parser.add_argument("--device", default="auto", help="one worker for each, e.g. cuda:0,cuda:1")
    parser.add_argument("--batch", type=int, default=64, help="most requests of a batch")
    parser.add_argument("--room", type=int, default=64, help="requests that may wait")
    parser.add_argument("--prompt", type=int, default=2000, help="most characters of a prompt")
    parser.add_argument("--override", action="store_true", help="serve on another pipeline than the profiles'")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    try:
        if min(given.batch, given.room, given.prompt) < 1:
            raise UsageError("a limit below 1", "nothing could be served", "give at least 1")
        profiles = read_profiles(given.profile or ["profile.yaml"])
        painters = [Painter(profiles, device.strip(), given.override) for device in given.device.split(",")]
    except PostdiffError as error:
        print(f"serve: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    app = create_app(painters, batch=given.batch, room=given.room, prompt=given.prompt)
    Server(uvicorn.Config(app, host=given.host, port=given.port)).run()


if __name__ == "__main__":
    main()
