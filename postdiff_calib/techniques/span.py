"""The span of transformer blocks that a reuse step skips, and the hooks on its blocks; see ``block_cache``.

Symbols: N blocks, b cache branch, B batch, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from postdiff_calib.errors import UnsupportedError
from postdiff_calib.models.families.family import BlockOutput

#: PixArt's depth, at which branch b > 0 keeps b + 1 blocks live at each end.
_REFERENCE_DEPTH = 28


@dataclass
class Flags:
    """What the hooks do at the present step; both False outside an accelerated call.

    Attributes:
        reuse: deep blocks return what was kept.
        keep: deep blocks run, and their output is kept.
        half: which of a step's calls this is, where guidance is two calls.
    """

    reuse: bool = False
    keep: bool = False
    half: int = 0


class Residual:
    """What a span of transformer blocks added to its inputs."""

    def __init__(self) -> None:
        self.entry: Any | None = None
        self.held: Any = None


class Span:
    """One block of the reused span; the first adds the kept residuals, the others pass their inputs on.

    ``output`` says what a block hands on; residuals and inputs are tuples in its order.
    """

    def __init__(
        self, flags: Flags, residuals: Sequence[Residual], output: BlockOutput, *, first: bool, last: bool
    ) -> None:
        self.flags, self.residuals, self.first, self.last = flags, residuals, first, last
        self.names = [f"{name}_states" for name in output.replace("encoder", "encoder_hidden").split(", ")]
        self.weight, self.ran = 1, False

    def forward(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        """The block's output, or what stands in for it on a reuse step."""
        inputs = tuple(args[0] if args and name == "hidden_states" else kwargs[name] for name in self.names)
        residual = self.residuals[self.flags.half]
        if self.flags.reuse:
            self.ran = False
            return self._output(tuple(map(_added, inputs, residual.held)) if self.first else inputs)
        if self.first and self.flags.keep:
            residual.entry = inputs
        output = original(*args, **kwargs)
        self.ran = True
        if self.last and self.flags.keep and residual.entry is not None:
            outputs = output if len(self.names) > 1 else (output,)
            residual.held = tuple(map(_added_by_span, outputs, residual.entry))
            residual.entry = None
        return output

    def _output(self, states: tuple[Any, ...]) -> Any:
        return states if len(states) > 1 else states[0]


def _added_by_span(after: Any, before: Any) -> Any:
    """A span's residual; None for the text where the network's last block, which drops it, belongs to the span."""
    return None if after is None else after - before


def _added(states: Any, residual: Any) -> Any:
    """States (B, L, D) plus a residual, which may have been kept with more padding at its end."""
    return states if residual is None else states + residual[:, : states.shape[1]]


def span_of(depth: int, branch: int) -> range:
    """Indices of the transformer blocks that a reuse step skips; for branch 0 all but the first."""
    if branch == 0 and depth > 1:
        return range(1, depth)
    ends = max(1, round((branch + 1) * depth / _REFERENCE_DEPTH))
    if 2 * ends >= depth:
        raise UnsupportedError(
            f"cache_branch={branch} of a transformer of {depth} blocks",
            f"{ends} blocks at each end stay live, which leaves none to reuse",
            "take a smaller cache_branch, or cache_interval=1",
        )
    return range(ends, depth - ends)
