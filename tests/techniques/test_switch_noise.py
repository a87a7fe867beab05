"""Noise at the switch without a draw: its bands, its variance, what it leaves alone, and where it leads."""

import math
from types import SimpleNamespace

import pipelines as P
import pytest
import torch

from postdiff_calib.accelerate import accelerated, enable, summary
from postdiff_calib.accelerate.attach import is_enabled_with
from postdiff_calib.accelerate.low_res import default_way
from postdiff_calib.accelerate.schedulers import predicted, switch_of
from postdiff_calib.errors import UnsupportedError, UsageError
from postdiff_calib.knobs import Knobs
from postdiff_calib.techniques.mixed_resolution import coupled_noise, upsample
from postdiff_calib.techniques.noise import SWITCH_WAYS
from postdiff_calib.techniques.switch_noise import complement, pooling, renoised

HALF = Knobs(4, low_res_fraction=0.5, low_res_scale=0.5)
SIZE = {"height": 128, "width": 128}
DETERMINISTIC = ["sd", "sdxl", "pixart-alpha", "pixart-sigma", "controlnet"]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("full", "low"), [((16, 16), (8, 8)), ((16, 24), (12, 18)), ((13, 9), (6, 9)), ((64, 40), (24, 15))]
)
def test_low_band_of_the_estimate_and_high_band_of_the_start(full, low):
    estimate, start, pool = normal(2, 4, *low), normal(2, 4, *full, seed=1), pooling(full, low, "cpu")
    noise = complement(estimate, start, pool)
    assert noise.shape == (2, 4, *full)
    assert torch.allclose(pool.down(noise), estimate, atol=1e-5)
    high = noise - pool.up(pool.down(noise))
    assert torch.allclose(high, start - pool.up(pool.down(start)), atol=1e-5)
    # Nothing of the one band is in the other.
    assert torch.allclose(pool.down(high), torch.zeros(2, 4, *low), atol=1e-5)


@pytest.mark.parametrize(("full", "low"), [((8, 8), (4, 4)), ((8, 6), (6, 5))])
def test_white_noise_in_gives_white_noise_out(full, low):
    """The map from the numbers that go in to those that come out, applied to each of them alone: M·Mᵀ = 1."""
    pool = pooling(full, low, "cpu")
    n_low, n_full = math.prod(low), math.prod(full)
    ones = torch.eye(n_low + n_full)
    estimate, start = ones[:, :n_low].reshape(-1, 1, *low), ones[:, n_low:].reshape(-1, 1, *full)
    columns = complement(estimate, start, pool).reshape(n_low + n_full, n_full)
    assert torch.allclose(columns.T @ columns, torch.eye(n_full), atol=1e-5)


def test_a_trajectory_that_estimates_its_own_start_gets_the_whole_start_back():
    start, pool = normal(1, 4, 16, 24), pooling((16, 24), (12, 16), "cpu")
    assert torch.allclose(complement(pool.down(start), start, pool), start, atol=1e-5)


