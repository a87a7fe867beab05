"""Cards: complete, consistent, and their configurations build networks of the published sizes."""

import dataclasses

import pytest

from postdiff_calib.cli.shared import DEFAULT_PROMPTS
from postdiff_calib.cost.networks import build
from postdiff_calib.errors import KnobError, ModelError, UnsupportedError
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.cards import CARDS, SHAPES_FLOW_FOLDER, get_card
from postdiff_calib.models.families import family_named
from postdiff_calib.models.hub import is_commit
from postdiff_calib.plan import low_res_size
from postdiff_calib.quality import metric

NAMES = ["shapes", "sd15", "dreamshaper7", "sd21", "bk-sdm-small", "bk-sdm-tiny", "lcm", "sdxl", "sdxl-lcm"]
NAMES += ["pixart-alpha", "pixart-sigma", "shapes-flow", "sd3-medium", "sd35-medium", "sd35-large"]
NAMES += ["sana-1600m", "flux-dev", "flux-schnell", "qwen-image", "z-image", "z-image-turbo"]
PRETRAINED = [card for card in CARDS if not card.embedded]

#: Millions of parameters, as the models' authors or their checkpoints state them.
PUBLISHED = {
    ("sd15", "unet"): 859.52,
    ("sd15", "text_encoder"): 123.06,
    ("sd15", "vae"): 83.65,
    ("sd21", "unet"): 865.91,
    ("sd21", "text_encoder"): 340.39,
    ("bk-sdm-small", "unet"): 482.35,
    ("bk-sdm-tiny", "unet"): 323.38,
    ("lcm", "unet"): 859.60,
    ("sdxl", "unet"): 2567.46,
    ("sdxl", "text_encoder_2"): 694.66,
    ("pixart-alpha", "transformer"): 611.35,
    ("pixart-sigma", "transformer"): 610.86,
    ("pixart-sigma", "text_encoder"): 4762.31,
    # All numbers of a checkpoint, with its table of positions: 2, 2.5 and 8.1 billion, as Stability AI states them.
    ("sd3-medium", "transformer"): 2084.95,
    ("sd35-medium", "transformer"): 2469.66,
    ("sd35-large", "transformer"): 8146.28,
    ("sd3-medium", "text_encoder"): 123.65,
    ("sd3-medium", "vae"): 83.82,
    ("sana-1600m", "transformer"): 1604.46,
    ("flux-dev", "transformer"): 11901.41,
    ("flux-schnell", "transformer"): 11891.18,
    ("flux-dev", "vae"): 83.82,
    ("qwen-image", "transformer"): 20430.40,
    ("qwen-image", "text_encoder"): 8292.17,
    ("qwen-image", "vae"): 126.89,
    ("z-image", "transformer"): 6154.91,
    ("z-image-turbo", "transformer"): 6154.91,
    ("z-image", "text_encoder"): 4022.47,
    ("sana-1600m", "text_encoder"): 2614.34,
}


def test_every_supported_model_has_one_card() -> None:
    assert sorted(card.name for card in CARDS) == sorted(NAMES)


def test_the_default_number_of_prompts_is_told_as_the_cards_have_it() -> None:
    told = {card.name: card.num_prompts for card in CARDS if card.num_prompts != 500}
    assert f"[default: 500; {', '.join(f'{name}: {count}' for name, count in told.items())}]" == DEFAULT_PROMPTS


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_card_is_consistent(card) -> None:
    fields = {field.name for field in dataclasses.fields(Knobs)}
    assert card.knobs <= fields
    assert bool(card.denoiser.chains) == (card.denoiser_role == "transformer")
    assert "cache_branch" in card.knobs
    low, high = card.step_range
    assert 1 <= low <= card.num_inference_steps <= high
    assert card.revision is None or is_commit(card.revision)
    latent = card.latent_size()
    sizes = {low_res_size(*latent, scale, card.latent_multiple) for scale in card.low_res_scales}
    assert len(sizes) == 5, "each β of the search must be a different size"
    assert hash(card) == hash(get_card(card.name))
    assert card.metrics == (("clip", "scene") if card.embedded else ("clip",))
    assert all(metric(name).quality for name in card.metrics)


@pytest.mark.parametrize(("name", "role"), sorted(PUBLISHED))
def test_configurations_build_networks_of_the_published_size(name: str, role: str) -> None:
    network = build(get_card(name).network_config(role))
    held = network.state_dict() if role == "transformer" else dict(network.named_parameters())
    parameters = sum(tensor.numel() for tensor in held.values())
    assert parameters / 1e6 == pytest.approx(PUBLISHED[name, role], abs=0.006)


