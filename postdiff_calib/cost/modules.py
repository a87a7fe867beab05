"""Where a step's MACs are: by block and by kind of layer.

Counted with fvcore, which traces a real call on the CPU; it knows nothing of attention's products, so a handle for
them is registered. Networks too large to be called on a CPU in reasonable time are counted with torch's counter on the
meta device instead, whose figures are the same (a test holds both equal to a count by hand).

Kinds of layer: convolutions; linear layers outside attention; self- and cross-attention whole, projections and
products together.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

from postdiff_calib.cost.macs import Macs
from postdiff_calib.cost.meter import Meter, StepKey
from postdiff_calib.models.families import denoiser_of

KINDS = ("convolution", "linear", "self-attention", "cross-attention")
#: MACs of a call above which fvcore's real call would take minutes on a CPU.
FVCORE_LIMIT = 1.5e12
#: Parameters above which the network would not fit a usual memory in float32.
FVCORE_PARAMETERS = 1e9

_CONV, _LINEAR, _ATTENTION = ("conv",), ("linear", "addmm", "matmul", "mm"), ("attention", "bmm", "baddbmm")
#: Lists of numbered blocks; everything else is shown under its first name.
_NUMBERED = ("down_blocks", "up_blocks")

Breakdown = dict[str, dict[str, int]]


def count_with_fvcore(network: Any, inputs: Mapping[str, Any]) -> dict[str, Macs]:
    """MACs by module of one call on a real device; the same form as ``macs.count``.

    Args:
        network: on the device of ``inputs``.
        inputs: keyword arguments of its call.
    """
    import torch

    with warnings.catch_warnings():
        # fvcore uses parts of torch that warn of their age.
        warnings.simplefilter("ignore")
        from fvcore.nn import FlopCountAnalysis

    first = "sample" if "sample" in inputs else "hidden_states"

    class Call(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, sample: torch.Tensor) -> Any:
            return self.network(**{**inputs, first: sample}, return_dict=False)[0]

    logging.getLogger("fvcore").setLevel(logging.ERROR)
    analysis = FlopCountAnalysis(Call(), (inputs[first],))
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_products)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        counted = analysis.by_module_and_operator()
    inside = {name.partition(".")[2]: _sort(operations) for name, operations in counted.items() if name}
    return {name: macs for name, macs in inside.items() if macs.full or not name}


def _attention_products(inputs: list[Any], outputs: list[Any]) -> int:
    """Queries (…, q, d) by keys (…, k, d), and weights (…, q, k) by values (…, k, v)."""
    query, key, value = (item.type().sizes() for item in inputs[:3])
    return int(prod(query[:-1]) * key[-2] * (query[-1] + value[-1]))


def _sort(operations: Mapping[str, int]) -> Macs:
    """fvcore's names of operations to kinds; what is neither (normalisation, resizing) is left out."""

    def total(names: tuple[str, ...]) -> int:
        return int(sum(count for name, count in operations.items() if name.lstrip("_").startswith(names)))

    attention = int(sum(n for name, n in operations.items() if any(part in name for part in _ATTENTION)))
    return Macs(total(_CONV), total(_LINEAR), attention)


def breakdown(meter: Meter, key: StepKey) -> tuple[Breakdown, str]:
    """MACs (``full``) of one step by block and kind of layer, per image, and which counter counted them.

    Returns:
        ({block: {kind: MACs}}, ``fvcore`` or ``torch``); blocks in the order in which they run.
    """
    from postdiff_calib.cost.networks import build, denoiser_inputs

    modules = meter.modules(key)
    network = build(meter.config)
    crossing = [name for name, module in network.named_modules() if getattr(module, "is_cross_attention", False)]
    attending = [
        name
        for name, module in network.named_modules()
        if hasattr(module, "is_cross_attention") or type(module).__name__.endswith("Attention")
    ]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    counter = "torch"
    if key.refresh and key.cross_attention_live:
        full = modules[""].full // (2 if key.guided else 1)
        # fvcore passes one tensor on, not a list of them.
        inputs = denoiser_inputs(meter.config, 1, key.height, key.width, meter.text_length)
        listed = isinstance(inputs[denoiser_of(network).sample], list)
        if full <= FVCORE_LIMIT and parameters <= FVCORE_PARAMETERS and not listed:
            modules, counter = _fvcore_step(meter, network, key), "fvcore"
    order = [name for name, _ in network.named_children()]
    blocks = _arrange(modules, order, crossing, attending)
    for i, config in enumerate(meter.control):
        name = "controlnet" if len(meter.control) == 1 else f"controlnet.{i}"
        blocks[name] = _control_row(config, meter.control_modules(key)[i])
    return blocks, counter


def _control_row(config: Mapping[str, Any], modules: Mapping[str, Macs]) -> dict[str, int]:
    """All blocks of a control network together, by kind of layer."""
    from postdiff_calib.cost.networks import build

    named = list(build(config).named_modules())
    crossing = [name for name, module in named if getattr(module, "is_cross_attention", False)]
    attending = [name for name, module in named if hasattr(module, "is_cross_attention")]
    blocks = _arrange(modules, (), crossing, attending)
    return {kind: sum(row[kind] for row in blocks.values()) for kind in KINDS}


def _fvcore_step(meter: Meter, network: Any, key: StepKey) -> dict[str, Macs]:
    from postdiff_calib.cost.networks import denoiser_inputs

    # Uninitialised weights: nothing depends on the values.
    real = network.to_empty(device="cpu")
    inputs = denoiser_inputs(meter.config, 1, key.height, key.width, meter.text_length, device="cpu")
    times = 2 if key.guided else 1
    return {name: macs * times for name, macs in count_with_fvcore(real, inputs).items()}


def _arrange(
    modules: Mapping[str, Macs], order: Iterable[str], crossing: Iterable[str], attending: Iterable[str]
) -> Breakdown:
    """Each module's own MACs (without those inside its children) under its block and kind."""
    cross, attention = tuple(f"{name}." for name in crossing), tuple(f"{name}." for name in attending)
    table: Breakdown = {}
    ranks = {name: rank for rank, name in enumerate(order)}
    for name, macs in modules.items():
        own = macs
        for other, inside in modules.items():
            if _parent(other, modules) == name and other != "":
                own = own - inside
        if name == "" or own.full == 0:
            continue
        kinds = table.setdefault(_block(name), dict.fromkeys(KINDS, 0))
        if f"{name}.".startswith(cross):
            kinds["cross-attention"] += own.full
        elif f"{name}.".startswith(attention):
            kinds["self-attention"] += own.full
        else:
            kinds["convolution"] += own.conv
            kinds["linear"] += own.linear
            kinds["self-attention"] += own.attention
    return dict(sorted(table.items(), key=lambda item: _place(item[0], ranks)))


def _parent(name: str, modules: Mapping[str, Macs]) -> str:
    """The nearest enclosing module that was counted."""
    while name:
        name = name.rpartition(".")[0]
        if name in modules:
            return name
    return ""


def _block(name: str) -> str:
    first, _, rest = name.partition(".")
    return f"{first}.{rest.partition('.')[0]}" if first in _NUMBERED else first


def _place(block: str, ranks: Mapping[str, int]) -> tuple[float, int]:
    """Down, middle, up: ``up_blocks`` is registered before ``mid_block`` in diffusers' U-Net."""
    first, _, number = block.partition(".")
    rank: float = ranks.get(first, len(ranks))
    if first == "mid_block":
        rank = ranks.get("down_blocks", 0) + 0.5
    return rank, int(number or 0)
