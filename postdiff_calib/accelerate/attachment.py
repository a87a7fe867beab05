"""One accelerated pipeline object: what is checked before a call, and what happens around it and its scheduler.

The order inside a call: arguments and scheduler are checked → the pipeline makes its latents, and the run begins →
for each step: control network, denoiser, ``scheduler.step`` → the run ends and every tensor is dropped, whether the
call returned or raised. The scheduler's ``step`` is wrapped for the length of a call only, so a scheduler may be
replaced between calls. A run is counted by completed ``scheduler.step`` calls.
"""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from postdiff_calib.accelerate.conditions import Conditions
from postdiff_calib.accelerate.layout import latent_size
from postdiff_calib.accelerate.low_res import LowResolution, check_way
from postdiff_calib.accelerate.network import NetworkAttachment, claim, give_back, unwrapped
from postdiff_calib.accelerate.run import Run
from postdiff_calib.accelerate.run_summary import RunSummary
from postdiff_calib.accelerate.schedulers import check_scheduler, switch_of
from postdiff_calib.errors import UnsupportedError, UsageError
from postdiff_calib.models.families import Family, family_of
from postdiff_calib.plan import StepPlan, compile_plan
from postdiff_calib.techniques import admit
from postdiff_calib.techniques.mixed_resolution import start_size
from postdiff_calib.techniques.noise import parse_noise, parse_switch

#: Arguments that run a part of the schedule only, which a step plan does not describe.
_REFUSED_ARGUMENTS = ("denoising_start", "denoising_end")
#: Methods of a scheduler that are others for the length of a call.
_WRAPPED = ("step", "set_timesteps")


