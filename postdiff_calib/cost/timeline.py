"""One timed call of a pipeline: when it encoded text, began each step, and began to decode.

Marks are set by torch's own forward hooks on the text encoders and the denoiser and by a wrapper around the decoder's
``decode``, all taken off again. On a CPU a mark is the wall clock; on a GPU it is an event in the stream, read after
the call, so that measuring does not make the GPU wait for the CPU between steps as a synchronisation would.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from postdiff_calib.errors import UnsupportedError
from postdiff_calib.models.families import TEXT_ROLES


@dataclass
class Timeline:
    """Durations of one call, in seconds for the whole batch.

    Attributes:
        total: the call, end to end.
        text: text encoders.
        before: from the start to the first denoiser call, text included.
        steps: each step, from its denoiser call to the next (to the decoder for the last).
        network: the denoiser's share of each step.
        after: from the decoder's start to the end.
        peak_memory: highest allocation during each step beyond what was held before the call (the weights), in bytes;
            empty where the device does not tell.
    """

    total: float
    text: float
    before: float
    steps: list[float]
    network: list[float]
    after: float
    peak_memory: list[float] = field(default_factory=list)


class Clock:
    """Marks in time on one device, and the seconds between them.

    Every call names the device: without a name torch takes the current one, whose queue may be empty while the
    pipeline's is full.
    """

    def __init__(self, device: str) -> None:
        self.device, self.kind = device, device.partition(":")[0]

    def mark(self) -> Any:
        """A mark at this point of the work."""
        import torch

        if self.kind != "cuda":
            # A device that queues work without events (mps) has to be waited for.
            self.synchronize()
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event

    def between(self, first: Any, second: Any) -> float:
        """Seconds from one mark to another; both must have been reached."""
        if self.kind == "cuda":
            return float(first.elapsed_time(second)) / 1000
        return float(second - first)

    def synchronize(self) -> None:
        """Wait for queued work."""
        import torch

        if self.kind == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.kind == "mps":
            torch.mps.synchronize()

    def held_memory(self) -> float:
        """What is allocated now, in bytes; 0 where the device does not tell."""
        import torch

        return float(torch.cuda.memory_allocated(self.device)) if self.kind == "cuda" else 0.0

    def peak_memory(self) -> float:
        """The highest allocation since the last call of this, in bytes; on CUDA only."""
        import torch

        peak = float(torch.cuda.max_memory_allocated(self.device))
        torch.cuda.reset_peak_memory_stats(self.device)
        return peak


def timed_call(
    pipe: Any, denoiser: Any, device: str, call: Callable[[], Any], *, calls: int = 1, with_memory: bool = True
) -> Timeline:
    """Run ``call``, which calls ``pipe`` once, and say where its time went.

    Args:
        pipe, denoiser: whose text encoders, network and decoder are watched.
        device: where they are.
        call: calls ``pipe``.
        calls: of the denoiser that make a step.
        with_memory: read each step's peak memory too, where the device tells; that takes the host some time.

    Raises:
        UnsupportedError: the pipeline never called its denoiser or decoder.
    """
    clock = Clock(device)
    marks: dict[str, list[Any]] = {"text": [], "text_end": [], "step": [], "step_end": [], "decode": []}
    memory: list[float] = []
    held = clock.held_memory()

    def note(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            if with_memory and clock.kind == "cuda" and name in ("step", "decode"):
                # A step ends where the next one starts; the peak before the first is of no step.
                peak = clock.peak_memory()
                if marks["step"]:
                    memory.append(peak - held)
            marks[name].append(clock.mark())

        return hook

    handles = []
    for role in TEXT_ROLES:
        encoder = getattr(pipe, role, None)
        if encoder is not None:
            handles.append(encoder.register_forward_pre_hook(note("text"), prepend=True))
            handles.append(encoder.register_forward_hook(note("text_end")))
    handles.append(denoiser.register_forward_pre_hook(note("step"), prepend=True))
    handles.append(denoiser.register_forward_hook(note("step_end")))
    try:
        with _before_decode(pipe.vae, note("decode")):
            clock.synchronize()
            start, start_mark = time.perf_counter(), clock.mark()
            call()
            clock.synchronize()
            total = time.perf_counter() - start
    finally:
        for handle in handles:
            handle.remove()
    if not marks["step"] or not marks["decode"]:
        raise UnsupportedError(
            f"pipeline {type(pipe).__name__}", "it did not call its network and decoder", "measure a stock pipeline"
        )
    bounds = [*marks["step"][::calls], marks["decode"][0]]
    network = [clock.between(a, b) for a, b in zip(marks["step"], marks["step_end"], strict=True)]
    return Timeline(
        total=total,
        text=sum(clock.between(a, b) for a, b in zip(marks["text"], marks["text_end"], strict=True)),
        before=clock.between(start_mark, bounds[0]),
        steps=[clock.between(a, b) for a, b in itertools.pairwise(bounds)],
        network=[sum(network[i : i + calls]) for i in range(0, len(network), calls)],
        after=total - clock.between(start_mark, bounds[-1]),
        peak_memory=[max(memory[i : i + calls]) for i in range(0, len(memory), calls)],
    )


@contextmanager
def _before_decode(vae: Any, hook: Callable[[], None]) -> Iterator[None]:
    """Call ``hook`` whenever ``vae.decode`` is called; the module is as it was afterwards."""
    stock, own = vae.decode, vae.__dict__.get("decode")

    def decode(*args: Any, **kwargs: Any) -> Any:
        hook()
        return stock(*args, **kwargs)

    vae.decode = decode
    try:
        yield
    finally:
        if own is None:
            del vae.decode
        else:
            vae.decode = own
