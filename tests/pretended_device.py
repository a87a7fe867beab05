"""Tensors that say they are on ``cuda:0`` and hold their values on the CPU, watched as a GPU's would be.

``Watch`` sees every operation. It refuses what a GPU refuses: operations on tensors of both devices, CPU tensors
without a dimension in element-wise operations excepted. In the step loop it notes host reads, copies between the two
devices and results wider than what they are made of, with who asked for them and in which step; and the type and device
of every tensor that the pipeline hands to its networks and its scheduler, and gets back. There is no GPU in it.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

aten = torch.ops.aten
_VALUES = {aten._local_scalar_dense.default, aten.item.default}
_READS = _VALUES | {
    *(aten.nonzero.default, aten.equal.default, aten.is_nonzero.default, aten.masked_select.default),
    *(aten.unique_dim.default, aten._unique2.default, aten.unique_consecutive.default),
}
_INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
#: Not marked as element-wise, but a CPU tensor without a dimension is a number to them too.
_TAKES_NUMBERS = {aten.fill_.Tensor, aten.masked_fill.Tensor, aten.masked_fill_.Tensor}
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

    def data_ptr(self) -> int:
        return self.values.data_ptr()

    def tolist(self) -> Any:
        Watch.note("read", "tolist")
        return self.values.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _mapped(function: Callable[[torch.Tensor], Any], found: Any) -> Any:
    """What an operation takes or returns, each tensor in it replaced."""
    if isinstance(found, torch.Tensor):
        return function(found)
    if isinstance(found, (list, tuple)):
        return type(found)([_mapped(function, item) for item in found])
    return {name: _mapped(function, item) for name, item in found.items()} if isinstance(found, dict) else found


def _tensors(found: Any) -> list[torch.Tensor]:
    tensors: list[torch.Tensor] = []
    _mapped(tensors.append, found)
    return tensors


def _is_device(device: Any) -> bool:
    return torch.device(device).type == "cuda"


def _goes_to_device(func: Any, tensors: list[torch.Tensor], device: Any) -> bool:
    """Whether what comes out is on the pretended device; reads and copies are noted, mixed devices refused."""
    there = [isinstance(tensor, OnDevice) for tensor in tensors]
    if func is aten._to_copy.default:
        goes = there[0] if device is None else _is_device(device)
        if goes != there[0]:
            Watch.note("copy", f"{tuple(tensors[0].shape)} to {'device' if goes else 'host'}")
        return goes
    if func is aten.copy_.default:
        if there[0] != there[1]:
            Watch.note("copy", f"copy_ {tuple(tensors[0].shape)}")
        return there[0]
    if func in _READS and any(there):
        Watch.note("read", func.__name__)
    if func in _INDEXING:
        _check_index(func, tensors, there)
    elif any(there) and not all(there):
        numbers = torch.Tag.pointwise in func.tags or func in _TAKES_NUMBERS
        _refuse(func, [t for t, on in zip(tensors, there, strict=True) if not on and (t.ndim or not numbers)])
    return any(there) if device is None else _is_device(device)


def _check_index(func: Any, tensors: list[torch.Tensor], there: list[bool]) -> None:
    """A device tensor takes indices from the host, by a copy; and masks, whose true entries the host has to count."""
    if not there[0]:
        _refuse(func, tensors[:1] if any(there) else [])
        return
    for tensor, on in zip(tensors[1:], there[1:], strict=True):
        if tensor.ndim and not on:
            Watch.note("copy", f"an index {tuple(tensor.shape)} to device")
        if tensor.dtype in (torch.bool, torch.uint8):
            Watch.note("read", "a mask as an index")


def _refuse(func: Any, strangers: list[torch.Tensor]) -> None:
    if strangers:
        raise RuntimeError(f"{func} mixes devices: a CPU tensor {tuple(strangers[0].shape)} at {_asking()}")


def _widens(given: list[torch.Tensor], made: list[torch.Tensor]) -> bool:
    """Whether floating numbers come out wider than some went in; tensors without a dimension do not count."""
    before, after = ({t.itemsize for t in tensors if t.ndim and t.is_floating_point()} for tensors in (given, made))
    return bool(before) and min(before) < max(after, default=0)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = _tensors((args, kwargs))
    goes = _goes_to_device(func, tensors, kwargs.get("device"))
    own = _mapped(_values, kwargs)
    if own.get("device") is not None and _is_device(own["device"]):
        own["device"] = torch.device("cpu")
    out = _computed(func, _mapped(_values, args), own)
    if not goes or func in _VALUES:
        return out
    if _widens(tensors, _tensors(out)):
        Watch.note("upcast", f"{func.__name__} {[tuple(t.shape) for t in tensors]}")
    return return_and_correct_aliasing(func, args, kwargs, _mapped(OnDevice, out))


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the CPU, which does not widen within a softmax as a GPU does."""
    if func is aten._softmax.default and args[2]:
        return func(args[0].float(), args[1], False)
    return func(*args, **kwargs)


