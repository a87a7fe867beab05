"""Schedulers at the switch: predicted clean latent and noise, noising to the next timestep, and forgetting old sizes.

A scheduler's sample at step i is x = α_i·x0 + σ_i·ε. Four ways of writing α and σ cover those supported:

| scheduler | α, σ | history that holds old sizes |
| --- | --- | --- |
| DDIM | √ᾱ, √(1−ᾱ) at timesteps[i] | none |
| LCM | the same; its clean latent passes the boundary condition c_out·x̂0 + c_skip·x | none |
| DPM-Solver++ multistep | from sigmas[i], variance preserving | past outputs, order reached |
| UniPC | the same | the same, and the last sample |
| Euler | 1, sigmas[i] | none |
| Euler of flow matching | 1 − sigmas[i], sigmas[i] | none |

All is computed in float32 from the scheduler's own tables, by the count of completed steps and never by looking a
timestep up (timesteps may repeat). The latent is noised to the timestep on which the network is called next,
timesteps[i+1]; that differs from DDIM's own "previous timestep" t − 1000 // T by rounding in some spacings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from postdiff_calib.errors import UnsupportedError

Levels = tuple[torch.Tensor, torch.Tensor]


def _levels_from_alphas(scheduler: Any, index: int) -> Levels:
    product = scheduler.alphas_cumprod[int(scheduler.timesteps[index])].float()
    return product.sqrt(), (1 - product).sqrt()


def _levels_from_sigmas(scheduler: Any, index: int) -> Levels:
    alpha, sigma = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[index].float())
    return alpha, sigma


def _levels_exploding(scheduler: Any, index: int) -> Levels:
    sigma = scheduler.sigmas[index].float()
    return torch.ones_like(sigma), sigma


def _levels_of_flow(scheduler: Any, index: int) -> Levels:
    sigma = scheduler.sigmas[index].float()
    return 1 - sigma, sigma


def _forget_multistep(scheduler: Any) -> None:
    scheduler.model_outputs = [None] * scheduler.config.solver_order
    scheduler.lower_order_nums = 0


def _forget_unipc(scheduler: Any) -> None:
    _forget_multistep(scheduler)
    scheduler.timestep_list = [None] * scheduler.config.solver_order
    scheduler.last_sample = None


def _nothing(scheduler: Any) -> None:
    return None


@dataclass(frozen=True)
class Switch:
    """How one scheduler class changes resolution.

    Attributes:
        levels: (scheduler, step index) → (α, σ).
        forget: drops history that holds tensors of the old size.
        clips: the class honours ``clip_sample``; others may carry that setting over from another class's
            configuration without using it.
        boundary: the clean latent passes LCM's boundary condition.
    """

    levels: Callable[[Any, int], Levels]
    forget: Callable[[Any], None] = _nothing
    clips: bool = False
    boundary: bool = False


SWITCHES: dict[str, Switch] = {
    "DDIMScheduler": Switch(_levels_from_alphas, clips=True),
    "LCMScheduler": Switch(_levels_from_alphas, clips=True, boundary=True),
    "DPMSolverMultistepScheduler": Switch(_levels_from_sigmas, _forget_multistep),
    "UniPCMultistepScheduler": Switch(_levels_from_sigmas, _forget_unipc),
    "EulerDiscreteScheduler": Switch(_levels_exploding),
    "FlowMatchEulerDiscreteScheduler": Switch(_levels_of_flow),
}


def switch_of(scheduler: Any) -> Switch:
    """The row for a scheduler.

    Raises:
        UnsupportedError: low-resolution steps are not defined with it.
    """
    name = type(scheduler).__name__
    if name not in SWITCHES:
        raise UnsupportedError(
            f"low_res_fraction with {name}",
            f"changing resolution is defined for {', '.join(SWITCHES)}",
            _replacement(name),
        )
    return SWITCHES[name]


def flows(scheduler: Any) -> bool:
    """Whether a scheduler's sample is (1 − σ)·x0 + σ·ε with σ its ``sigmas``: a rectified flow."""
    return type(scheduler).__name__ == "FlowMatchEulerDiscreteScheduler" or bool(
        scheduler.config.get("use_flow_sigmas", False)
    )


def _replacement(name: str) -> str:
    """What to do about a scheduler: models of flow matching take a scheduler of their own."""
    other = "FlowMatchEulerDiscreteScheduler" if name.startswith("FlowMatch") else "DPMSolverMultistepScheduler"
    return f"replace the scheduler: pipe.scheduler = {other}.from_config(pipe.scheduler.config)"


def check_scheduler(scheduler: Any) -> None:
    """Refuse a scheduler that calls the network more than once in a step.

    Raises:
        UnsupportedError: naming it.
    """
    name = type(scheduler).__name__
    if name.startswith("PNDM") or getattr(scheduler, "order", 1) != 1:
        raise UnsupportedError(
            f"scheduler {name}",
            "it calls the network more than once in some steps, so a step plan does not fit it",
            _replacement(name).replace("the scheduler", "it"),
        )


def predicted(
    scheduler: Any, switch: Switch, levels: Levels, output: torch.Tensor, timestep: Any, sample: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """x̂0 and ε̂ of a step, float32, (B, C, H, W): the network's ``output`` at ``sample``, as the scheduler reads it.

    ``levels`` are the step's α and σ.

    ε̂ = (x − α·x̂0)/σ, the network's own estimate: x̂0 is clipped, or passes LCM's boundary condition, after that.
    """
    alpha, sigma = levels
    output, sample = output.float(), sample.float()
    # Schedulers of flow matching alone name no kind: v = ε − x0 is what they take.
    kind = scheduler.config.get("prediction_type", "flow_prediction")
    if kind == "epsilon":
        clean = (sample - sigma * output) / alpha
    elif kind in ("sample", "original_sample"):
        clean = output
    elif kind == "flow_prediction":
        clean = sample - sigma * output
    elif kind == "v_prediction":
        # Divided by √(α² + σ²) both ways: 1 where the scale is variance preserving, Euler's input scaling where not.
        norm = (alpha**2 + sigma**2).sqrt()
        clean = (alpha / norm) * (sample / norm) - (sigma / norm) * output
    else:
        raise UnsupportedError(
            f"prediction_type={kind!r}", "the clean latent is not defined for it", "set low_res_fraction=0"
        )
    noise = (sample - alpha * clean) / sigma
    config = scheduler.config
    if config.get("thresholding") and hasattr(scheduler, "_threshold_sample"):
        clean = scheduler._threshold_sample(clean)
    elif switch.clips and config.clip_sample:
        clean = clean.clamp(-config.clip_sample_range, config.clip_sample_range)
    if switch.boundary:
        skip, out = scheduler.get_scalings_for_boundary_condition_discrete(timestep)
        clean = out * clean + skip * sample
    return clean, noise


def noised(levels: Levels, clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The sample of a step whose ``levels`` are α and σ: α·clean + σ·noise, float32."""
    alpha, sigma = levels
    mixed: torch.Tensor = alpha * clean + sigma * noise.float()
    return mixed
