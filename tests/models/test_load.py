"""Loading: from a directory exactly, offline, safetensors only; every failure is one line."""

import json
import shutil
from contextlib import contextmanager

import pipelines
import pytest
import torch
from diffusers.configuration_utils import FrozenDict

from postdiff_calib.cost import table_for_card
from postdiff_calib.errors import ModelError, UnsupportedError
from postdiff_calib.models import load
from postdiff_calib.models.cards import SHAPES_FOLDER, get_card
from postdiff_calib.models.fingerprint import configuration_of, fingerprint_pipeline, network_configs
from postdiff_calib.models.load import derive_card, load_pipeline


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pipelines.sd("pndm").save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_directory_round_trips(tmp_path) -> None:
    original = pipelines.sd("dpm")
    original.save_pretrained(tmp_path, safe_serialization=True)
    loaded = load_pipeline(str(tmp_path))
    assert (loaded.device, loaded.dtype) == ("cpu", "float32")
    assert (loaded.source, loaded.revision) == (str(tmp_path), "")
    assert loaded.fingerprint == fingerprint_pipeline(original)
    weights, expected = loaded.pipe.unet.state_dict(), original.unet.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert loaded.pipe(["red"], num_inference_steps=1, output_type="latent").images.isfinite().all()


def test_pndm_is_replaced_and_said(saved) -> None:
    loaded = load_pipeline(str(saved))
    assert type(loaded.pipe.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert loaded.notes == ("PNDM replaced by DPM++ 2M",)
    assert loaded.card.scheduler == "DPMSolverMultistepScheduler"


def test_deis_becomes_dpm_with_a_solver_that_dpm_knows(tmp_path) -> None:
    from diffusers import DEISMultistepScheduler

    pipe = pipelines.sd()
    pipe.scheduler = DEISMultistepScheduler(beta_schedule="scaled_linear", steps_offset=1)
    pipe.save_pretrained(tmp_path, safe_serialization=True)
    loaded = load_pipeline(str(tmp_path))
    assert loaded.notes == ("DEIS replaced by DPM++ 2M",)
    config = loaded.pipe.scheduler.config
    assert (config.algorithm_type, config.solver_type) == ("dpmsolver++", "midpoint")


def test_another_scheduler_is_kept(tmp_path) -> None:
    pipelines.sd("euler").save_pretrained(tmp_path, safe_serialization=True)
    loaded = load_pipeline(str(tmp_path))
    assert type(loaded.pipe.scheduler).__name__ == "EulerDiscreteScheduler"
    assert loaded.notes == ()


def test_a_derived_card_describes_the_pipeline(saved) -> None:
    card = derive_card(pipelines.sd(), "some/where")
    assert (card.name, card.pipeline_class) == ("where", "StableDiffusionPipeline")
    assert (card.height, card.width, card.vae_scale_factor) == (64, 64, 8)
    assert (card.latent_channels, card.latent_multiple, card.text_length) == (4, 8, pipelines.LENGTH)
    assert (card.num_inference_steps, card.guidance_scale, card.step_range) == (50, 7.5, (4, 50))
    assert set(card.networks) == {"unet", "text_encoder", "vae"}
    assert card.network_config("unet")["_class_name"] == "UNet2DConditionModel"
    assert card.network_config("text_encoder")["architectures"] == ["CLIPTextModel"]


def test_the_fingerprint_follows_weights_and_configuration_not_the_type() -> None:
    reference = fingerprint_pipeline(pipelines.sd())
    assert fingerprint_pipeline(pipelines.sd()) == reference
    assert fingerprint_pipeline(pipelines.sd("euler")) == reference, "the scheduler is not part of it"
    assert fingerprint_pipeline(pipelines.sd(seed=1)) != reference
    assert fingerprint_pipeline(pipelines.sd(act_fn="gelu")) != reference
    in_bf16 = pipelines.sd()
    in_bf16.to(torch.bfloat16)
    assert fingerprint_pipeline(in_bf16) == reference
    changed = pipelines.sd()
    with torch.no_grad():
        changed.vae.post_quant_conv.bias[0] += 1
    assert fingerprint_pipeline(changed) != reference


@pytest.mark.parametrize("role", ["unet", "vae", "scheduler"])
def test_a_release_that_adds_a_setting_is_no_other_model(role) -> None:
    old, new = pipelines.sd(), pipelines.sd()
    part = getattr(old, role)
    name = {"unet": "center_input_sample", "vae": "force_upcast", "scheduler": "timestep_spacing"}[role]
    # the older release did not know the setting yet, so its configuration has no such entry
    part._internal_dict = FrozenDict({key: value for key, value in part.config.items() if key != name})
    assert name in getattr(new, role).config
    assert configuration_of(old) == configuration_of(new)
    assert fingerprint_pipeline(old) == fingerprint_pipeline(new)
    getattr(new, role).register_to_config(**{name: "something else"})
    assert configuration_of(old) != configuration_of(new)
    assert (fingerprint_pipeline(old) != fingerprint_pipeline(new)) is (role != "scheduler")


def test_a_text_encoders_new_setting_is_no_other_model_either() -> None:
    old, new = pipelines.sd(), pipelines.sd()
    del old.text_encoder.config.attention_dropout
    assert configuration_of(old) == configuration_of(new)
    new.text_encoder.config.attention_dropout = 0.5
    assert configuration_of(old) != configuration_of(new)
    assert fingerprint_pipeline(old) != fingerprint_pipeline(new)


def test_configurations_do_not_name_files_or_versions(saved) -> None:
    configs = network_configs(load_pipeline(str(saved)).pipe)
    assert configs == network_configs(pipelines.sd())


def test_a_directory_without_safetensors_is_refused(saved, tmp_path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match="does not load as a diffusers pipeline in safetensors") as caught:
        load_pipeline(str(copy))
    assert "\n" not in str(caught.value)


def test_a_directory_that_is_no_pipeline_is_refused(tmp_path) -> None:
    with pytest.raises(ModelError, match="save_pretrained"):
        load_pipeline(str(tmp_path))


def test_a_missing_model_says_what_where_and_how_to_fetch() -> None:
    with pytest.raises(ModelError) as caught:
        load_pipeline("sd15")
    message = str(caught.value)
    card = get_card("sd15")
    for part in (card.hub_id, card.revision, "offline", "hf download"):
        assert part in message
    assert "\n" not in message


def test_a_hub_id_without_a_card_is_looked_for_at_its_commit() -> None:
    commit = "0123456789" * 4
    with pytest.raises(ModelError, match=f"someone/something at revision {commit}"):
        load_pipeline(f"someone/something@{commit}")


@pytest.mark.parametrize("name", ["", "sd99", "a b/c", "../x/y/z"])
def test_an_unknown_name_lists_the_cards(name: str) -> None:
    with pytest.raises(ModelError, match="cards are shapes"):
        load_pipeline(name)


@pytest.mark.parametrize(("option", "value"), [("device", "abacus"), ("dtype", "int8")])
def test_unusable_device_and_dtype(saved, option: str, value: str) -> None:
    with pytest.raises(ModelError, match=value):
        load_pipeline(str(saved), **{option: value})


def test_the_embedded_model_loads_from_the_package() -> None:
    loaded = load_pipeline("shapes")
    assert loaded.card.name == "shapes"
    assert loaded.notes == ()
    assert load_pipeline(str(SHAPES_FOLDER / "pipeline")).card.name == "shapes"
    config = loaded.card.network_config("unet")
    assert (config["in_channels"], config["sample_size"]) == (loaded.card.latent_channels, 16)
    assert loaded.pipe.vae_scale_factor == loaded.card.vae_scale_factor
    assert loaded.pipe.tokenizer.model_max_length == loaded.card.text_length


def test_the_embedded_models_folder_missing_is_one_line(monkeypatch, tmp_path) -> None:
    from dataclasses import replace

    from postdiff_calib.models import place

    gone = replace(get_card("shapes"), hub_id=str(tmp_path / "gone"))
    monkeypatch.setattr(place, "CARDS", (gone,))
    with pytest.raises(ModelError, match="its weights are not in"):
        load_pipeline("shapes")


@pytest.mark.parametrize(("device", "expected"), [("cuda:0", "bfloat16"), ("cuda:1", "float16"), ("cuda", "bfloat16")])
def test_bfloat16_is_taken_where_the_asked_device_has_it_in_hardware(monkeypatch, device, expected) -> None:
    """``cuda:0`` has it, ``cuda:1`` emulates it, as a T4 and a V100 do."""
    current = [0]

    @contextmanager
    def on(asked):
        before, index = current[0], torch.device(asked).index
        current[0] = before if index is None else index
        yield
        current[0] = before

    def supported(including_emulation: bool = True) -> bool:
        return current[0] == 0 or including_emulation

    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert load._pick_dtype("auto", device) == expected
    assert load._pick_dtype("bfloat16", device) == "bfloat16"


def test_the_fingerprint_is_the_same_in_whichever_type_a_model_is_loaded(tmp_path) -> None:
    pipe = pipelines.sd("dpm")
    with torch.no_grad():
        # 1 + 2⁻⁸ + 2⁻¹²: to bfloat16 it rounds up, by way of float16 it is a tie first and rounds down;
        # 1e-9 and 1e6 are outside float16's range.
        pipe.vae.post_quant_conv.bias[:3] = torch.tensor([1 + 2**-8 + 2**-12, 1e-9, 1e6])
    direct = pipe.unet.conv_in.weight.detach()
    assert not torch.equal(direct.bfloat16(), direct.half().bfloat16()), "the detour changes some weights"
    pipe.save_pretrained(tmp_path, safe_serialization=True)
    found = {dtype: load_pipeline(str(tmp_path), dtype=dtype) for dtype in ("float32", "bfloat16", "float16")}
    assert {loaded.fingerprint for loaded in found.values()} == {fingerprint_pipeline(pipe)}
    assert found["float16"].pipe.unet.dtype == torch.float16
    with torch.no_grad():
        pipe.vae.post_quant_conv.bias[0] += 1
    pipe.save_pretrained(tmp_path, safe_serialization=True)
    assert load_pipeline(str(tmp_path), dtype="float16").fingerprint != found["float16"].fingerprint


class Quantised(torch.Tensor):
    """As torchao's: a tensor that is float32 to the outside and int8 numbers with a scale inside."""

    @staticmethod
    def __new__(cls, numbers, scale):
        return torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=torch.float32)

    def __init__(self, numbers, scale):
        self.numbers, self.scale = numbers, scale

    def __tensor_flatten__(self):
        return ["numbers", "scale"], None

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return cls(args[0].numbers, args[0].scale)
        raise NotImplementedError(f"{func} of quantised weights")


