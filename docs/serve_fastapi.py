"""A small image server: one profile, one model, requests that arrive together run as one batch.

    pip install fastapi uvicorn
    python docs/serve_fastapi.py --profile profile.yaml --port 8000
    curl -s localhost:8000/image -H 'content-type: application/json' \
         -d '{"prompt": "a red circle on a white background", "seed": 7}' -o image.png

The model is loaded once and stays accelerated. An accelerated pipeline serves one call at a time, so one worker thread
runs it; what arrives meanwhile waits and becomes the next batch, up to the batch size that the profile was measured at.
A seed gives the image that ``postdiff generate`` makes of it, whatever else is in the batch (up to float rounding).
A request of more than ``BODY_BYTES`` is turned away before it is in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from postdiff_calib import enable, load_profile
from postdiff_calib.deploy import load_for, to_image
from postdiff_calib.errors import PostdiffError
from postdiff_calib.generate import generate


class Painter:
    """The profile's model, loaded and accelerated once.

    Args:
        profile: path of the profile.
        device: auto, cpu, cuda …
        override: serve although the profile was made for another pipeline.

    Raises:
        PostdiffError: the profile cannot be read, its model cannot be loaded, or the two do not belong together.
    """

    def __init__(self, profile: Path, device: str = "auto", override: bool = False) -> None:
        self.profile = load_profile(profile)
        self.loaded, self.notes = load_for(self.profile, device=device, dtype="auto", override=override)
        enable(self.loaded.pipe, self.profile, override=override)

    def paint(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[bytes]:
        """PNG files for prompts, a batch at a time."""
        batches = generate(self.loaded.pipe, self.profile, prompts, seeds, self.profile.generation)
        return [_png(image) for images in batches for image in images]


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    to_image(image).save(buffer, format="PNG")
    return buffer.getvalue()


class Batcher:
    """Runs what arrives together as one batch, on one thread.

    Args:
        paint: (prompts, seeds) → PNG files.
        limit: prompts per batch.
        window: seconds that the first request of a batch waits for others.
        room: requests that may wait; further ones are turned away.
    """

    def __init__(
        self, paint: Callable[[list[str], list[int]], list[bytes]], limit: int, window: float, room: int
    ) -> None:
        self.paint, self.limit, self.window = paint, limit, window
        self.waiting: asyncio.Queue[tuple[str, int, asyncio.Future[bytes]]] = asyncio.Queue(room)
        self.batches: Counter[int] = Counter()

    async def ask(self, prompt: str, seed: int) -> bytes:
        """The PNG file of one request, when its batch has run."""
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        try:
            self.waiting.put_nowait((prompt, seed, answer))
        except asyncio.QueueFull:
            raise HTTPException(503, f"{self.waiting.maxsize} requests are waiting already; try again later") from None
        return await answer

    async def _next(self) -> list[tuple[str, int, asyncio.Future[bytes]]]:
        loop = asyncio.get_running_loop()
        batch = [await self.waiting.get()]
        end = loop.time() + self.window
        while len(batch) < self.limit:
            left = end - loop.time()
            try:
                batch.append(
                    self.waiting.get_nowait() if left <= 0 else await asyncio.wait_for(self.waiting.get(), left)
                )
            except (asyncio.QueueEmpty, asyncio.TimeoutError):
                break
        return batch

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "painter") as thread:
            while True:
                batch = await self._next()
                prompts, seeds, answers = ([request[i] for request in batch] for i in range(3))
                self.batches[len(batch)] += 1
                try:
                    images = await loop.run_in_executor(thread, self.paint, prompts, seeds)
                except Exception as error:  # every request of the batch is told; the server goes on
                    for answer in answers:
                        if not answer.done():
                            answer.set_exception(error)
                else:
                    for answer, image in zip(answers, images, strict=True):
                        if not answer.done():
                            answer.set_result(image)


#: Most bytes of a request: a prompt of 2,000 characters, each of them escaped, and a seed.
BODY_BYTES = 64 * 1024


class BodyLimit:
    """Answers 413 to a request whose body is too large, by what it announces and by what it sends.

    Args:
        app: the application behind it.
        limit: most bytes of a body.
    """

    def __init__(self, app: Any, limit: int = BODY_BYTES) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        messages: list[Any] = []
        left = self.limit - (int(announced) if announced.isdigit() else 0)
        received = 0
        while left >= 0 and received <= self.limit:
            message = await receive()
            messages.append(message)
            received += len(message.get("body", b""))
            if not message.get("more_body", False):
                break
        if left < 0 or received > self.limit:
            answer = JSONResponse({"detail": f"a request has at most {self.limit} bytes"}, status_code=413)
            await answer(scope, receive, send)
            return

        async def again() -> Any:
            return messages.pop(0) if messages else await receive()

        await self.app(scope, again, send)


class Wish(BaseModel):
    """What a client asks for."""

    prompt: str = Field(min_length=1, max_length=2000)
    seed: int = Field(0, ge=0, lt=2**63)


def create_app(painter: Painter, window: float = 0.02, room: int = 64) -> FastAPI:
    """The application around a loaded model; ``window`` and ``room`` as for ``Batcher``."""
    profile = painter.profile
    batcher: Batcher | None = None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        nonlocal batcher
        batcher = Batcher(painter.paint, profile.budget.batch_size, window, room)
        worker = asyncio.create_task(batcher.run())
        yield
        worker.cancel()

    app = FastAPI(title="postdiff", lifespan=lifespan)
    app.add_middleware(BodyLimit)

    @app.post("/image", response_class=Response)
    async def image(wish: Wish) -> Response:
        """A PNG image of the prompt."""
        assert batcher is not None
        return Response(await batcher.ask(wish.prompt, wish.seed), media_type="image/png")

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """What is served, and how many batches of each size have run."""
        assert batcher is not None
        return {
            "status": "ok",
            "model": profile.model.id,
            "plan": profile.knobs.describe(),
            "batch_size": profile.budget.batch_size,
            "waiting": batcher.waiting.qsize(),
            "batches": {str(size): count for size, count in sorted(batcher.batches.items())},
            "notes": list(painter.notes),
        }

    @app.exception_handler(PostdiffError)
    async def told(_: Request, error: PostdiffError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=500)

    return app


def main() -> None:
    """Load, then serve; a profile that does not apply ends it with one line."""
    parser = argparse.ArgumentParser(description="Serve a postdiff profile over HTTP.")
    parser.add_argument("--profile", type=Path, default=Path("profile.yaml"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--override", action="store_true", help="serve on another pipeline than the profile's")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    try:
        painter = Painter(given.profile, given.device, given.override)
    except PostdiffError as error:
        print(f"serve: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    import uvicorn

    uvicorn.run(create_app(painter), host=given.host, port=given.port)


if __name__ == "__main__":
    main()
