"""How a pipeline's networks compute: what does their attention, and how their weights lie in memory.

Neither changes what is computed beyond rounding, so neither is part of a fingerprint; both change how long it takes.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from postdiff_calib.models.fingerprint import networks_of

MemoryFormat = Literal["contiguous", "channels_last"]
FORMATS: tuple[MemoryFormat, ...] = get_args(MemoryFormat)


def attention_backends(pipe: Any) -> dict[str, str]:
    """What computes attention, by the role of each network that says so; several are joined by commas.

    For diffusers' networks it is the class of the attention processor, and where that class lets diffusers choose, the
    backend: the one set on the network (``set_attention_backend``), else the active one. For a text encoder of
    transformers it is its ``attn_implementation``.
    """
    found = {}
    for role, network in networks_of(pipe):
        processors = getattr(network, "attn_processors", {})
        named = sorted({_named(processor) for processor in processors.values()})
        chosen = getattr(network.config, "_attn_implementation", None)
        if named or chosen:
            found[role] = ", ".join(named) or str(chosen)
    return found


def _named(processor: Any) -> str:
    name = type(processor).__name__
    if not hasattr(processor, "_attention_backend"):
        return name
    backend = processor._attention_backend or _active_backend()
    return f"{name} {getattr(backend, 'value', backend)}"


def _active_backend() -> Any:
    from diffusers.models import attention_dispatch

    return attention_dispatch._AttentionBackendRegistry.get_active_backend()[0]


def memory_format(network: Any) -> MemoryFormat:
    """``channels_last`` where a convolution's weights (out, in, h, w) lie so, else ``contiguous``."""
    import torch

    # Of a 1×1 kernel, or of one channel, both are true.
    last = any(
        weight.ndim == 4 and not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)
        for weight in network.parameters()
    )
    return "channels_last" if last else "contiguous"
