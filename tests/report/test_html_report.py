"""The report page: its figures are the profile's, its text is escaped, it is one file, and faults are one line."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from outputs import ablation, methods, prompt_sizes, redundancy
from PIL import Image
from report_study import ATTACKS, STEP_REDUCTION, WINNER, judged, make_study, paint, plans

from postdiff_calib.cli.main import main
from postdiff_calib.cost.budget import format_flops, format_seconds, parse_budget
from postdiff_calib.errors import BudgetError, OutputError, StudyError
from postdiff_calib.generate.images import generate
from postdiff_calib.jobs.calibrate import run_calibrate
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.cards import get_card
from postdiff_calib.models.load import load_pipeline
from postdiff_calib.plan import compile_plan
from postdiff_calib.profile import Profile
from postdiff_calib.progress import Silent
from postdiff_calib.quality.clip import ClipScorer
from postdiff_calib.report.html.choices import choices
from postdiff_calib.report.html.findings import Findings
from postdiff_calib.report.html.images import Album, choose
from postdiff_calib.report.html.page import ReportJob, render, write_report
from postdiff_calib.report.html.plots import WIDE, frontier_plot, histogram, ticks
from postdiff_calib.report.html.prompts import prompt_rows
from postdiff_calib.report.html.shares import parts, whole_percents
from postdiff_calib.report.plot_data import Point, nice_step
from postdiff_calib.report.wording import interval, result_text, results, row_difference, signed, verdict, winner
from postdiff_calib.search.importance import Importance
from postdiff_calib.study.record import Study

VOID = {"meta", "link", "br", "img", "input"}
SECTIONS = ("frontier", "budgets", "question", "steps", "knobs", "prompts", "every", "plans", "provenance")


class Page(HTMLParser):
    """Tags with attributes, text by the id of the element it is in, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[tuple[str, str | None]] = []
        self.text: dict[str | None, str] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("id")))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1]}"
        self.open.pop()

    def handle_data(self, data):
        for name in {element for _, element in self.open} | {None}:
            self.text[name] = self.text.get(name, "") + data

    def of(self, tag, css_class=None):
        return [a for t, a in self.tags if t == tag and (not css_class or css_class in (a.get("class") or "").split())]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("report") / "study")


@pytest.fixture(scope="module")
def findings(study):
    return Findings(study, parse_budget("60%"))


@pytest.fixture(scope="module")
def text(findings):
    return render(findings)


def test_the_page_is_well_formed_and_in_order(text):
    page = Page(text)
    assert not page.open
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    sections = [name for name in ids if name.startswith("h-")]
    assert sections == [f"h-{name}" for name in SECTIONS]
    assert [tag for tag, _ in page.tags if tag == "h1"] == ["h1"]
    for _, attributes in page.tags:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids


def test_figures_are_those_of_the_profile(text, findings):
    profile, page = findings.profile, Page(text)
    assert profile.knobs == WINNER
    expected = profile.expected
    assert page.text["difference"] == signed(expected.difference.mean)
    body = page.text[None]
    for figure in (
        profile.knobs.describe(),
        f"{1 / expected.relative_macs:.2f}× less compute",
        f"({expected.relative_macs:.0%}; {format_flops(expected.cost.macs)} of",
        profile.words,
        f"{expected.difference.num_prompts} held-out prompts",
        verdict(profile),
        profile.evidence.scorer_sha256,
        profile.evidence.prompt_set_sha256,
        profile.model.fingerprint,
    ):
        assert figure in body
    assert [result.metric for result in results(profile)] == ["clip", "scene"]
    for result in results(profile):
        d = result.difference
        assert f"[{signed(d.low, result.metric)}, {signed(d.high, result.metric)}]" in body
        assert result_text(result).split(":")[0] + f": {result.verdict}" in body
    for row in profile.tradeoff.rows:
        assert row.searched
        for arm in (row.step_reduction, row.cheaper_steps, row.combined):
            assert arm is None or arm.knobs in body
            assert arm is None or all(interval(c, name) in body for name, c in arm.metrics.items())
        assert row.unit == "spreads"
        assert row_difference(row) in body
        assert all(interval(c, name) in body for name, c in row.metrics.items())
    assert findings.own_row.answer in body
    cheapest = profile.tradeoff.rows[0]
    assert (cheapest.cheaper_steps, winner(cheapest)) == (None, "only step reduction fits")
    assert body.count("no plan fits") == 1
    assert "only step reduction fits" in body
    # The plan has one interval wherever it stands.
    row = findings.own_row
    assert row.combined.plan_id == profile.plan.plan_id
    assert row.combined.difference == expected.difference
    listed = next(r for r in findings.rows if r.scores.plan.plan_id == profile.plan.plan_id)
    for result in results(profile):
        assert interval(listed.held_out[result.metric], result.metric) == interval(result.difference, result.metric)


