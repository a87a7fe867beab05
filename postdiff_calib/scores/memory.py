"""Out of memory in the middle of a batch: what it looks like, and how a smaller batch is found.

PyTorch raises its own error on a GPU and a plain ``RuntimeError`` on a CPU, Python a ``MemoryError``. All mean the
same: the batch is too large for this device, while half of it may fit.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

from postdiff_calib.errors import PlanError
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.progress import log_event

_SIGNS = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass
class BatchSize:
    """How many images fit into memory at a time, shared by all who make images of one study.

    Args:
        size: None as long as nothing smaller was found than what was asked for.
        found: called once a smaller size was found, so that it can be kept.
    """

    size: int | None = None
    found: Callable[[], None] | None = None

    def shrink(self, size: int) -> None:
        """Remember that no more than ``size`` images fit."""
        self.size = size
        if self.found is not None:
            self.found()

    def halve(self, settings: GenerationSettings, plan: str, note: Callable[[str], None]) -> None:
        """Remember that a batch as these settings have it is too large.

        Args:
            settings: as they were asked for; no more images at a time count than are known to fit.
            plan: what was run, for messages.
            note: called with a line for a person.

        Raises:
            PlanError: not even one image fits.
        """
        size = self.within(settings).batch_size
        if size == 1:
            raise PlanError(
                plan,
                "it does not fit into memory even one image at a time",
                "free memory, or use --dtype float16 or a device with more",
            )
        note(f"{size} images at a time do not fit into memory; going on with {size // 2}")
        self.shrink(size // 2)
        log_event("halved batch", knobs=plan, batch_size=size // 2)

    def within(self, settings: GenerationSettings) -> GenerationSettings:
        """The settings with no more images at a time than fit."""
        return settings if self.size is None else replace(settings, batch_size=min(settings.batch_size, self.size))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def release_memory() -> None:
    """Give back what a failed batch left behind."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