def _values(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.values if isinstance(tensor, OnDevice) else tensor


class Event(NamedTuple):
    """What is noted: a ``read``, ``copy`` or ``upcast``; who asked for it (file:line); and the step of the loop."""

    kind: str
    what: str
    who: str
    step: int

    @property
    def ours(self) -> bool:
        """Whether our code asked for it."""
        return "postdiff_calib/" in self.who


class Watch(TorchDispatchMode):
    """Notes what happens while ``step`` counts: from the first call of a network on, from 0.

    Attributes:
        seen: events, and how often each.
        handed: (place, dtype, device) of every tensor given to a network or the scheduler, and got back from it.
        step: of the loop, or None before it; it ends where a network is called for the next one.
    """

    current: Watch | None = None

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[Event] = Counter()
        self.handed: set[tuple[str, torch.dtype, str]] = set()
        self.step: int | None = None

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
        watch = Watch.current
        if watch is not None and watch.step is not None:
            watch.seen[Event(kind, what, _asking(), watch.step)] += 1

    def ours(self) -> Counter[Event]:
        """What our code asked for itself."""
        return Counter({event: times for event, times in self.seen.items() if event.ours})

    def more(self, stock: Watch) -> Counter[tuple[str, str]]:
        """(kind, file) of what other code did more often than in the ``stock`` run, and how much more often."""
        return self._others() - stock._others()

    def _others(self) -> Counter[tuple[str, str]]:
        found: Counter[tuple[str, str]] = Counter()
        for event, times in self.seen.items():
            if not event.ours:
                found[event.kind, event.who.rpartition(":")[0].rpartition("site-packages/")[2]] += times
        return found

    def hand(self, place: str, found: Any) -> None:
        """Note the types in what is handed over."""
        if isinstance(found, torch.Tensor):
            self.handed.add((place, found.dtype, found.device.type))
        elif isinstance(found, dict):
            for name, item in found.items():
                self.hand(f"{place}.{name}", item)
        elif isinstance(found, (list, tuple)):
            for item in found:
                self.hand(place, item)


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
def device() -> Iterator[None]:
    """Let torch take ``cuda`` for a device that is there.

    What it makes from numbers passes through the watch too, and a network that is moved or cast gets new parameters:
    written into the old ones, they would leave the values behind.
    """
    lazy, lifts = torch.cuda._lazy_init, torch._C._only_lift_cpu_tensors()
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    torch._C._ensureCUDADeviceGuardSet()
    torch.cuda._lazy_init = lambda: None
    torch._C._set_only_lift_cpu_tensors(True)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        yield
    finally:
        torch.cuda._lazy_init = lazy
        torch._C._set_only_lift_cpu_tensors(lifts)
        torch.__future__.set_swap_module_params_on_conversion(swaps)


@contextmanager
def watched(scheduler: Any, networks: list[Any]) -> Iterator[Watch]:
    """Run the block on the pretended device; the loop begins with the first call of one of the networks."""
    watch, stock, done = Watch(), scheduler.step, 0

    def begin(*_: Any) -> None:
        watch.step = done

    def before(network: Any, args: Any, kwargs: Any) -> None:
        names = inspect.signature(network.forward).bind(*args, **kwargs).arguments
        watch.hand(type(network).__name__, dict(names))

    def after(network: Any, _: Any, output: Any) -> None:
        watch.hand(f"from {type(network).__name__}", output if isinstance(output, tuple) else dict(output))

    @functools.wraps(stock)
    def step(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        watch.hand("step", dict(inspect.signature(stock).bind(*args, **kwargs).arguments))
        result = stock(*args, **kwargs)
        watch.hand("from step", result if isinstance(result, tuple) else dict(result))
        done += 1
        return result

    # Around the hooks of whoever was here before: the first of all, and the last, who sees what the network gets.
    handles = [network.register_forward_pre_hook(begin, prepend=True) for network in networks]
    handles += [network.register_forward_pre_hook(before, with_kwargs=True) for network in networks]
    handles += [network.register_forward_hook(after) for network in networks]
    scheduler.step = step
    try:
        with device(), torch.no_grad(), watch:
            yield watch
    finally:
        del scheduler.step
        for handle in handles:
            handle.remove()
