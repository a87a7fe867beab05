import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from postdiff_calib.errors import ModelError
from postdiff_calib.models.shapes import scorer as shapes_scorer
from postdiff_calib.quality.clip import ClipScorer

PROMPTS = ["a red circle on a blue background", "a large green star on a white background", "a cyan ring"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("scorer")
    shapes_scorer.export(shapes_scorer.build(seed=0), path)
    return path


@pytest.fixture(scope="module")
def scorer(folder):
    return ClipScorer(f"local-dir:{folder}")


def some_images(n, height=64, width=64, seed=0):
    small = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, size=(height, width), mode="bilinear")


def with_open_clip(folder, images, prompts):
    """The plain way: PIL images through open_clip's own preprocess, one at a time."""
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    scores, inputs = [], []
    for image, prompt in zip(images, prompts, strict=True):
        array = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        inputs.append(preprocess(Image.fromarray(array)))
        with torch.no_grad():
            visual = model.encode_image(inputs[-1][None], normalize=True)
            text = model.encode_text(tokenizer([prompt]), normalize=True)
        scores.append(100 * float((visual * text).sum()))
    return scores, torch.stack(inputs)


def test_equals_open_clip_exactly_without_resizing(folder, scorer):
    images = some_images(3)
    scores, inputs = with_open_clip(folder, images, PROMPTS)
    assert torch.equal(scorer.preprocess(images), inputs)
    assert scorer.score(images, PROMPTS) == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize("size", [(96, 96), (128, 80), (48, 48)])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_equals_open_clip_when_resizing(folder, tmp_path, size, mode):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["resize_mode"] = mode
    config["preprocess_cfg"]["interpolation"] = "bicubic"
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    images = some_images(2, *size)
    scores, inputs = with_open_clip(tmp_path, images, PROMPTS[:2])
    resized = ClipScorer(f"local-dir:{tmp_path}")
    # PIL and torch may round an 8-bit value differently; 0.5 is this scorer's standard deviation.
    assert float((resized.preprocess(images) - inputs).abs().max()) <= 1.001 / 255 / 0.5
    assert resized.score(images, PROMPTS[:2]) == pytest.approx(scores, abs=0.05)


def test_scores_are_per_prompt_and_independent_of_batch_size(folder, scorer):
    images = some_images(3)
    one_by_one = ClipScorer(f"local-dir:{folder}", batch_size=1).score(images, PROMPTS)
    assert one_by_one == pytest.approx(scorer.score(images, PROMPTS), abs=1e-4)
    assert len(set(np.round(one_by_one, 3))) == 3
    assert scorer.score(images[:0], []) == []
    with pytest.raises(ValueError, match="3 images for 2 prompts"):
        scorer.score(images, PROMPTS[:2])


def test_text_features_are_computed_once(folder):
    counted = ClipScorer(f"local-dir:{folder}")
    encode, texts = counted._model.encode_text, []
    counted._model.encode_text = lambda tokens: texts.extend(tokens) or encode(tokens)
    counted.score(some_images(3), [PROMPTS[0], PROMPTS[1], PROMPTS[0]])
    counted.score(some_images(2), PROMPTS[1:])
    assert len(texts) == 3


def test_weights_hash_is_recorded(folder, scorer):
    import hashlib

    content = (folder / "open_clip_model.safetensors").read_bytes()
    assert scorer.weights_sha256 == hashlib.sha256(content).hexdigest()


def test_missing_and_damaged_weights_are_one_line(folder, tmp_path):
    with pytest.raises(ModelError, match="missing"):
        ClipScorer(f"local-dir:{tmp_path / 'nowhere'}")
    (tmp_path / "open_clip_config.json").write_bytes((folder / "open_clip_config.json").read_bytes())
    (tmp_path / "open_clip_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match="safetensors is missing"):
        ClipScorer(f"local-dir:{tmp_path}")
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(ModelError) as caught:
        ClipScorer(f"local-dir:{tmp_path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ViT-B-32", "ARCH::pretrained_tag"),
        ("ViT-B-32::", "ARCH::pretrained_tag"),
        ("ViT-B-32::nonsense", "laion2b_s34b_b79k"),
        ("ViT-Q-7::openai", "knows no"),
    ],
)
def test_unknown_names_are_refused(name, said):
    with pytest.raises(ModelError, match=said):
        ClipScorer(name)


def test_tagged_weights_absent_offline_say_how_to_fetch(monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def absent(repository, filename, revision):
        raise LocalEntryNotFoundError(f"no {filename}")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", absent)
    with pytest.raises(ModelError, match="hf download laion/CLIP-ViT-B-32-laion2B-s34B-b79K"):
        ClipScorer("ViT-B-32::laion2b_s34b_b79k")


def test_the_default_weights_are_asked_for_at_their_commit(monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def absent(repository, filename, revision):
        asked.append((repository, revision))
        raise LocalEntryNotFoundError(f"no {filename}")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", absent)
    with pytest.raises(ModelError, match="--revision 1a25a446712ba5ee05982a381eed697ef9b435cf"):
        ClipScorer("ViT-B-32::laion2b_s34b_b79k")
    assert asked == [("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "1a25a446712ba5ee05982a381eed697ef9b435cf")]


def test_tagged_weights_are_loaded_with_the_tags_own_settings(monkeypatch, folder):
    import huggingface_hub
    import open_clip

    asked = {}

    def create(name, device, **options):
        asked.update(options, name=name)
        raise RuntimeError("stop here")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda r, f, revision: str(Path(folder) / f))
    monkeypatch.setattr(open_clip, "create_model_and_transforms", create)
    with pytest.raises(ModelError, match="stop here"):
        ClipScorer(f"ViT-B-32::openai@{'0123456789' * 4}")
    assert asked["name"] == "ViT-B-32"
    assert asked["force_quick_gelu"] is True
    assert asked["pretrained"].endswith(".safetensors")
