"""The default set of real models: as its check script and its README say, and drawn with its proportions."""

import runpy
from collections import Counter
from pathlib import Path

import pytest

from postdiff_calib.models.cards import CARDS
from postdiff_calib.prompts import draw, left_over, load_prompt_set
from postdiff_calib.prompts.read import PromptSet

FOLDER = Path(__file__).parents[2] / "calib_sets"


@pytest.fixture(scope="module")
def check():
    return runpy.run_path(str(FOLDER / "check_broad.py"))


@pytest.fixture(scope="module")
def broad():
    return load_prompt_set("broad")


def test_the_check_finds_nothing_and_the_readme_has_its_table(check):
    assert check["faults"]() == []
    assert check["table"]() in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_check_sees_near_duplicates_and_templates(check):
    pairs = check["near_duplicates"](
        [
            "A red fox crossing a frozen river at dusk",
            "a red fox crosses the frozen river at dusk.",
            "At dusk, over frozen water, the red fox is crossing a river",
            "Seven owls in a library",
        ]
    )
    assert {(pair.first[:9], pair.second[:9]) for pair in pairs} >= {
        ("A red fox", "a red fox"),
        ("A red fox", "At dusk, "),
    }
    assert not any("owls" in pair.first + pair.second for pair in pairs)
    assert check["same_starts"](["A photo of a cat"] * 3) == [("a photo of a", 3)]


def test_real_models_are_calibrated_on_it(broad):
    assert {card.prompt_set for card in CARDS if not card.embedded} == {"broad"}
    assert (len(broad), broad.licence, len(broad.categories)) == (1500, "Apache-2.0", 1500)
    assert all(len(load_prompt_set("broad")) >= card.num_prompts * 3 / 2 for card in CARDS)


def test_sets_of_before_are_what_they_were():
    known = {name: load_prompt_set(name).sha256 for name in ("scenes", "shapes")}
    assert known == SHA256
    assert load_prompt_set("scenes").categories == {}


SHA256 = {
    "scenes": "601ec24f0c9175e00ec37b6b0a06e9c07a4694b860ac95ba9ec5728dca610976",
    "shapes": "e03b7b6838a78622b253b082678039ab67b6ec762c2cf1b6fd1dde9becf09f6e",
}


@pytest.mark.parametrize("size", [20, 100, 500])
def test_draws_keep_the_proportions(broad, size):
    calibration, held_out = draw(broad, size, seed=5)
    rest = left_over(broad, size, seed=5)
    assert Counter([*calibration, *held_out, *rest]) == Counter(broad.prompts)
    whole = Counter(broad.categories.values())
    for part in (calibration, held_out):
        counts = Counter(part.categories_of(part.prompts))
        for name, count in whole.items():
            assert abs(counts[name] - len(part) * count / len(broad)) < 2
    smaller = draw(broad, size // 2, seed=5)
    assert calibration.prompts[: len(smaller[0])] == smaller[0].prompts
    assert held_out.prompts[: len(smaller[1])] == smaller[1].prompts
    assert draw(broad, size, seed=6)[1].prompts != held_out.prompts


def test_each_prompt_of_a_category_is_as_likely_to_be_drawn():
    prompts = tuple(f"p{i}" for i in range(20))
    source = PromptSet(prompts, "x", categories=dict.fromkeys(prompts[:10], "a") | dict.fromkeys(prompts[10:], "b"))
    times = Counter(p for seed in range(600) for p in draw(source, 4, seed)[1])
    # each of 20 is in a draw of 4 with chance 0.2: 120 times, and 5 standard deviations around
    assert all(71 <= times[p] <= 169 for p in prompts)


def test_a_set_without_categories_is_drawn_as_ever():
    source = PromptSet(tuple(f"p{i}" for i in range(8)), "x")
    assert draw(source, 4, seed=0)[0].prompts == ("p4", "p1")
