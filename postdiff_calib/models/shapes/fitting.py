"""The loop that trains one stage: learning rate, average of weights, progress, and a checkpoint every two minutes.

Batches are functions of (seed, step), so no state of a random generator has to be kept: a stopped run resumes as if
whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from postdiff_calib.models.shapes import checkpoint


class Schedule(Protocol):
    """What the loop reads of a recipe."""

    @property
    def decay_share(self) -> float:
        """Share of the run, at its end, over which the rate falls to zero."""

    @property
    def weight_decay(self) -> float:
        """AdamW's weight decay."""

    @property
    def ema(self) -> float:
        """How much of the average is kept in a step."""


def rate_at(done: float, warmup: float, decay_share: float) -> float:
    """Learning-rate factor: linear warm-up, constant, then a linear decay to zero over the last share of the run."""
    if done < warmup:
        return done / warmup
    return min(1.0, max(0.0, (1 - done) / decay_share))


class Progress:
    """A line now and then: stage, how far, running loss, how long still."""

    def __init__(self, stage: str, total: int, done: int, seconds: float) -> None:
        self.stage, self.total, self.first = stage, total, done
        self.start = time.monotonic()
        self.before = seconds
        self.average: torch.Tensor | None = None
        self.last_print = -1e9

    def seconds(self) -> float:
        """Training time so far, earlier runs included."""
        return self.before + time.monotonic() - self.start

    @property
    def loss(self) -> float | None:
        """The running loss; None before the first step."""
        return None if self.average is None else float(self.average)

    def update(self, done: int, loss: torch.Tensor) -> None:
        """Count a step; prints at most every 20 s, and only then reads the loss, which a device must wait for."""
        self.average = loss if self.average is None else 0.99 * self.average + 0.01 * loss
        now = time.monotonic()
        if now - self.last_print < 20 and done < self.total:
            return
        self.last_print = now
        rate = (done - self.first) / max(now - self.start, 1e-9)
        left = (self.total - done) / max(rate, 1e-9)
        print(
            f"{self.stage}: {done}/{self.total} loss {float(self.average):.4f} {rate:.1f}/s, {left / 60:.0f} min left",
            flush=True,
        )


@dataclass(frozen=True)
class Stage:
    """One training of a recipe.

    Attributes:
        name: of its checkpoint and in its progress line.
        folder: of its checkpoint.
        steps: optimiser steps.
        warmup_steps: of these, the first, in which the rate rises.
        recipe: rates' decay, weight decay and averaging.
        decay_share: share of the steps, the last, in which the rate falls; the recipe's where None.
        unit: what the progress line counts for each step, such as images.
    """

    name: str
    folder: Path
    steps: int
    warmup_steps: int
    recipe: Schedule
    decay_share: float | None = None
    unit: int = 1


def fit(
    stage: Stage,
    module: torch.nn.Module,
    groups: list[dict[str, Any]],
    loss_at: Callable[[int], torch.Tensor],
    average: torch.nn.Module | None = None,
    after_step: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Run a stage's optimiser steps of ``loss_at(step)``, resuming from and saving to its checkpoint.

    ``groups`` are AdamW parameter groups whose ``lr`` is the peak; ``average`` is a copy of ``module`` that follows
    it exponentially; ``after_step`` is called with the number of steps done, after the checkpoint.
    """
    recipe, steps, unit = stage.recipe, stage.steps, stage.unit
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=recipe.weight_decay)
    peaks = [group["lr"] for group in optimizer.param_groups]
    modules = {"module": module} | ({"average": average} if average is not None else {})
    path = stage.folder / f"{stage.name}.safetensors"
    counters = checkpoint.load(path, modules, optimizer) or {"step": 0, "seconds": 0.0}
    progress = Progress(stage.name, steps * unit, counters["step"] * unit, counters["seconds"])
    saved = time.monotonic()
    module.train()
    for step in range(counters["step"], steps):
        factor = rate_at((step + 1) / steps, stage.warmup_steps / steps, stage.decay_share or recipe.decay_share)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        loss = loss_at(step)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if average is not None:
            keep = min(recipe.ema, (step + 1) / (step + 10))
            with torch.no_grad():
                get_ema_multi_avg_fn(keep)(  # type: ignore[no-untyped-call]
                    list(average.parameters()), list(module.parameters()), step
                )
        progress.update((step + 1) * unit, loss.detach())
        if time.monotonic() - saved > 120 or step + 1 == steps:
            counters = {"step": step + 1, "seconds": progress.seconds(), "loss": progress.loss}
            checkpoint.save(path, modules, optimizer, counters)
            saved = time.monotonic()
        if after_step is not None:
            after_step(step + 1)
    module.eval()
    return counters
