"""Changing resolution: a plain step-by-step reference, and what noise and latents must look like."""

from itertools import pairwise

import pipelines as P
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch.nn import functional as F

from postdiff_calib.accelerate import accelerated, enable, summary
from postdiff_calib.accelerate.schedulers import noised, predicted, switch_of
from postdiff_calib.errors import KnobError, UnsupportedError
from postdiff_calib.knobs import Knobs
from postdiff_calib.techniques.mixed_resolution import coupled_noise, low_res_size, pooling_matrix
from postdiff_calib.techniques.noise import NOISES

SLOW = pytest.mark.slow
COSINE = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
SETTINGS = [
    ("ddim", {}),
    ("ddim", {"timestep_spacing": "trailing", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}),
    ("dpm", {}),
    ("dpm", {"use_karras_sigmas": True}),
    ("dpm", {"solver_order": 3}),
    ("dpm", COSINE),
    ("dpm", {"algorithm_type": "sde-dpmsolver++"}),
    ("euler", {}),
    ("euler", {"use_karras_sigmas": True, "prediction_type": "v_prediction"}),
    ("unipc", {}),
    ("unipc", {"prediction_type": "v_prediction"}),
]


def bands(full, low):
    """Area pooling (low, full) in float64, its rows made orthonormal by the singular vectors alone."""
    edges = [full * i / low for i in range(low + 1)]
    overlaps = [[max(0.0, min(right, j + 1) - max(left, j)) for j in range(full)] for left, right in pairwise(edges)]
    left, _, right = torch.linalg.svd(torch.tensor(overlaps, dtype=torch.float64), full_matrices=False)
    return left @ right


def plain_sampler(pipe, total, n_low, low, noise, full=(8, 8), scale=7.5, count=2):
    """Mixed-resolution denoising written out: no hooks, the stock scheduler, one loop."""
    prompt = pipe.encode_prompt(P.PROMPTS[:count], "cpu", 1, True)
    text = torch.cat([prompt[1], prompt[0]])
    generators = P.generators(count)
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    scheduler.set_timesteps(total)
    start = randn_tensor((count, 4, *full), generator=generators)
    rows, columns = bands(full[0], low[0]), bands(full[1], low[1])
    x = ((rows @ start.double() @ columns.T) * scheduler.init_noise_sigma).float()
    takes_generator = P.takes(scheduler.step, "generator")
    for i, t in enumerate(scheduler.timesteps):
        model_input = scheduler.scale_model_input(torch.cat([x, x]), t)
        uncond, cond = pipe.unet(model_input, t, encoder_hidden_states=text, return_dict=False)[0].chunk(2)
        output = uncond + scale * (cond - uncond)
        before = x
        x = scheduler.step(output, t, x, **({"generator": generators} if takes_generator else {}), return_dict=False)[0]
        if i == n_low - 1:
            alpha, sigma = level(scheduler, i)
            if scheduler.config.prediction_type == "epsilon":
                clean, estimate = (before.double() - sigma * output.double()) / alpha, output.double()
            elif type(scheduler).__name__.startswith("Euler"):
                clean = before.double() / (sigma**2 + 1) - output.double() * sigma / (sigma**2 + 1) ** 0.5
                estimate = before.double() * sigma / (sigma**2 + 1) + output.double() / (sigma**2 + 1) ** 0.5
            else:
                clean = alpha * before.double() - sigma * output.double()
                estimate = sigma * before.double() + alpha * output.double()
            clean = F.interpolate(clean, size=full, mode="bilinear")
            if noise == "complement":
                pooled = rows @ start.double() @ columns.T
                drawn = rows.T @ estimate @ columns + start - rows.T @ pooled @ columns
            else:
                drawn = randn_tensor((count, 4, *full), generator=generators).double()
            alpha, sigma = level(scheduler, i + 1)
            x = (alpha * clean + sigma * drawn).float()
            rest = scheduler.timesteps[i + 1 :]
            scheduler = continued(scheduler, total, i + 1)
            assert torch.equal(scheduler.timesteps[i + 1 :], rest)
    return x


def continued(scheduler, total, index):
    """A scheduler without history that stands at step ``index`` of the same schedule."""
    fresh = type(scheduler).from_config(scheduler.config)
    fresh.set_timesteps(total)
    if hasattr(fresh, "set_begin_index"):
        fresh.set_begin_index(index)
    return fresh


