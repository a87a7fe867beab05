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
from postdiff_calib.accelerate.layout import held, latent_size, spatial
from postdiff_calib.accelerate.network import NetworkAttachment, claim, give_back, unwrapped
from postdiff_calib.accelerate.run import Run
from postdiff_calib.accelerate.run_summary import RunSummary
from postdiff_calib.accelerate.schedulers import check_scheduler, noised, predicted, switch_of
from postdiff_calib.errors import UnsupportedError, UsageError
from postdiff_calib.models.families import Family, family_of
from postdiff_calib.plan import StepPlan, compile_plan
from postdiff_calib.techniques import admit
from postdiff_calib.techniques.mixed_resolution import (
    fresh_noise,
    low_res_start,
    start_size,
    upsample,
)
from postdiff_calib.techniques.noise import parse_noise
from postdiff_calib.techniques.switch_noise import Pooling, pooling, renoised

#: Arguments that run a part of the schedule only, which a step plan does not describe.
_REFUSED_ARGUMENTS = ("denoising_start", "denoising_end")


class Attachment:
    """All that belongs to one accelerated pipeline object; ``conditions`` hold it to a profile, where it runs one."""

    def __init__(
        self, pipe: Any, plan: StepPlan, noise: str, latent_multiple: int | None, conditions: Conditions | None = None
    ) -> None:
        self.family: Family = family_of(pipe)
        self.plan, self.noise, self.latent_multiple = plan, parse_noise(noise), latent_multiple
        self.conditions = conditions
        self._check(pipe)
        self.networks = self._attach(pipe)
        self.summary: RunSummary | None = None
        self._run: Run | None = None
        self.active = False
        self._generator: Any = None
        self._sigmas: Any = None
        #: The seed's full-size noise and its pooling, where the switch needs them.
        self._start: tuple[Any, Pooling] | None = None
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
        return self.plan.knobs, self.noise, self.latent_multiple

    def _check(self, pipe: Any) -> None:
        check_scheduler(pipe.scheduler)
        admit(self.plan.knobs, self.plan.steps, self.family)
        if self.plan.n_low:
            switch_of(pipe.scheduler)

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
        stock = scheduler.__dict__.get("step")
        self.summary, self.active = None, True
        try:
            scheduler.step = self._wrap_step(pipe, scheduler)
            result = original(pipe, *args, **kwargs)
            if self._run is not None:
                self.summary = self._run.summary
                self.summary.notes = self.conditions.notes if self.conditions is not None else ()
                if not getattr(pipe, "_interrupt", False):
                    self._check_finished(self.summary)
            return result
        finally:
            if stock is None:
                scheduler.__dict__.pop("step", None)
            else:
                scheduler.step = stock
            give_back(scheduler)
            self.networks.end()
            self._run, self._generator, self._sigmas, self._start, self.active = None, None, None, None, False

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
        self._generator = given.get("generator")
        run = Run(self.plan, int(full.shape[0]), size, self._plan_at_first_call(pipe))
        if self.plan.n_low:
            run.low_size = self._low_size(size)
            scale = getattr(pipe.scheduler, "init_noise_sigma", 1.0)
            noise = spatial(full, size, layout)
            low = held(low_res_start(noise, run.low_size, self.noise, scale, self._generator), layout)
            if self.noise == "complement":
                self._start = noise.float() / scale, pooling(size, run.low_size, noise.device)
            if self.family.latents_first:
                run.start = low
            else:
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

    def _wrap_step(self, pipe: Any, scheduler: Any) -> Any:
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
            given = signature.bind(*args, **kwargs).arguments
            switch, index, layout = switch_of(scheduler), run.step.index, self.family.latents
            assert run.full_size is not None  # both set in ``start``, which every low-resolution run passes
            assert run.low_size is not None
            sample, output = (spatial(given[name], run.low_size, layout) for name in ("sample", "model_output"))
            clean, noise = predicted(scheduler, switch, index, output, given["timestep"], sample)
            clean = upsample(clean, run.full_size)
            # The stock step still counts the step; its low-resolution sample is dropped.
            result = stock(*args, **kwargs)
            switch.forget(scheduler)
            if self._start is not None:
                start, pool = self._start
                latents = renoised(clean, noise, start, *switch.levels(scheduler, index + 1), pool)
            else:
                fresh = fresh_noise(sample, run.full_size, self._generator)
                latents = noised(scheduler, switch, index + 1, clean, fresh)
            run.complete_step(switched=True)
            return _with_sample(result, *(held(x, layout).to(sample.dtype) for x in (latents, clean)))

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
