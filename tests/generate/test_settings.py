"""How images are made: one class, refused where it is made."""

from dataclasses import FrozenInstanceError, replace

import pytest

from postdiff_calib.errors import KnobError, UsageError
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.techniques.noise import NOISES, SWITCH_WAYS, parse_noise, parse_switch

SETTINGS = GenerationSettings(64, 96, 4.0, batch_size=10, latent_multiple=2)


@pytest.mark.parametrize(
    "change",
    [
        {"height": 1},
        {"width": 1},
        {"guidance_scale": 0},
        {"batch_size": 1},
        {"latent_multiple": 1},
        {"latent_multiple": None},
        {"noise": "independent"},
        {"switch": "expand-own-grid"},
    ],
)
def test_the_edges_of_each_range_are_accepted(change):
    (name,) = change
    assert getattr(replace(SETTINGS, **change), name) == change[name]


@pytest.mark.parametrize(
    "change",
    [
        {"height": 0},
        {"height": 64.0},
        {"width": -8},
        {"width": True},
        {"latent_multiple": 0},
        {"batch_size": 0},
        {"batch_size": 2.5},
        {"guidance_scale": -0.1},
        {"guidance_scale": float("nan")},
        {"guidance_scale": float("inf")},
        {"guidance_scale": "4"},
    ],
)
def test_what_is_out_of_range_is_refused_in_one_line_that_names_it(change):
    (name,) = change
    with pytest.raises(UsageError, match=f"{name}=.*it must be") as caught:
        replace(SETTINGS, **change)
    assert "\n" not in str(caught.value)


def test_noise_is_one_of_three():
    assert [parse_noise(noise) for noise in NOISES] == ["complement", "coupled", "independent"]
    for refused in (lambda: parse_noise("loud"), lambda: replace(SETTINGS, noise="loud")):
        with pytest.raises(KnobError, match="noise 'loud': it is complement, coupled or independent"):
            refused()


def test_the_way_to_full_size_is_one_of_four():
    names = ["renoise", "expand", "renoise-own-grid", "expand-own-grid"]
    assert [parse_switch(way) for way in SWITCH_WAYS] == names
    for refused in (lambda: parse_switch("jump"), lambda: replace(SETTINGS, switch="jump")):
        with pytest.raises(KnobError, match=f"switch 'jump': it is {', '.join(names[:-1])} or {names[-1]}"):
            refused()


def test_settings_are_fixed_and_plain_data_and_back():
    assert GenerationSettings(**SETTINGS.as_dict()) == SETTINGS
    with pytest.raises(FrozenInstanceError):
        SETTINGS.height = 32


def test_every_reader_gets_its_part():
    assert SETTINGS.call == {"height": 64, "width": 96, "guidance_scale": 4.0}
    assert SETTINGS.attachment == {"noise": "complement", "switch": "renoise", "latent_multiple": 2}
    # an image does not depend on the batch that it is made in
    plain = {**SETTINGS.call, "noise": "complement", "latent_multiple": 2}
    assert SETTINGS.of_images == plain
    # scores of earlier versions, which knew no other way, stay valid
    assert replace(SETTINGS, switch="expand").of_images == {**plain, "switch": "expand"}
    assert replace(SETTINGS, batch_size=1).of_images == SETTINGS.of_images