def level(scheduler, index):
    """(α, σ) of a step in float64: DDIM from ᾱ at its timestep, the others from their sigmas."""
    if not hasattr(scheduler, "sigmas"):
        product = scheduler.alphas_cumprod[scheduler.timesteps[index]].double()
        return product.sqrt(), (1 - product).sqrt()
    sigma = scheduler.sigmas[index].double()
    if type(scheduler).__name__.startswith("Euler"):
        return torch.ones_like(sigma), sigma
    return (1 + sigma**2).rsqrt(), sigma * (1 + sigma**2).rsqrt()


@pytest.mark.parametrize("noise", ["coupled", "complement"])
@pytest.mark.parametrize(("name", "changes"), SETTINGS)
@torch.no_grad()
def test_equal_to_the_plain_sampler(name, changes, noise):
    pipe = P.sd(name, scheduler_changes=changes)
    reference = plain_sampler(pipe, 6, 3, (4, 4), noise)
    with accelerated(pipe, Knobs(6, low_res_fraction=0.5, low_res_scale=0.5), noise=noise, latent_multiple=2):
        ours = P.latents(pipe, count=2)
    assert ours.shape == reference.shape
    assert torch.allclose(ours, reference, rtol=1e-4, atol=1e-4 * float(reference.abs().max()))


@pytest.mark.parametrize("noise", ["coupled", "complement"])
@pytest.mark.parametrize(("full", "low"), [((8, 16), (6, 12)), ((16, 8), (6, 4)), ((24, 8), (16, 8))])
@torch.no_grad()
def test_sizes_that_are_not_square_or_no_multiples(full, low, noise):
    pipe = P.sd("dpm")
    scale = {(6, 12): 0.75, (6, 4): 0.4, (16, 8): 0.65}[low]
    multiple = {(6, 12): 2, (6, 4): 2, (16, 8): 8}[low]
    reference = plain_sampler(pipe, 6, 3, low, noise, full)
    with accelerated(pipe, Knobs(6, low_res_fraction=0.5, low_res_scale=scale), noise=noise, latent_multiple=multiple):
        ours = P.latents(pipe, count=2, height=8 * full[0], width=8 * full[1])
        assert summary(pipe).steps[0].latent_size == low
    assert torch.allclose(ours, reference, rtol=1e-4, atol=1e-4 * float(reference.abs().max()))


@pytest.mark.parametrize("name", P.SCHEDULERS)
@pytest.mark.parametrize("total", [1, 2, 3, 5, pytest.param(20, marks=SLOW), pytest.param(50, marks=SLOW)])
def test_step_counts(name, total):
    pipe = P.sd(name)
    if total == 1:
        stock = P.latents(pipe, count=1, num_inference_steps=1)
        enable(pipe, Knobs(1, low_res_fraction=0.5, low_res_scale=0.5), strict=False)
        assert torch.equal(P.latents(pipe, count=1), stock)
        return
    for fraction in (0.4, 0.9):
        if round(fraction * total) == 0:
            continue
        enable(pipe, Knobs(total, low_res_fraction=fraction, low_res_scale=0.5))
        assert torch.isfinite(P.latents(pipe, count=1, height=128, width=128)).all()
        sizes = [step.latent_size for step in summary(pipe).steps]
        n_low = min(round(fraction * total), total - 1)
        assert sizes == [(8, 8)] * n_low + [(16, 16)] * (total - n_low)


