"""What a fine-tuning is asked for: its settings, checked; nothing heavy is imported."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from postdiff_calib.errors import KnobError, UsageError

#: File of the state in a fine-tuning's folder.
STATE = "state.safetensors"


@dataclass(frozen=True)
class Tuning:
    """How a denoiser is fine-tuned; the defaults are the paper's where it gives one.

    Attributes:
        low_res_fraction: s, share of the schedule, its noisy end, that gets smaller images; 0 ≤ s < 1.
        low_res_scale: β, their side over the full side; below 1 where s > 0.
        batch_size: images per step of the optimizer, over all processes.
        accumulation: parts that a process takes its share of a batch in.
        rate: of AdamW.
        warmup: steps over which the rate rises to that.
        weight_decay: of AdamW.
        ema: most of the average that is kept in a step; the average is what is written.
        caption_dropout: share of captions left empty, for classifier-free guidance.
        lora_rank: of a LoRA on the attention's projections; 0 trains every weight.
        seed: of samples, timesteps and noise.
    """

    low_res_fraction: float = 0.5
    low_res_scale: float = 0.5
    batch_size: int = 128
    accumulation: int = 1
    rate: float = 1e-5
    warmup: int = 100
    weight_decay: float = 0.01
    ema: float = 0.9999
    caption_dropout: float = 0.1
    lora_rank: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("batch_size", 1), ("accumulation", 1), ("lora_rank", 0), ("warmup", 0)):
            if getattr(self, name) < low:
                raise UsageError(f"{name}={getattr(self, name)}", f"it must be at least {low}", "correct the value")
        for name in ("caption_dropout", "ema", "low_res_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name):g}", "it must lie in [0, 1)", "correct the value")
        if not 0 < self.rate < math.inf:
            raise UsageError(f"rate={self.rate:g}", "it must be above 0 and finite", "take such as 1e-5")
        if self.low_res_fraction > 0 and not 0.25 <= self.low_res_scale < 1:
            raise KnobError(
                f"low_res_scale={self.low_res_scale:g}",
                "smaller images need a scale from 0.25 to below 1",
                "set low_res_scale (--beta), such as 0.5, or -s 0",
            )

    def part(self, processes: int) -> int:
        """Images that a process takes at a time.

        Raises:
            UsageError: the batch cannot be split so.
        """
        parts = processes * self.accumulation
        if self.batch_size % parts:
            raise UsageError(
                f"batch_size={self.batch_size}",
                f"{processes} processes × {self.accumulation} parts must divide it",
                f"take such as {max(1, self.batch_size // parts) * parts}",
            )
        return self.batch_size // parts

    def as_dict(self) -> dict[str, Any]:
        """Plain data: all that the weights after so many steps depend on."""
        return asdict(self)
