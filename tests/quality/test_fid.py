"""FID by numbers that can be told in the head, against the definition, and its bias taken away."""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from typer.testing import CliRunner

from postdiff_calib.cli.main import app
from postdiff_calib.errors import ModelError, PromptError, UsageError
from postdiff_calib.jobs.fid import FidJob, reference_images, run_fid
from postdiff_calib.quality import fid
from postdiff_calib.quality.fid import fid_of, frechet
from postdiff_calib.quality.inception import Inception


def test_distances_that_can_be_told():
    x = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])
    assert frechet(x, x) == pytest.approx(0, abs=1e-12)
    assert frechet(x, x + np.array([3.0, 4.0])) == pytest.approx(25)  # the means are 5 apart
    # variances 2/3 and 4 · 2/3 in both directions: (2σ − σ)² each
    assert frechet(x, 2 * x) == pytest.approx(2 * 2 / 3)
    with pytest.raises(ValueError, match="of one width"):
        frechet(x, x[:, :1])


def test_equal_to_the_definition():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)), rng.normal(size=(300, 6)) + 0.5
    first, second = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    crossed = np.trace(sqrtm(first @ second)).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * crossed
    assert frechet(x, y) == pytest.approx(expected)


def test_the_bias_is_taken_away():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2048, 64)), rng.normal(size=(2048, 64))  # two samples of one distribution
    found = fid_of(x, y, "noise")
    assert found.fid > 0.5
    assert abs(found.unbiased) < 0.25 * found.fid
    shifted = fid_of(x, y + 0.25, "noise")
    assert shifted.unbiased == pytest.approx(64 * 0.25**2, rel=0.1)
    assert "too high for that number" in str(found)


def test_too_few_images_are_refused_with_the_reason(tmp_path):
    with pytest.raises(PromptError, match=r"FID of 100 images: it needs 2,048 at least: below that its bias"):
        fid_of(np.zeros((100, 4)), np.zeros((4000, 4)), "zeros")
    with pytest.raises(PromptError, match="FID of 0 images in"):
        run_fid(FidJob(tmp_path))
    with pytest.raises(PromptError, match="there is no such folder"):
        run_fid(FidJob(tmp_path / "none"))
    with pytest.raises(UsageError, match="sd15 has no images of its own"):
        reference_images("own", "sd15", 3000, 0)


def test_the_command_tells_images_from_their_recipe(tmp_path, monkeypatch):
    monkeypatch.setattr(fid, "LEAST", 40)
    pixels = torch.cat(list(fid.own_images(48, seed=9)))
    for name, images in {"own": pixels, "grey": pixels.mean(1, keepdim=True).expand(-1, 3, -1, -1)}.items():
        (tmp_path / name).mkdir()
        for i, image in enumerate((255 * images).round().byte().permute(0, 2, 3, 1).numpy()):
            Image.fromarray(image).save(tmp_path / name / f"{i}.png")

    def run(*argv):
        found = CliRunner().invoke(app, ["fid", *map(str, argv), "--json", "--device", "cpu"], catch_exceptions=False)
        assert found.exit_code == 0, found.output
        return json.loads(found.stdout)

    own, grey = run(tmp_path / "own"), run(tmp_path / "grey")
    assert (own["images"], own["reference"]) == (48, 48)
    assert own["fid"] < grey["fid"]
    assert run(tmp_path / "own", "--reference", tmp_path / "own")["fid"] == pytest.approx(0, abs=0.01)


def test_inception_pools_as_the_original(tmp_path):
    from torchvision.models import inception_v3

    torch.manual_seed(0)
    stock = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False).eval()
    torch.save(stock.state_dict(), tmp_path / "w.pth")
    path = tmp_path / f"w-{hashlib.sha256((tmp_path / 'w.pth').read_bytes()).hexdigest()[:8]}.pth"
    (tmp_path / "w.pth").rename(path)
    ours = Inception(path)
    assert ours([torch.rand(2, 3, 32, 32)]).shape == (2, 2048)
    x = torch.rand(1, 192, 5, 5)
    with torch.inference_mode():
        expected, found = (network.Mixed_5b(x) for network in (stock, ours._network))
        # the padding counts at the edges of torchvision's averages, and only there, in the last branch's 32 channels
        assert torch.equal(expected[:, :-32], found[:, :-32])
        assert torch.allclose(expected[:, :, 1:-1, 1:-1], found[:, :, 1:-1, 1:-1], atol=1e-5)
        assert not torch.allclose(expected, found, atol=1e-5)
        x = torch.rand(1, 2048, 3, 3)
        largest = torch.nn.functional.max_pool2d(x, 3, stride=1, padding=1)
        assert torch.equal(ours._network.Mixed_7c(x)[:, -192:], stock.Mixed_7c.branch_pool(largest))
    other = tmp_path / "o.pth"
    torch.save({"a": torch.zeros(1)}, other)
    other = other.rename(tmp_path / f"o-{hashlib.sha256(other.read_bytes()).hexdigest()[:8]}.pth")
    with pytest.raises(ModelError, match="not pytorch-fid's"):
        Inception(other)
    with pytest.raises(ModelError, match="are not in"):
        Inception(tmp_path / "none.pth")
