"""The hooks on the networks.

``NetworkAttachment`` owns every hook on a denoiser (and on a control network beside it). Between ``begin`` and ``end``
it follows a step plan: each network call passes the parts of all techniques, from the last in the list to the first,
and its output passes them the other way round; then what ran is recorded.
Outside a run every hook passes through, so two pipelines may share a network. It needs no pipeline: the cost model
drives it directly, on the meta device too.
"""

from __future__ import annotations

import inspect
import threading
from typing import Any

from postdiff_calib.accelerate import layout
from postdiff_calib.accelerate.run import Run
from postdiff_calib.accelerate.two_calls import SecondCall
from postdiff_calib.errors import UnsupportedError, UsageError
from postdiff_calib.models.families import denoiser_of
from postdiff_calib.models.families.family import Guidance
from postdiff_calib.plan import StepPlan
from postdiff_calib.techniques import techniques
from postdiff_calib.techniques.hooks import add_hook, remove_hook
from postdiff_calib.techniques.layers import count_network_layers
from postdiff_calib.techniques.technique import NetworkCall, Part
from postdiff_calib.techniques.uncopied import Uncopied

#: Denoisers and schedulers that are inside an accelerated call now: one call at a time may drive them.
_BUSY: set[int] = set()
_BUSY_LOCK = threading.Lock()


def claim(part: Any, what: str) -> None:
    """Take a network or scheduler for one call; ``give_back`` returns it.

    Raises:
        UsageError: another accelerated call is using it.
    """
    with _BUSY_LOCK:
        if id(part) in _BUSY:
            raise UsageError(
                f"a {what} that is inside another accelerated call",
                "one call at a time may drive it",
                "wait for that call, or load one pipeline for each thread",
            )
        _BUSY.add(id(part))


def give_back(part: Any) -> None:
    """The call is over."""
    with _BUSY_LOCK:
        _BUSY.discard(id(part))


def unwrapped(network: Any) -> Any:
    """The module itself, where ``torch.compile`` has wrapped it."""
    return getattr(network, "_orig_mod", network)


