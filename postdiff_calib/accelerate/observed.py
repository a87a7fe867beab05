"""Telling a listener about every step of a scheduler, for studies that look inside a run.

Only the scheduler object is touched, for the length of a ``with`` block, and what its ``step`` returns is not: images
are the same bit for bit. It goes with an accelerated pipeline, which wraps ``step`` around this one.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

#: Hears of each step before it is taken: the arguments of ``scheduler.step`` by name.
Listener = Callable[[dict[str, Any]], None]


@contextmanager
def observed_steps(scheduler: Any, listener: Listener) -> Iterator[None]:
    """``listener`` hears of every ``scheduler.step`` inside the block."""
    before, stock = scheduler.__dict__.get("step"), scheduler.step
    signature = inspect.signature(stock)

    @functools.wraps(stock)
    def step(*args: Any, **kwargs: Any) -> Any:
        listener(dict(signature.bind(*args, **kwargs).arguments))
        return stock(*args, **kwargs)

    scheduler.step = step
    try:
        yield
    finally:
        if before is None:
            scheduler.__dict__.pop("step", None)
        else:
            scheduler.step = before
