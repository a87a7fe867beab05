"""Folders that are no model, or a damaged one: each is one line that names it, and nothing of it is run."""

import json
from pathlib import Path

import pytest

from postdiff_calib.errors import ModelError, UnsupportedError
from postdiff_calib.models import load
from postdiff_calib.models.cards import SHAPES_FOLDER, get_card
from postdiff_calib.models.load import load_pipeline
from postdiff_calib.models.place import Place, place_of

PIPELINE = SHAPES_FOLDER / "pipeline"


def copy_of_the_model(folder: Path) -> Path:
    """The embedded model's folder, each file a link."""
    for path in PIPELINE.rglob("*"):
        target = folder / path.relative_to(PIPELINE)
        if path.is_dir():
            target.mkdir(parents=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
    return folder


def replace(path: Path, content: str | bytes) -> None:
    path.unlink()
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def without_key(path: Path, key: str) -> None:
    data = json.loads(path.read_text())
    del data[key]
    replace(path, json.dumps(data))


def cut(path: Path) -> None:
    replace(path, path.read_bytes()[:5000])


def lose_a_tensor(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    del tensors[sorted(tensors)[0]]
    path.unlink()
    save_file(tensors, path)


DAMAGE = {
    "an index that is {}": lambda f: replace(f / "model_index.json", "{}"),
    "an index that is []": lambda f: replace(f / "model_index.json", "[]"),
    "an index that is null": lambda f: replace(f / "model_index.json", "null"),
    "an index that is no JSON": lambda f: replace(f / "model_index.json", "{"),
    "an index that is nested": lambda f: replace(f / "model_index.json", "[" * 90_000),
    "an index that is no text": lambda f: replace(f / "model_index.json", b"\xff\xfe"),
    "a class of another kind": lambda f: replace(f / "model_index.json", '{"_class_name": 5}'),
    "an index of one key": lambda f: replace(f / "model_index.json", '{"_class_name": "StableDiffusionPipeline"}'),
    "no index": lambda f: (f / "model_index.json").unlink(),
    "a cut text encoder": lambda f: cut(f / "text_encoder" / "model.safetensors"),
    "a text encoder without a tensor": lambda f: lose_a_tensor(f / "text_encoder" / "model.safetensors"),
    "a cut U-Net": lambda f: cut(f / "unet" / "diffusion_pytorch_model.safetensors"),
    "a U-Net without a tensor": lambda f: lose_a_tensor(f / "unet" / "diffusion_pytorch_model.safetensors"),
    "a U-Net without weights": lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
    "a U-Net without its configuration": lambda f: (f / "unet" / "config.json").unlink(),
    "a configuration that is a list": lambda f: replace(f / "unet" / "config.json", "[]"),
    "a configuration without a key": lambda f: without_key(f / "unet" / "config.json", "block_out_channels"),
    "a scheduler that is null": lambda f: replace(f / "scheduler" / "scheduler_config.json", "null"),
    "a tokenizer that is no JSON": lambda f: replace(f / "tokenizer" / "tokenizer.json", "{"),
}


def test_a_class_that_nobody_knows_is_one_line_with_those_that_run(tmp_path):
    folder = copy_of_the_model(tmp_path / "model")
    replace(folder / "model_index.json", '{"_class_name": "NoPipeline"}')
    with pytest.raises(UnsupportedError) as caught:
        load_pipeline(str(folder), device="cpu")
    said = str(caught.value)
    assert said.startswith("pipeline class NoPipeline: diffusers ")
    assert "StableDiffusionPipeline, " in said
    assert "\n" not in said


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_folder_is_one_line(tmp_path, what):
    folder = copy_of_the_model(tmp_path / "model")
    DAMAGE[what](folder)
    with pytest.raises(ModelError) as caught:
        load_pipeline(str(folder), device="cpu")
    said = str(caught.value)
    assert said.startswith(f"model '{folder}': ")
    assert "save_pretrained" in said
    assert said.isprintable()


def test_a_cards_name_wins_over_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "shapes").mkdir()
    (tmp_path / "sd15").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("shapes", "sd15"):
        card = get_card(name)
        assert place_of(name) == Place(card, card.hub_id, card.revision or "")
        assert place_of(f"./{name}") == Place(None, name)
    with pytest.raises(ModelError, match="no such card"):
        place_of("x" * 300)


@pytest.mark.parametrize("device", ["meta", "gpu9", "cuda:99", ""])
def test_a_device_without_numbers_is_refused(device):
    with pytest.raises(ModelError, match="torch cannot use it"):
        load._pick_device(device)