def test_a_single_metric_is_told_to_be_one(tmp_path):
    found = Findings(make_study(tmp_path / "s", scene=False), parse_budget("60%"))
    body = Page(render(found)).text[None]
    assert "one score is not enough" in body
    assert "scenes right" not in body
    assert found.own_row.unit == "points"
    assert row_difference(found.own_row) == interval(found.own_row.cheaper_steps_minus_step_reduction)


def test_an_unsearched_budget_decides_nothing(study):
    found = Findings(study, parse_budget("33%"))
    page = Page(render(found))
    assert [row.searched for row in found.profile.tradeoff.rows] == [True, False, True, True, True]
    assert "not searched" in page.text[None]
    assert "was not searched: this is the best plan that other searches found" in page.text[None]
    assert found.own_row.cheaper_steps_minus_step_reduction is None


def test_every_scored_plan_is_a_dot_and_a_row(text, findings):
    page = Page(text)
    assert len(findings.rows) == len(plans())
    # Each plot is there twice, laid out for wide and for narrow screens.
    assert len(page.of("g", "dot")) == 2 * len(plans())
    assert len(page.of("g", "winner")) == len(page.of("g", "reference")) == 2
    assert len(page.of("polyline", "frontier")) == 6
    assert len(page.of("line", "budget")) == 2
    # Held-out dots, and hollow ones of plans that only the search scored.
    assert len(page.of("g", "held-out")) == 2 * len(judged())
    assert len(page.of("g", "search")) == 2 * (len(plans()) - len(judged()))
    assert all(row.held_out.keys() == {"clip", "scene"} for row in findings.rows[: len(judged())])
    assert not any(row.held_out for row in findings.rows[len(judged()) :])
    rows = re.findall(r'<td class="num" data-v="[\d.]+">\d+%</td>', text)
    assert len(rows) == len(plans())
    arms = {row.knobs: row.arm for row in findings.rows}
    assert (arms[STEP_REDUCTION], arms[WINNER], arms[Knobs(12, cache_interval=2)]) == (
        "step_reduction",
        "cheaper_steps",
        "combined",
    )


def test_a_plan_with_the_baselines_own_images_differs_by_nothing_in_any_metric(findings):
    """A metric of yes and no alone could not tell: its images may differ on prompts yet to come."""
    baseline = findings.held_out.baseline
    found = findings._compared(baseline, baseline)
    assert found.keys() == {"clip", "scene"}
    assert all((c.mean, c.low, c.high) == (0.0, 0.0, 0.0) for c in found.values())


def test_the_strip_has_a_cell_for_every_step(findings, text):
    winner, step_reduction, stock = findings.strips()
    assert [len(strip.cells) for strip in (winner, step_reduction, stock)] == [20, 11, 20]
    assert [cell.refresh for cell in winner.cells] == [True, False] * 10
    assert [cell.guided for cell in winner.cells] == [True] * 18 + [False] * 2
    assert {cell.cost for cell in stock.cells} == {1.0}
    assert sum(cell.cost for cell in winner.cells) / 20 == pytest.approx(findings.profile.expected.relative_macs)
    assert text.count('class="lane cost"') == 3


def test_another_budget_has_another_winner(study, findings):
    other = Findings(study, parse_budget("30%"))
    assert other.profile == study.conclude(parse_budget("30%"))
    assert other.profile.knobs != findings.profile.knobs
    page = Page(render(other))
    assert page.text["difference"] == signed(other.profile.expected.difference.mean)


