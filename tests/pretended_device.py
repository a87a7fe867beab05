"""Tensors that say they are on ``cuda:0`` and hold their values on the CPU, watched as a GPU's would be.

``Watch`` sees every operation. It refuses an operation on tensors of both devices (CPU tensors without a dimension
excepted, as on a GPU), and notes host reads, copies between the two, and who asked for them. There is no GPU in it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
_READS = {aten._local_scalar_dense.default, aten.item.default, aten.nonzero.default, aten.equal.default}
_NOT_ASKING = ("/torch/", "pretended_device.py", "<")


def _asking() -> str:
    """File and line of the innermost code that is neither torch's nor this file's."""
    frame = sys._getframe(1)
    while frame is not None and any(part in frame.f_code.co_filename for part in _NOT_ASKING):
        frame = frame.f_back  # type: ignore[assignment]
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "?"


class OnDevice(torch.Tensor):
    """A tensor on the pretended device."""

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> OnDevice:
        return torch.Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), dtype=values.dtype, device="cuda:0",
            storage_offset=values.storage_offset(),
        )  # fmt: skip

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def __repr__(self, **_: Any) -> str:
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"

    def tolist(self) -> Any:
        Watch.note("read", "tolist")
        return self.values.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _goes_to_device(func: Any, tensors: list[torch.Tensor], device: Any) -> bool:
    """Whether what comes out is on the pretended device; copies are noted, mixed devices refused."""
    there = [isinstance(tensor, OnDevice) for tensor in tensors]
    if func is aten._to_copy.default:
        goes = there[0] if device is None else torch.device(device).type == "cuda"
        if goes != there[0]:
            Watch.note("copy", f"{tuple(tensors[0].shape)} to {'device' if goes else 'host'}")
        return goes
    if func is aten.copy_.default:
        if there[0] != there[1]:
            Watch.note("copy", f"copy_ {tuple(tensors[0].shape)}")
        return there[0]
    if func in _READS and any(there):
        Watch.note("read", func.__name__)
    elif any(there) and func not in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default):
        strangers = [t for t, on in zip(tensors, there, strict=True) if not on and t.ndim]
        if strangers:
            shape = tuple(strangers[0].shape)
            raise RuntimeError(f"{func} mixes devices: a CPU tensor {shape} at {_asking()}")
    return any(there) if device is None else torch.device(device).type == "cuda"


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
    goes = _goes_to_device(func, tensors, kwargs.get("device"))
    own_args, own = tree_map(_values, args), dict(tree_map(_values, kwargs))
    if own.get("device") is not None and torch.device(own["device"]).type == "cuda":
        own["device"] = torch.device("cpu")
    out = func(*own_args, **own)
    if not goes or func in (aten._local_scalar_dense.default, aten.item.default):
        return out
    wrapped = tree_map(lambda t: OnDevice(t) if isinstance(t, torch.Tensor) else t, out)
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


def _values(leaf: Any) -> Any:
    return leaf.values if isinstance(leaf, OnDevice) else leaf


class Watch(TorchDispatchMode):
    """Notes what is read and copied while ``looping``: (kind, what, who asked) and how often."""

    current: Watch | None = None

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[str, str, str]] = Counter()
        self.looping = False

    def __enter__(self) -> Watch:
        Watch.current = self
        return super().__enter__()  # type: ignore[no-any-return]

    def __exit__(self, *error: Any) -> None:
        Watch.current = None
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    @staticmethod
    def note(kind: str, what: str) -> None:
        if Watch.current is not None and Watch.current.looping:
            Watch.current.seen[kind, what, _asking()] += 1

    def times(self, kind: str) -> int:
        """How many reads or copies there were in all."""
        return sum(times for event, times in self.seen.items() if event[0] == kind)

    def ours(self) -> Counter[tuple[str, str, str]]:
        """What our code asked for."""
        return Counter({event: times for event, times in self.seen.items() if "postdiff_calib/" in event[2]})


def move(pipe: Any, dtype: torch.dtype) -> Any:
    """A pipeline on the pretended device: every weight and buffer of its networks replaced."""
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.to(dtype)
            for module in part.modules():
                for name, weight in module._parameters.items():
                    if weight is not None:
                        module._parameters[name] = torch.nn.Parameter(OnDevice(weight.data), requires_grad=False)
                for name, buffer in module._buffers.items():
                    if buffer is not None:
                        module._buffers[name] = OnDevice(buffer)
    return pipe


@contextmanager
def watched(pipe: Any, network: Any) -> Iterator[Watch]:
    """Run the block on the pretended device; the loop begins with the network's first call."""
    lazy = torch.cuda._lazy_init
    torch._C._ensureCUDADeviceGuardSet()
    torch.cuda._lazy_init = lambda: None
    watch = Watch()

    def begin(*_: Any) -> None:
        watch.looping = True

    handle = network.register_forward_pre_hook(begin, prepend=True)
    try:
        with torch.no_grad(), watch:
            yield watch
    finally:
        handle.remove()
        torch.cuda._lazy_init = lazy
