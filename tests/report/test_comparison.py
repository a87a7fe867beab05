"""Comparisons in words and as an image: every figure of the data is there, and text of a file is text."""

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from profiles import profile_data
from rich.console import Console
from studies import make_study

from postdiff_calib.cost.budget import parse_budget, parse_budgets
from postdiff_calib.errors import OutputError, UsageError
from postdiff_calib.profile import Comparison, Profile, load_profile
from postdiff_calib.report.comparison import (
    compared_facts,
    print_profiles,
    print_tradeoff,
    profile_warnings,
)
from postdiff_calib.report.plots import draw_tradeoff, plot_tradeoff
from postdiff_calib.report.terminal import print_profile
from postdiff_calib.report.wording import interval, own_row, result_text, results, row_difference
from postdiff_calib.study.arms import compare_arms


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("comparison") / "study")


@pytest.fixture(scope="module")
def two_metrics(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("comparison") / "two", scene=True)


@pytest.fixture(scope="module")
def tradeoff(study):
    return compare_arms(study)


def printed(show, *arguments):
    out = io.StringIO()
    show(*arguments, as_json=False, console=Console(file=out, width=116))
    return out.getvalue()


def line_with(text, *words):
    found = [line for line in text.splitlines() if all(word in line for word in words)]
    assert len(found) == 1, (words, text)
    return found[0]


