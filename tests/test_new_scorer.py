"""Scorers of a user's own go all the way: measured, guarded, improved or only judging, written, read back and shown."""

import io
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from report.report_study import make_study
from rich.console import Console
from test_new_metric import BUDGET, generate

from postdiff_calib.cli.main import main
from postdiff_calib.errors import GuardError, ProfileError, StudyError, UsageError
from postdiff_calib.jobs.checks import quality
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.jobs.preflight import check_guards, check_job
from postdiff_calib.jobs.profile_scorers import scorer_checks, scorer_names
from postdiff_calib.knobs import Knobs
from postdiff_calib.profile import load_profile, parse_profile
from postdiff_calib.profile.sections import ScorerEntry
from postdiff_calib.quality.scorers import FunctionScorer
from postdiff_calib.report.comparison import profile_warnings
from postdiff_calib.report.html.findings import Findings
from postdiff_calib.report.html.page import render
from postdiff_calib.report.terminal import print_profile
from postdiff_calib.scores.evaluator import ImageEvaluator
from postdiff_calib.scores.names import HELD_OUT, SCORES
from postdiff_calib.scores.objective import Objective, Term
from postdiff_calib.scores.paired import Comparison
from postdiff_calib.scores.store import FileStore

SCORER, ALSO = "hpsv2:/weights.pt", ("imagereward=command: /venv/bin/python ir.py",)
TERMS = (Term("hpsv2", 2.0, 1.0, 0.2), Term("imagereward", 0.5, 0.0, 0.05))


def bright(images, prompts):
    return images.mean((1, 2, 3))


def dark(images, prompts):
    return 1 - images.mean((1, 2, 3))


def judged_study(folder, **job):
    """A study that was searched on hpsv2: every plan gains 1 by it and loses 0.1 by ImageReward, which only judges."""
    study = make_study(folder, scene=False, **job)
    also = [ScorerEntry(metric="imagereward", scorer=ALSO[0], scorer_sha256="b" * 64)]
    evidence = study.record.evidence.model_copy(update={"scorer": SCORER, "also": also})
    asked = replace(study.record.asked, scorer=SCORER, also=ALSO)
    study = replace(study, record=replace(study.record, objective=Objective(TERMS), evidence=evidence, asked=asked))
    study.save()
    for name in (SCORES, HELD_OUT):
        store, blocks = FileStore(folder / name), []
        for block in store.read():
            is_baseline, n = block["knobs"] == Knobs(20).as_dict(), len(block["prompts"])
            level = np.arange(n) % 5 / 10
            own = {
                "hpsv2": (27.0 + level + (0.0 if is_baseline else 1.0)).tolist(),
                "imagereward": (level - (0.0 if is_baseline else 0.1)).tolist(),
            }
            blocks.append({**block, "scores": own["hpsv2"], "measures": {**block.get("measures", {}), **own}})
        store.replace(blocks)
    return study


def test_images_are_scored_by_all_of_them_and_no_embedding_is_no_error(monkeypatch):
    monkeypatch.setattr("postdiff_calib.generate.images.generate", generate)
    scorers = [FunctionScorer(f, f.__name__, f.__name__, "f") for f in (bright, dark)]
    evaluator = ImageEvaluator(None, scorers[0], ["a", "b"], 3, {}, also=scorers[1:])
    found = evaluator.measured(Knobs(8), [0, 1])
    assert found.features is None
    assert set(found.measures) == {"bright", "dark"}
    assert found.scores == found.measures["bright"] == pytest.approx([0.25, 0.25], abs=0.02)
    assert np.add(found.scores, found.measures["dark"]) == pytest.approx([1, 1])


def test_guards_on_scorers_are_checked_before_anything_is_loaded(tmp_path):
    job = CalibrateJob(study=tmp_path / "s", out=tmp_path / "p.yaml", scorer="a:bright", also=("b:dark",))
    check_job(job)
    check_guards(replace(job, guards=("dark=-0.05", "ssim=0.8"), max_drop=("bright=0.1",)))
    for guards, message in (
        (("cmmd=0.1",), "it is measured by embeddings, which scorer a:bright has none of"),
        (("clip=-1",), "--guard knows"),
        (("gloom=-1",), "--guard knows"),
    ):
        with pytest.raises(GuardError, match=message):
            check_guards(replace(job, guards=guards))


def test_the_profile_states_each_of_them_and_is_read_back(tmp_path):
    profile = judged_study(tmp_path / "study", guards=["imagereward=-0.2"]).conclude(BUDGET)
    first, second = profile.metric_results
    assert (first.metric, first.weight, first.difference.mean, first.verdict) == (
        "hpsv2",
        1,
        pytest.approx(1),
        "better",
    )
    assert (second.metric, second.weight, second.difference.mean) == ("imagereward", 0, pytest.approx(-0.1))
    assert profile.expected.metric == "hpsv2"
    assert profile.expected.verdict == "worse"  # by the scorer that was not searched on
    (guard,) = profile.budget.guards
    assert (guard.metric, guard.rule, guard.limit, guard.value) == (
        "imagereward",
        "at least",
        -0.2,
        pytest.approx(-0.1),
    )
    path = profile.save(tmp_path / "profile.yaml")
    assert load_profile(path) == profile
    with pytest.raises(ProfileError, match="it states no metric gloom"):
        parse_profile(path.read_text().replace("metric: imagereward\n    rule", "metric: gloom\n    rule"))
    assert profile_warnings(profile, profile) == []
    other = profile.model_copy(update={"evidence": profile.evidence.model_copy(update={"also": []})})
    assert "different further scorers" in profile_warnings(profile, other)[0]


