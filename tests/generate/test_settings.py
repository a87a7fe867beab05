"""How images are made: one class, refused where it is made."""

from dataclasses import FrozenInstanceError, replace

import pytest

from postdiff_calib.errors import KnobError, UsageError
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.techniques.noise import NOISES, parse_noise

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


def test_settings_are_fixed_and_plain_data_and_back():
    assert GenerationSettings(**SETTINGS.as_dict()) == SETTINGS
    with pytest.raises(FrozenInstanceError):
        SETTINGS.height = 32


def test_every_reader_gets_its_part():
    assert SETTINGS.call == {"height": 64, "width": 96, "guidance_scale": 4.0}
    assert SETTINGS.attachment == {"noise": "complement", "latent_multiple": 2}
    # an image does not depend on the batch that it is made in
    assert SETTINGS.of_images == {**SETTINGS.call, **SETTINGS.attachment}
    assert replace(SETTINGS, batch_size=1).of_images == SETTINGS.of_images
