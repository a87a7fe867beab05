"""The checkpoints that people have: one file, LoRAs, another autoencoder, a variant; small random ones written here."""

import functools
import json
import logging
from dataclasses import replace
from types import SimpleNamespace

import pipelines
import pytest
import torch
from safetensors.torch import save_file

from postdiff_calib.errors import ModelError, UnsupportedError, UsageError
from postdiff_calib.models import cards
from postdiff_calib.models.deployment import DeploymentSettings
from postdiff_calib.models.load import load_pipeline
from postdiff_calib.models.lora import Lora, parse_lora
from postdiff_calib.models.single_file import kind_of, write_tokenizer

PROMPT = "a red circle, 2 cats & a naïve café"


# --- a checkpoint in one file ----------------------------------------------------------------------------------------


def tiny_networks():
    """Random networks of Stable Diffusion 1.x's classes, with its whole vocabulary: it comes with the checkpoint."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32, attention_head_dim=4, norm_num_groups=8,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=8, sample_size=16,
    )  # fmt: skip
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=32, intermediate_size=37, num_hidden_layers=1, num_attention_heads=4, vocab_size=49408,
            bos_token_id=49406, eos_token_id=49407, pad_token_id=1,
        )
    )  # fmt: skip
    return SimpleNamespace(unet=unet.eval(), vae=vae.eval(), text=text.eval())


def original_unet(name):
    """A tensor of the network by the name that the original repository gives it; one layer in each of two blocks."""
    tops = {
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    }  # fmt: skip
    blocks = {
        "down_blocks.0.resnets.0": "input_blocks.1.0", "down_blocks.0.attentions.0": "input_blocks.1.1",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op", "down_blocks.1.resnets.0": "input_blocks.3.0",
        "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2", "up_blocks.0.resnets.0": "output_blocks.0.0",
        "up_blocks.0.resnets.1": "output_blocks.1.0", "up_blocks.0.upsamplers.0": "output_blocks.1.1",
        "up_blocks.1.resnets.0": "output_blocks.2.0", "up_blocks.1.attentions.0": "output_blocks.2.1",
        "up_blocks.1.resnets.1": "output_blocks.3.0", "up_blocks.1.attentions.1": "output_blocks.3.1",
    }  # fmt: skip
    layers = {
        "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
        "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
    }  # fmt: skip
    for ours, theirs in (tops | blocks).items():
        if name.startswith(f"{ours}."):
            rest = name[len(ours) + 1 :]
            if ".resnets." in ours:
                layer, _, kind = rest.rpartition(".")
                rest = f"{layers[layer]}.{kind}"
            return f"model.diffusion_model.{theirs}.{rest}"
    raise AssertionError(name)


def original_vae(name):
    for ours, theirs in (
        ("encoder.down_blocks.0.resnets.", "encoder.down.0.block."),
        ("encoder.down_blocks.1.resnets.", "encoder.down.1.block."),
        ("encoder.down_blocks.0.downsamplers.0.", "encoder.down.0.downsample."),
        ("decoder.up_blocks.0.resnets.", "decoder.up.1.block."),
        ("decoder.up_blocks.1.resnets.", "decoder.up.0.block."),
        ("decoder.up_blocks.0.upsamplers.0.", "decoder.up.1.upsample."),
        ("mid_block.resnets.0.", "mid.block_1."), ("mid_block.resnets.1.", "mid.block_2."),
        ("mid_block.attentions.0.", "mid.attn_1."), ("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"),
        ("to_v", "v"), ("to_out.0", "proj_out"), ("conv_shortcut", "nin_shortcut"), ("conv_norm_out", "norm_out"),
    ):  # fmt: skip
        name = name.replace(ours, theirs)
    return f"first_stage_model.{name}"


def write_checkpoint(path, networks):
    tensors = {original_unet(name): value for name, value in networks.unet.state_dict().items()}
    for name, value in networks.vae.state_dict().items():
        square = "mid_block.attentions" in name and value.dim() == 2
        tensors[original_vae(name)] = value[:, :, None, None] if square else value
    for name, value in networks.text.state_dict().items():
        own = name if name.startswith("text_model.") else f"text_model.{name}"
        tensors[f"cond_stage_model.transformer.{own}"] = value
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A file, the networks in it, and a card of Stable Diffusion 1.5 that has their configurations."""
    networks = tiny_networks()
    write_checkpoint(tmp_path / "tiny.safetensors", networks)
    configs = {
        "unet": {**networks.unet.config, "_class_name": "UNet2DConditionModel"},
        "vae": {**networks.vae.config, "_class_name": "AutoencoderKL"},
        "text_encoder": {**networks.text.config.to_dict(), "architectures": ["CLIPTextModel"]},
    }
    tiny = replace(cards.get_card("sd15"), networks=configs, vae_scale_factor=2, latent_multiple=2)
    monkeypatch.setattr(cards, "CARDS", (tiny,))
    return SimpleNamespace(path=str(tmp_path / "tiny.safetensors"), networks=networks)


