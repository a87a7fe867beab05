"""Expanding the state of a rectified flow: bands, noise levels, and what an exact model makes of it."""

from functools import partial

import pipelines as P
import pytest
import scipy.fft
import torch

from postdiff_calib.accelerate.low_res import LowResolution
from postdiff_calib.techniques.expansion import (
    band_matrix,
    bands,
    expanded,
    expanded_level,
    own_level,
    side_ratio,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("full", "low"), [(16, 8), (24, 18), (13, 6), (9, 9)])
def test_the_low_bands_of_the_cosine_transform(full, low):
    matrix = band_matrix(full, low)
    assert torch.allclose(matrix @ matrix.T, torch.eye(low), atol=1e-6)
    signal = normal(full)
    cut = scipy.fft.idct(scipy.fft.dct(signal.numpy(), norm="ortho")[:low], norm="ortho")
    assert torch.allclose(matrix @ signal, torch.from_numpy(cut), atol=1e-5)


def test_noise_levels_by_hand():
    # r = 2: σ̃ = 2σ/(1 + σ), as of SPEED, of Stable Diffusion 3's shift by 2, and of RALU.
    assert expanded_level(0.5, 2) == pytest.approx(2 / 3)
    assert own_level(2 / 3, 2) == pytest.approx(0.5)
    assert [own_level(edge, 4.0) for edge in (0.0, 1.0)] == [0.0, 1.0]
    for ratio in (1.0, 1.3, 2.0, 4.0):
        levels = torch.linspace(0, 1, 11)
        assert torch.allclose(expanded_level(own_level(levels, ratio), ratio), levels)
        assert (expanded_level(levels, ratio) >= levels).all()
    assert side_ratio((16, 16), (8, 8)) == 2
    assert side_ratio((16, 36), (8, 18)) == 2


@pytest.mark.parametrize(("full", "low"), [((16, 16), (8, 8)), ((16, 24), (12, 18)), ((20, 12), (10, 10))])
def test_a_smooth_picture_and_noise_in_its_bands_come_out_at_the_later_time(full, low):
    """x₀ of low bands only: its small picture has the same pixels. The seed's noise comes back whole."""
    sigma, ratio, pool = 0.6, side_ratio(full, low), bands(full, low, "cpu")
    seed, small = normal(2, 4, *full), normal(2, 4, *low, seed=1)
    picture = ratio * pool.up(small)
    assert torch.allclose(pool.down(picture) / ratio, small, atol=1e-5)
    state = (1 - sigma) * small + sigma * pool.down(seed)
    later = expanded_level(sigma, ratio)
    found = expanded(state, sigma, seed, pool, ratio)
    assert found.dtype == torch.float32
    assert torch.allclose(found, (1 - later) * picture + later * seed, atol=1e-5)
    # A flat picture keeps its value: amplitude per pixel is what both sizes share.
    flat = expanded(torch.full((1, 1, *low), 0.7), 0.0, seed[:1, :1], pool, ratio)
    assert torch.allclose(flat, torch.full((1, 1, *full), 0.7), atol=1e-5)


SIDE, LOW = 32, 16


def powers():
    """Power of 1/f³ images on a torus, unit variance per pixel: at full size, and of the mean of two by two pixels."""
    frequency = torch.fft.fftfreq(SIDE) * SIDE
    power = (frequency[:, None] ** 2 + frequency[None] ** 2 + 1.5) ** -1.5
    power = power / power.mean()
    box = torch.cos(torch.pi * frequency / SIDE) ** 2
    return {SIDE: power, LOW: (power * box[:, None] * box[None]).reshape(2, LOW, 2, LOW).sum((0, 2)) / 4}


def exact_run(start, way, noise="complement", n_low=10, total=20):
    """A rectified flow with the best velocity there is for such images: Wiener's filter gives the clean one."""
    scheduler, power = P.scheduler("flow"), powers()
    scheduler.set_timesteps(total)
    x, low = start, None
    if way:
        generator = torch.Generator().manual_seed(5)
        low = LowResolution(way, noise, "spatial", (SIDE, SIDE), (LOW, LOW), generator)
        x = low.start(start, 1.0)
        low.take_grid(scheduler, n_low)
    for i in range(total):
        sigma, own = scheduler.sigmas[i], power[x.shape[-1]]
        weight = (1 - sigma) * own / ((1 - sigma) ** 2 * own + sigma**2)
        v = (x - torch.fft.ifft2(torch.fft.fft2(x) * weight).real) / sigma
        given = {"model_output": v, "timestep": scheduler.timesteps[i], "sample": x}
        step = partial(scheduler.step, **given, return_dict=False)
        x = low.switched(scheduler, i, given, step)[1] if low and i == n_low - 1 else step()[0]
    return x


def test_an_exact_model_ends_nearer_to_its_full_run_where_the_state_is_expanded():
    """Squared distance over squared norm, s = β = .5: .027 renoised and .003 expanded; with fresh noise .47 and .16."""
    start = normal(16, 1, SIDE, SIDE)
    whole = exact_run(start, "")

    def distance(way, noise):
        return float((exact_run(start, way, noise) - whole).pow(2).mean() / whole.pow(2).mean())

    for noise, most in (("complement", 0.006), ("coupled", 0.25)):
        for grid in ("", "-own-grid"):
            expanded_, renoised = (distance(way + grid, noise) for way in ("expand", "renoise"))
            assert expanded_ < most
            assert renoised > 2 * expanded_
