"""Judging set-ups: how one is read, what a user's function may do, and a whole judgement on the embedded model."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from profiles import profile_data

from postdiff_calib.cli.main import main
from postdiff_calib.cost.budget import PlanCost
from postdiff_calib.errors import KnobError, ProfileError, StudyError, UsageError
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.jobs.judge import JudgeJob, check_job, run_judge
from postdiff_calib.jobs.judge_images import kept_scores, known_seconds
from postdiff_calib.jobs.setups import applied, parse_setup
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.cards import get_card
from postdiff_calib.profile import Profile
from postdiff_calib.report.judged import verdict_line
from postdiff_calib.scores.objective import Objective, Term
from postdiff_calib.scores.select import PlanScores
from postdiff_calib.scores.store import FileStore
from postdiff_calib.study.judged import Cost, ScoredSetUp, judge_all

SETUPS = """
def fewer(pipe):
    return {"num_inference_steps": 3}

def undone(pipe):
    pipe.touched = True
    yield
    del pipe.touched

def broken(pipe):
    raise RuntimeError("no kernel")

def nonsense(pipe):
    return 3
"""


@pytest.fixture
def functions(tmp_path):
    path = tmp_path / "my_setups.py"
    path.write_text(SETUPS)
    return lambda name: f"{path}:{name}"


# --- reading ---------------------------------------------------------------------------------------------------------


def test_knobs_in_a_line_are_the_tables_own():
    card = get_card("shapes")
    assert parse_setup("T=12 k=2").knobs(card) == Knobs(12, cache_interval=2)
    assert parse_setup("s=0.5").knobs(card) == Knobs(20, 0.5, 0.5)
    assert parse_setup(Knobs(8)).knobs(card) == Knobs(8)
    assert parse_setup("T=12").key(card) == parse_setup("num_inference_steps=12 k=1").key(card)
    assert parse_setup("T=12").key(card) != parse_setup("T=13").key(card)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("T=12 k=2..3", KnobError, "k=2..3 is no single value"),
        ("T=12 T=13", KnobError, "T is given twice"),
        ("zz=1", KnobError, "there is no knob 'zz'"),
        ("something", UsageError, "it is no profile, no knobs and no function; such as profile.yaml"),
        ("absent_module_of_mine:f", UsageError, "absent_module_of_mine cannot be imported"),
        ("absent.yaml", ProfileError, "absent.yaml"),
        (3, UsageError, "it is no profile, no knobs"),
    ],
)
def test_what_is_no_setup_is_refused(text, error, message):
    with pytest.raises(error, match=message):
        parse_setup(text)


def test_profiles_are_setups(tmp_path):
    profile = Profile.model_validate(profile_data())
    path = profile.save(tmp_path / "p.yaml")
    assert parse_setup(str(path)).knobs(get_card("shapes")) == profile.knobs
    assert parse_setup(profile).profile == profile


def test_a_profile_is_judged_with_its_own_way_to_full_size():
    data = profile_data()
    own = Profile.model_validate(data)
    other = Profile.model_validate({**data, "plan": {**data["plan"], "switch": "expand", "noise": "independent"}})
    card, settings = get_card("shapes"), GenerationSettings(64, 64, 3.6, 1, switch="expand")
    assert parse_setup(own).settings(settings).switch == "renoise"
    assert parse_setup(other).settings(settings).attachment == other.generation.attachment
    assert parse_setup("T=4").settings(settings) is settings
    same_noise = Profile.model_validate({**data, "plan": {**data["plan"], "switch": "expand"}})
    assert len({parse_setup(one).key(card) for one in (own, other, same_noise)}) == 3


def test_a_profile_of_other_settings_is_refused_before_an_image_is_made(monkeypatch):
    profile = Profile.model_validate(profile_data())
    setup, own = parse_setup(profile), profile.generation
    monkeypatch.setattr("postdiff_calib.jobs.setups.mismatches", lambda model, loaded: list(loaded))
    setup.require_fit([], own)
    parse_setup("T=4").require_fit(["weights"], replace(own, height=8))
    for loaded, settings, says in (
        ([], replace(own, guidance_scale=1.5), r"guidance_scale \(1.5, profile: .*its knobs alone \(T="),
        ([], replace(own, negative_prompt="red"), "negative_prompt"),
        (["weights (a, profile: b)"], own, r"differs in weights \(a, profile: b\)"),
    ):
        with pytest.raises(ProfileError, match=says):
            setup.require_fit(loaded, settings)


def test_what_a_function_may_do_with_the_pipeline(functions):
    pipe = SimpleNamespace()
    undone = parse_setup(functions("undone"))
    with applied(undone, pipe) as found:
        assert pipe.touched
        assert found.call is pipe
    assert not hasattr(pipe, "touched")
    assert undone.undone
    assert not parse_setup(functions("fewer")).undone
    with applied(parse_setup(functions("fewer")), pipe) as found:
        assert (found.call, found.arguments) == (pipe, {"num_inference_steps": 3})
    with applied(parse_setup(lambda p: max), pipe) as found:
        assert found.call is max


@pytest.mark.parametrize(
    ("name", "message"), [("broken", "it fails .RuntimeError: no kernel."), ("nonsense", "it returned int")]
)
def test_a_function_that_fails_is_one_line(functions, name, message):
    with pytest.raises(UsageError, match=message), applied(parse_setup(functions(name)), SimpleNamespace()):
        pass


def test_everything_is_checked_before_a_model_is_loaded(tmp_path):
    base = CalibrateJob(model="shapes", study=tmp_path / "s")
    for setups, changed, message in (
        ((), {}, "there is no set-up to judge"),
        (("T=9", "T=9"), {}, "given twice"),
        (("T=9",), {"also": ("imagereward",)}, "process of its own"),
        (("T=9",), {"delta": ("sharp=1",)}, "the metrics of this study are clip, scene"),
    ):
        with pytest.raises(UsageError, match=message):
            check_job(JudgeJob(replace(base, **changed), setups))
    assert not (tmp_path / "s").exists()


# --- statistics ------------------------------------------------------------------------------------------------------


def scores(shift, noise=1.0, n=200, seed=0):
    values = 50 + shift + noise * np.random.default_rng(seed).standard_normal(n)
    return PlanScores(Knobs(20), PlanCost(0.0, 0.0), values)


def test_verdicts_are_those_of_paired_differences():
    objective, base = Objective((Term("clip", 5.0, 1.0, 0.5),)), scores(0.0)
    cost = Cost(4, (0.1, 0.3, 0.2), (0.4, 0.4, 0.4), 1e9, 2e9)
    assert cost.speed_up == 2.0
    shifts = {"better": 1.0, "worse": -1.0, "equivalent": 0.0}
    made = [ScoredSetUp(kind, scores(s, seed=0), cost) for kind, s in shifts.items()]
    made = [replace(m, scores=replace(m.scores, scores=m.scores.scores + 0.1 * scores(0.0, seed=i).scores - 5.0))
            for i, m in enumerate(made, 1)]  # fmt: skip
    found = judge_all([*made, ScoredSetUp("gone", None, None, "its images are constant")], base, objective)
    assert [one.verdict and one.verdict.kind for one in found] == ["better", "worse", "equivalent", None]
    (metric,) = found[0].metrics
    assert metric.score - metric.baseline_score == pytest.approx(metric.difference.mean)
    assert metric.difference.low < metric.difference.mean < metric.difference.high
    lines = [verdict_line(one, 200) for one in found]
    assert lines[2] == "equivalent: equivalent on 200 prompts: CLIP score within 0.50; 1 GMACs of 2 GMACs"
    assert lines[1].startswith("worse: worse on 200 prompts: CLIP score −1.0")
    assert lines[3] == "gone: not judged: its images are constant"


# --- the embedded model ----------------------------------------------------------------------------------------------


def judged(capsys, folder, *more):
    with pytest.raises(SystemExit) as left:
        main(["judge", "--model", "shapes", "--num-prompts", "10", "--steps", "4", "--study", str(folder), *more])
    out = capsys.readouterr()
    return left.value.code, out.out, out.err


def test_a_judgement_resumes_and_draws_its_images(tmp_path, capsys, functions, monkeypatch):
    monkeypatch.setattr("postdiff_calib.jobs.judge.ROUNDS", 1)
    folder = tmp_path / "study"
    asked = ["--with", "T=4", "--with", functions("fewer"), "--with", functions("undone"), "--json", "--quiet"]
    code, out, _ = judged(capsys, folder, *asked)
    assert not code
    found = json.loads(out)
    same, fewer, undone = found["setups"]
    for one in (same, undone):  # images equal the baseline's, prompt by prompt
        assert [m["difference"]["mean"] for m in one["metrics"]] == [0, 0]
        assert one["fidelity"]["ssim"] == pytest.approx(1, abs=1e-5)
        assert one["verdict"]["kind"] == "equivalent"
    assert same["cost"]["macs"] == same["cost"]["baseline_macs"]
    assert [m["metric"] for m in fewer["metrics"]] == ["clip", "scene"]
    assert fewer["cost"]["macs"] is None
    assert fewer["fidelity"]["ssim"] < 0.999
    assert all(len(one["cost"]["seconds"]) == len(one["cost"]["baseline_seconds"]) == 1 for one in found["setups"])
    with Image.open(found["grid"]) as grid:
        assert grid.size == (190 + 6 * 132, 4 * 132 + 64)

    def never(*args, **kwargs):
        raise AssertionError("an image is made again")

    monkeypatch.setattr("postdiff_calib.generate.images.generate", never)
    monkeypatch.setattr("postdiff_calib.generate.images.generate_stock", never)
    assert json.loads(judged(capsys, folder, *asked)[1]) == found
    code, _, err = judged(capsys, folder, "--with", "T=4", "--seed", "1")
    assert code == 2
    assert "made with other settings" in err


def test_a_fresh_start_keeps_no_scores_of_set_ups_that_it_does_not_name(tmp_path, capsys, monkeypatch):
    def stop(*given):
        raise UsageError("test", "it is stopped behind what is removed", "none")

    monkeypatch.setattr("postdiff_calib.jobs.judge.measure_objective", stop)
    (tmp_path / "about.json").write_text('{"study": "judge"}')
    for name in ("setup-00.jsonl", "scores.jsonl", "judge.png"):
        (tmp_path / name).touch()
    code, _, err = judged(capsys, tmp_path, "--with", "T=4", "--fresh", "--quiet")
    assert (code, "it is stopped" in err) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["about.json", "judge.png", "study.lock"]


def test_damaged_files_of_a_judgement(tmp_path):
    path, good = tmp_path / "seconds.json", {"seconds": [1], "baseline_seconds": [2.5], "batch_size": 4}
    wrong = [3, {}, *(good | change for change in (
        {"seconds": []}, {"seconds": ["1"]}, {"seconds": [0]}, {"baseline_seconds": None}, {"batch_size": "4"},
    ))]  # fmt: skip
    path.write_text(json.dumps({"good": good, **{str(i): one for i, one in enumerate(wrong)}}))
    assert known_seconds(path) == {"good": good}  # the others are timed again
    path.write_bytes(b"\xff")
    assert known_seconds(path) == {}
    store, knobs = FileStore(tmp_path / "setup.jsonl"), Knobs(4).as_dict()
    store.append({"plan": "a", "knobs": knobs, "prompts": [1, 2], "scores": [1.0, 2.0]})
    assert 2 in kept_scores(store, 3)
    with pytest.raises(StudyError, match="scores of prompt 2, and there are 2 prompts"):
        kept_scores(store, 2)


def test_a_function_that_fails_leaves_by_one_line_and_keeps_the_baseline(tmp_path, capsys, functions):
    code, _, err = judged(capsys, tmp_path / "s", "--with", functions("broken"), "--quiet")
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert "it fails (RuntimeError: no kernel); correct it, or leave it out" in err
    assert (tmp_path / "s" / "scores.jsonl").exists()


def test_a_callers_pipeline_that_stays_changed_is_judged_last(tmp_path, monkeypatch):
    monkeypatch.setattr("postdiff_calib.jobs.judge.ROUNDS", 1)
    from postdiff_calib.jobs.given import Given
    from postdiff_calib.models.load import load_pipeline

    def fewer(pipe):
        return {"num_inference_steps": 2}

    base = CalibrateJob(model="shapes", num_prompts=10, study=tmp_path / "s")
    given = Given(load_pipeline("shapes", device="cpu", settings=replace(base.deployment, num_inference_steps=3)))
    job = JudgeJob(replace(base, deployment=replace(base.deployment, num_inference_steps=3)), (fewer, Knobs(2)))
    with pytest.raises(UsageError, match="set-up fewer: it changed the pipeline for good"):
        run_judge(job, None, given)