def test_one_file_is_loaded_offline_with_the_packages_own_configurations(checkpoint):
    loaded = load_pipeline(checkpoint.path, device="cpu", settings=DeploymentSettings(num_inference_steps=6))
    for role, ours in (("unet", "unet"), ("vae", "vae"), ("text_encoder", "text")):
        found, expected = getattr(loaded.pipe, role).state_dict(), getattr(checkpoint.networks, ours).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert type(loaded.pipe.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert loaded.notes == ("PNDM replaced by DPM++ 2M",)
    assert loaded.pipe.safety_checker is None
    assert (loaded.card.height, loaded.card.num_inference_steps, loaded.revision) == (16, 6, "")
    image = loaded.pipe(PROMPT, num_inference_steps=2, height=16, width=16, output_type="pt").images
    assert image.shape == (1, 3, 16, 16)
    assert image.isfinite().all()


def test_the_tokenizer_is_clips_own(tmp_path):
    from open_clip import get_tokenizer
    from transformers import CLIPTokenizer

    write_tokenizer(tmp_path, "<|endoftext|>", 77)
    made = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)
    ours = made([PROMPT, "word " * 90], padding="max_length", truncation=True, max_length=77).input_ids
    expected = get_tokenizer("ViT-B-32")([PROMPT, "word " * 90]).tolist()
    for tokens, theirs in zip(ours, expected, strict=True):
        end = theirs.index(49407)
        assert tokens[: end + 1] == theirs[: end + 1]
        assert set(tokens[end:]) == {49407}  # filled up with the end of the text, as Stable Diffusion 1.x was trained


@pytest.mark.parametrize(
    ("tensors", "says"),
    [({"a": torch.zeros(2)}, "it holds no whole model"), (None, "it cannot be read")],
)
def test_a_file_that_is_no_checkpoint_is_refused_by_its_header(tmp_path, tensors, says):
    path = tmp_path / "x.safetensors"
    if tensors is None:
        path.write_bytes(b"not safetensors")
    else:
        save_file(tensors, path)
    with pytest.raises(ModelError, match=says):
        load_pipeline(str(path), device="cpu")


def test_other_kinds_and_other_formats_are_refused(tmp_path, checkpoint):
    with pytest.raises(ModelError, match=r"weights are read from \.safetensors alone"):
        load_pipeline(str(tmp_path / "model.ckpt"), device="cpu")
    with pytest.raises(ModelError, match="cannot be read"):
        load_pipeline(str(tmp_path / "none.safetensors"), device="cpu")
    first = "model.diffusion_model.input_blocks.0.0.weight"
    save_file({first: torch.zeros(4, 9, 3, 3)}, tmp_path / "inpainting.safetensors")
    with pytest.raises(UnsupportedError, match="kind inpainting"):
        kind_of(str(tmp_path / "inpainting.safetensors"))
    save_file({first: torch.zeros(4, 4, 3, 3)}, tmp_path / "half.safetensors")
    with pytest.raises(ModelError, match="its weights do not fit"):
        load_pipeline(str(tmp_path / "half.safetensors"), device="cpu")


# --- LoRA, autoencoder, variant, revision ----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    pipelines.sd("ddim").save_pretrained(tmp_path / "model", safe_serialization=True)
    return tmp_path / "model"


@pytest.fixture
def lora(tmp_path):
    """A LoRA of rank 2 for the tiny network, as diffusers saves one."""
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    torch.manual_seed(1)
    unet = pipelines.sd("ddim").unet
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    StableDiffusionPipeline.save_lora_weights(str(tmp_path / "lora"), get_peft_model_state_dict(unet))
    return tmp_path / "lora"


def weight(loaded):
    return next(v for n, v in loaded.pipe.unet.state_dict().items() if n.endswith("attn1.to_q.weight"))


def test_a_lora_is_merged_with_its_scale_and_part_of_the_fingerprint(folder, lora):
    said, listener = [], logging.Handler()
    listener.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("diffusers").addHandler(listener)

    def load(*loras):
        return load_pipeline(str(folder), device="cpu", settings=DeploymentSettings(loras=loras))

    plain, whole, half = load(), load(str(lora)), load(f"{lora}:0.5")
    logging.getLogger("diffusers").removeHandler(listener)
    assert said == []  # of networks that the LoRA leaves alone
    assert not getattr(whole.pipe.unet, "peft_config", None)
    change = weight(whole) - weight(plain)
    assert change.abs().max() > 1e-4
    torch.testing.assert_close(weight(half) - weight(plain), change / 2)
    assert len({plain.fingerprint, whole.fingerprint, half.fingerprint}) == 3
    assert load(str(lora / "pytorch_lora_weights.safetensors")).fingerprint == whole.fingerprint
    both = load(f"{lora}:0.5", f"{lora}:0.5")
    torch.testing.assert_close(weight(both), weight(whole))


