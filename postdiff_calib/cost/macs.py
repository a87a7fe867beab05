"""Counting multiply-accumulates (MACs) of a network call on the meta device; nothing fitted.

torch's own ``FlopCounterMode`` sees every operation that runs and counts 2 FLOPs per MAC. Two conventions:

- ``paper``: convolutions and linear layers only, as the figures of PostDiff (arXiv 2508.06160) are counted;
- ``full``: attention's own matrix products too (queries by keys, weights by values).

Element-wise work (normalisation, activations, softmax, resizing) is counted in neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

Shape = Sequence[int]
Convention = Literal["paper", "full"]

# Attention's products reach torch as batched matrix products or as one fused operation, by device and type.
_ATTENTION_OPS = ("bmm", "baddbmm", "scaled_dot_product")
FLOPS_PER_MAC = 2


@dataclass(frozen=True)
class Macs:
    """A count, split by kind of operation.

    Attributes:
        conv, linear, attention: MACs of convolutions, of linear layers, and of attention's own products.
    """

    conv: int = 0
    linear: int = 0
    attention: int = 0

    @property
    def paper(self) -> int:
        """Convention ``paper``."""
        return self.conv + self.linear

    @property
    def full(self) -> int:
        """Convention ``full``."""
        return self.conv + self.linear + self.attention

    def by(self, convention: Convention) -> int:
        """In the convention named."""
        return self.paper if convention == "paper" else self.full

    def __add__(self, other: Macs) -> Macs:
        return Macs(self.conv + other.conv, self.linear + other.linear, self.attention + other.attention)

    def __sub__(self, other: Macs) -> Macs:
        return Macs(self.conv - other.conv, self.linear - other.linear, self.attention - other.attention)

    def __mul__(self, times: int) -> Macs:
        return Macs(self.conv * times, self.linear * times, self.attention * times)


def count(call: Callable[[], Any]) -> dict[str, Macs]:
    """Run ``call`` and count, by module.

    Returns:
        For each module that did any work, by its dotted name inside the network, the MACs of it and all inside it;
        ``""`` is the total.
    """
    import torch

    with torch.no_grad(), flop_counter() as counter:
        call()
    counts: dict[str, Macs] = {}
    for name, operations in counter.get_flop_counts().items():
        # Names start with the class of the module that was called; "Global" is everything.
        path = "" if name == "Global" else name.partition(".")[2] or None
        if path is not None:
            counts[path] = _split(operations)
    return counts or {"": Macs()}


def flop_counter() -> FlopCounterMode:
    """torch's counter, silent, with the fused attention of CPUs, which some releases of torch leave out (2.14 does)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, flop_registry

    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
        """Shapes (B, heads, tokens, D): queries by keys, and weights by values."""
        batch, heads, tokens, width = query
        return FLOPS_PER_MAC * batch * heads * tokens * key[2] * (width + value[3])

    return FlopCounterMode(display=False, custom_mapping={} if fused in flop_registry else {fused: attention})


def _split(operations: dict[Any, int]) -> Macs:
    conv = linear = attention = 0
    for operation, flops in operations.items():
        name = str(operation).removeprefix("aten.").lstrip("_")
        if name.startswith(_ATTENTION_OPS):
            attention += flops
        elif name.startswith("conv"):
            conv += flops
        else:
            linear += flops
    return Macs(conv // FLOPS_PER_MAC, linear // FLOPS_PER_MAC, attention // FLOPS_PER_MAC)
