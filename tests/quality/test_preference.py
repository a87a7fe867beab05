"""PickScore and HPSv2.1 on small random checkpoints of the same classes, against the plain way of using them."""

import json

import pytest
import torch
from PIL import Image

from postdiff_calib.errors import ModelError
from postdiff_calib.quality import preference
from postdiff_calib.quality.scorers import load_scorer, parse_scorer

PROMPTS = ["a red circle", "a large green star on white"]
SIDE = 32


@pytest.fixture(scope="module")
def images():
    small = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(small, size=(SIDE, SIDE), mode="bilinear")


@pytest.fixture(scope="module")
def pickscore(tmp_path_factory):
    """A folder as the published one: a CLIPModel, its tokenizer and its preprocessing."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("pickscore")
    words = ["<pad>", "<unk>", "a", "red", "circle", "large", "green", "star", "on", "white"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="white", model_max_length=16
    )
    fast.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    both = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**both, "vocab_size": len(words), "max_position_embeddings": 77, "eos_token_id": 9},
        vision_config={**both, "image_size": SIDE, "patch_size": 8},
        projection_dim=8,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder, safe_serialization=True)
    return folder


def test_pickscore_is_the_scaled_cosine_of_its_checkpoint(pickscore, images):
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    model, tokenizer = CLIPModel.from_pretrained(pickscore).eval(), AutoTokenizer.from_pretrained(pickscore)
    pictures = [Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy()) for image in images]
    pixels = CLIPImageProcessor.from_pretrained(pickscore)(images=pictures, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        found = model(**tokenizer(PROMPTS, padding=True, return_tensors="pt"), pixel_values=pixels)
    scorer = load_scorer(parse_scorer(f"pickscore:{pickscore}"))
    assert scorer.metric == "pickscore"
    assert scorer.score(images, PROMPTS) == pytest.approx(found.logits_per_image.diagonal().tolist(), abs=1e-4)
    assert scorer.image_features(images).shape == (2, 8)
    assert len(scorer.fingerprint) == 64


def test_hpsv2_is_the_cosine_of_its_checkpoint(tmp_path, images, monkeypatch):
    import open_clip

    tiny = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": SIDE, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (tmp_path / "postdiff-tiny.json").write_text(json.dumps(tiny))
    open_clip.add_model_config(tmp_path / "postdiff-tiny.json")
    monkeypatch.setattr(preference, "HPSV2_ARCH", "postdiff-tiny")
    torch.manual_seed(1)
    other, _, preprocess = open_clip.create_model_and_transforms("postdiff-tiny")
    weights = tmp_path / "HPS_v2.1_compressed.pt"
    torch.save({"epoch": 1, "state_dict": other.state_dict()}, weights)
    scorer = load_scorer(parse_scorer(f"hpsv2:{weights}"))
    pictures = [Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy()) for image in images]
    with torch.no_grad():
        visual = other.eval().encode_image(torch.stack([preprocess(p) for p in pictures]), normalize=True)
        text = other.encode_text(open_clip.get_tokenizer("postdiff-tiny")(PROMPTS), normalize=True)
    assert scorer.score(images, PROMPTS) == pytest.approx((100 * (visual * text).sum(-1)).tolist(), abs=0.05)
    torch.save({"state_dict": {"nothing": torch.zeros(1)}}, weights)
    with pytest.raises(ModelError, match="is not of postdiff-tiny"):
        load_scorer(parse_scorer(f"hpsv2:{weights}"))
    torch.save({"state_dict": open}, weights)
    with pytest.raises(ModelError, match="holds more than tensors"):
        load_scorer(parse_scorer(f"hpsv2:{weights}"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hpsv2:/no/such.pt", "there is no file /no/such.pt"),
        (
            "pickscore:me/nothing",
            "neither in the Hugging Face cache nor reachable at .*; fetch a commit of it",
        ),
        ("hpsv2", "xswu/HPSv2 is neither in the Hugging Face cache"),
    ],
)
def test_what_is_not_there_is_refused_with_what_to_do(text, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=message):
        load_scorer(parse_scorer(text))
