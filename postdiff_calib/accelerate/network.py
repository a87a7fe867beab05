"""The hooks on the networks, and the state of one run.

``NetworkAttachment`` owns every hook on a denoiser (and on a control network beside it). Between ``begin`` and ``end``
it follows a step plan: each network call passes the parts of all techniques, from the last in the list to the first,
and its output passes them the other way round; then what ran is recorded.
Outside a run every hook passes through, so two pipelines may share a network. It needs no pipeline: the cost model
drives it directly, on the meta device too.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any

from postdiff_calib.accelerate.run_summary import RunSummary, StepRecord
from postdiff_calib.errors import UnsupportedError, UsageError
from postdiff_calib.models.families import denoiser_of
from postdiff_calib.plan import Step, StepPlan
from postdiff_calib.techniques import techniques
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


class Run:
    """The state of one call: where in the plan it is, and what has happened so far.

    Args:
        plan: the plan to follow.
        batch: images, b.
        full_size: full latent size (height, width); needed where a control network sees low-resolution steps.
        plan_at_first_call: asked at the first network call for the plan to follow instead, or None.
    """

    def __init__(
        self,
        plan: StepPlan,
        batch: int,
        full_size: tuple[int, int] | None = None,
        plan_at_first_call: Callable[[], StepPlan] | None = None,
    ) -> None:
        self.batch, self.full_size, self.plan_at_first_call = batch, full_size, plan_at_first_call
        self.thread = threading.get_ident()
        self.record = StepRecord(0)
        self.follow(plan)

    def follow(self, plan: StepPlan) -> None:
        """Take ``plan`` for this run; only before its first step."""
        self.plan, self.summary = plan, RunSummary(plan)

    @property
    def step(self) -> Step:
        """The plan's row for the present step."""
        if self.record.index >= len(self.plan):
            raise UsageError(
                f"step {self.record.index}",
                f"the plan has {len(self.plan)} steps",
                "call the pipeline with the step count of the knobs",
            )
        return self.plan[self.record.index]

    def complete_step(self, switched: bool = False) -> None:
        """Count one finished step; the scheduler has moved on."""
        if self.record.network_calls != 1:
            raise UnsupportedError(
                f"{self.record.network_calls} network calls in step {self.record.index}",
                "a step plan prices and runs one call a step",
                "use a scheduler and options that call the network once per step",
            )
        self.record.switched = switched
        self.summary.steps.append(self.record)
        self.record = StepRecord(self.record.index + 1)


class NetworkAttachment(Uncopied):
    """Every hook on one denoiser for one plan.

    Args:
        network: a denoiser of a supported family, bare or wrapped by ``torch.compile``.
        plan: techniques that it never uses are not attached at all.
        control: a control network called before the denoiser with the same batch, or None.

    Raises:
        UnsupportedError: the network lacks what the plan needs.
    """

    def __init__(self, network: Any, plan: StepPlan, control: Any = None) -> None:
        self.network, self.control, self.plan = network, control, plan
        self.run: Run | None = None
        self.parts: dict[str, Part] = {}
        self._handles: list[Any] = []
        #: Threads inside a call of the network that is not ours.
        self._visitors: set[int] = set()
        name, bare = f"postdiff-{id(self)}", unwrapped(network)
        self.kind, self.layers = denoiser_of(bare), count_network_layers(bare)
        try:
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
        self._handles, self.parts, self.run = [], {}, None
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
        sample = sample_of(self.kind.sample, args, kwargs)
        guides = self._halves(run, sample.shape[0])
        if record.network_calls:
            record.network_calls += 1
            run.complete_step()  # refuses the second call
        call = self._call(run, sample, args, kwargs, guides)
        for part in reversed(self.parts.values()):
            part.begin(call)
        run.summary.guides |= guides
        record.network_calls += 1
        record.batch = call.batch
        record.guided = guides and step.guided
        record.latent_size = (int(sample.shape[-2]), int(sample.shape[-1]))
        return call.args, call.kwargs

    def _call(self, run: Run, sample: Any, args: tuple[Any, ...], kwargs: dict[str, Any], guides: bool) -> NetworkCall:
        plan = run.plan
        return NetworkCall(
            run.step, plan.steps, plan.knobs, sample, args, kwargs, sample.shape[0], guides, run.full_size
        )

    def _after(self, module: Any, args: Any, output: Any) -> Any:
        run = self.run
        if run is None or run.thread != threading.get_ident():
            return None
        result = output
        for part in self.parts.values():
            result = part.end(result)
            part.note(run.record)
        run.record.layers_executed = self.layers - run.record.layers_skipped
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