def test_they_are_shown_in_report_and_terminal(tmp_path):
    study = judged_study(tmp_path / "study")
    page = render(Findings(study, BUDGET))
    assert "HPSv2.1 minus the baseline" in page
    assert "Difference in ImageReward" in page
    assert "CLIP score" not in page
    small = Objective((replace(TERMS[0], delta=0.00025), *TERMS[1:]))
    page = render(Findings(replace(study, record=replace(study.record, objective=small)), BUDGET))
    assert "differences within ±0.00025, which count" in page
    console = Console(file=io.StringIO(), width=200)
    print_profile(study.conclude(BUDGET), as_json=False, console=console)
    shown = " ".join(console.file.getvalue().split())
    assert f"judged by HPSv2.1 ({SCORER}), ImageReward ({ALSO[0]})" in shown
    assert "ImageReward 0.100, baseline 0.200: −0.100 [−0.100, −0.100] worse" in shown


def test_verify_takes_the_profiles_own_scorers_and_no_others(tmp_path):
    profile = judged_study(tmp_path / "study").conclude(BUDGET)
    with pytest.raises(UsageError, match="it is code, which does not run because a file names it; look at it, then"):
        scorer_names(profile, None, ())
    assert [(one.metric, one.kind) for one in scorer_names(profile, None, ALSO)] == [
        ("hpsv2", "hpsv2"),
        ("imagereward", "command"),
    ]
    moved = scorer_names(profile, "hpsv2:/other.pt", ["imagereward=command: /elsewhere/python ir.py"])
    assert [one.source for one in moved] == ["hpsv2:/other.pt", "command: /elsewhere/python ir.py"]
    with pytest.raises(UsageError, match="beside the scorer itself there is imagereward"):
        scorer_names(profile, None, ["a:bright"])
    same = [
        FunctionScorer(bright, "h", "hpsv2", profile.evidence.scorer_sha256),
        FunctionScorer(dark, "i", "imagereward", "b" * 64),
    ]
    assert [check.outcome for check in scorer_checks(profile, same)] == ["passed", "passed"]
    same[1] = FunctionScorer(dark, "i", "imagereward", "another")
    assert [(c.name, c.outcome) for c in scorer_checks(profile, same)][1] == ("scorer imagereward", "failed")
    worse = quality("imagereward", profile.metric_results[1].difference, Comparison(60, -0.9, -1, -0.8, 0.3), "prompts")
    assert worse.outcome == "failed"


def test_a_study_of_other_scorers_is_refused_before_the_model_is_loaded(tmp_path):
    judged_study(tmp_path / "study")
    job = CalibrateJob(study=tmp_path / "study", out=tmp_path / "p.yaml")
    with pytest.raises(StudyError, match=r"metrics was .'hpsv2', 'scene', 'imagereward'., now .'clip', 'scene'."):
        check_job(job)


@pytest.mark.slow
def test_a_calibration_on_a_function_that_a_process_judges_beside(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def bright(images, prompts):\n    return images.mean((1, 2, 3))\n")
    (tmp_path / "their.py").write_text(
        "import json, sys\nfrom PIL import Image, ImageStat\nprint(json.dumps({'postdiff_scorer': 1}), flush=True)\n"
        "for line in sys.stdin:\n    asked = json.loads(line)\n"
        "    scores = [ImageStat.Stat(Image.open(path)).stddev[0] for path in asked['images']]\n"
        "    print(json.dumps({'id': asked['id'], 'scores': scores}), flush=True)\n"
    )
    also, out = f"contrast=command: {sys.executable} {tmp_path / 'their.py'}", tmp_path / "p.yaml"
    common = ["--num-prompts", "10", "--trials", "2", "--steps", "4", "--study", str(tmp_path / "s"), "--out", str(out)]
    asked = ["calibrate", "--model", "shapes", "--scorer", f"{tmp_path / 'mine.py'}:bright", "--also", also, *common]
    with pytest.raises(SystemExit) as left:
        main([*asked, "--guard", "contrast=-200", "--quiet", "--json"])
    assert not left.value.code, capsys.readouterr().err
    profile = json.loads(capsys.readouterr().out)
    assert [m["metric"] for m in profile["expected"]["metrics"]] == ["bright", "scene", "contrast"]
    assert profile["expected"]["cmmd"] is None
    assert profile["budget"]["guards"][0]["metric"] == "contrast"
    assert profile["evidence"]["also"][0]["scorer"] == also
    verify = ["verify", str(out), "--prompts", "10", "--quiet", "--json", "--scorer", f"{tmp_path / 'mine.py'}:bright"]
    with pytest.raises(SystemExit) as left:
        main(verify)
    assert left.value.code == 2  # a profile alone does not make code run
    assert "it is code, which does not run because a file names it" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        main([*verify, "--also", also])
    found = {check["name"]: check["outcome"] for check in json.loads(capsys.readouterr().out)["checks"]}
    assert found["scorer"] == found["scorer contrast"] == "passed"
    assert {"quality bright", "quality contrast", "guard contrast"} <= set(found)
    (tmp_path / "mine.py").write_text("def bright(images, prompts):\n    return 2 * images.mean((1, 2, 3))\n")
    with pytest.raises(SystemExit) as left:
        main([*verify, "--also", also])
    found = {check["name"]: check["outcome"] for check in json.loads(capsys.readouterr().out)["checks"]}
    assert (left.value.code, found["scorer"], found["quality"]) == (3, "failed", "not judged")