def test_text_from_outside_is_escaped(study, tmp_path):
    paint(study)
    out = write_report(ReportJob(study.folder, tmp_path / "r.html"))
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.of("script")) == 1
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.of("img"))
    for attack in (*ATTACKS, "<i>set</i>", "<b>all images are black</b>"):
        assert attack in page.text[None]
        assert attack not in text


def test_it_is_one_file_that_needs_nothing_else(study, tmp_path):
    paint(study)
    out = write_report(ReportJob(study.folder, tmp_path / "deep" / "r.html"))
    assert [p.name for p in out.parent.iterdir()] == ["r.html"]
    assert out.stat().st_size < 2e6
    text = out.read_text(encoding="utf-8")
    ours = re.sub(r"data:image/png;base64,[\w+/=]+|<script>.*?</script>", "", text, flags=re.S)
    assert not re.findall(r"https?:|//|@import|url\(", ours)
    assert not re.search(r"fetch\(|XMLHttp|import\(|innerHTML|eval\(", text)
    for tag, attributes in Page(text).tags:
        for name in ("src", "href", "action", "data"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#")), (tag, attributes)


def test_images_have_their_prompt_and_scores(study, findings, tmp_path):
    paint(study)
    out = write_report(ReportJob(study.folder, tmp_path / "r.html"))
    page = Page(out.read_text(encoding="utf-8"))
    assert len(page.of("img")) == 9 * 3 + 2 * 3 * len(choices(findings))
    differences = findings.differences()
    worst = int(np.nanargmin(differences))
    assert findings.prompts[worst] in ATTACKS
    assert f"{findings.winner.scores[worst]:.1f} ({signed(differences[worst])})" in page.text[None]
    assert f"seed {100 + 60 + worst}" in page.text[None]
    assert all(image["alt"] for image in page.of("img"))


def test_without_images_no_model_is_loaded(study, tmp_path, monkeypatch, capsys):
    def never(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("postdiff_calib.models.load.load_pipeline", never)
    out = tmp_path / "r.html"
    with pytest.raises(SystemExit) as stop:
        main(["report", str(study.folder), "--out", str(out), "--budget", "30%", "--no-images"])
    assert stop.value.code in (None, 0)
    assert str(out) in capsys.readouterr().out
    assert not Page(out.read_text(encoding="utf-8")).of("img")


def test_unconfirmed_results_say_so(tmp_path):
    study = make_study(tmp_path / "s", with_held_out=False)
    found = Findings(study, parse_budget("60%"))
    page = Page(render(found))
    assert not found.confirmed
    assert found.profile.evidence.notes[0] in page.text[None]
    assert "60 calibration prompts" in page.text[None]
    assert found.prompts == study.record.calibration


def test_seconds_are_shown_where_they_were_measured(tmp_path):
    study = make_study(tmp_path / "s", seconds=True)
    found = Findings(study, parse_budget("60% time"))
    body = Page(render(found)).text[None]
    times = found.profile.times
    assert f"{1 / times.relative:.2f}× faster" in body
    assert f"{format_seconds(times.plan.call)} of {format_seconds(times.baseline.call)} ({times.relative:.0%})" in body
    assert f"p95 {format_seconds(times.plan.call_p95)}" in body
    assert "test processor" in body
    assert found.winner_point().cost == pytest.approx(found.profile.times.relative)


def test_few_plans_make_a_page_too(tmp_path):
    study = make_study(tmp_path / "s", scored=[STEP_REDUCTION])
    found = Findings(study, parse_budget("60%"))
    assert found.step_reduction is None
    assert "Too few plans" in render(found)
    # The baseline itself may be the answer.
    alone = Findings(make_study(tmp_path / "alone", scored=[]), parse_budget("100%"))
    assert alone.stock
    assert "Run the model as it is" in render(alone)


def test_verdicts_in_words(study):
    found = Findings(study, parse_budget("60%"))
    assert found.verdict.startswith("At 5")
    assert "of the compute" in found.verdict
    worse = Findings(make_study(study.folder.parent / "worse", scored=[Knobs(4)]), parse_budget("60%"))
    assert worse.profile.expected.verdict == "worse"
    assert "is worse than the baseline: CLIP score −4" in worse.verdict
    assert "points and scenes right −1" in worse.verdict
    expected = {**found.profile.to_dict()["expected"], "prompts_to_decide": 200}
    for kind, says in (
        ("better", "this plan is better than the baseline: scenes right −"),
        ("equivalent", "quality is the baseline's: CLIP score to within 0.70 points and scenes right to within 3.0"),
        ("undecided", "it is not decided whether quality changes: CLIP score −"),
    ):
        metrics = [{**m, "verdict": kind if m["metric"] == "scene" else "undecided"} for m in expected["metrics"]]
        data = {**found.profile.to_dict(), "expected": {**expected, "verdict": kind, "metrics": metrics}}
        found.profile = Profile.model_validate(data)
        assert says in found.verdict
    assert verdict(found.profile) == "undecided; --num-prompts 200 would decide"


def test_plans_in_words():
    assert compile_plan(Knobs(20)).words() == "20 full steps"
    assert compile_plan(Knobs(1)).words() == "1 full step"
    assert compile_plan(Knobs(13, guidance_fraction=0.75)).words() == "13 steps, guidance on the first 10"
    assert compile_plan(Knobs(4, guidance_fraction=0.25)).words() == "4 steps, guidance on the first alone"
    everything = compile_plan(Knobs(10, 0.3, 0.5, 2, 0.8))
    assert everything.words() == (
        "10 steps, the first 3 at 0.5 of the side, deep blocks on 6 of them, guidance on the first 8"
    )
    # a model without guidance is not said to have any
    assert everything.words(guides=False) == "10 steps, the first 3 at 0.5 of the side, deep blocks on 6 of them"


def test_shares_of_the_knobs_add_up_to_100():
    assert whole_percents([1, 1, 1]) == [34, 33, 33]
    assert whole_percents([0.335, 0.335, 0.33]) == [34, 33, 33]
    assert whole_percents([0.0, 1.0]) == [0, 100]
    # noise is shown as far as the knobs leave room for it
    found = parts(Importance({"T": 0.616, "k": 0.124}, noise=0.4, plans=20))
    assert [(p.symbol, p.percent) for p in found] == [("T", 62), ("k", 12), ("", 0), ("", 26)]
    assert sum(p.percent for p in found) == 100
    found = parts(Importance({"T": 0.5}, noise=0.1, plans=20))
    assert [(p.meaning.split(" ")[0], p.percent) for p in found[1:]] == [("interactions", 40), ("noise", 10)]


def test_every_plan_of_the_slider_has_the_profile_that_an_export_writes(study, findings, text):
    offered = choices(findings)
    plans = [choice.profile.plan.plan_id for choice in offered]
    assert len(set(plans)) == len(plans) >= 5
    assert findings.profile in [choice.profile for choice in offered]
    costs = [choice.profile.expected.cost.macs for choice in offered]
    assert costs == sorted(costs)
    frontier = {row.scores.plan.plan_id for row in findings.frontiers()["combined"]}
    assert set(plans) <= frontier | {findings.profile.plan.plan_id}
    page = Page(text)
    assert len(page.of("pre", "yaml")) == len(offered)
    for choice in offered:
        assert choice.profile == study.conclude(parse_budget(choice.profile.budget.text))
        assert choice.yaml in page.text[None]


def test_every_prompt_is_a_row_with_its_group_and_category(tmp_path):
    study = make_study(tmp_path / "s")
    names = ("<b>odd</b>", "even")
    study = replace(study, record=replace(study.record, held_out_categories=tuple(names[i % 2] for i in range(60))))
    found = Findings(study, parse_budget("60%"))
    rows = prompt_rows(found)
    assert [row.prompt for row in rows] == list(study.record.held_out)
    assert [row.seed for row in rows][:2] == [found.first_seed, found.first_seed + 1]
    delta, differences = found.profile.expected.delta, found.differences()
    for row, difference in zip(rows, differences, strict=True):
        assert row.group == ("lost" if difference < -delta else "gained" if difference > delta else "within")
    assert {row.group for row in rows} >= {"lost", "within"}
    page = Page(render(found))
    cells = [a for a in page.of("tr") if a.get("data-category")]
    assert [a["data-category"] for a in cells] == [names[i % 2] for i in range(60)]
    assert [a["data-difference"] for a in cells] == [row.group for row in rows]
    assert [a.get("value", "x") for a in page.of("option")].count("") == 2


def test_the_papers_studies_of_the_folder_are_shown(tmp_path, capsys):
    study, compared = make_study(tmp_path / "shapes"), methods().as_dict()
    sized = prompt_sizes().as_dict()
    compared["budgets"]["60%"][1]["why"] = "costs <u>97%</u> at least"
    kept = {
        "shapes/prompt_sizes.json": {**sized, "paper": "<i>figure 3</i>"},
        "shapes/redundancy.json": redundancy(tmp_path).as_dict(),
        "shapes-ablation/ablation.json": ablation().as_dict(),
        "shapes-methods/methods.json": {**compared, "paper": "<b>table 3</b>"},
        # of another model, of no study, and no JSON at all
        "shapes-flow-ablation/ablation.json": {**ablation().as_dict(), "model": "shapes-flow"},
        "shapes/other.json": {"study": "else"},
    }
    for name, data in kept.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(data))
    (tmp_path / "shapes" / "broken.json").write_text("{")
    Image.new("RGB", (40, 30)).save(tmp_path / "shapes" / "redundancy.png")
    text = render(Findings(study, parse_budget("60%")))
    page = Page(text)
    assert [a["src"][:22] for a in page.of("img", "study")] == ["data:image/png;base64,"]
    assert not any(tag in text for tag in ("<i>figure 3</i>", "<u>97%</u>", "<b>table 3</b>"))
    with pytest.raises(SystemExit):
        main(["compare", str(study.folder), "--json"])
    studies = json.loads(capsys.readouterr().out)["studies"]
    assert [one["data"]["study"] for one in studies] == ["ablation", "redundancy", "prompt sizes", "methods"]
    with pytest.raises(SystemExit):
        main(["compare", str(study.folder)])
    for shown in (page.text[None], capsys.readouterr().out):
        shown = " ".join(shown.split())
        assert all(words in shown for words in ("<i>figure 3</i>", "200, extrapolated", "Sizes above 120"))
        assert "None of these sizes up to 60, half of the scored prompts" in shown
        assert "ablation of shapes, 40 prompts" in shown
        assert all(words in shown for words in ("100 ms", "50%", "Seconds are unstable (rounds disagree by 3.0 %)"))
        assert "methods within the same budget, shapes, 40 prompts" in shown
        # 50 ms beside 100 ms and 80 ms beside 200 ms
        named = "60%: PostDiff, the paper's setting, T=20"
        assert all(words in shown for words in (named, "65 ms", "45%, unstable"))
        assert "60%: ToMe: costs <u>97%</u> at least." in shown
        assert "Seconds are unstable" in shown
        assert "T=20 s=0.5 β=0.25 failed: its images" in shown
        assert all(sentence in shown for sentence in redundancy(tmp_path).distances.summary())
        assert "shapes-flow" not in shown
    uneven = {**compared, "baseline": {**compared["baseline"], "seconds": [0.1]}}
    for damaged in ({"study": "ablation", "model": "shapes"}, uneven):
        (tmp_path / "shapes" / "broken.json").write_text(json.dumps(damaged))
        with pytest.raises(StudyError, match="not as postdiff writes it"):
            render(Findings(study, parse_budget("60%")))


def test_choice_of_prompts():
    assert [(e.group, e.index) for e in choose(np.arange(9.0))] == [
        *(("best", i) for i in (8, 7, 6)),
        *(("median", i) for i in (3, 4, 5)),
        *(("worst", i) for i in (0, 1, 2)),
    ]
    few = [e.index for e in choose(np.array([3.0, np.nan, 1.0, 2.0]))]
    assert sorted(few) == [0, 2, 3]


def test_positions_in_the_plot():
    winner = Point(0.5, -1.0, -2.0, 0.0, "cheaper_steps", "w")
    hidden = Point(0.1, -50.0, -51.0, -49.0, "combined", "broken")
    others = [Point(0.1 * i, -1.0, -2.0, 0.0, "step_reduction", "p") for i in range(1, 10)]
    plot = frontier_plot(
        WIDE, [hidden, *others], {"step_reduction": others[:2], "cheaper_steps": [], "combined": []}, winner, 0.6, 0.5
    )
    assert [dot.point.tip for dot in plot.dots if dot.below] == ["broken"]
    assert plot.below == 1
    assert plot.dots[0].y == plot.frame.bottom
    assert plot.winner.y_high == plot.zero_y < plot.winner.y < plot.winner.y_low
    assert plot.frame.left < plot.winner.x < plot.budget_x < plot.reference_x < plot.frame.right
    assert list(plot.lines) == ["step_reduction"]


def test_histogram_counts_every_prompt():
    values = np.array([-1.0, -0.2, 0.0, 0.1, 0.1, 2.0])
    plot = histogram(WIDE, values, 0.17, -0.5, 0.8)
    assert sum(int(bar.tip.split()[0]) for bar in plot.bars) == 6
    assert sum(int(bar.tip.split()[0]) for bar in plot.bars if bar.worse) == 2
    assert all((bar.x + bar.width <= plot.zero_x + 1) == bar.worse for bar in plot.bars)
    assert histogram(WIDE, np.zeros(4), 0.0, 0.0, 0.0).bars


def test_ticks_are_round():
    assert ticks(-1.3, 2.2, 6) == [-1, 0, 1, 2]
    assert nice_step(7, 3) == 2.5
    assert nice_step(100, 10) == 10


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"study": "nowhere"}, StudyError, "nowhere"),
        ({"budget": "soon"}, BudgetError, "soon"),
        ({"budget": "1%"}, BudgetError, "1%"),
        ({"budget": "1s"}, BudgetError, "seconds"),
        ({"out": "."}, OutputError, "folder"),
        ({"out": "file/r.html"}, OutputError, "cannot be written"),
    ],
)
def test_faults_are_one_line(study, tmp_path, monkeypatch, capsys, change, error, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    given = {"study": str(study.folder), "budget": "60%", "out": "r.html", **change}
    with pytest.raises(SystemExit) as stop:
        main(["report", given["study"], "--budget", given["budget"], "--out", given["out"], "--quiet"])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert not (tmp_path / "r.html").exists()


def test_a_broken_image_and_a_changed_model_are_named(tmp_path):
    study = make_study(tmp_path / "s")
    with pytest.raises(StudyError, match="are not the scored ones"):
        write_report(ReportJob(study.folder, tmp_path / "r.html", device="cpu"))
    paint(study)
    first = next((study.folder / "images").iterdir())
    first.write_bytes(b"no image")
    with pytest.raises(StudyError, match=re.escape(first.name)):
        write_report(ReportJob(study.folder, tmp_path / "r.html"))


@pytest.mark.slow
def test_the_images_are_the_scored_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("POSTDIFF_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "study"
    run_calibrate(
        CalibrateJob(
            budget=parse_budget("60%"), num_prompts=12, trials=1, device="cpu", study=folder, out=tmp_path / "p.yaml"
        )
    )
    out = write_report(ReportJob(folder, tmp_path / "r.html", device="cpu"))
    study = Study.load(folder)
    found = Findings(study, parse_budget("60%"))
    album = Album(study, found.confirmed)
    chosen = [example.index for example in choose(found.differences())]
    scorer = ClipScorer(get_card("shapes").scorer, device="cpu")
    pipe = load_pipeline("shapes", device="cpu", dtype="float32").pipe
    for plan in (found.judged.baseline, found.winner):
        # Made again, the images are the kept ones; their scores are the study's, up to eight bits a channel.
        seeds = [found.first_seed + i for i in chosen]
        prompts = [found.prompts[i] for i in chosen]
        again = torch.cat(list(generate(pipe, plan.knobs, prompts, seeds, study.record.settings)))
        for index, image in zip(chosen, again, strict=True):
            kept = np.asarray(Image.open(album.path(plan.knobs, index)))
            assert np.abs(kept - (image * 255).permute(1, 2, 0).numpy()).max() <= 1.0
        assert scorer.score(again, prompts) == pytest.approx([plan.scores[i] for i in chosen], abs=0.05)

    # A second report makes nothing again.
    def never(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("postdiff_calib.models.load.load_pipeline", never)
    album.make([found.winner.knobs], chosen, Silent())
    assert write_report(ReportJob(folder, tmp_path / "again.html")).read_bytes() == out.read_bytes()