def test_loras_are_read_as_place_and_scale(tmp_path):
    assert parse_lora("owner/name:0.8") == Lora("owner/name", 0.8)
    assert parse_lora("a.safetensors") == Lora("a.safetensors", 1.0)
    assert parse_lora("a:b") == Lora("a:b", 1.0)
    with pytest.raises(UsageError, match="it is FILE_OR_ID or FILE_OR_ID:SCALE"):
        parse_lora(" ")


def test_wrong_loras_are_refused_before_weights_are_read(folder, tmp_path):
    for path in folder.rglob("*.safetensors"):
        path.unlink()
    save_file({"a": torch.zeros(2)}, tmp_path / "no.safetensors")
    for text, says in (
        (str(tmp_path / "none.safetensors"), "cannot be read"),
        (str(tmp_path / "no.safetensors"), "it holds no LoRA"),
        (str(tmp_path / "model"), "holds 0 files"),
    ):
        with pytest.raises(ModelError, match=says):
            load_pipeline(str(folder), device="cpu", settings=DeploymentSettings(loras=(text,)))


def test_another_autoencoder_stands_in(folder, tmp_path):
    from diffusers import AutoencoderKL

    plain = load_pipeline(str(folder), device="cpu")
    torch.manual_seed(5)
    other = AutoencoderKL.from_config(plain.pipe.vae.config)
    other.save_pretrained(tmp_path / "vae", safe_serialization=True)
    loaded = load_pipeline(str(folder), device="cpu", settings=DeploymentSettings(vae=str(tmp_path / "vae")))
    name, expected = next(iter(other.state_dict().items()))
    assert torch.equal(loaded.pipe.vae.state_dict()[name], expected)
    assert loaded.fingerprint != plain.fingerprint


def test_an_autoencoder_of_other_latents_is_refused(folder, tmp_path):
    pipelines.sd3().vae.save_pretrained(tmp_path / "vae", safe_serialization=True)
    config = json.loads((tmp_path / "vae" / "config.json").read_text())
    (tmp_path / "vae" / "config.json").write_text(json.dumps({**config, "latent_channels": 16}))
    settings = DeploymentSettings(vae=str(tmp_path / "vae"))
    with pytest.raises(ModelError, match=r"--vae .*: its latents have 16 channels at 1/\d .*, the model's 4 channels"):
        load_pipeline(str(folder), device="cpu", settings=settings)


def test_wrong_autoencoders_are_refused_before_weights_are_read(folder, tmp_path):
    for path in folder.rglob("*.safetensors"):
        path.unlink()
    for name, config in (("broken", "{"), ("other", '{"_class_name": "UNet2DConditionModel"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
    for name, says in (
        ("none", "there is no such folder"),
        ("model", "cannot be read"),
        ("broken", "it is not JSON"),
        ("other", "no autoencoder of diffusers"),
        ("model/vae", "no weights in safetensors"),
    ):
        settings = DeploymentSettings(vae=str(tmp_path / name))
        for check in (settings.check_model, functools.partial(load_pipeline, device="cpu", settings=settings)):
            with pytest.raises(ModelError, match=rf"--vae .*{name}( .config.json.)?: .*{says}"):
                check(str(folder))


def test_a_variant_is_of_the_files(tmp_path):
    pipelines.sd("ddim").save_pretrained(tmp_path / "v", safe_serialization=True, variant="fp16")
    loaded = load_pipeline(str(tmp_path / "v"), device="cpu", settings=DeploymentSettings(variant="fp16"))
    assert loaded.dtype == "float32"
    DeploymentSettings(variant="fp16").check_model(str(tmp_path / "v"))
    other = DeploymentSettings(variant="bf16")
    for check in (other.check_model, functools.partial(load_pipeline, device="cpu", settings=other)):
        with pytest.raises(ModelError, match=r"--variant bf16: .* holds no weights of that name; take fp16"):
            check(str(tmp_path / "v"))


def test_one_file_has_no_variants(checkpoint):
    settings = DeploymentSettings(variant="fp16")
    for check in (settings.check_model, functools.partial(load_pipeline, device="cpu", settings=settings)):
        with pytest.raises(UsageError, match=r"--variant fp16: .*\.safetensors is one file, .*leave it out"):
            check(checkpoint.path)


def test_a_revision_goes_with_the_hub_alone(folder):
    with pytest.raises(UsageError, match=r"--revision abc: .* is not on the hub"):
        load_pipeline(str(folder), device="cpu", settings=DeploymentSettings(revision="abc"))


def test_all_of_it_is_plain_data_and_back():
    asked = DeploymentSettings(loras=("a.safetensors:0.5",), vae="some/vae", variant="fp16", revision="abc")
    assert DeploymentSettings.from_dict(asked.asked) == asked
