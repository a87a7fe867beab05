"""What a family states is what its pipelines do, and what it states to be otherwise is refused, not run."""

from dataclasses import replace

import pipelines as P
import pytest

from postdiff_calib.accelerate import accelerated, enable
from postdiff_calib.errors import UnsupportedError
from postdiff_calib.knobs import Knobs, names
from postdiff_calib.models import families
from postdiff_calib.models.families import FAMILIES, denoiser_in, denoiser_of, family_named, family_of


def test_the_list_is_in_order():
    classes = [family.pipeline_class for family in FAMILIES]
    assert len(classes) == len(set(classes))
    # Part of every fingerprint.
    texts = ("text_encoder", "text_encoder_2", "text_encoder_3")
    assert ("unet", "transformer", *texts, "vae") == families.NETWORK_ROLES
    for family in FAMILIES:
        plain = family_named(family.without_control)
        assert plain is not None
        assert plain.control is None
        assert family.network.lacks <= names()


@pytest.mark.parametrize("name", P.FAMILIES)
def test_a_family_names_the_parts_that_its_pipelines_have(name):
    pipe = P.FAMILIES[name][0]()
    family = family_of(pipe)
    role, network = denoiser_in(pipe)
    assert family.denoiser == role
    assert denoiser_of(network) is denoiser_of(type(network).__name__) is family.network
    assert [role for role in families.TEXT_ROLES if getattr(pipe, role, None) is not None] == list(family.text_encoders)
    assert (family.control is not None) == hasattr(pipe, "controlnet")
    assert bool(family.network.cross_attention(network)) == ("cross_attention_cache" not in family.network.lacks)
    assert 16 % family.network.latent_multiple(network.config) == 0


def test_a_derived_class_is_of_its_parents_family():
    pipe = P.sd()
    pipe.__class__ = type("MyPipeline", (type(pipe),), {})
    assert family_of(pipe) is family_named("StableDiffusionPipeline")
    assert family_named("MyPipeline") is None


def test_unknown_classes_are_named():
    with pytest.raises(UnsupportedError, match="pipeline object: accelerated pipelines are StableDiffusionPipeline"):
        family_of(object())
    with pytest.raises(UnsupportedError, match=r"denoiser class 'VideoNet'.*UNet2DConditionModel"):
        denoiser_of("VideoNet")
    assert denoiser_in(object()) == ("", None)


@pytest.mark.parametrize("name", ["sdxl", "pixart-alpha"])
def test_what_names_a_resolution_keeps_the_full_size(name):
    pipe, call = P.FAMILIES[name][0](), P.FAMILIES[name][1]
    family, (_, network) = family_of(pipe), denoiser_in(pipe)
    assert family.held_at_full_size
    seen = []

    def note(module, args, kwargs):
        seen.append({name: kwargs["added_cond_kwargs"][name].tolist() for name in family.held_at_full_size})

    handle = network.register_forward_pre_hook(note, with_kwargs=True)
    with accelerated(pipe, Knobs(4, low_res_fraction=0.5, low_res_scale=0.5)):
        P.latents(pipe, height=128, width=128, **call)
    handle.remove()
    assert len(seen) == 4
    assert all(values == seen[0] for values in seen)


@pytest.fixture
def stated(monkeypatch):
    """PixArt's family with other statements."""

    def change(network=None, **changes):
        family = family_named("PixArtSigmaPipeline")
        changed = replace(family, **changes, network=replace(family.network, **(network or {})))
        monkeypatch.setattr(families, "FAMILIES", (changed,))
        monkeypatch.setattr(families, "DENOISERS", (changed.network,))
        return P.pixart(sigma=True)

    return change


def test_a_network_without_cross_attention_says_so(stated):
    pipe = stated(network={"cross_attention": lambda network: []})
    with pytest.raises(UnsupportedError, match=r"no cross-attention layers.*cross_attention_cache='off'"):
        enable(pipe, Knobs(4, guidance_fraction=0.5))
    with accelerated(pipe, Knobs(4, guidance_fraction=0.5, cross_attention_cache="off")):
        P.latents(pipe, height=128, width=128, use_resolution_binning=False, clean_caption=False)
