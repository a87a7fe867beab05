"""What a study remembers of its searches, and what it does with finalists whose images are broken."""

import json
from dataclasses import replace

import pytest
from studies import CLIP, SCENE, cost_table, finalists, latency, make_study, study_record

from postdiff_calib.cost.budget import Limit, parse_budget
from postdiff_calib.errors import StudyError, UsageError
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.report.terminal import print_calibration
from postdiff_calib.scores.memory import BatchSize
from postdiff_calib.scores.names import HELD_OUT
from postdiff_calib.scores.objective import Objective
from postdiff_calib.search.unfound import Unfound
from postdiff_calib.study.earlier import earlier_seconds, fitted_earlier, with_earlier_searches
from postdiff_calib.study.record import RECORD_VERSION, Study, StudyRecord
from postdiff_calib.study.searched import SearchedBudget, searched_budget, searched_data

FITS = {"step_reduction": True, "cheaper_steps": False, "combined": True}


@pytest.mark.parametrize(
    "unfound",
    [
        None,
        Unfound(),
        Unfound(cheaper_steps=0.5),
        Unfound(step_reduction=-0.25),
        Unfound(cheaper_steps=1.0, step_reduction=-2.0),
    ],
)
def test_a_searched_budget_is_plain_data_and_back(unfound):
    budget = SearchedBudget(Limit("seconds", "p95", 0.5, 2.0), ("aa", "bb"), unfound, FITS)
    data = json.loads(json.dumps(searched_data(budget), allow_nan=False))
    assert searched_budget(data) == budget


def test_the_record_is_read_back_with_its_objective_and_its_searches(tmp_path):
    study = make_study(tmp_path / "study", scene=True, widened=Unfound(step_reduction=-1.0))
    again = Study.load(study.folder).record
    assert again.objective == Objective((CLIP, SCENE))
    own, *further = again.searched
    assert (own.limit.value / own.limit.baseline, own.unfound) == (0.6, Unfound(step_reduction=-1.0))
    assert [b.limit.value / b.limit.baseline for b in further] == pytest.approx([0.25, 0.4, 0.8])
    assert again.as_dict() == study.record.as_dict()
    # a study that was never searched improves the score
    fields = {name: value for name, value in vars(again).items() if name not in ("objective", "searched")}
    assert StudyRecord(**fields).objective == Objective()


def test_a_record_of_another_version_is_refused_by_name():
    data = study_record().as_dict()
    assert data["record_version"] == RECORD_VERSION == 5
    with pytest.raises(StudyError, match="record version 3; this postdiff reads 5; move it away, then"):
        StudyRecord.from_dict({**data, "record_version": 3})


def test_a_record_of_the_version_before_had_seconds_of_an_image():
    data = study_record().as_dict()
    asked, environment = {**data["asked"], "budget": "1.2s"}, {**data["environment"], "latency_device": None}
    limit = {"limit": ["seconds", "median", 1.2, 2.0, "1.2s"], "finalists": [], "unfound": None, "fits": FITS}
    earlier = {**data, "record_version": 4, "asked": asked, "environment": environment, "searched": [limit]}
    record = StudyRecord.from_dict(earlier)
    assert record.asked.budget == parse_budget("1.2s per image")
    assert record.searched[0].limit == Limit("seconds", "median", 1.2, 2.0, per="image")
    assert StudyRecord.from_dict(record.as_dict()).as_dict() == record.as_dict()


def test_a_second_search_is_kept_beside_the_first_and_a_repeated_one_takes_its_place(tmp_path):
    study = make_study(tmp_path / "study")
    base = study.record.searched[0].limit.baseline
    new = SearchedBudget(Limit("macs", "median", 0.7 * base, base), ("cc",), Unfound(), FITS)
    repeated = SearchedBudget(Limit("macs", "median", 0.4 * base, base), ("dd",), None, FITS)
    after = study.with_search(50, [("T=4", "broken")], [new, repeated])
    assert Study.load(study.folder).record.as_dict() == after.record.as_dict()
    shares = [b.limit.value / b.limit.baseline for b in after.record.searched]
    assert sorted(shares) == pytest.approx([0.25, 0.4, 0.6, 0.7, 0.8])
    by_share = {round(b.limit.value / base, 2): b for b in after.record.searched}
    assert by_share[0.4] == repeated
    assert by_share[0.6] == study.record.searched[0]
    assert (after.record.trials, after.record.failed) == (50, (("T=4", "broken"),))
    # an interrupted search leaves what is known
    assert after.with_search(60, []).record.searched == after.record.searched


def test_earlier_searches_are_taken_over_from_the_same_study_only(tmp_path):
    study = make_study(tmp_path / "study")
    fresh = Study(study.folder, replace(study.record, searched=()))
    assert with_earlier_searches(fresh).record.searched == study.record.searched
    other = Study(study.folder, replace(study.record, searched=(), fingerprint={"model": "another"}))
    assert with_earlier_searches(other).record.searched == ()
    assert with_earlier_searches(Study(tmp_path / "none", fresh.record)).record.searched == ()


def test_seconds_are_taken_over_where_the_environment_is_the_same_only(tmp_path):
    study = make_study(tmp_path / "study")
    here = {"device_name": "this machine", "dtype": "float32"}
    assert earlier_seconds(tmp_path / "none", here) is None
    Study(study.folder, replace(study.record, cost=cost_table())).save()
    assert earlier_seconds(study.folder, here) is None
    times = latency(1e-9)
    Study(study.folder, replace(study.record, cost=cost_table(times))).save()
    assert earlier_seconds(study.folder, here) == times
    assert earlier_seconds(study.folder, {**here, "device_name": "another"}) is None


