"""What a denoiser is trained for: its family's own target, at the size that the timestep belongs to.

A place on the schedule is a number u in [0, 1], 1 being pure noise. Sampling runs from 1 to 0, so the first s of its
steps are those with u ≥ 1 − s: they get images at β of the side, all others full ones (PostDiff, arXiv 2508.06160,
supplementary material F, where s = β = 1/2 gives timesteps 501 to 1000 half the side).

Stable Diffusion 1 and 2 (ε or v prediction; Ho et al. 2020, Salimans and Ho 2022): u = t / N, t uniform.
Stable Diffusion 3 (velocity ε − x₀ of a straight path; Esser et al. 2024, arXiv 2403.03206): u logit-normal, and
σ = a·u / (1 + (a − 1)·u) with the scheduler's shift a, as the steps of sampling are spaced.

Symbols: B images, latents (B, C, h, w), N training timesteps, x₀ clean latent, ε noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from postdiff_calib.errors import UnsupportedError
from postdiff_calib.models.families import family_of
from postdiff_calib.techniques.mixed_resolution import low_res_size

if TYPE_CHECKING:
    from postdiff_calib.models.card import Card

Condition = dict[str, torch.Tensor]


def is_low(places: torch.Tensor, low_res_fraction: float) -> torch.Tensor:
    """Which places on the schedule are low-resolution steps: (B,) float64 → (B,) bool."""
    # 9 decimals: 1 − 0.7 must not lie above 0.3 for its binary form
    return places >= (round(1 - low_res_fraction, 9) if low_res_fraction > 0 else math.inf)


def low_side(card: Card, low_res_scale: float) -> tuple[int, int]:
    """(height, width) in pixels of the smaller images: the latent is that of a low-resolution step.

    Raises:
        KnobError: the network does not accept so small a latent.
    """
    height, width = low_res_size(*card.latent_size(), low_res_scale, card.latent_multiple)
    return height * card.vae_scale_factor, width * card.vae_scale_factor


class Objective:
    """The training target of one pipeline's denoiser.

    Args:
        pipe: its text encoders and autoencoder are used as they are.

    Attributes:
        role: attribute of the pipeline that holds the denoiser.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.role = family_of(pipe).denoiser

    @property
    def network(self) -> Any:
        """The denoiser."""
        return getattr(self.pipe, self.role)

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Places on the schedule as training draws them, (count,) float64."""
        raise NotImplementedError

    def condition(self, captions: Sequence[str]) -> Condition:
        """What the denoiser gets of the captions, a row each."""
        raise NotImplementedError

    def errors(
        self, network: Any, latents: torch.Tensor, noise: torch.Tensor, places: torch.Tensor, condition: Condition
    ) -> torch.Tensor:
        """Mean squared error of each image's prediction, (B,) float32."""
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Images (B, 3, H, W) in [0, 1] to latents (B, C, h, w) float32, scaled as the pipeline scales them."""
        vae = self.pipe.vae
        found = vae.encode((2 * images - 1).to(vae.device, vae.dtype))
        if hasattr(found, "latent_dist"):
            spread = found.latent_dist
            draw = torch.randn(spread.mean.shape, generator=generator).to(spread.mean)
            found = spread.mean + spread.std * draw
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        latents: torch.Tensor = ((found - shift) * vae.config.scaling_factor).float()
        return latents


class DiffusionObjective(Objective):
    """Stable Diffusion 1 and 2: discrete timesteps, ε or v or x₀ prediction."""

    def __init__(self, pipe: Any) -> None:
        from diffusers import DDPMScheduler

        super().__init__(pipe)
        self.schedule = DDPMScheduler.from_config(pipe.scheduler.config)
        self.timesteps = int(self.schedule.config.num_train_timesteps)

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:  # noqa: D102
        return torch.randint(self.timesteps, (count,), generator=generator).double() / self.timesteps

    @torch.no_grad()
    def condition(self, captions: Sequence[str]) -> Condition:  # noqa: D102
        hidden, _ = self.pipe.encode_prompt(list(captions), self.pipe.text_encoder.device, 1, False)
        return {"encoder_hidden_states": hidden}

    def errors(  # noqa: D102
        self, network: Any, latents: torch.Tensor, noise: torch.Tensor, places: torch.Tensor, condition: Condition
    ) -> torch.Tensor:
        timesteps = (places * self.timesteps).round().long().to(latents.device)
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        kind = self.schedule.config.prediction_type
        targets = {
            "epsilon": lambda: noise,
            "v_prediction": lambda: self.schedule.get_velocity(latents, noise, timesteps),
            "sample": lambda: latents,
        }
        predicted = network(noisy, timesteps, **condition, return_dict=False)[0]
        return _mean_squares(predicted, targets[kind]())  # type: ignore[no-untyped-call]


class FlowObjective(Objective):
    """Stable Diffusion 3: the velocity of a straight path from the image to noise."""

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        config = pipe.scheduler.config
        if config.get("use_dynamic_shifting"):
            raise UnsupportedError(
                "fine-tuning with use_dynamic_shifting",
                "the places of its steps depend on the number of steps and the size",
                "give the model a scheduler with a fixed shift",
            )
        self.shift, self.timesteps = float(config.shift), int(config.num_train_timesteps)

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:  # noqa: D102
        return torch.randn(count, generator=generator, dtype=torch.float64).sigmoid()

    def sigma(self, places: torch.Tensor) -> torch.Tensor:
        """Noise level of a place on the schedule."""
        return self.shift * places / (1 + (self.shift - 1) * places)

    @torch.no_grad()
    def condition(self, captions: Sequence[str]) -> Condition:  # noqa: D102
        hidden, _, pooled, _ = self.pipe.encode_prompt(
            list(captions), None, None, device=self.pipe.text_encoder.device, do_classifier_free_guidance=False
        )
        return {"encoder_hidden_states": hidden, "pooled_projections": pooled}

    def errors(  # noqa: D102
        self, network: Any, latents: torch.Tensor, noise: torch.Tensor, places: torch.Tensor, condition: Condition
    ) -> torch.Tensor:
        sigma = self.sigma(places).float().to(latents.device)
        s = sigma[:, None, None, None]
        noisy = (1 - s) * latents + s * noise
        predicted = network(noisy, timestep=sigma * self.timesteps, **condition, return_dict=False)[0]
        return _mean_squares(predicted, noise - latents)


def _mean_squares(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (predicted.float() - target.float()).square().mean((1, 2, 3))


#: Pipeline class → its objective.
OBJECTIVES: dict[str, type[Objective]] = {
    "StableDiffusionPipeline": DiffusionObjective,
    "StableDiffusion3Pipeline": FlowObjective,
}


def require_tunable(pipeline_class: str) -> None:
    """Refuse a pipeline class whose training target is not known here.

    Raises:
        UnsupportedError: naming it.
    """
    if pipeline_class not in OBJECTIVES:
        raise UnsupportedError(
            f"fine-tuning a {pipeline_class}",
            f"the training target is known of {', '.join(OBJECTIVES)}",
            "give a model of one of these",
        )


def objective_of(pipe: Any) -> Objective:
    """The objective of a pipeline's denoiser.

    Raises:
        UnsupportedError: its class has none here.
    """
    name = family_of(pipe).pipeline_class
    require_tunable(name)
    return OBJECTIVES[name](pipe)


def mixed_loss(
    objective: Objective,
    network: Any,
    images: torch.Tensor,
    captions: Sequence[str],
    schedule: tuple[float, tuple[int, int]],
    generator: torch.Generator,
) -> torch.Tensor:
    """Mean loss of a batch, each image at the size of its timestep; all that is random comes from ``generator``.

    Args:
        objective: of the denoiser.
        network: the denoiser, or what wraps it for several devices.
        images: (B, 3, H, W) in [0, 1], full size.
        captions: B of them.
        schedule: s, and (height, width) in pixels of the smaller images.
        generator: on the CPU.
    """
    share, size = schedule
    places = objective.draw(len(images), generator)
    low = is_low(places, share)
    condition = objective.condition(captions)
    total: torch.Tensor | None = None
    for chosen, small in ((low, True), (~low, False)):
        if not chosen.any():
            continue
        part = images[chosen.to(images.device)]
        if small:
            # bicubic overshoots; area averages what a smaller camera image would
            part = torch.nn.functional.interpolate(part, size=size, mode="bilinear", antialias=True)
        latents = objective.encode(part, generator)
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        own = {name: value[chosen.to(value.device)] for name, value in condition.items()}
        found = objective.errors(network, latents, noise, places[chosen], own).sum()
        total = found if total is None else total + found
    if total is None:
        raise ValueError("a batch without images")
    return total / len(images)