def test_renoising_is_in_float32_and_in_proportion():
    start, estimate, clean = normal(1, 4, 8, 8), normal(1, 4, 4, 4, seed=1), normal(1, 4, 8, 8, seed=2)
    pool = pooling((8, 8), (4, 4), "cpu")
    given = (clean.bfloat16(), estimate.bfloat16(), start.bfloat16())
    assert renoised(*given, 0.6, 0.8, pool).dtype == torch.float32
    assert torch.equal(renoised(*given, 1.0, 0.0, pool), clean.bfloat16().float())
    assert torch.equal(renoised(*given, 0.0, 1.0, pool), complement(*given[1:], pool))
    whole = renoised(clean, estimate, start, 0.6, 0.8, pool)
    assert torch.allclose(whole, 0.6 * clean + 0.8 * complement(estimate, start, pool))


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_nothing_is_drawn_beyond_the_stock_pipelines_start(name):
    build, call = P.FAMILIES[name]
    pipe, call = build(), {**SIZE, **call}
    stock, ours, drawing = P.generators(3), P.generators(3), P.generators(3)
    P.latents(pipe, generator=stock, num_inference_steps=4, **call)
    with accelerated(pipe, HALF, noise="complement"):
        P.latents(pipe, generator=ours, **call)
        assert any(step.switched for step in summary(pipe).steps)
    with accelerated(pipe, HALF, noise="coupled"):
        P.latents(pipe, generator=drawing, **call)
    for a, b, c in zip(stock, ours, drawing, strict=True):
        assert torch.equal(a.get_state(), b.get_state())
        assert not torch.equal(a.get_state(), c.get_state())


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_callers_latents_alone_fix_the_image(name):
    build, call = P.FAMILIES[name]
    pipe, call = build(), {**SIZE, **call, "latents": normal(3, 4, 16, 16), "generator": None}
    images = {}
    for noise in ("complement", "coupled"):
        with accelerated(pipe, HALF, noise=noise):
            for seed in (0, 1):
                torch.manual_seed(seed)
                images[noise, seed] = P.latents(pipe, **call)
    assert torch.equal(images["complement", 0], images["complement", 1])
    assert not torch.equal(images["coupled", 0], images["coupled", 1])


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_latents_and_the_generator_that_drew_them_give_the_same_image(name):
    """The start is divided by the scale that the pipeline multiplied it by, so both ways lead to one noise."""
    build, call = P.FAMILIES[name]
    pipe, call = build(), {**SIZE, **call}
    own = torch.cat([torch.randn(1, 4, 16, 16, generator=g) for g in P.generators(3)])
    with accelerated(pipe, HALF, noise="complement"):
        assert torch.equal(P.latents(pipe, **call), P.latents(pipe, **{**call, "latents": own, "generator": None}))


def test_a_profile_keeps_the_noise_it_names_and_bare_knobs_take_the_default():
    pipe, images = P.sd("dpm"), {}
    for name, knobs, noise in (
        ("profile", SimpleNamespace(knobs=HALF, noise="coupled"), None),
        ("coupled", HALF, "coupled"),
        ("bare", HALF, None),
        ("complement", HALF, "complement"),
    ):
        with accelerated(pipe, knobs, noise=noise):
            images[name] = P.latents(pipe, **SIZE)
    assert torch.equal(images["profile"], images["coupled"])
    assert torch.equal(images["bare"], images["complement"])
    assert not torch.equal(images["coupled"], images["complement"])


@pytest.mark.parametrize("way", SWITCH_WAYS[1:])
def test_other_ways_to_full_size_are_of_rectified_flows(way):
    pipe = P.sd("ddim")
    with pytest.raises(UnsupportedError, match=rf"^switch='{way}' with DDIMScheduler: .*take switch='renoise'$"):
        enable(pipe, HALF, switch=way)
    enable(pipe, Knobs(4, cache_interval=2), switch=way)  # nothing changes its size
    pipe = P.sd3()
    with accelerated(pipe, SimpleNamespace(knobs=HALF, switch=way)):
        named = P.latents(pipe, **SIZE, max_sequence_length=P.LENGTH)
    with accelerated(pipe, HALF, switch=way):
        assert torch.equal(P.latents(pipe, **SIZE, max_sequence_length=P.LENGTH), named)
        assert is_enabled_with(pipe, HALF, switch=way)
        assert is_enabled_with(pipe, HALF) == (way == default_way(pipe.scheduler))


def test_images_do_not_depend_on_their_batch():
    pipe = P.sd("dpm")
    enable(pipe, HALF, noise="complement")
    together = P.latents(pipe, **SIZE)
    alone = pipe(P.PROMPTS[1], generator=P.generators(3)[1], output_type="latent", **SIZE).images
    assert torch.allclose(together[1:2], alone, rtol=1e-4, atol=1e-4 * float(alone.abs().max()))


