"""The low-resolution steps of one run: their start, their noise levels, and the change to full resolution.

| way | at the switch | noise levels of the low steps |
| --- | --- | --- |
| ``renoise`` | predicted clean latent, up-sampled, noised to the next level | the schedule's |
| ``expand`` | the state itself: its low band kept, bands added (``techniques/expansion.py``) | the schedule's |
| ``…-own-grid`` | as above | those at which a small latent tells as much of a pixel |

Expanding goes back in time, σ̃ > σ. Coming from the schedule's own levels, all that follow are multiplied by σ̃/σ, so
they lead from σ̃ to the end as they led from σ. Coming from their own grid, σ̃ is the next level of the schedule, and
the schedule goes on as it is. The scheduler's tables are written in place, for pipelines loop over the very tensor, and
are as they were after the call. All levels are known before the first step: at the switch nothing waits for the device.
"""

from __future__ import annotations

from typing import Any

from postdiff_calib.accelerate.layout import held, spatial
from postdiff_calib.accelerate.schedulers import Levels, flows, noised, predicted, switch_of
from postdiff_calib.errors import UnsupportedError
from postdiff_calib.models.families.family import LatentLayout
from postdiff_calib.techniques.expansion import bands, expanded, expanded_level, own_level, side_ratio
from postdiff_calib.techniques.mixed_resolution import fresh_noise, low_res_start, upsample
from postdiff_calib.techniques.noise import DEFAULT_SWITCH, FLOW_SWITCH, Noise, SwitchWay, parse_switch
from postdiff_calib.techniques.switch_noise import pooling, renoised

Size = tuple[int, int]
#: A scheduler's noise levels and timesteps, or a part of them.
Tables = tuple[Any, Any]


def check_way(scheduler: Any, way: SwitchWay) -> None:
    """Refuse a scheduler with which this way of changing to full size is not defined.

    Raises:
        UnsupportedError: naming it.
    """
    if way != "renoise" and not flows(scheduler):
        raise UnsupportedError(
            f"switch={way!r} with {type(scheduler).__name__}",
            "it is defined for the noise levels of a rectified flow",
            "take switch='renoise'",
        )


def default_way(scheduler: Any) -> SwitchWay:
    """The way to full size where none is named."""
    return FLOW_SWITCH if flows(scheduler) else DEFAULT_SWITCH


def way_of(scheduler: Any, name: str | None) -> SwitchWay:
    """The way of that name, or the default one.

    Raises:
        KnobError: there is no such way.
        UnsupportedError: it is not defined with this scheduler.
    """
    way = default_way(scheduler) if name is None else parse_switch(name)
    check_way(scheduler, way)
    return way