def sample_of(argument: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The latent that a network is called with: its first argument, or that of this name."""
    return args[0] if args else kwargs[argument]


class NetworkAttachment(Uncopied):
    """Every hook on one denoiser for one plan.

    Args:
        network: a denoiser of a supported family, bare or wrapped by ``torch.compile``.
        plan: techniques that it never uses are not attached at all.
        control: a control network called before the denoiser with the same batch, or None.
        guidance: where the two halves of guidance are.

    Raises:
        UnsupportedError: the network lacks what the plan needs.
    """

    def __init__(
        self, network: Any, plan: StepPlan, control: Any = None, guidance: Guidance = "unconditional first"
    ) -> None:
        self.network, self.control, self.plan, self.guidance = network, control, plan, guidance
        self.run: Run | None = None
        self.parts: dict[str, Part] = {}
        self._handles: list[Any] = []
        #: Threads inside a call of the network that is not ours.
        self._visitors: set[int] = set()
        name, bare = f"postdiff-{id(self)}", unwrapped(network)
        self.kind, self.layers = denoiser_of(bare), count_network_layers(bare)
        self._second: SecondCall | None = None
        self._second_name = f"{name}-second-call"
        try:
            if guidance == "two calls" and any(not step.guided for step in plan):
                self._second = SecondCall()
                add_hook(bare, self._second, self._second_name)
            for technique in techniques():
                if technique.acts(plan.steps):
                    own = f"{name}-{technique.name}"
                    self.parts[technique.name] = technique.attach(bare, plan.knobs, plan.steps, own)
        except BaseException:
            self.detach()
            raise
        self._handles.append(network.register_forward_pre_hook(self._before, with_kwargs=True))
        self._handles.append(network.register_forward_hook(self._after))
        self._handles.append(network.register_forward_hook(self._leave, always_call=True))
        if control is not None:
            self._handles.append(control.register_forward_pre_hook(self._before_control, with_kwargs=True))
        self._invalidate()

    def _invalidate(self) -> None:
        """diffusers caches which modules carry hooks, on registries above them."""
        registry = getattr(unwrapped(self.network), "_diffusers_hook", None)
        if registry is not None:
            registry.invalidate_child_registries_cache()

    def detach(self) -> None:
        """Take every hook off; the network is as it was."""
        for handle in self._handles:
            handle.remove()
        for part in self.parts.values():
            part.detach()
        if self._second is not None:
            remove_hook(unwrapped(self.network), self._second_name)
        self._handles, self.parts, self.run, self._second = [], {}, None, None
        self._invalidate()

    def begin(self, run: Run) -> Run:
        """Start a run.

        Raises:
            UsageError: another accelerated call is using the network.
        """
        claim(unwrapped(self.network), "network")
        run.thread = threading.get_ident()
        # First the run, then the look around, as ``_before`` does it the other way round: one of the two always sees
        # the other, without a lock in the network's hook.
        self.run = run
        run.calls = 2 if self.guidance == "two calls" else 1
        living = {thread.ident for thread in threading.enumerate()}
        if self._visitors & living - {run.thread}:
            self.end()
            raise UsageError(
                "a network that a stock pipeline is running in another thread",
                "an accelerated call has it to itself",
                "wait for that call, or load one pipeline for each thread",
            )
        for part in self.parts.values():
            part.start(run.plan.steps)
        return run

    def check(self) -> None:
        """Refuse what was switched on in the network since it was attached, and does not go with a technique.

        Raises:
            UnsupportedError: such a thing.
        """
        for part in self.parts.values():
            part.check()

    def end(self) -> None:
        """Finish the run and drop every tensor; safe to call twice."""
        if self.run is not None:
            give_back(unwrapped(self.network))
        self.run = None
        if self._second is not None:
            self._second.clear()
        for part in self.parts.values():
            part.clear()

    def _halves(self, run: Run, batch: int) -> bool:
        """True when the batch holds two guidance halves."""
        if batch not in (run.batch, 2 * run.batch):
            raise UnsupportedError(
                f"a network batch of {batch} for {run.batch} images",
                "guidance can be dropped from a batch with one or two entries per image",
                "turn off options that add a third, such as perturbed-attention guidance",
            )
        return batch == 2 * run.batch

    def _own_run(self) -> Run | None:
        """The run that a network call of this thread belongs to; None for the call of a stock pipeline.

        Raises:
            UsageError: a run of another thread has the network.
        """
        thread = threading.get_ident()
        self._visitors.add(thread)
        run = self.run
        if run is not None:
            self._visitors.discard(thread)
            if run.thread != thread:
                raise UsageError(
                    "a network called from another thread during an accelerated call",
                    "the call would take one of that call's steps",
                    "wait for that call, or load one pipeline for each thread",
                )
        return run

    def _leave(self, *_: Any) -> None:
        """After every call of the network, whether it returned or raised."""
        self._visitors.discard(threading.get_ident())

    def _before(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        run = self._own_run()
        if run is None:
            return None
        if run.plan_at_first_call is not None and run.record.index == 0:
            run.follow(run.plan_at_first_call())
            for part in self.parts.values():
                part.start(run.plan.steps)
        step, record = run.step, run.record
        if run.start is not None:
            args, kwargs = self._with_start(run.start, args, kwargs)
        sample = sample_of(self.kind.sample, args, kwargs)
        stacked = self._halves(run, layout.entries(sample))
        run.seen += 1
        if run.seen > run.calls:
            run.complete_step()  # refuses the call
        second = run.seen == 2
        run.summary.guides |= stacked or second
        if second and not step.guided and self._second is not None:
            self._second.answers = True
            return None
        call = self._call(run, sample, args, kwargs, run.summary.guides if self.guidance == "two calls" else stacked)
        for part in reversed(self.parts.values()):
            part.begin(call)
        record.network_calls += 1
        record.batch += call.batch
        record.guided = step.guided and (stacked or second)
        record.latent_size = run.size if self._packed(sample) and run.size else _size_of(sample)
        return call.args, call.kwargs

    @staticmethod
    def _packed(sample: Any) -> bool:
        """True where the latent is a row of tokens, which do not tell its height and width."""
        return not isinstance(sample, list) and sample.ndim == 3

    def _with_start(self, start: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The first step's call with the latents that take the place of the pipeline's."""
        latents = layout.replaced(sample_of(self.kind.sample, args, kwargs), start)
        return ((latents, *args[1:]), kwargs) if args else (args, {**kwargs, self.kind.sample: latents})

    def _call(self, run: Run, sample: Any, args: tuple[Any, ...], kwargs: dict[str, Any], guides: bool) -> NetworkCall:
        return NetworkCall(
            run.step,
            run.plan.steps,
            run.plan.knobs,
            sample,
            args,
            kwargs,
            layout.entries(sample),
            guides,
            run.full_size,
            run.size,
            self.guidance,
            half=run.seen - 1 if self.guidance == "two calls" else 0,
        )

    def _after(self, module: Any, args: Any, output: Any) -> Any:
        run = self.run
        if run is None or run.thread != threading.get_ident():
            return None
        if self._second is not None and self._second.answers:
            self._second.clear()
            return None
        result = output
        for part in self.parts.values():
            result = part.end(result)
            part.note(run.record)
        run.record.layers_executed = self.layers - run.record.layers_skipped
        if self._second is not None and not run.step.guided:
            self._second.output = result
        return None if result is output else result

    def _before_control(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        run = self.run
        if run is None or run.thread != threading.get_ident():
            return None
        run.record.control_calls += 1
        sample = sample_of(self.kind.sample, args, kwargs)
        bound = inspect.signature(unwrapped(module).forward).bind(*args, **kwargs)
        # Halves are told apart only where there is something to drop: a control network may see another batch.
        guides = not run.step.guided and self._halves(run, sample.shape[0])
        call = self._call(run, sample, (), dict(bound.arguments), guides)
        for part in reversed(self.parts.values()):
            part.begin_control(call)
        return call.args, call.kwargs


def _size_of(sample: Any) -> tuple[int, int]:
    """Latent (height, width) of a network's sample."""
    shape = (sample[0] if isinstance(sample, list) else sample).shape
    return int(shape[-2]), int(shape[-1])