def test_a_start_of_its_own_and_the_callers_latents_exclude_each_other():
    pipe, latents = P.sd("ddim"), normal(3, 4, 16, 16)
    with accelerated(pipe, HALF, noise="independent"):
        with pytest.raises(UsageError, match=r"^latents= with noise='independent'[^\n]*$"):
            P.latents(pipe, latents=latents, **SIZE)
        assert P.latents(pipe, **SIZE).shape == (3, 4, 16, 16)
    with accelerated(pipe, Knobs(4, cache_interval=2), noise="independent"):  # which starts at full size
        assert P.latents(pipe, latents=latents, **SIZE).shape == (3, 4, 16, 16)


SIDE, LOW = 32, 16


def spectrum():
    """Power of 1/f² images on a torus, unit variance per pixel: at full size, and of their pooled half."""
    frequency = torch.fft.fftfreq(SIDE) * SIDE
    power = (frequency[:, None] ** 2 + frequency[None] ** 2 + 1.5) ** -1.5
    power = power / power.mean()
    box = torch.cos(math.pi * frequency / SIDE) ** 2  # |(1 + e^iw)/2|², of a mean of two pixels
    folded = (power * box[:, None] * box[None]).reshape(2, LOW, 2, LOW).sum((0, 2)) / 4
    return {SIDE: power, LOW: folded}


def exact_noise(x, alpha, sigma, power):
    """The noise estimate that is best for such images: Wiener's filter gives the clean image."""
    weight = alpha * power[x.shape[-1]] / (alpha**2 * power[x.shape[-1]] + sigma**2)
    clean = torch.fft.ifft2(torch.fft.fft2(x) * weight).real
    return (x - alpha * clean) / sigma


def exact_run(name, start, n_low, fresh=None):
    scheduler = P.scheduler(name, timestep_spacing="trailing")
    scheduler.set_timesteps(20)
    switch, power, pool = switch_of(scheduler), spectrum(), pooling((SIDE, SIDE), (LOW, LOW), "cpu")
    x = coupled_noise(start, (LOW, LOW)) if n_low else start
    for i, t in enumerate(scheduler.timesteps):
        output = exact_noise(x, *switch.levels(scheduler, i), power)
        if i != n_low - 1:
            x = scheduler.step(output, t, x).prev_sample
            continue
        clean, noise = predicted(scheduler, switch, switch.levels(scheduler, i), output, t, x)
        clean = upsample(clean, (SIDE, SIDE))
        scheduler.step(output, t, x)
        switch.forget(scheduler)
        alpha, sigma = switch.levels(scheduler, i + 1)
        x = alpha * clean + sigma * fresh if fresh is not None else renoised(clean, noise, start, alpha, sigma, pool)
    return x


@pytest.mark.parametrize("name", ["ddim", "dpm", "unipc"])
def test_an_exact_denoiser_ends_near_its_full_resolution_run(name):
    """Squared distance over squared norm, 20 steps, s = β = 0.5: 0.64 with fresh noise, 0.02 without."""
    start = normal(64, 1, SIDE, SIDE)
    whole = exact_run(name, start, 0)

    def distance(image):
        return float((image - whole).pow(2).mean() / whole.pow(2).mean())

    assert distance(exact_run(name, start, 10, normal(64, 1, SIDE, SIDE, seed=1))) > 0.4
    assert distance(exact_run(name, start, 10)) < 0.03


def test_the_estimate_is_the_networks_own_where_the_clean_latent_is_clipped():
    scheduler = P.scheduler("ddim", clip_sample=True, clip_sample_range=0.5)
    scheduler.set_timesteps(10)
    sample, output = normal(1, 4, 8, 8), normal(1, 4, 8, 8, seed=1)
    switch = switch_of(scheduler)
    levels = switch.levels(scheduler, 5)
    clean, noise = predicted(scheduler, switch, levels, output, scheduler.timesteps[5], sample)
    assert float(clean.abs().max()) == 0.5
    assert torch.allclose(noise, output, atol=1e-5)