class LowResolution:
    """What one run needs between its start and its switch.

    Args:
        way: to full resolution.
        noise: of the start and of the switch.
        layout: how the pipeline holds latents.
        full, low: latent (height, width).
        generator: the caller's generator or generators, or None.
    """

    def __init__(
        self, way: SwitchWay, noise: Noise, layout: LatentLayout, full: Size, low: Size, generator: Any
    ) -> None:
        self.noise, self.layout, self.full, self.low, self.generator = noise, layout, full, low, generator
        self.expands, self.own_grid = way.startswith("expand"), way.endswith("own-grid")
        self.ratio = side_ratio(full, low)
        self.pool: Any = None
        #: The seed's full-size noise, where the switch needs it.
        self.seeds: Any = None
        #: The schedule's noise levels and timesteps, where some steps have others.
        self.schedule: Tables | None = None
        #: α and σ of the last low-resolution step, and of the first one after it.
        self.levels: tuple[Levels, Levels] | None = None
        #: Noise levels and timesteps of the steps after the switch, where expanding changes them.
        self.raised: Tables | None = None

    def start(self, latents: Any, scale: float) -> Any:
        """The low-resolution start in the pipeline's layout.

        Args:
            latents: the pipeline's full-size start in its layout, scaled by ``scale``.
            scale: the scheduler's initial noise standard deviation.
        """
        noise = spatial(latents, self.full, self.layout)
        if self.noise == "complement":
            self.seeds = noise.float() / scale
        if self.expands or self.seeds is not None:
            self.pool = (bands if self.expands else pooling)(self.full, self.low, noise.device)
        if self.expands and self.noise != "independent":
            low = self.pool.down(noise.float()).to(noise.dtype)
        else:
            low = low_res_start(noise, self.low, self.noise, scale, self.generator)
        return held(low, self.layout)

    def take_grid(self, scheduler: Any, count: int) -> None:
        """Give the first ``count`` steps noise levels of their own, where the way says so; find those of the switch.

        The last of them leads to a level of that grid too.
        """
        after = _levels(scheduler, count)
        if self.own_grid or self.expands:
            self.schedule = scheduler.sigmas.clone(), scheduler.timesteps.clone()
        if self.own_grid:
            _write(scheduler, 0, _tables(scheduler, own_level(scheduler.sigmas[: count + 1], self.ratio)))
        elif self.expands:
            sigma = scheduler.sigmas[count].float()
            back = expanded_level(sigma, self.ratio) / sigma
            self.raised = _tables(scheduler, scheduler.sigmas[count:] * back)
        self.levels = _levels(scheduler, count - 1), after

    def switched(self, scheduler: Any, index: int, given: dict[str, Any], step: Any) -> tuple[Any, Any, Any]:
        """The last low-resolution step: its result, and sample and clean latent at full size, in the pipeline's layout.

        Args:
            scheduler: the pipeline's.
            index: of the step.
            given: the arguments of ``scheduler.step`` by name.
            step: makes the scheduler's own step, which still counts; what it leads to is taken or dropped.
        """
        assert self.levels is not None  # set by ``take_grid``, which the schedule of every low-resolution run passes
        switch, (before, after) = switch_of(scheduler), self.levels
        sample, output = (spatial(given[name], self.low, self.layout) for name in ("sample", "model_output"))
        clean, noise = predicted(scheduler, switch, before, output, given["timestep"], sample)
        clean = upsample(clean, self.full)
        result = step()
        switch.forget(scheduler)
        if self.expands:
            latents = self._expanded(scheduler, index + 1, sample, _sample_of(result))
        else:
            self.give_back(scheduler, index + 1)
            if self.seeds is not None:
                latents = renoised(clean, noise, self.seeds, *after, self.pool)
            else:
                fresh = fresh_noise(sample, self.full, self.generator)
                latents = noised(after, clean, fresh)
        full, estimate = (held(x, self.layout).to(sample.dtype) for x in (latents, clean))
        return result, full, estimate

    def _expanded(self, scheduler: Any, index: int, sample: Any, following: Any) -> Any:
        """The stock step's sample at full size; the scheduler goes on at its level."""
        sigma = scheduler.sigmas[index].float().clone()
        fill = self.seeds if self.seeds is not None else fresh_noise(sample, self.full, self.generator)
        low = spatial(following, self.low, self.layout)
        if self.raised is None:
            self.give_back(scheduler, index)
        else:
            _write(scheduler, index, self.raised)
        return expanded(low, sigma, fill, self.pool, self.ratio)

    def give_back(self, scheduler: Any, first: int = 0) -> None:
        """The schedule's own levels again, from ``first`` on."""
        if self.schedule is not None:
            for own, before in zip((scheduler.sigmas, scheduler.timesteps), self.schedule, strict=True):
                own[first:] = before[first:]


def _sample_of(result: Any) -> Any:
    """What a scheduler's step leads to."""
    return result[0] if isinstance(result, tuple) else result.prev_sample


def _levels(scheduler: Any, index: int) -> Levels:
    """α and σ of a step, whatever is written into the scheduler's tables later."""
    alpha, sigma = switch_of(scheduler).levels(scheduler, index)
    return alpha.clone(), sigma.clone()


def _tables(scheduler: Any, sigmas: Any) -> Tables:
    """Noise levels, and the timesteps that belong to them, as a scheduler holds them: of its types, on its devices."""
    own, times = scheduler.sigmas, scheduler.timesteps
    return sigmas.to(own), (sigmas * scheduler.config.num_train_timesteps).to(times)


def _write(scheduler: Any, first: int, tables: Tables) -> None:
    """Write noise levels and timesteps into a scheduler's own, from ``first`` on; there is one more of the levels."""
    for own, new in zip((scheduler.sigmas, scheduler.timesteps), tables, strict=True):
        rest = own[first : first + len(new)]
        rest.copy_(new[: len(rest)])
