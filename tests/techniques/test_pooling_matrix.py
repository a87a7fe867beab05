"""What is remembered of the starting noise does not depend on where it was first asked for."""

import pytest
import torch

from postdiff_calib.techniques.mixed_resolution import coupled_noise, pooling_matrix


@pytest.fixture(autouse=True)
def forget():
    pooling_matrix.cache_clear()
    yield
    pooling_matrix.cache_clear()


def test_another_default_device_does_not_spoil_what_is_remembered():
    with torch.device("meta"):
        first = pooling_matrix(16, 8)
    assert first.device.type == "cpu"
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    assert coupled_noise(noise, (8, 8)).isfinite().all()


def test_noise_on_a_device_without_float64_is_pooled_there():
    noise = torch.zeros(1, 4, 16, 16, device="meta", dtype=torch.bfloat16)
    pooled = coupled_noise(noise, (8, 6))
    assert (pooled.shape, pooled.device.type, pooled.dtype) == ((1, 4, 8, 6), "meta", torch.bfloat16)
