"""What ships is what the recipe says: settings, hashes and configurations agree, and it fits the repository."""

import json
from dataclasses import asdict

from postdiff_calib.files import file_sha256
from postdiff_calib.models.cards import get_card
from postdiff_calib.models.shapes import diffusion, scorer, train
from postdiff_calib.models.shapes.tokenizer import build_tokenizer

FACTS = json.loads((train.WEIGHTS / "recipe.json").read_text())


def test_the_recipe_is_the_packages_own():
    assert FACTS["recipe"] == json.loads(json.dumps(asdict(train.Recipe())))
    assert FACTS["stages"]["diffusion"]["step"] * train.Recipe().batch == train.Recipe().samples
    assert FACTS["stages"]["scorer"]["step"] == train.Recipe().scorer_cycles[-1]


def test_every_weight_file_is_the_one_that_was_exported():
    files = {str(p.relative_to(train.WEIGHTS)): file_sha256(p) for p in train.WEIGHTS.rglob("*.safetensors")}
    assert files == FACTS["sha256"]
    assert len(files) == 5


def test_configurations_are_those_the_recipe_builds():
    def config(*parts):
        return json.loads(train.WEIGHTS.joinpath(*parts).read_text())

    built = dict(diffusion.build_scheduler().config)
    shipped = config("pipeline", "scheduler", "scheduler_config.json")
    assert {k: v for k, v in shipped.items() if not k.startswith("_")}.items() <= built.items()
    assert config("scorer", "open_clip_config.json") == scorer.config(len(build_tokenizer()))
    assert config("pipeline", "unet", "config.json")["block_out_channels"] == [32, 64, 128]
    assert get_card("shapes").scheduler == shipped["_class_name"]


def test_weights_stay_small_and_hold_no_pickles():
    files = [p for p in train.WEIGHTS.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 24e6
    assert {p.suffix for p in files} <= {".safetensors", ".json"}


def test_a_changed_byte_would_show(tmp_path):
    source = next(train.WEIGHTS.rglob("*.safetensors"))
    copy = tmp_path / source.name
    copy.write_bytes(source.read_bytes()[:-1] + b"\x00\x01")
    assert file_sha256(copy) not in FACTS["sha256"].values()