def test_the_batch_size_that_fitted_is_known_to_a_later_call_on_the_same_device(tmp_path):
    study = make_study(tmp_path / "study")
    assert "fitting" not in study.record.as_dict()
    assert fitted_earlier(study) is None
    study.with_batch(BatchSize(3)).save()
    assert Study.load(study.folder).record.settings.batch_size == 3
    assert fitted_earlier(study) == 3
    assert fitted_earlier(Study(tmp_path / "none", study.record)) is None
    elsewhere = study.record.environment.model_copy(update={"device": "another"})
    assert fitted_earlier(Study(study.folder, replace(study.record, environment=elsewhere))) is None


def test_a_finalist_that_broke_is_struck_off_and_named_and_the_others_are_judged(tmp_path):
    broken = Knobs(20, cache_interval=3)
    study = make_study(tmp_path / "study")
    plan_id = compile_plan(broken).plan_id
    assert plan_id in study.record.searched[0].finalists
    # its scores on held-out prompts end where its images broke
    path = study.folder / HELD_OUT
    blocks = [json.loads(line) for line in path.read_text().splitlines()]
    for block in blocks:
        if block["plan"] == plan_id:
            block["prompts"], block["scores"] = block["prompts"][:20], block["scores"][:20]
    path.write_text("".join(json.dumps(block) + "\n" for block in blocks))
    waiting = study.conclude(parse_budget("60%"))
    assert [row.searched for row in waiting.tradeoff.rows] == [True, True, False, False]

    struck = study.without({plan_id: (broken.describe(), "10 of 10 images: are constant")})
    assert all(plan_id not in budget.finalists for budget in struck.record.searched)
    assert struck.record.failed == ((broken.describe(), "10 of 10 images: are constant"),)
    assert Study.load(study.folder).record.as_dict() == struck.record.as_dict()
    profile = struck.conclude(parse_budget("60%"))
    assert [row.winner for row in profile.tradeoff.rows] == [
        "step_reduction",
        "step_reduction",
        "cheaper_steps",
        "cheaper_steps",
    ]
    assert profile.knobs == Knobs(20, cache_interval=2)
    assert all(row.cheaper_steps.knobs != broken.describe() for row in profile.tradeoff.rows)
    # said once, however often
    assert len(struck.without({plan_id: (broken.describe(), "10 of 10 images: are constant")}).record.failed) == 1
    assert study.without({}) is study


def test_a_held_out_prompt_set_aside_costs_no_plan_its_judgement(tmp_path):
    study = make_study(tmp_path / "study")
    path = study.folder / HELD_OUT
    blocks = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [i for i in range(60) if i >= 15][:44]  # 45 of 60 prompts, and one of these set aside
    aside = {str(i): "1 of 1 images: are constant" for i in range(60) if i not in kept}
    for block in blocks:
        block["scores"] = [block["scores"][i] for i in kept]
        block["prompts"] = kept
    blocks[0]["set_aside"] = aside
    path.write_text("".join(json.dumps(block) + "\n" for block in blocks))
    profile = Study.load(study.folder).conclude(parse_budget("60%"))
    assert profile.expected.confirmed
    assert profile.expected.difference.num_prompts == 44
    assert all(row.searched for row in profile.tradeoff.rows)
    assert [row.winner for row in profile.tradeoff.rows][:3] == ["step_reduction", "step_reduction", "cheaper_steps"]


def test_other_deltas_for_one_question(tmp_path):
    study = make_study(tmp_path / "study", scene=True)
    assert [t.delta for t in study.evidence(deltas=["scene=0.5"]).objective.terms] == [0.5, 0.5]
    assert [t.delta for t in study.evidence().objective.terms] == [0.5, 0.02]
    with pytest.raises(UsageError, match="--delta ssim=1"):
        study.evidence(deltas=["ssim=1"])


def test_the_made_up_studys_finalists_are_the_best_of_each_arm():
    base = 40_000.0
    found = finalists(
        Limit("macs", "median", 0.4 * base, base), {"combined": 1, "cheaper_steps": 2, "step_reduction": 2}
    )
    plans = [Knobs(12, cache_interval=2), Knobs(20, cache_interval=5)]
    plans += [Knobs(20, cache_interval=10, guidance_fraction=0.25), Knobs(8), Knobs(5)]
    assert list(found) == [compile_plan(knobs).plan_id for knobs in plans]


def test_a_failed_plan_is_named_with_its_reason_in_the_profile_and_on_the_terminal(tmp_path, capsys):
    study = make_study(tmp_path / "study").with_search(50, [("T=4 k=3", "10 of 10 images: are constant")])
    profile = study.conclude(parse_budget("60%"))
    line = "Failed: T=4 k=3: 10 of 10 images: are constant"
    assert line in profile.evidence.notes
    print_calibration(profile, tmp_path / "p.yaml", as_json=False)
    assert f"note: {line}" in capsys.readouterr().out
    print_calibration(profile, tmp_path / "p.yaml", as_json=True)
    assert line in json.loads(capsys.readouterr().out)["evidence"]["notes"]
