"""The main job on the embedded model, small: the profile holds what ran, a stopped run resumes, misuse is refused."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from studies import study_record

from postdiff_calib.accelerate import accelerated
from postdiff_calib.cli.main import main
from postdiff_calib.cost.budget import Limit, PlanCost, parse_budget
from postdiff_calib.errors import BudgetError, StudyError, UnsupportedError
from postdiff_calib.generate.images import generate
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.jobs.calibrate import run_calibrate, spread_stage
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.cards import get_card
from postdiff_calib.models.load import load_pipeline
from postdiff_calib.models.shapes.judge import SceneJudge
from postdiff_calib.profile import load_profile
from postdiff_calib.progress import Silent
from postdiff_calib.prompts import PromptSet, draw, load_prompt_set
from postdiff_calib.quality.clip import ClipScorer
from postdiff_calib.quality.health import HealthError
from postdiff_calib.scores.evaluator import ImageEvaluator
from postdiff_calib.scores.measured import Measured
from postdiff_calib.scores.names import HELD_OUT, OTHER_SEEDS, SCORES
from postdiff_calib.study.record import Study
from postdiff_calib.study.searched import further_limits


@pytest.fixture(scope="module")
def shapes():
    return load_pipeline("shapes", device="cpu", dtype="float32")


def settings(card):
    return GenerationSettings(card.height, card.width, card.guidance_scale, 4, latent_multiple=card.latent_multiple)


def test_further_budgets_are_shares_of_the_baseline_and_never_the_own_one():
    assert [at.value for at in further_limits(Limit("macs", "median", 60.0, 100.0))] == [25.0, 40.0, 80.0]
    assert [at.value for at in further_limits(Limit("macs", "median", 40.0, 100.0))] == [25.0, 80.0]
    assert {(at.kind, at.quantile) for at in further_limits(Limit("seconds", "p95", 1.0, 4.0))} == {("seconds", "p95")}
    shares = {"25%", "40%", "80%"}
    for budget, texts in (("60%", shares), ("60% time", {f"{s} time" for s in shares})):
        own = parse_budget(budget).resolve(PlanCost(100.0, 90.0, 2.0, 2.5))
        assert {at.text for at in further_limits(own)} == texts
        assert all(parse_budget(at.text).resolve(PlanCost(100.0, 90.0, 2.0, 2.5)) == at for at in further_limits(own))


# --- the spread of each metric -------------------------------------------------------------------------------------


class Bench:
    """Two values a prompt that are ``apart`` from each other; scenes that are right with one seed in two."""

    metrics, also, seed = ("clip", "scene"), (), 0
    loaded = SimpleNamespace(card=get_card("shapes"))

    def __init__(self, apart=4.0, broken=(), size=12):
        self.calibration = PromptSet(tuple(f"prompt {i}" for i in range(size)), "c", name="some")
        self.held_out = PromptSet(tuple(f"unseen {i}" for i in range(2 * size)), "h", name="others")
        self.apart, self.broken, self.size, self.asked = apart, set(broken), size, []

    def evaluator(self, prompts, seed, on_images=None, folder=None, note=None):
        self.asked.append((prompts.prompts, seed, folder))
        return self

    def measured(self, knobs, indices):
        if self.broken & set(indices):
            raise HealthError("1 of 10 images", "are constant", "use float32")
        n = min(30, self.size)
        second = [i >= n for i in indices]
        scores = [50.0 + 10 * (i % n) + self.apart * s for i, s in zip(indices, second, strict=True)]
        return Measured(scores, {"scene": [100.0 * s for s in second]})

    def scores(self, knobs, indices):
        return self.measured(knobs, indices).scores


def spread(folder, bench, **asked):
    given = replace(study_record().asked, **asked)
    study = Study(folder, study_record(asked=given, calibration=bench.calibration.prompts))
    return spread_stage(study, bench, Silent())


def test_the_spread_is_that_of_two_seeds_and_delta_a_tenth_of_it(tmp_path):
    bench = Bench()
    terms = spread(tmp_path, bench).record.objective.terms
    # differences of 4 points and of 100 % between two seeds: spreads of 4 / √2 and 100 / √2
    assert [t.spread for t in terms] == pytest.approx([4 / 2**0.5, 100 / 2**0.5])
    assert [t.delta for t in terms] == pytest.approx([0.4 / 2**0.5, 10 / 2**0.5])
    assert [t.weight for t in terms] == [1.0, 1.0]
    # the same prompts twice, with seeds that neither the search nor the judgement uses
    assert bench.asked == [(bench.calibration.prompts * 2, 12 + 24, None)]
    # what is known is not measured again
    assert spread(tmp_path, Bench(apart=9.0)).record.objective.terms == terms


def test_given_deltas_and_weights_stand(tmp_path):
    terms = spread(tmp_path, Bench(), delta=("clip=0.25",), weight=("scene=3",)).record.objective.terms
    assert [t.delta for t in terms] == pytest.approx([0.25, 10 / 2**0.5])
    assert [t.weight for t in terms] == [1.0, 3.0]


def test_thirty_prompts_are_enough_for_the_spread(tmp_path):
    bench = Bench(size=40)
    spread(tmp_path, bench)
    assert bench.asked[0][0] == bench.calibration.prompts[:30] * 2


def test_a_broken_image_of_the_baseline_leaves_its_prompt_out_of_the_spread(tmp_path):
    terms = spread(tmp_path / "one", Bench(broken=[15])).record.objective.terms
    assert terms[0].spread == pytest.approx(4 / 2**0.5)
    with pytest.raises(StudyError, match="the baseline's images of 3 of 24 prompts: they are broken"):
        spread(tmp_path / "many", Bench(broken=[0, 1, 2]))


# --- the embedded model --------------------------------------------------------------------------------------------


def test_scores_are_paired_by_seed_and_do_not_depend_on_the_order(shapes):
    scorer = ClipScorer(shapes.card.scorer, device="cpu")
    prompts = load_prompt_set("shapes").prompts[:4]
    seen = []
    evaluator = ImageEvaluator(shapes.pipe, scorer, prompts, 7, settings(shapes.card), seen.append)
    forward = evaluator.scores(Knobs(3), [0, 1, 2, 3])
    backward = evaluator.scores(Knobs(3), [3, 2, 1, 0])
    assert forward == pytest.approx(backward[::-1], abs=0.02)
    assert sum(seen) == 8
    assert evaluator.scores(Knobs(4), [0, 1]) != forward[:2]


def test_a_trained_model_draws_what_is_asked(shapes):
    scorer = ClipScorer(shapes.card.scorer, device="cpu")
    prompts = ["a large red circle on a white background", "a large blue square on a yellow background"]
    images = torch.cat(list(generate(shapes.pipe, Knobs(10), prompts, [0, 1], settings(shapes.card))))
    right, wrong = scorer.score(images, prompts), scorer.score(images, prompts[::-1])
    assert all(r > w + 20 for r, w in zip(right, wrong, strict=True))


@pytest.mark.slow
def test_calibrate_deploy_and_resume(shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POSTDIFF_CACHE", str(tmp_path / "cache"))
    job = CalibrateJob(budget=parse_budget("60%"), num_prompts=12, trials=6, device="cpu", dtype="float32")
    result = run_calibrate(job)
    profile = load_profile(result.path)
    assert profile == result.profile
    assert profile.expected.confirmed
    assert profile.expected.cost.macs <= profile.budget.limit
    assert profile.evidence.num_held_out == 12
    own = next(row for row in profile.tradeoff.rows if row.share == pytest.approx(profile.budget.share))
    assert own.step_reduction is not None
    assert own.cheaper_steps is not None
    assert [row.share for row in profile.tradeoff.rows] == pytest.approx([0.25, 0.4, 0.6, 0.8])
    assert all(row.searched for row in profile.tradeoff.rows)
    # the spread of each metric is measured, and a tenth of it is what is cared about
    study = Study.load(job.folder)
    assert [t.metric for t in study.record.objective.terms] == ["clip", "scene"]
    assert [m.metric for m in profile.expected.metrics] == ["clip", "scene"]
    for term, stated in zip(study.record.objective.terms, profile.expected.metrics, strict=True):
        assert term.delta == pytest.approx(term.spread / 10)
        assert (stated.spread, stated.delta, stated.weight) == (term.spread, term.delta, 1.0)
    assert len(study.record.searched) == 4
    assert (job.folder / OTHER_SEEDS).exists()

    # The profile makes the images that were scored: with the same prompts, seeds and batches, bit for bit.
    _, held_out = draw(load_prompt_set("shapes"), 12, 0)
    options = replace(settings(shapes.card), batch_size=profile.budget.batch_size)
    first = torch.cat(list(generate(shapes.pipe, profile.knobs, held_out.prompts[:6], range(6, 12), options)))
    again = load_pipeline("shapes", device="cpu", dtype="float32")
    with accelerated(again.pipe, profile):
        generators = [torch.Generator().manual_seed(seed) for seed in range(6, 12)]
        second = again.pipe(
            list(held_out.prompts[:6]),
            generator=generators,
            output_type="pt",
            guidance_scale=profile.model.guidance_scale,
        ).images
    assert torch.equal(first, second)

    # The same command makes no new image; another seed is another study.
    assert run_calibrate(job).profile == profile
    with pytest.raises(StudyError, match="seed"):
        run_calibrate(CalibrateJob(num_prompts=12, trials=6, seed=1, study=job.folder, device="cpu"))

    # A budget that nothing meets says what is reachable, before any image is made.
    with pytest.raises(BudgetError, match="cheapest reachable plan"):
        run_calibrate(CalibrateJob(budget=parse_budget("1%"), num_prompts=12, study=tmp_path / "none", device="cpu"))

    # What was measured beside the score, and guards: the same study serves any, and keeps what it has when none is met.
    expected = profile.expected
    assert expected.cmmd is not None
    assert 0 < expected.ssim < 1
    assert 5 < expected.psnr < 100
    # the baseline's images that others are measured against: of the search as far as it went, and all held-out ones
    searched, _ = Study.load(job.folder).scored()
    assert searched.baseline.n >= 3
    assert len(list((job.folder / "baseline").iterdir())) == searched.baseline.n + 12
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

    # Ctrl-C while confirming keeps the best so far, on the calibration prompts alone. More evaluations, so that some
    # plan is scored on all of them.
    def stop_here(*_, **__):
        raise KeyboardInterrupt

    (job.folder / "held_out.jsonl").unlink()
    monkeypatch.setattr("postdiff_calib.search.confirm.confirm", stop_here)
    stopped = run_calibrate(replace(job, trials=40, out=tmp_path / "stopped.yaml"))
    assert stopped.interrupted
    assert not load_profile(stopped.path).expected.confirmed
    assert load_profile(stopped.path).evidence.num_held_out == 0

    # Another scheduler is refused.
    from diffusers import EulerDiscreteScheduler

    again.pipe.scheduler = EulerDiscreteScheduler.from_config(again.pipe.scheduler.config)
    with pytest.raises(UnsupportedError, match="EulerDiscreteScheduler"), accelerated(again.pipe, profile):
        pass

    # And the command line runs it, with the baseline's image beside.
    with pytest.raises(SystemExit) as stop:
        main(["generate", "a red circle on a white background", "--baseline", "--json", "--out", "images"])
    assert stop.value.code in (None, 0)
    data = json.loads(capsys.readouterr().out)
    assert data["knobs"] == profile.knobs.describe()
    assert (tmp_path / data["images"][0]["pair"]).exists()
