"""The chosen plan by category of held-out prompt: from scores to profile, its file, terminal and page."""

import json
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from made_up_scores import BASE, BASELINE, STEP_REDUCTION, at, evidence, facts, searched
from rich.console import Console
from studies import N_HELD_OUT, make_study

from postdiff_calib.errors import StudyError
from postdiff_calib.knobs import Knobs
from postdiff_calib.profile import parse_profile
from postdiff_calib.report.html.findings import Findings
from postdiff_calib.report.html.page import render
from postdiff_calib.report.terminal import print_profile
from postdiff_calib.study.conclude import conclude
from postdiff_calib.study.record import RECORD, Study

N = len(BASE)
NAMES = tuple(("people", "text", "counting", "scenes")[i % 4] for i in range(N))
TEXT = np.array([name == "text" for name in NAMES])


def concluded(winner, categories=NAMES, **more):
    found = evidence([winner], budgets=[searched(0.6, [winner])], **more)
    return conclude(at(0.6), found, [at(0.6)], facts(categories=categories))


def losing(text, others, seed=3):
    """A plan that loses so much on texts, and so much on all others."""
    noise = np.random.default_rng(seed).normal(0, 1, N)
    return replace(STEP_REDUCTION, scores=BASE - np.where(TEXT, text, others) + noise)


def warnings(profile):
    return [note for note in profile.evidence.notes if note.startswith("Warning")]


def test_one_category_loses_though_the_mean_does_not():
    profile = concluded(losing(1.0, -0.3))
    assert profile.expected.verdict != "worse"
    rows = {row.category: row for row in profile.categories.rows}
    assert list(rows) == ["counting", "people", "scenes", "text"]
    assert {name: row.num_prompts for name, row in rows.items()} == dict.fromkeys(rows, 100)
    own = (losing(1.0, -0.3).scores - BASE)[TEXT]
    assert rows["text"].metrics["clip"].mean == pytest.approx(own.mean())
    assert [name for name, row in rows.items() if row.loses] == ["text"]
    (warning,) = warnings(profile)
    for words in ("category 'text'", "100 of them", "Holm's correction for 4 comparisons", "Significant at 5 %"):
        assert words in warning
    assert parse_profile(profile.to_yaml()) == profile


def test_where_all_prompts_lose_nothing_more_is_warned_of():
    profile = concluded(losing(2.0, 2.0))
    assert profile.expected.verdict == "worse"
    assert all(row.loses == ["clip"] for row in profile.categories.rows)
    assert warnings(profile) == []


def test_two_hundred_studies_without_a_loss_warn_in_at_most_a_twentieth():
    assert sum(bool(warnings(concluded(losing(0, 0, seed), delta=0.01))) for seed in range(200)) <= 10


def test_there_is_no_section_without_categories_or_held_out_prompts_or_for_the_baseline():
    winner = losing(1.0, 0.0)
    profile = concluded(winner, categories=())
    assert profile.categories is None
    assert "categories" not in profile.to_yaml()
    unconfirmed = evidence(calibration=[winner], budgets=[searched(0.6, [winner])])
    assert conclude(at(0.6), unconfirmed, [at(0.6)], facts(0, categories=NAMES)).categories is None
    itself = replace(BASELINE, cost=STEP_REDUCTION.cost)
    assert concluded(itself).categories is None


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    names = tuple(("people", "te[x]t<b>")[i % 2] for i in range(N_HELD_OUT))
    return make_study(tmp_path_factory.mktemp("categories") / "s", held_out_categories=names, scene=True)


def test_a_study_keeps_the_categories_and_every_profile_of_it_has_them(study):
    assert Study.load(study.folder).record.held_out_categories == study.record.held_out_categories != ()
    section = study.conclude().categories
    assert [(row.category, row.num_prompts) for row in section.rows] == [("people", 30), ("te[x]t<b>", 30)]
    assert (section.comparisons, section.correction, section.level) == (4, "Holm", 0.05)


def test_a_record_of_before_has_none_and_a_damaged_one_is_refused(study, tmp_path):
    data = study.record.as_dict()
    older = {key: value for key, value in data.items() if key != "held_out_categories"}
    for name in ("column", "category"):
        del older["asked"][name]
    (tmp_path / RECORD).write_text(json.dumps(older))
    record = Study.load(tmp_path).record
    assert (record.held_out_categories, record.asked) == ((), study.record.asked)
    (tmp_path / RECORD).write_text(json.dumps({**data, "held_out_categories": ["people"]}))
    with pytest.raises(StudyError, match="1 categories for 60 held-out prompts"):
        Study.load(tmp_path)


def test_terminal_and_page_show_the_table_and_say_how_it_was_corrected(study):
    profile = study.conclude()
    console = Console(width=116, record=True, file=StringIO())
    print_profile(profile, as_json=False, console=console)
    text = " ".join(console.export_text().split())
    page = " ".join(render(Findings(study, study.record.asked.budget)).split())
    c = profile.categories.rows[0].metrics["clip"]
    for said in (text, page):
        assert "Holm's correction for all 4 comparisons" in said.replace("&#39;", "'")
        assert f"{c.mean:+.2f}".replace("-", "−") in said
    assert "te[x]t<b>" in text
    assert "te[x]t&lt;b&gt;" in page
    assert "By category of prompt" in page
    assert "<b>" not in page[page.index("By category of prompt") :][:1500].replace("&lt;b&gt;", "")


def test_a_study_without_categories_shows_no_table(tmp_path):
    plain = make_study(tmp_path / "s")
    assert "By category of prompt" not in render(Findings(plain, plain.record.asked.budget))
    assert plain.conclude().knobs != Knobs(20)
