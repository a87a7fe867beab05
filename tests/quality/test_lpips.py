"""LPIPS with weights of our own making: the real ones are a download, which this tool never does."""

import hashlib
import pickle

import pytest
import torch

from postdiff_calib.errors import ModelError
from postdiff_calib.quality import lpips, metrics
from postdiff_calib.quality.lpips import Lpips


def save(folder, state, name=None):
    """A weights file whose name ends in its hash, as torch's hub cache names files."""
    path = folder / "x"
    torch.save(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path.rename(folder / (name or f"alexnet-owt-{digest[:8]}.pth"))


@pytest.fixture(scope="module")
def state():
    import torchvision

    torch.manual_seed(0)
    features = torchvision.models.AlexNet().features.state_dict()
    return {f"features.{key}": value for key, value in features.items()}


@pytest.fixture(scope="module")
def weights(tmp_path_factory, state):
    return save(tmp_path_factory.mktemp("hub"), state)


@pytest.fixture
def _forget():
    lpips.installed.cache_clear()
    yield
    lpips.installed.cache_clear()


def some_images(n=2, side=64, seed=0):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_distance_is_zero_for_equal_images_and_grows(weights):
    network, images = Lpips(weights), some_images()
    noise = some_images(seed=1) - 0.5
    assert network(images, images) == pytest.approx([0, 0], abs=1e-7)
    small, large = (network(images, (images + size * noise).clamp(0, 1)) for size in (0.1, 0.5))
    assert all(0 < s < b for s, b in zip(small, large, strict=True))
    assert len(network(images[:1], images[:1])) == 1


def test_the_backbone_is_the_file_and_the_heads_are_the_published_ones(weights, state):
    network, images, other = Lpips(weights), some_images(1), some_images(1, seed=1)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    # by hand: five layers' outputs, unit length over channels, weighted squares, mean over the image
    a, b = ((2 * x - 1 - shift[:, None, None]) / scale[:, None, None] for x in (images, other))
    total = 0.0
    heads = dict(network._network.named_parameters())
    layers = [(0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)]
    for number, (index, stride, padding) in enumerate(layers):
        if number in (1, 2):
            a, b = (torch.nn.functional.max_pool2d(x, 3, 2) for x in (a, b))
        weight, bias = state[f"features.{index}.weight"], state[f"features.{index}.bias"]
        a, b = (torch.nn.functional.conv2d(x, weight, bias, stride, padding).relu() for x in (a, b))
        unit = [x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt() for x in (a, b)]
        head = next(value for key, value in heads.items() if key.startswith(f"lin{number}."))
        total += float(((unit[0] - unit[1]).square() * head).sum(1).mean())
    assert network(images, other) == pytest.approx([total], rel=1e-4)


def test_small_images_are_enlarged(weights):
    assert Lpips(weights)(some_images(side=16), some_images(side=16, seed=1))[0] > 0


def test_what_is_absent_damaged_or_not_alexnet_is_one_line(tmp_path, weights):
    with pytest.raises(ModelError, match="are not in"):
        Lpips(tmp_path / "none" / lpips.BACKBONE_FILE)
    with pytest.raises(ModelError, match="damaged"):
        Lpips(save(tmp_path, {"a": torch.zeros(1)}, "alexnet-owt-00000000.pth"))
    with pytest.raises(ModelError, match="not AlexNet's"):
        Lpips(save(tmp_path, {"features.0.weight": torch.zeros(1)}))
    with pytest.raises(ModelError, match="not AlexNet's"):
        Lpips(save(tmp_path, [torch.zeros(1)]))


class Harmful:
    done = False

    def __reduce__(self):
        return setattr, (Harmful, "done", True)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    content = pickle.dumps(Harmful(), protocol=2)
    path = tmp_path / f"alexnet-owt-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="more than tensors"):
        Lpips(path)
    assert not Harmful.done


@pytest.mark.usefixtures("_forget")
def test_lpips_is_among_the_metrics_only_where_its_weights_are(monkeypatch, tmp_path, weights):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert [m.name for m in metrics.fidelity_metrics()] == ["ssim", "psnr"]
    with pytest.raises(ModelError, match="are not in"):
        metrics.metric("lpips").function(metrics.Images(some_images(), some_images(), ["a", "b"], None))
    lpips.installed.cache_clear()
    monkeypatch.setattr(lpips, "backbone_path", lambda: weights)
    assert [m.name for m in metrics.fidelity_metrics()] == ["ssim", "psnr", "lpips"]
    sample = metrics.Images(some_images(), some_images(seed=1), ["a", "b"], None)
    assert metrics.metric("lpips").function(sample) == pytest.approx(Lpips(weights)(sample.images, sample.reference))
