"""The main job on the embedded model, small: the profile holds what ran, a stopped run resumes, misuse is refused."""

import json
from dataclasses import replace

import pytest
import torch

from postdiff_calib.accelerate import accelerated
from postdiff_calib.budget import Limit
from postdiff_calib.calibrate import CalibrateJob, run_calibrate
from postdiff_calib.cli.main import main
from postdiff_calib.errors import BudgetError, StudyError, UnsupportedError
from postdiff_calib.generate import generate
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.load import load_pipeline
from postdiff_calib.models.shapes.judge import SceneJudge
from postdiff_calib.profile import load_profile
from postdiff_calib.prompts import draw, load_prompt_set
from postdiff_calib.quality.clip import ClipScorer
from postdiff_calib.record import Study, ladder
from postdiff_calib.search.names import HELD_OUT, SCORES
from postdiff_calib.search.pictures import PictureEvaluator


@pytest.fixture(scope="module")
def shapes():
    return load_pipeline("shapes", device="cpu", dtype="float32")


def settings(card):
    return {
        "height": card.height,
        "width": card.width,
        "guidance_scale": card.guidance_scale,
        "batch_size": 4,
        "latent_multiple": card.latent_multiple,
    }


def test_ladder_shares_are_of_the_baseline():
    assert [rung.value for rung in ladder(Limit("macs", "median", 60.0, 100.0))] == [25.0, 40.0, 80.0]


def test_scores_are_paired_by_seed_and_do_not_depend_on_the_order(shapes):
    scorer = ClipScorer(shapes.card.scorer, device="cpu")
    prompts = load_prompt_set("shapes").prompts[:4]
    seen = []
    evaluator = PictureEvaluator(shapes.pipe, scorer, prompts, 7, settings(shapes.card), seen.append)
    forward = evaluator.scores(Knobs(3), [0, 1, 2, 3])
    backward = evaluator.scores(Knobs(3), [3, 2, 1, 0])
    assert forward == pytest.approx(backward[::-1], abs=0.02)
    assert sum(seen) == 8
    assert evaluator.scores(Knobs(4), [0, 1]) != forward[:2]


def test_a_trained_model_draws_what_is_asked(shapes):
    scorer = ClipScorer(shapes.card.scorer, device="cpu")
    prompts = ["a large red circle on a white background", "a large blue square on a yellow background"]
    images = torch.cat(list(generate(shapes.pipe, Knobs(10), prompts, [0, 1], **settings(shapes.card))))
    right, wrong = scorer.score(images, prompts), scorer.score(images, prompts[::-1])
    assert all(r > w + 20 for r, w in zip(right, wrong, strict=True))


@pytest.mark.slow
def test_calibrate_deploy_and_resume(shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POSTDIFF_CACHE", str(tmp_path / "cache"))
    job = CalibrateJob(budget="60%", num_prompts=12, trials=6, device="cpu", dtype="float32")
    result = run_calibrate(job)
    profile = load_profile(result.path)
    assert profile == result.profile
    assert profile.expected.confirmed
    assert profile.expected.cost.macs <= profile.budget.limit
    assert profile.evidence.num_held_out == 6
    own = next(row for row in profile.tradeoff.rows if row.share == pytest.approx(profile.budget.share))
    assert own.fewer is not None
    assert own.cheaper is not None

    # The profile makes the very pictures that were scored: same prompts, seeds and batches, bit for bit.
    _, held_out = draw(load_prompt_set("shapes"), 12, 0)
    options = {**settings(shapes.card), "batch_size": profile.budget.batch_size}
    first = torch.cat(list(generate(shapes.pipe, profile.knobs, held_out.prompts, range(12, 18), **options)))
    again = load_pipeline("shapes", device="cpu", dtype="float32")
    with accelerated(again.pipe, profile):
        generators = [torch.Generator().manual_seed(seed) for seed in range(12, 18)]
        second = again.pipe(
            list(held_out.prompts),
            generator=generators,
            output_type="pt",
            guidance_scale=profile.model.guidance_scale,
        ).images
    assert torch.equal(first, second)

    # The same command makes no new picture; another seed is another study.
    assert run_calibrate(job).profile == profile
    with pytest.raises(StudyError, match="seed"):
        run_calibrate(CalibrateJob(num_prompts=12, trials=6, seed=1, study=job.folder, device="cpu"))

    # A budget that nothing meets says what is reachable, before any picture is made.
    with pytest.raises(BudgetError, match="cheapest reachable plan"):
        run_calibrate(CalibrateJob(budget="1%", num_prompts=12, study=tmp_path / "none", device="cpu"))

    # What was measured beside the score, and guards: the same study serves any, and keeps what it has when none is met.
    expected = profile.expected
    assert expected.cmmd is not None
    assert 0 < expected.ssim < 1
    assert 5 < expected.psnr < 100
    assert len(list((job.folder / "baseline").iterdir())) == 18
    record = Study.load(job.folder).record
    assert record.fingerprint["judge"] == SceneJudge().weights_sha256
    for path in (job.folder / SCORES, job.folder / HELD_OUT):  # every image is judged, the baseline's too
        for block in map(json.loads, path.read_text().splitlines()):
            assert set(block["measures"]["scene"]) <= {0.0, 100.0}
            assert len(block["measures"]["scene"]) == len(block["prompts"])
    loose = run_calibrate(
        replace(job, out=tmp_path / "loose.yaml", max_drop=("clip=50", "scene=100"), guards=("ssim=0.01", "cmmd=90"))
    )
    assert [(g.metric, g.rule, g.limit) for g in loose.profile.budget.guards] == [
        ("clip", "at least", -50.0),
        ("scene", "at least", -100.0),
        ("ssim", "at least", 0.01),
        ("cmmd", "at most", 90.0),
    ]
    assert -100 <= loose.profile.budget.guards[1].value <= 100
    assert loose.profile.evidence.images >= profile.evidence.images
    with pytest.raises(SystemExit) as stop:
        main(["calibrate", "--num-prompts=12", "--trials=6", "--device=cpu", "--quiet", "--guard=ssim=0.9999"])
    assert stop.value.code == 3
    said = capsys.readouterr().err
    assert "SSIM" in said
    assert "too low" in said
    assert said.count("\n") == 1

    # Ctrl-C while confirming keeps the best so far, on the calibration prompts alone.
    def stop_here(*_, **__):
        raise KeyboardInterrupt

    (job.folder / "held_out.jsonl").unlink()
    monkeypatch.setattr("postdiff_calib.search.confirm.confirm", stop_here)
    stopped = run_calibrate(replace(job, out=tmp_path / "stopped.yaml"))
    assert stopped.interrupted
    assert not load_profile(stopped.path).expected.confirmed
    assert load_profile(stopped.path).evidence.num_held_out == 0

    # Another scheduler is refused.
    from diffusers import EulerDiscreteScheduler

    again.pipe.scheduler = EulerDiscreteScheduler.from_config(again.pipe.scheduler.config)
    with pytest.raises(UnsupportedError, match="EulerDiscreteScheduler"), accelerated(again.pipe, profile):
        pass

    # And the command line runs it, with the unaccelerated picture beside.
    with pytest.raises(SystemExit) as stop:
        main(["generate", "a red circle on a white background", "--baseline", "--json", "--out", "pictures"])
    assert stop.value.code in (None, 0)
    data = json.loads(capsys.readouterr().out)
    assert data["knobs"] == profile.knobs.describe()
    assert (tmp_path / data["images"][0]["pair"]).exists()