class Attachment:
    """All that belongs to one accelerated pipeline object; ``conditions`` hold it to a profile, where it runs one."""

    def __init__(
        self,
        pipe: Any,
        plan: StepPlan,
        noise: str,
        switch: str,
        latent_multiple: int | None,
        conditions: Conditions | None = None,
    ) -> None:
        self.family: Family = family_of(pipe)
        self.plan, self.latent_multiple = plan, latent_multiple
        self.noise, self.switch = parse_noise(noise), parse_switch(switch)
        self.conditions = conditions
        self._check(pipe)
        self.networks = self._attach(pipe)
        self.summary: RunSummary | None = None
        self._run: Run | None = None
        self.active = False
        self._sigmas: Any = None
        #: The running call's low-resolution steps, where it has any.
        self._low: LowResolution | None = None
        #: Held by a running call, and while the pipeline is enabled anew or disabled.
        self.lock = threading.Lock()
        self.retired = False
        #: The thread whose ``with accelerated(...)`` block this is, or None.
        self.owner: int | None = None
        #: Takes the hooks off when the pipeline is dropped.
        self.finalizer: weakref.finalize[..., Any] | None = None

    @property
    def settings(self) -> tuple[Any, ...]:
        """What a second attachment with the same effect would share."""
        return self.plan.knobs, self.noise, self.switch, self.latent_multiple

    def anew(self, pipe: Any) -> Attachment:
        """Another attachment with the same settings and conditions."""
        return Attachment(pipe, self.plan, self.noise, self.switch, self.latent_multiple, self.conditions)

    def _check(self, pipe: Any) -> None:
        check_scheduler(pipe.scheduler)
        admit(self.plan.knobs, self.plan.steps, self.family)
        if self.plan.n_low:
            switch_of(pipe.scheduler)
            check_way(pipe.scheduler, self.switch)

    def _attach(self, pipe: Any) -> NetworkAttachment:
        control = getattr(pipe, self.family.control) if self.family.control else None
        return NetworkAttachment(getattr(pipe, self.family.denoiser), self.plan, control, self.family.guidance)

    def _refresh_networks(self, pipe: Any) -> None:
        """Follow a pipeline whose network was replaced or compiled since."""
        control = getattr(pipe, self.family.control) if self.family.control else None
        if self.networks.network is not getattr(pipe, self.family.denoiser) or self.networks.control is not control:
            self.networks.detach()
            self.networks = self._attach(pipe)

    def call(self, original: Any, pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run ``original`` (the stock ``__call__``) under the plan.

        Raises:
            UsageError: a call of the pipeline is running, or arguments contradict the plan.
        """
        if not self.lock.acquire(blocking=False):
            raise UsageError(
                "a second call of a pipeline that is running",
                "an accelerated pipeline serves one call at a time",
                "wait for it, or load one pipeline for each thread",
            )
        try:
            if self.retired:
                raise UsageError(
                    "a call of a pipeline that another thread has just disabled or enabled anew",
                    "its plan is gone",
                    "call the pipeline again",
                )
            return self._call(original, pipe, args, kwargs)
        finally:
            self.lock.release()

    def release(self) -> None:
        """Take every hook off."""
        self.networks.end()
        self.networks.detach()

    def _call(self, original: Any, pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.conditions is not None:
            self.conditions.admit(pipe)
        kwargs = self._check_arguments(original, pipe, args, kwargs)
        self._check(pipe)
        self._refresh_networks(pipe)
        self.networks.check()
        scheduler = pipe.scheduler
        claim(scheduler, "scheduler")
        stock = {name: scheduler.__dict__[name] for name in _WRAPPED if name in scheduler.__dict__}
        self.summary, self.active = None, True
        try:
            scheduler.step = self._wrap_step(scheduler)
            scheduler.set_timesteps = self._wrap_set_timesteps(scheduler)
            result = original(pipe, *args, **kwargs)
            if self._run is not None:
                self.summary = self._run.summary
                self.summary.notes = self.conditions.notes if self.conditions is not None else ()
                if not getattr(pipe, "_interrupt", False):
                    self._check_finished(self.summary)
            return result
        finally:
            for name in _WRAPPED:
                scheduler.__dict__.pop(name, None)
            scheduler.__dict__.update(stock)
            if self._low is not None:
                self._low.give_back(scheduler)
            give_back(scheduler)
            self.networks.end()
            self._run, self._sigmas, self._low, self.active = None, None, None, False

    def _check_arguments(
        self, original: Any, pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        signature = inspect.signature(original)
        given = signature.bind_partial(pipe, *args, **kwargs).arguments
        total = len(self.plan)
        for name in _REFUSED_ARGUMENTS:
            if given.get(name) is not None:
                raise UsageError(
                    f"{name}={given[name]!r}", "the step plan covers a whole schedule", f"leave {name} out"
                )
        if self.plan.n_low and self.noise == "independent" and given.get("latents") is not None:
            raise UsageError(
                "latents= with noise='independent'",
                "that noise draws a low-resolution start of its own, so the latents would not be used",
                "take another noise, which starts from them, or pass a generator instead",
            )
        timesteps = given.get("timesteps")
        if timesteps is not None and len(timesteps) != total:
            raise UsageError(
                f"timesteps with {len(timesteps)} entries", f"the knobs say {total} steps", "make both equal"
            )
        # Some schedulers take one more sigma than steps, the last: ``start`` looks at the schedule that results.
        self._sigmas = given.get("sigmas")
        if self.conditions is not None:
            scale = self.family.scale_arguments
            kwargs = {**kwargs, **self.conditions.fill(given, kwargs, signature.parameters, scale)}
        if "num_inference_steps" not in given:
            return {**kwargs, "num_inference_steps": total}
        if given["num_inference_steps"] != total:
            raise UsageError(
                f"num_inference_steps={given['num_inference_steps']}",
                f"this pipeline is accelerated for {total} steps",
                "leave it out, or enable it again with other knobs",
            )
        return kwargs

    def start(self, pipe: Any, made: Any, given: Mapping[str, Any]) -> Any:
        """Begin the run when the pipeline has made its starting latents; return what it goes on with.

        Args:
            pipe: the pipeline.
            made: what its ``prepare_latents`` made: latents in its own layout, or a tuple that begins with them.
            given: the arguments of that call, by name.
        """
        if not self.active:
            return made
        full, layout = made[0] if isinstance(made, tuple) else made, self.family.latents
        size = latent_size(pipe, full, layout, given)
        if not self.family.latents_first:
            self._check_count(pipe)
        run = Run(self.plan, int(full.shape[0]), size, self._plan_at_first_call(pipe))
        if self.plan.n_low:
            run.low_size = self._low_size(size)
            generator = given.get("generator")
            self._low = LowResolution(self.switch, self.noise, layout, size, run.low_size, generator)
            low = self._low.start(full, getattr(pipe.scheduler, "init_noise_sigma", 1.0))
            if self.family.latents_first:
                run.start = low
            else:
                self._low.take_grid(pipe.scheduler, self.plan.n_low)
                made = low
        self._run = self.networks.begin(run)
        return made

    def _low_size(self, size: tuple[int, int]) -> tuple[int, int]:
        own = self.family.network.latent_multiple(unwrapped(self.networks.network).config)
        return start_size(*size, self.plan.knobs.low_res_scale, self.latent_multiple or own)

    def _check_count(self, pipe: Any) -> None:
        """Refuse a schedule of another number of steps than the plan has."""
        plan, total = self.plan, len(pipe.scheduler.timesteps)
        if total != len(plan) and self._sigmas is not None:
            raise UsageError(
                f"sigmas with {len(self._sigmas)} entries",
                f"{type(pipe.scheduler).__name__} makes {total} steps of them, and the knobs say {len(plan)}",
                "pass sigmas for as many steps, or enable it again with other knobs",
            )
        if total != len(plan):
            raise UnsupportedError(
                f"{type(pipe.scheduler).__name__} with {total} network calls for {len(plan)} steps",
                "a step plan needs one call per step",
                "replace it: pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)",
            )

    def _plan_at_first_call(self, pipe: Any) -> Callable[[], StepPlan] | None:
        """What says the plan, or refuses the schedule, once the pipeline has set its timesteps; None where it has."""
        if self.family.partial_schedule:
            return functools.partial(self._plan_of_the_rest, pipe)
        return functools.partial(self._checked_plan, pipe) if self.family.latents_first else None

    def _checked_plan(self, pipe: Any) -> StepPlan:
        self._check_count(pipe)
        return self.plan

    def _plan_of_the_rest(self, pipe: Any) -> StepPlan:
        """Image to image: the knobs' fractions apply to the steps that the strength leaves."""
        left = int(pipe.num_timesteps)
        return self.plan if left == len(self.plan) else compile_plan(replace(self.plan.knobs, num_inference_steps=left))

    def _wrap_set_timesteps(self, scheduler: Any) -> Any:
        """Gives low-resolution steps their noise levels where the latents are made before the schedule."""
        stock = scheduler.set_timesteps

        @functools.wraps(stock)
        def set_timesteps(*args: Any, **kwargs: Any) -> Any:
            result = stock(*args, **kwargs)
            if self._low is not None and len(scheduler.timesteps) == len(self.plan):
                self._low.take_grid(scheduler, self.plan.n_low)
            return result

        return set_timesteps

    def _wrap_step(self, scheduler: Any) -> Any:
        stock = scheduler.step
        signature = inspect.signature(stock)

        @functools.wraps(stock)
        def step(*args: Any, **kwargs: Any) -> Any:
            run = self._run
            if run is not None and run.start is not None:
                bound = signature.bind(*args, **kwargs)
                bound.arguments["sample"] = run.start
                args, kwargs = bound.args, bound.kwargs
            if run is None or not run.step.switch:
                result = stock(*args, **kwargs)
                if run is not None:
                    run.complete_step()
                return result
            assert self._low is not None  # set in ``start``, which every low-resolution run passes
            given = signature.bind(*args, **kwargs).arguments
            made = self._low.switched(scheduler, run.step.index, given, functools.partial(stock, *args, **kwargs))
            run.complete_step(switched=True)
            return _with_sample(*made)

        return step

    def _check_finished(self, summary: RunSummary) -> None:
        if len(summary.steps) != len(summary.plan):
            raise UsageError(
                f"a run of {len(summary.steps)} steps",
                f"the plan has {len(summary.plan)}",
                "call the pipeline with its whole schedule",
            )
        summary.check()


def _with_sample(result: Any, latents: Any, clean: Any) -> Any:
    """A scheduler step's result, of the same form, with the full-resolution sample (and clean latent) in it."""
    if isinstance(result, tuple):
        return (latents, *([clean] if len(result) > 1 else []), *result[2:])
    result.prev_sample = latents
    for name in ("pred_original_sample", "denoised"):
        if getattr(result, name, None) is not None:
            setattr(result, name, clean)
    return result