def block(text, share):
    """The lines of a budget, down to the next one's."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{share} "))
    end = next(i for i in range(start, len(lines)) if not lines[i].strip())
    return lines[start:end]


def test_the_answer_comes_first_and_every_budget_has_its_lines(tradeoff):
    text = printed(print_tradeoff, tradeoff)
    baseline, answer = text.splitlines()[:2]
    assert baseline == tradeoff.baseline_text == "baseline: 20 steps DDIMScheduler, guidance 3.6, 64×64"
    assert answer.startswith("Step reduction or cheaper steps? Step reduction wins at 25% to 40% of the baseline's")
    assert tradeoff.as_dict()["baseline"]["text"] == baseline
    assert "changes between 40% and 60%" in text
    step_reduction, cheaper_steps, combined, better = block(text, "40%")
    assert "−0.80" in step_reduction
    assert step_reduction.split()[1:4] == ["step", "reduction", "T=8"]
    assert cheaper_steps.split()[:3] == ["cheaper", "steps", "T=20"]
    assert combined.split()[:2] == ["combined", "T=12"]
    assert better.split()[:3] == ["better", "step", "reduction"]
    assert "−1.20 [" in better
    assert block(text, "60%")[-1].split()[:3] == ["better", "cheaper", "steps"]
    assert "60 held-out prompts" in " ".join(text.split())
    assert "*" not in text
    assert max(map(len, text.splitlines())) <= 116


def test_a_budget_that_was_not_searched_decides_nothing(study):
    text = printed(print_tradeoff, compare_arms(study, parse_budgets("33%,60%")))
    assert block(text, "33%")[-1].split() == ["better", "not", "searched"]
    assert "not searched at 33%" in text
    assert block(text, "60%")[-1].split()[:3] == ["better", "cheaper", "steps"]
    (nothing,) = block(printed(print_tradeoff, compare_arms(study, parse_budgets("10%,60%"))), "10%")
    assert nothing.split() == ["10%", "better", "not", "searched"]


def test_every_metric_has_a_column(two_metrics):
    tradeoff = compare_arms(two_metrics)
    text = printed(print_tradeoff, tradeoff)
    assert "CLIP score" in text
    assert "scenes right" in text
    row = next(row for row in tradeoff.rows if row.share == pytest.approx(0.6))
    assert row.unit == "spreads"
    lines = block(text, "60%")
    for line, result in zip(lines, (row.step_reduction, row.cheaper_steps, row.combined), strict=False):
        assert all(interval(c, name) in line for name, c in result.metrics.items())
    told = " ".join(" ".join(lines[3:]).split())
    assert all(interval(c, name) in told for name, c in row.metrics.items())
    assert f"cheaper steps: {row_difference(row).split()[0]}" in told


def test_an_interval_shows_on_which_side_of_zero_it_ends():
    assert interval(Comparison(mean=0.2, low=-0.003, high=0.403, num_prompts=5)) == "+0.20 [−0.00, +0.40]"
    assert interval(Comparison(mean=-0.2, low=-0.4, high=0.003, num_prompts=5)) == "−0.20 [−0.40, +0.00]"
    assert interval(Comparison(mean=-0.001, low=-0.002, high=-0.0004, num_prompts=5)) == "−0.00 [−0.00, −0.00]"


def test_a_profile_says_each_metric_then_one_verdict(two_metrics):
    profile = two_metrics.conclude(parse_budget("60%"))
    text = printed(print_profile, profile)
    clip, scene = results(profile)
    assert result_text(clip) in line_with(text, "CLIP score  ", "baseline")
    assert result_text(scene) in line_with(text, "scenes right  ", "baseline")
    assert line_with(text, "verdict ").split()[1:5] == [profile.expected.verdict, "on", "60", "held-out"]
    detectable = f"minimum detectable difference {profile.evidence.minimum_detectable_difference:.2f} (CLIP score"
    assert detectable in line_with(text, "detectable ")
    assert "cannot be told from zero" not in text
    assert "one score is not enough" not in text
    for row in profile.tradeoff.rows:
        assert interval(row.combined.difference) in text
    # The plan's interval in the table is the profile's.
    assert own_row(profile).combined.difference == profile.expected.difference


def test_one_score_is_said_to_be_too_few(study):
    profile = study.conclude(parse_budget("60%"))
    assert any("one score is not enough" in note for note in profile.evidence.notes)
    assert "one score is not enough" in printed(print_profile, profile)


def test_an_old_profile_is_shown_and_its_rows_are_marked():
    old = load_profile(Path(__file__).parent.parent / "data" / "profile_version_1.yaml")
    text = printed(print_profile, old)
    assert "judged on calibration prompts" in text
    assert block(text, "60%")[-1].split()[:2] == ["better", "neither"]


def test_seconds_are_shown_where_the_budgets_are_in_seconds(study):
    text = printed(print_tradeoff, compare_arms(study, parse_budgets("160ms,240ms")))
    assert "160 ms (40%)" in line_with(text, "step reduction", "T=8")


def test_two_profiles_side_by_side():
    first, second = (Profile.model_validate(profile_data()) for _ in range(2))
    assert profile_warnings(first, second) == []
    assert all(one == other for one, other in compared_facts(first, second).values())
    data = profile_data()
    data["budget"]["text"] = "55%"
    data["expected"]["metrics"][0]["difference"] |= {"mean": 0.4}
    second = Profile.model_validate(data)
    differs = {name for name, (one, other) in compared_facts(first, second).items() if one != other}
    assert differs == {"budget", "CLIP score"}
    text = printed(print_profiles, ["a.yaml", "[b].yaml"], first, second)
    assert text.splitlines()[0] == first.baseline_text
    assert "[b].yaml" in text
    assert "≠" in line_with(text, "budget")
    assert "≠" not in line_with(text, "cache_interval")
    assert "Second minus first: CLIP score +0.50, scenes right +0.0; 58% against 58%" in text
    assert "warning" not in text


def test_profiles_of_different_baselines_name_each_of_them_first():
    data = profile_data()
    data["model"]["num_inference_steps"] = 20
    first = Profile.model_validate(data)
    data["model"] |= {"num_inference_steps": 30, "scheduler": "DDIMScheduler"}
    second = Profile.model_validate(data)
    text = printed(print_profiles, ["a.yaml", "[b].yaml"], first, second)
    assert text.splitlines()[:2] == [f"a.yaml: {first.baseline_text}", f"[b].yaml: {second.baseline_text}"]
    assert "≠" in line_with(text, "  30 steps DDIMScheduler")
    assert "different baselines: their scores cannot be compared" in text
    # an older profile does not state the steps, so nothing is said of them
    older = Profile.model_validate(profile_data())
    assert older.model.num_inference_steps is None
    assert profile_warnings(first, older) == []


def test_profiles_of_different_metrics_have_a_row_for_each(study, two_metrics):
    one, two = (part.conclude(parse_budget("60%")) for part in (study, two_metrics))
    facts = compared_facts(one, two)
    assert facts["scenes right"] == ("–", result_text(results(two)[1]))
    text = printed(print_profiles, ["a", "b"], one, two)
    assert "Second minus first: CLIP score +0.00; 60%" in text


@pytest.mark.parametrize(
    ("section", "change", "says"),
    [
        ("model", {"fingerprint": "ffff"}, "models"),
        ("model", {"height": 128}, "image sizes"),
        ("model", {"guidance_scale": 3.0}, "baselines"),
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
    data["tradeoff"]["rows"][0]["step_reduction"]["knobs"] = "[/x]"
    data["tradeoff"]["rows"][0]["answer"] = "[/y]"
    text = printed(print_profile, Profile.model_validate(data))
    for word in ("[/red]me", "note: [/b]", "note: thin [/i]", "[/x]", "[/y]"):
        assert word in text


def test_the_image_shows_the_arms_the_budget_and_the_crossover(tradeoff, tmp_path):
    pytest.importorskip("matplotlib")
    (axes,) = draw_tradeoff(tradeoff).axes
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert {"step reduction", "cheaper steps", "combined", "baseline"} <= set(legend)
    assert "the study's budget (60 %)" in legend
    assert "cross-over (40 to 60 %)" in legend
    assert axes.get_title(loc="left").startswith("Step reduction wins at 25% to 40%")
    assert "%" in axes.get_xlabel()
    assert "points" in axes.get_ylabel()
    steps = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    assert len(steps) == 3
    step_reduction = steps[0]
    assert list(step_reduction.get_xdata()) == pytest.approx([25, 40, 60, 80, 100, 100])
    assert list(step_reduction.get_ydata())[:2] == pytest.approx([-1.0, -0.8])
    # Plans judged on held-out prompts have intervals; the others are small and pale.
    held_out = [p for p in tradeoff.points["combined"] if p.held_out and p.difference.low < p.difference.high]
    bars = [segment for c in axes.collections for segment in c.get_segments()]
    assert len(bars) == len(held_out)
    pale = [p for p in tradeoff.points["combined"] if not p.held_out]
    marks = [line for line in axes.lines if line.get_alpha() == 0.3 and line.get_linestyle() == "None"]
    assert sum(len(line.get_xdata()) for line in marks) == len(pale) == 1
    caption = " ".join(draw_tradeoff(tradeoff).get_supxlabel().split())
    assert caption.startswith("Means of paired differences on 60 held-out prompts with 95 % intervals")
    assert "pale: the 80 prompts of the search" in caption
    plot_tradeoff(tradeoff, tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    plot_tradeoff(tradeoff, tmp_path / "c.svg")


def test_without_judged_plans_the_image_says_so(tmp_path):
    pytest.importorskip("matplotlib")
    made = make_study(tmp_path / "study", held_out=False)
    figure = draw_tradeoff(compare_arms(made))
    assert "on which no plan is judged" in figure.get_supxlabel()
    assert not [line for line in figure.axes[0].lines if line.get_drawstyle() == "steps-post"]


def test_an_image_that_cannot_be_drawn_is_one_line(tradeoff, tmp_path, monkeypatch):
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
