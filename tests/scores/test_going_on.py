"""What does not end a run: a batch that does not fit into memory, a scorer that fails once, a finalist that breaks."""

import pytest
import torch
from synthetic_surface import SMALL, Surface, limit, price

from postdiff_calib.errors import PlanError
from postdiff_calib.generate.images import generate
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.load import load_pipeline
from postdiff_calib.plan import compile_plan
from postdiff_calib.prompts import load_prompt_set
from postdiff_calib.quality.clip import ClipScorer
from postdiff_calib.scores.evaluator import ImageEvaluator
from postdiff_calib.search.backend.run import Problem, StudyPlace, run_search
from postdiff_calib.search.confirm import confirm
from postdiff_calib.search.strategy import SearchSettings

PROMPTS = load_prompt_set("shapes").prompts[:5]


@pytest.fixture(scope="module")
def shapes():
    return load_pipeline("shapes", device="cpu", dtype="float32")


@pytest.fixture
def bench(shapes):
    said = []
    settings = GenerationSettings(height=64, width=64, guidance_scale=4.0, batch_size=4, latent_multiple=2)
    scorer = ClipScorer(shapes.card.scorer, device="cpu")
    return ImageEvaluator(shapes.pipe, scorer, PROMPTS, 7, settings, note=said.append), said


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    MemoryError(),
]


def short_of_memory(monkeypatch, most, error):
    """No more than ``most`` images fit at a time."""
    sizes = []

    def limited(pipe, knobs, prompts, seeds, settings):
        sizes.append(min(settings.batch_size, len(prompts)))
        if sizes[-1] > most:
            raise error
        return generate(pipe, knobs, prompts, seeds, settings)

    monkeypatch.setattr("postdiff_calib.generate.images.generate", limited)
    return sizes


@pytest.mark.parametrize("error", FULL, ids=["gpu", "cpu", "python"])
def test_a_batch_that_does_not_fit_is_halved_and_remembered(bench, monkeypatch, heard, error):
    evaluator, said = bench
    whole = evaluator.scores(Knobs(2), range(5))
    sizes = short_of_memory(monkeypatch, 1, error)
    assert evaluator.scores(Knobs(2), range(5)) == pytest.approx(whole, abs=0.02)
    assert sizes == [4, 2, 1]
    assert evaluator.batch.within(evaluator.settings).batch_size == 1  # as the bench and the record come to know
    assert said == [
        "4 images at a time do not fit into memory; going on with 2",
        "2 images at a time do not fit into memory; going on with 1",
    ]
    assert heard == ["halved batch"] * 2
    assert len(evaluator.scores(Knobs(2), range(3))) == 3
    assert sizes[3:] == [1]


def test_a_plan_of_which_no_image_fits_fails_by_name(bench, monkeypatch):
    short_of_memory(monkeypatch, 0, FULL[0])
    with pytest.raises(PlanError, match="T=2: it does not fit into memory even one image at a time"):
        bench[0].scores(Knobs(2), range(5))


def test_other_errors_of_the_model_are_not_taken_for_it(bench, monkeypatch):
    short_of_memory(monkeypatch, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        bench[0].scores(Knobs(2), [0])


@pytest.mark.parametrize("failures", [1, 2])
def test_a_scorer_that_fails_is_asked_once_more_and_then_the_plan_fails(bench, monkeypatch, heard, failures):
    evaluator, said = bench
    stock, calls = evaluator.scorer.image_features, []

    def failing(images):
        calls.append(len(images))
        if len(calls) <= failures:
            raise ValueError("a hiccup")
        return stock(images)

    whole = evaluator.scores(Knobs(2), [0, 1])
    monkeypatch.setattr(evaluator.scorer, "image_features", failing)
    if failures == 1:
        assert evaluator.scores(Knobs(2), [0, 1]) == whole
    else:
        with pytest.raises(PlanError, match=r"T=2: its images cannot be scored \(ValueError: a hiccup, twice\)"):
            evaluator.scores(Knobs(2), [0, 1])
    assert said == ["scoring images of T=2 failed (ValueError: a hiccup); trying once more"]
    assert heard == ["retry"]


def test_a_finalist_that_gives_nan_is_dropped_and_the_next_takes_its_place(tmp_path):
    n = 20
    problem = Problem(SMALL, price, limit(0.5, SMALL), Surface(n, space=SMALL), n)
    result = run_search(problem, SearchSettings(n_trials=6), StudyPlace(tmp_path), {})
    first = result.searched[0].finalists[0].candidate

    class Undefined(Surface):
        def scores(self, knobs, indices):
            values = super().scores(knobs, indices)
            return [float("nan")] * len(values) if knobs == first.knobs else values

    chosen = [f.candidate.knobs for f in result.searched[0].finalists]
    broken = confirm(Undefined(n, space=SMALL), n, chosen, SMALL.baseline, tmp_path)
    assert list(broken) == [first.plan_id]
    assert "it is not a finite number" in broken[first.plan_id]
    (again,) = result.without(broken).searched
    plans = [f.candidate.plan_id for f in again.finalists]
    assert first.plan_id not in plans
    assert len(plans) >= len(chosen)
    assert set(plans) - {compile_plan(knobs).plan_id for knobs in chosen}
    assert (
        confirm(Undefined(n, space=SMALL), n, [f.candidate.knobs for f in again.finalists], SMALL.baseline, tmp_path)
        == {}
    )
    # a baseline that cannot be scored is the end
    with pytest.raises(PlanError):
        confirm(Undefined(n, space=SMALL), n, chosen, first.knobs, tmp_path / "other")
    assert compile_plan(first.knobs).plan_id == first.plan_id
