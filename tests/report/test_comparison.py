"""Comparisons in words and as a picture: every figure of the data is there, and text of a file is text."""

import io
import sys
from dataclasses import replace

import pytest
from profiles import profile_data
from rich.console import Console
from studies import make_study

from postdiff_calib.arms import compare_arms
from postdiff_calib.budget import parse_budgets
from postdiff_calib.errors import OutputError, UsageError
from postdiff_calib.profile import Profile
from postdiff_calib.report.comparison import (
    compared_facts,
    print_profiles,
    print_tradeoff,
    profile_warnings,
)
from postdiff_calib.report.plots import draw_tradeoff, plot_tradeoff
from postdiff_calib.report.terminal import print_profile


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("comparison") / "study")


@pytest.fixture(scope="module")
def tradeoff(study):
    return compare_arms(study, parse_budgets("18%,40%,60%,100%"))


def printed(show, *arguments):
    out = io.StringIO()
    show(*arguments, as_json=False, console=Console(file=out, width=116))
    return out.getvalue()


def line_with(text, *words):
    found = [line for line in text.splitlines() if all(word in line for word in words)]
    assert len(found) == 1, (words, text)
    return found[0]


def test_the_answer_comes_first_and_every_budget_has_its_lines(tradeoff):
    text = printed(print_tradeoff, tradeoff)
    assert text.startswith("Fewer or cheaper? Fewer steps win at 40% of the unaccelerated MACs")
    assert "changes between 40% and 60%" in text
    fewer = line_with(text, "40%", "fewer", "T=8")
    assert "−0.80" in fewer
    assert "−1.20" in fewer
    assert fewer.rstrip().endswith("fewer")
    assert "only cheaper" in line_with(text, "18%", "cheaper", "T=20")
    assert line_with(text, "60%", "fewer", "T=12").rstrip().endswith("cheaper")
    assert line_with(text, "100%", "fewer").rstrip().endswith("neither")
    assert max(map(len, text.splitlines())) <= 116


def test_calibration_scores_are_marked(tradeoff):
    text = printed(print_tradeoff, tradeoff)
    assert "] *" in line_with(text, "40%", "fewer", "T=8")
    assert "*" not in line_with(text, "60%", "fewer", "T=12")
    assert "80 calibration prompts" in text
    assert "60 held-out prompts" in text


def test_seconds_are_shown_where_the_budgets_are_in_seconds(study):
    text = printed(print_tradeoff, compare_arms(study, parse_budgets("16ms,24ms")))
    assert "16 ms (40%)" in line_with(text, "fewer", "T=8")


def test_two_profiles_side_by_side():
    first, second = (Profile.model_validate(profile_data()) for _ in range(2))
    assert profile_warnings(first, second) == []
    assert all(one == other for one, other in compared_facts(first, second).values())
    data = profile_data()
    data["budget"]["text"] = "55%"
    data["expected"]["difference"] |= {"mean": 0.4}
    second = Profile.model_validate(data)
    differs = {name for name, (one, other) in compared_facts(first, second).items() if one != other}
    assert differs == {"budget", "difference"}
    text = printed(print_profiles, ["a.yaml", "[b].yaml"], first, second)
    assert "[b].yaml" in text
    assert "≠" in line_with(text, "budget")
    assert "≠" not in line_with(text, "cache_interval")
    assert "Second minus first: +0.50 points" in text
    assert "warning" not in text


@pytest.mark.parametrize(
    ("section", "change", "says"),
    [
        ("model", {"fingerprint": "ffff"}, "models"),
        ("model", {"height": 128}, "picture sizes"),
        ("evidence", {"prompt_set_sha256": "00"}, "prompt sets"),
        ("evidence", {"scorer_sha256": "00"}, "scoring models"),
        ("evidence", {"seed": 5}, "seeds"),
        ("expected", {"confirmed": False}, "held-out and calibration"),
    ],
)
def test_scores_that_cannot_be_compared_are_said(section, change, says):
    data = profile_data()
    data[section] |= change
    first, second = Profile.model_validate(profile_data()), Profile.model_validate(data)
    (warning,) = profile_warnings(first, second)
    assert says in warning
    text = printed(print_profiles, ["a", "b"], first, second)
    assert "warning: the profiles are of different" in text
    assert "Second minus first" not in text


def test_text_of_a_profile_is_no_markup():
    data = profile_data()
    data["model"] |= {"id": "[/red]me", "notes": ["[/b]"]}
    data["evidence"]["notes"] = ["thin [/i]"]
    data["tradeoff"]["rows"][0]["fewer"]["knobs"] = "[/x]"
    data["tradeoff"]["rows"][0]["answer"] = "[/y]"
    text = printed(print_profile, Profile.model_validate(data))
    for word in ("[/red]me", "note: [/b]", "note: thin [/i]", "[/x]", "[/y]"):
        assert word in text


def test_the_picture_shows_the_arms_the_budget_and_the_crossover(tradeoff, tmp_path):
    pytest.importorskip("matplotlib")
    (axes,) = draw_tradeoff(tradeoff).axes
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert {"fewer steps", "cheaper steps", "both", "unaccelerated model"} <= set(legend)
    assert "the study's budget (60 %)" in legend
    assert "cross-over (40 to 60 %)" in legend
    assert axes.get_title(loc="left").startswith("Fewer steps win at 40%")
    assert "%" in axes.get_xlabel()
    assert "points" in axes.get_ylabel()
    steps = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    assert len(steps) == 3
    fewer = steps[0]
    assert list(fewer.get_xdata()) == pytest.approx([25, 40, 60, 80, 100, 100])
    assert list(fewer.get_ydata())[:2] == pytest.approx([-1.0, -0.8])
    plot_tradeoff(tradeoff, tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    plot_tradeoff(tradeoff, tmp_path / "c.svg")


def test_a_picture_that_cannot_be_drawn_is_one_line(tradeoff, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    with pytest.raises(OutputError, match="cannot be written"):
        plot_tradeoff(tradeoff, tmp_path / "none" / "c.png")
    with pytest.raises(OutputError, match="name a"):
        plot_tradeoff(tradeoff, tmp_path / "c.doc")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match="needs matplotlib"):
        plot_tradeoff(tradeoff, tmp_path / "c.png")


def test_a_long_path_and_a_dollar_are_drawn_as_they_are(tradeoff, tmp_path):
    pytest.importorskip("matplotlib")
    named = replace(tradeoff, model="/a/very/long/way/to/the/folder/of/some/model/with$in$its/name")
    plot_tradeoff(named, tmp_path / "c.png")
    title = draw_tradeoff(named).get_suptitle()
    assert r"with\$in\$its/name" in title
    assert "very" not in title
