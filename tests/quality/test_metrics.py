from dataclasses import replace

import numpy as np
import pytest
import torch

from postdiff_calib.errors import ModelError
from postdiff_calib.quality import METRICS, HealthError, Images, check_health, metric, quality_metrics
from postdiff_calib.quality.cmmd import paired_cmmd
from postdiff_calib.quality.fidelity import PSNR_CAP, psnr, ssim


def noise(n, seed=0, shape=(3, 32, 32)):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def test_health_passes_ordinary_images():
    images = noise(2)
    images[1] = images[1] * 0 + 0.2
    images[1, :, 3, 3] = 0.9  # one dot is content
    check_health(images, ["a", "b"])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda x: x * float("nan"), "NaN"),
        (lambda x: x / 0, "infinity"),
        (lambda x: x * 0, "constant"),
        (lambda x: x * 0 + torch.tensor([0.9, 0.1, 0.3])[:, None, None], "constant"),
        (lambda x: (x > 0.5).float(), "saturated"),
    ],
)
def test_health_names_the_fault_and_the_prompt(spoil, said):
    images = noise(3)
    images[1] = spoil(images[1])
    with pytest.raises(HealthError, match=f"1 of 3 .*{said}.*'second'"):
        check_health(images, ["first", "second", "third"])


def test_ssim_and_psnr_have_the_known_values():
    images = noise(2)
    assert ssim(images, images) == pytest.approx([1.0, 1.0], abs=1e-6)
    assert psnr(images, images) == [PSNR_CAP, PSNR_CAP]
    shifted = images * 0.5
    shifted[1] = images[1] * 0.5 + 0.1
    shifted[0] = images[0] * 0.5
    # mean squared error 0.01 is 20 dB
    assert psnr(images * 0.5 + 0.1, images * 0.5) == pytest.approx([20.0, 20.0], abs=1e-3)
    values = ssim(images, shifted)
    assert all(0 < value < 0.95 for value in values)
    assert len(set(values)) == 2
    assert len(ssim(images[:1], shifted[:1])) == 1


def independent_cmmd(x, y):
    """CMMD of two independent sets, as published but without the diagonal of each set."""

    def k(a, b):
        return np.exp(-((a[:, None] - b[None, :]) ** 2).sum(-1) / 200)

    def within(a):
        return (k(a, a).sum() - len(a)) / (len(a) * (len(a) - 1))

    return 1000 * (within(x) + within(y) - 2 * k(x, y).mean())


class FakeScorer:
    def score(self, images, prompts):
        return [float(i.mean()) for i in images]

    def image_features(self, images):
        return torch.nn.functional.normalize(images.flatten(1), dim=-1)


class FakeJudge:
    def score(self, images, prompts):
        return [100.0 * (prompt == "a") for prompt in prompts]


def test_the_list_of_metrics_is_complete_and_uniform():
    assert [m.name for m in METRICS] == ["clip", "scene", "cmmd", "ssim", "psnr", "lpips"]
    assert len({m.label for m in METRICS}) == len(METRICS)
    sample = Images(noise(4, 0), noise(4, 1), ["a", "b", "c", "d"], FakeScorer(), FakeJudge())
    equal = replace(sample, reference=sample.images)
    for m in METRICS[:-1]:  # LPIPS needs weights: see test_lpips
        values = m.function(sample)
        assert m.equal is None or m.function(equal) == pytest.approx([m.equal] * len(values), abs=1e-6)
        assert len(values) == (4 if m.per_prompt else 1)
        assert all(isinstance(v, float) for v in values)
    assert metric("cmmd").direction == "lower"
    with pytest.raises(KeyError, match="psnr"):
        metric("no metric")


def test_quality_judges_an_image_and_fidelity_compares_it():
    assert quality_metrics() == (metric("clip"), metric("scene"))
    assert {m.name for m in METRICS if not m.quality} == {"cmmd", "ssim", "psnr", "lpips"}
    alone = Images(noise(2), None, ["a", "b"], FakeScorer(), FakeJudge())
    assert metric("scene").function(alone) == [100.0, 0.0]
    assert len(metric("clip").function(alone)) == 2
    for name in ("cmmd", "ssim", "psnr"):
        with pytest.raises(ValueError, match="needs the baseline's images"):
            metric(name).function(alone)


def test_without_a_judge_scenes_are_refused_in_one_line():
    with pytest.raises(ModelError, match="metric scene: this model has no judge of its scenes; leave it out"):
        metric("scene").function(Images(noise(1), None, ["a"], FakeScorer()))


def test_values_are_shown_with_the_metrics_own_digits_and_unit():
    assert metric("clip").show(30.123) == "30.12"
    assert metric("scene").show(91.25) == "91.2"
    assert metric("scene").show(-2.5, signed=True) == "−2.5"
    assert metric("clip").show(0.666, signed=True) == "+0.67"
    assert metric("clip").show(-0.001, signed=True) == "+0.00"
    assert (metric("scene").unit, metric("scene").difference_unit) == ("% of scenes", "percentage points")


def test_small_values_of_a_users_scorer_are_told_from_nothing():
    show = metric("aesthetics").show
    assert [show(value) for value in (0.5288, 27.12345, 0.0)] == ["0.529", "27.123", "0.000"]
    assert [show(value, signed=True) for value in (0.0999, -0.000124, 2.76e-6)] == ["+0.100", "−0.00012", "+0.0000028"]
    assert show(-1.2e-9, signed=True) == "+0.000"  # rounding of float32


def unit_rows(rng, n, dimension=8, shift=0.0):
    values = rng.normal(size=(n, dimension)) + shift
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_paired_cmmd_equals_the_plain_double_sum_without_the_diagonals():
    rng = np.random.default_rng(0)
    x, y = unit_rows(rng, 6), unit_rows(rng, 6)

    def k(a, b):
        return np.exp(-((a - b) ** 2).sum() / 200)

    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    h = [k(x[i], x[j]) + k(y[i], y[j]) - k(x[i], y[j]) - k(x[j], y[i]) for i, j in pairs]
    value, error = paired_cmmd(x, y)
    assert value == pytest.approx(1000 * np.mean(h), rel=1e-6)
    without = [paired_cmmd(np.delete(x, i, 0), np.delete(y, i, 0))[0] for i in range(6)]
    assert error == pytest.approx(np.sqrt(5 / 6 * ((without - np.mean(without)) ** 2).sum()), rel=1e-6)
    assert paired_cmmd(x, x) == (0.0, 0.0)
    with pytest.raises(ValueError, match="at least three"):
        paired_cmmd(x[:2], y[:2])
    with pytest.raises(ValueError, match="at least three"):
        paired_cmmd(x, y[:5])


def test_pairs_bias_the_independent_estimate_and_not_the_paired_one():
    # x and y differ by independent noise around a common image, so that both sets have one distribution: CMMD is 0
    rng = np.random.default_rng(1)
    paired, independent, errors = [], [], []
    for _ in range(300):
        common = rng.normal(size=(30, 8))
        x, y = (common + 0.3 * rng.normal(size=(30, 8)) for _ in range(2))
        x, y = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (x, y))
        value, error = paired_cmmd(x, y)
        paired.append(value)
        errors.append(error)
        independent.append(independent_cmmd(x, y))
    assert abs(np.mean(paired)) < 4 * np.std(paired) / np.sqrt(300)
    assert np.mean(independent) < -20 * np.std(independent) / np.sqrt(300)
    # the jackknife is of the right size, and on the careful side
    assert 0.8 < np.mean(errors) / np.std(paired) < 2