class Opaque(Quantised):
    __tensor_flatten__ = property()  # hasattr is False


def quantised(kind=Quantised, scale=0.5):
    pipe = pipelines.sd("dpm")
    layer = pipe.unet.time_embedding.linear_1
    numbers = (layer.weight.detach() * 100).to(torch.int8)
    layer.weight = torch.nn.Parameter(kind(numbers, torch.tensor([scale])), requires_grad=False)
    return pipe


def test_quantised_weights_have_a_fingerprint() -> None:
    assert fingerprint_pipeline(quantised()) == fingerprint_pipeline(quantised())
    assert fingerprint_pipeline(quantised()) != fingerprint_pipeline(quantised(scale=0.25))
    assert fingerprint_pipeline(quantised()) != fingerprint_pipeline(pipelines.sd("dpm"))


def test_weights_that_cannot_be_read_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match=r"linear_1\.weight of type Opaque") as caught:
        fingerprint_pipeline(quantised(Opaque))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        *("StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline", "FluxImg2ImgPipeline"),
        *("FluxInpaintPipeline", "FluxKontextPipeline", "SanaSprintPipeline", "SanaVideoPipeline", "WanPipeline"),
        *("QwenImageEditPipeline", "ZImageImg2ImgPipeline", "StableDiffusionInpaintPipeline"),
    ],
)
def test_other_classes_are_refused_by_name_before_weights_are_read(name, tmp_path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name, "transformer": ["diffusers", "X"]}))
    with pytest.raises(UnsupportedError, match=rf"pipeline class {name}: postdiff runs StableDiffusionPipeline.*"):
        load_pipeline(str(tmp_path), device="cpu")


@pytest.mark.parametrize("name", pipelines.FLOW)
def test_flow_pipelines_describe_themselves_and_have_a_fingerprint(name) -> None:
    pipe = pipelines.FAMILIES[name][0]()
    card = derive_card(pipe, "some/where")
    assert card.pipeline_class == type(pipe).__name__
    assert (card.latent_channels, card.vae_scale_factor) == (4, 8)
    assert card.latent_multiple == (1 if name == "sana" else 2)
    guided = {"sd3": 7.0, "sana": 4.5, "flux": 3.5, "qwen-image": 4.0, "z-image": 5.0}
    assert card.guidance_scale == guided[name]
    assert ("guidance_fraction" in card.knobs) == (name != "flux")
    table = table_for_card(card, height=128, width=128)
    assert table.guides == (name != "flux")
    assert table.macs_text_encoder > 0
    assert table.macs_vae_decoder > 0
    first = fingerprint_pipeline(pipe)
    assert fingerprint_pipeline(pipelines.FAMILIES[name][0]()) == first
    next(pipe.transformer.parameters()).data.add_(1)
    assert fingerprint_pipeline(pipe) != first
    assert configuration_of(pipe) == configuration_of(pipelines.FAMILIES[name][0]())
