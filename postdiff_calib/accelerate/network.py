"""The hooks on the networks, and the state of one run.

``NetworkAttachment`` owns every hook on a denoiser (and on a control network beside it). Between ``begin`` and ``end``
it follows a step plan: before each network call it sets the flags that the inner hooks read and halves the batch where
guidance has been dropped; after it, hands the output back at the size the pipeline expects and records what ran.
Outside a run every hook passes through, so two pipelines may share a network. It needs no pipeline: the cost model
drives it directly, on the meta device too.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from postdiff_calib.accelerate.block_cache import BlockCache, attach_block_cache, count_network_layers
from postdiff_calib.accelerate.guidance import (
    CrossAttentionCache,
    attach_cross_attention_cache,
    capture_steps,
    double_output,
    halve_batch,
)
from postdiff_calib.accelerate.hooks import Flags
from postdiff_calib.accelerate.summary import RunSummary, StepRecord
from postdiff_calib.errors import UnsupportedError, UsageError
from postdiff_calib.models.families import denoiser_of
from postdiff_calib.plan import Step, StepPlan

#: Denoisers that are inside an accelerated call now: one call at a time may drive a network.
_BUSY: set[int] = set()
_BUSY_LOCK = threading.Lock()


def unwrapped(network: Any) -> Any:
    """The module itself, where ``torch.compile`` has wrapped it."""
    return getattr(network, "_orig_mod", network)


def sample_of(argument: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """The latent that a network is called with: its first argument, or that of this name."""
    return args[0] if args else kwargs[argument]  # type: ignore[no-any-return]


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
        self.dropped, self.kept_batch = False, 0
        self.record = StepRecord(0)
        self.follow(plan)

    def follow(self, plan: StepPlan) -> None:
        """Take ``plan`` for this run; only before its first step."""
        self.plan, self.summary, self.captures = plan, RunSummary(plan), capture_steps(plan)

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


class NetworkAttachment:
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
        self.flags = Flags()
        self.run: Run | None = None
        self.blocks: BlockCache | None = None
        self.attention: CrossAttentionCache | None = None
        self._handles: list[Any] = []
        name, bare = f"postdiff-{id(self)}", unwrapped(network)
        self.kind, self.layers = denoiser_of(bare), count_network_layers(bare)
        try:
            if len(plan.refresh_steps) < len(plan):
                self.blocks = attach_block_cache(bare, plan.knobs.cache_branch, self.flags, f"{name}-blocks")
            if any(not step.cross_attention_live for step in plan):
                mode = plan.knobs.cross_attention_cache
                self.attention = attach_cross_attention_cache(bare, mode, self.flags, f"{name}-attention")
        except BaseException:
            self.detach()
            raise
        self._handles.append(network.register_forward_pre_hook(self._before, with_kwargs=True))
        self._handles.append(network.register_forward_hook(self._after))
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
        for cache in (self.blocks, self.attention):
            if cache is not None:
                cache.detach()
        self._handles, self.blocks, self.attention, self.run = [], None, None, None
        self._invalidate()

    def begin(self, run: Run) -> Run:
        """Start a run.

        Raises:
            UsageError: another accelerated call is using the network.
        """
        with _BUSY_LOCK:
            if id(unwrapped(self.network)) in _BUSY:
                raise UsageError(
                    "a network that is inside another accelerated call",
                    "one call at a time may drive it",
                    "wait for that call, or give each thread its own copy of the network",
                )
            _BUSY.add(id(unwrapped(self.network)))
        self.run = run
        return run

    def end(self) -> None:
        """Finish the run and drop every tensor; safe to call twice."""
        if self.run is not None:
            with _BUSY_LOCK:
                _BUSY.discard(id(unwrapped(self.network)))
        self.run = None
        self.flags.clear()
        for cache in (self.blocks, self.attention):
            if cache is not None:
                cache.clear()

    def _halves(self, run: Run, batch: int) -> bool:
        """True when the batch holds two guidance halves."""
        if batch not in (run.batch, 2 * run.batch):
            raise UnsupportedError(
                f"a network batch of {batch} for {run.batch} images",
                "guidance can be dropped from a batch with one or two entries per image",
                "turn off options that add a third, such as perturbed-attention guidance",
            )
        return batch == 2 * run.batch

    def _before(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        run = self.run
        if run is None:
            return None
        if run.plan_at_first_call is not None and run.record.index == 0:
            run.follow(run.plan_at_first_call())
        step, record = run.step, run.record
        sample = sample_of(self.kind.sample, args, kwargs)
        batch = sample.shape[0]
        guides = self._halves(run, batch)
        if record.network_calls:
            record.network_calls += 1
            run.complete_step()  # refuses the second call
        if record.index == 0 and run.plan.gate_step < len(run.plan):
            self._check_gate_fires(run, guides)
        run.summary.guides |= guides
        flags = self.flags
        flags.reuse = not step.refresh
        # On every refresh, needed next or not: fewer kinds of step, so fewer graphs for a compiled network.
        flags.keep = step.refresh
        flags.cached = not step.cross_attention_live
        flags.capture = step.index in run.captures
        flags.guided = guides and step.guided
        run.dropped = guides and not step.guided
        if run.dropped:
            args, kwargs = halve_batch(args, batch), halve_batch(kwargs, batch)
            batch //= 2
        if flags.keep:
            run.kept_batch = batch
        if self.blocks is not None and flags.reuse:
            if run.kept_batch == 2 * batch:
                self.blocks.keep_conditional()
                run.kept_batch = batch
            kwargs = self.blocks.drop_residuals(kwargs, sample)
        record.network_calls += 1
        record.batch = batch
        record.guided = flags.guided
        record.latent_size = (int(sample.shape[-2]), int(sample.shape[-1]))
        return args, kwargs

    def _check_gate_fires(self, run: Run, guides: bool) -> None:
        if not guides and run.plan.knobs.cross_attention_cache == "off":
            raise UsageError(
                f"guidance_fraction={run.plan.knobs.guidance_fraction:g} with cross_attention_cache='off'",
                "this call does not guide, so there is neither an unconditional half to drop nor anything to cache",
                "set guidance_fraction=1, cross_attention_cache='cond', or a guidance scale above 1",
            )

    def _after(self, module: Any, args: Any, output: Any) -> Any:
        run = self.run
        if run is None:
            return None
        record = run.record
        record.layers_skipped = self.blocks.layers_skipped if self.blocks is not None else 0
        record.layers_executed = self.layers - record.layers_skipped
        if self.attention is not None:
            record.cross_attention_live, record.cross_attention_cached = self.attention.take_counts()
        self.flags.clear()
        return double_output(output) if run.dropped else None

    def _before_control(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        run = self.run
        if run is None:
            return None
        step = run.step
        run.record.control_calls += 1
        sample = sample_of(self.kind.sample, args, kwargs)
        bound = inspect.signature(unwrapped(module).forward).bind(*args, **kwargs)
        kwargs = dict(bound.arguments)
        if step.low_res and run.full_size is not None:
            scale = (sample.shape[-2] / run.full_size[0], sample.shape[-1] / run.full_size[1])
            kwargs["controlnet_cond"] = _shrunk(kwargs["controlnet_cond"], scale)
        if not step.guided and self._halves(run, sample.shape[0]):
            kwargs = halve_batch(kwargs, sample.shape[0])
        return (), kwargs


def _shrunk(condition: Any, scale: tuple[float, float]) -> Any:
    """A control picture, or a list of them, at the size that belongs to a low-resolution latent."""
    if isinstance(condition, (list, tuple)):
        return [_shrunk(item, scale) for item in condition]
    size = (round(condition.shape[-2] * scale[0]), round(condition.shape[-1] * scale[1]))
    return F.interpolate(condition.float(), size=size, mode="area").to(condition.dtype)