@pytest.mark.parametrize("card", PRETRAINED, ids=lambda card: card.name)
def test_configurations_agree_with_the_card(card) -> None:
    config = card.network_config(card.denoiser_role)
    family = family_named(card.pipeline_class)
    packed = 4 if family.latents == "packed" else 1
    assert config["in_channels"] == packed * card.latent_channels
    vae = card.network_config("vae")
    assert (vae.get("latent_channels") or vae["z_dim"]) == card.latent_channels
    levels = vae.get("block_out_channels") or vae.get("encoder_block_out_channels") or vae["dim_mult"]
    assert card.vae_scale_factor == 2 ** (len(levels) - 1)
    if card.denoiser_role == "unet":
        assert card.latent_multiple == 2 ** (len(config["block_out_channels"]) - 1)
    else:
        assert card.latent_multiple == family.network.latent_multiple(config)


def test_knobs_of_networks_whose_image_and_text_attend_jointly() -> None:
    for name in ("shapes-flow", "sd3-medium", "sd35-medium", "sd35-large", "qwen-image", "z-image"):
        assert "guidance_fraction" in get_card(name).knobs
        assert "cross_attention_cache" not in get_card(name).knobs
        # Without guidance there is nothing that m could end.
        assert "guidance_fraction" not in dataclasses.replace(get_card(name), guidance_scale=0.0).knobs


def test_what_does_not_guide_has_no_guidance_to_drop() -> None:
    own = {"num_inference_steps", "low_res_fraction", "low_res_scale", "cache_interval", "cache_branch"}
    for name in ("flux-dev", "flux-schnell", "z-image-turbo"):
        assert get_card(name).knobs == own
        with pytest.raises(KnobError, match=rf"guidance_fraction=0.5 with {name}.*leave -m out"):
            get_card(name).settled({"guidance_fraction": 0.5})
        wanted = Knobs(4, 0.5, 0.5, 2)
        assert get_card(name).settled(wanted.as_dict()) == wanted
    assert "non-commercial" in get_card("flux-dev").licence


def test_what_a_model_cannot_use_is_refused_where_it_is_given():
    joint, half = get_card("sd35-medium"), {"guidance_fraction": 0.5}
    assert joint.settled(half).cross_attention_cache == "off"
    assert joint.settled({"cross_attention_cache": "off"}) == Knobs(joint.num_inference_steps)
    for mode in ("mean", "cond"):
        with pytest.raises(UnsupportedError, match=rf"='{mode}' with SD3Tr.*no cross-attention.*_cache='off'"):
            joint.settled({**half, "cross_attention_cache": mode})
    with pytest.raises(KnobError, match=r"cross_attention_cache=mean with sd35-medium.*leave --cross-attention-cache"):
        joint.settled({"cross_attention_cache": "mean"})
    crossed = get_card("pixart-sigma").settled({**half, "cross_attention_cache": "mean"})
    assert crossed.cross_attention_cache == "mean"


def test_a_model_of_this_package_without_weights_is_said_in_one_line(tmp_path) -> None:
    card = get_card("shapes-flow")
    assert card.networks["transformer"] == str(SHAPES_FLOW_FOLDER / "pipeline" / "transformer" / "config.json")
    absent = dataclasses.replace(card, hub_id=str(SHAPES_FLOW_FOLDER / "nothing"))
    assert not absent.available
    with pytest.raises(ModelError, match=r"model 'shapes-flow': its weights are not in .*nothing.*--stage flow"):
        absent.network_config("transformer")
    assert get_card("shapes").available
    assert get_card("sd15").available


def test_an_unknown_name_lists_the_cards() -> None:
    with pytest.raises(ModelError, match=r"'sd16'.*shapes,.*sd15.*pixart-sigma"):
        get_card("sd16")


def test_a_card_says_which_networks_it_has() -> None:
    with pytest.raises(ModelError, match="it has unet, text_encoder, vae"):
        get_card("sd15").network_config("transformer")


@pytest.mark.parametrize(("size", "nearest"), [((500, 512), "504×512"), ((512, 3), "512×8"), ((-8, 512), "8×512")])
def test_a_size_that_the_model_does_not_make_names_the_nearest(size, nearest) -> None:
    with pytest.raises(ModelError, match=nearest):
        get_card("sd15").latent_size(*size)