@pytest.mark.parametrize(("name", "changes"), SETTINGS)
def test_clean_latent_is_the_schedulers_own(name, changes):
    generator = torch.Generator().manual_seed(0)
    scheduler = P.scheduler(name, **changes)
    scheduler.set_timesteps(10)
    sample, output = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    for index in (0, 1, 5, 9):
        t = scheduler.timesteps[index]
        switch = switch_of(scheduler)
        ours, noise = predicted(scheduler, switch, switch.levels(scheduler, index), output, t, sample)
        alpha, sigma = level(scheduler, index)
        assert torch.allclose((alpha * ours + sigma * noise).float(), sample, atol=1e-4)
        fresh = continued(scheduler, 10, index)
        fresh.scale_model_input(sample, t)
        if name in ("dpm", "unipc"):
            fresh._init_step_index(t)
            reference = fresh.convert_model_output(output, sample=sample)
        else:
            reference = fresh.step(output, t, sample).pred_original_sample
        assert torch.allclose(ours, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", P.SCHEDULERS)
def test_renoised_latent_has_the_next_steps_mean_and_spread(name):
    scheduler = P.scheduler(name)
    scheduler.set_timesteps(10)
    clean = torch.full((1, 4, 64, 64), 3.0)
    noise = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    for index in (1, 4, 9):
        alpha, sigma = level(scheduler, index)
        latent = noised(switch_of(scheduler).levels(scheduler, index), clean, noise)
        assert float(latent.mean()) == pytest.approx(3 * float(alpha), abs=0.05 * float(sigma))
        assert float(latent.std()) == pytest.approx(float(sigma), rel=0.03)


@pytest.mark.parametrize(("full", "low"), [(16, 8), (16, 6), (16, 14), (97, 64), (64, 24)])
def test_coupled_noise_is_white(full, low):
    matrix = pooling_matrix(full, low)
    assert torch.allclose(matrix @ matrix.T, torch.eye(low), atol=1e-5)
    noise = torch.randn(200, 4, full, full, generator=torch.Generator().manual_seed(0))
    pooled = coupled_noise(noise, (low, low))
    assert pooled.shape == (200, 4, low, low)
    assert float(pooled.var()) == pytest.approx(1, abs=0.02)
    if full % low == 0:
        assert torch.allclose(pooled, F.avg_pool2d(noise, full // low) * (full // low), atol=1e-5)


def test_a_seed_keeps_its_composition():
    pipe = P.sd("ddim")
    starts = {}
    for noise in ("coupled", "independent"):
        enable(pipe, Knobs(4, low_res_fraction=0.5, low_res_scale=0.5), noise=noise)
        seen = []
        handle = pipe.unet.register_forward_hook(lambda _, args, __, seen=seen: seen.append(args[0]))
        P.latents(pipe, count=1, height=128, width=128)
        handle.remove()
        starts[noise] = seen[0][:1]
    full = randn_tensor((1, 4, 16, 16), generator=P.generators(1))
    coarse = F.avg_pool2d(full, 2) * 2
    assert torch.allclose(starts["coupled"], coarse, atol=1e-5)
    correlation = torch.corrcoef(torch.stack([starts["independent"].flatten(), coarse.flatten()]))[0, 1]
    assert abs(float(correlation)) < 0.25


@pytest.mark.parametrize(
    ("height", "width"), [(72, 200), pytest.param(520, 776, marks=SLOW), pytest.param(1024, 576, marks=SLOW)]
)
def test_odd_sizes(height, width):
    pipe = P.sd("dpm")
    enable(pipe, Knobs(2, low_res_fraction=0.5, low_res_scale=0.5, cache_interval=1, guidance_fraction=0.5))
    assert P.latents(pipe, count=1, height=height, width=width).shape == (1, 4, height // 8, width // 8)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept(dtype, noise):
    pipe = P.sd("dpm")
    pipe.unet.to(dtype)
    pipe.text_encoder.to(dtype)
    knobs = Knobs(4, low_res_fraction=0.5, low_res_scale=0.5, cache_interval=2, guidance_fraction=0.75)
    enable(pipe, knobs, noise=noise)
    images = P.latents(pipe, height=128, width=128)
    assert images.dtype == dtype
    assert torch.isfinite(images).all()


@pytest.mark.parametrize(
    ("side", "scale", "remedy"),
    [(16, 0.9, "take a scale of at most 0.5"), (8, 0.5, "leave low-resolution steps out, or make larger images")],
)
def test_a_scale_that_changes_nothing_is_refused_with_one_that_does(side, scale, remedy):
    with pytest.raises(KnobError, match=f"not smaller; {remedy}"):
        low_res_size(side, side, scale, 8)


def test_an_image_too_small_for_the_scale_is_refused():
    pipe = P.sd("ddim")
    enable(pipe, Knobs(4, low_res_fraction=0.5, low_res_scale=0.5))
    with pytest.raises(KnobError, match="nearest size the network accepts"):
        P.latents(pipe)  # 8 × 8 latents, and multiples of 8


def test_refusals_by_name():
    knobs = Knobs(4, low_res_fraction=0.5, low_res_scale=0.5)
    pipe = P.sd("ddim")
    with pytest.raises(KnobError, match="noise 'correlated'"):
        enable(pipe, knobs, noise="correlated")
    with pytest.raises(UnsupportedError, match="PNDMScheduler"):
        enable(P.sd("pndm"), knobs)
    from diffusers import EulerAncestralDiscreteScheduler

    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(UnsupportedError, match="low_res_fraction with EulerAncestralDiscreteScheduler"):
        enable(pipe, knobs)
