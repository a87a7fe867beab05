"""Judging the finalists: those that break on held-out images are replaced a few times; batches that are recalled."""

from types import SimpleNamespace

import numpy as np
import pytest
from studies import make_study, study_record
from synthetic_surface import SMALL, Surface, limit, price

from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.jobs.calibrate import REPLACEMENTS, confirm_stage, recall_batch, saved
from postdiff_calib.plan import compile_plan
from postdiff_calib.progress import Silent
from postdiff_calib.prompts import PromptSet
from postdiff_calib.quality.health import HealthError
from postdiff_calib.scores.memory import BatchSize
from postdiff_calib.scores.objective import Objective
from postdiff_calib.search.backend.run import Problem, StudyPlace, run_search
from postdiff_calib.search.settings import SearchSettings
from postdiff_calib.study.record import Study

N = 20


class Noted(Silent):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


class Broken(Surface):
    """The images of the first ``many`` plans beside the baseline that it is asked for are broken."""

    def __init__(self, many):
        super().__init__(N, seed=1, space=SMALL)
        self.many, self.broken = many, []

    def scores(self, knobs, indices):
        if knobs != SMALL.baseline and knobs not in self.broken and len(self.broken) < self.many:
            self.broken.append(knobs)
        if knobs in self.broken:
            raise HealthError("10 of 10 images", "are constant", "use float32")
        return super().scores(knobs, indices)


@pytest.fixture
def searched(tmp_path):
    names = {"calibration": tuple(f"p{i}" for i in range(N)), "held_out": tuple(f"q{i}" for i in range(N))}
    record = study_record(num_inference_steps=12, searched=(), objective=Objective(), **names)
    problem = Problem(SMALL, price, limit(0.5, SMALL), Surface(N, space=SMALL), N)
    search = run_search(problem, SearchSettings(n_trials=6), StudyPlace(tmp_path), {})
    return Study(tmp_path, record), search


def judged(searched, evaluator):
    study, search = searched
    bench = SimpleNamespace(
        held_out=PromptSet(study.record.held_out, "h", name="some"),
        held_out_seed=N,
        batch=BatchSize(),
        evaluator=lambda *_: evaluator,
    )
    study = saved(study, bench, search, search.searched)
    progress = Noted()
    return confirm_stage(study, bench, search, progress), progress.notes


@pytest.mark.parametrize("many", [1, 3])
def test_finalists_that_break_are_replaced_named_and_struck_off(searched, heard, many):
    evaluator = Broken(many)
    study, notes = judged(searched, evaluator)
    assert len(evaluator.broken) == len(notes) == many
    for knobs, note in zip(evaluator.broken, notes, strict=True):
        said = f"{knobs.describe()} is dropped, the next takes its place: 10 of 10 images: are constant; use float32"
        assert note == said
    assert [kind for kind in heard if kind not in ("stage", "block")] == ["failed plan", "fallback"] * many
    assert [knobs for knobs, _ in study.record.failed] == [knobs.describe() for knobs in evaluator.broken]
    before = {f.candidate.plan_id for f in searched[1].searched[0].finalists}
    (own,) = study.record.searched
    broken = {compile_plan(knobs).plan_id for knobs in evaluator.broken}
    assert broken < before
    assert before - broken < set(own.finalists)
    assert len(own.finalists) >= len(before)
    # each of them, a replacement too, was judged on every held-out prompt
    _, held_out = study.scored()
    counts = {plan.plan.plan_id: int(np.isfinite(plan.scores).sum()) for plan in held_out.plans}
    assert {counts[plan] for plan in own.finalists} == {N}
    assert Study.load(study.folder).record.as_dict() == study.record.as_dict()


def test_where_all_break_it_ends_after_a_few_rounds_and_says_each(searched):
    evaluator = Broken(1000)
    study, notes = judged(searched, evaluator)
    first = len(searched[1].searched[0].finalists)
    assert len(evaluator.broken) > first
    assert (
        notes[-1]
        == f"finalists broke in each of {1 + REPLACEMENTS} rounds; those that took the last places are not judged"
    )
    assert [note.partition(" is dropped")[0] for note in notes[:-1]] == [k.describe() for k in evaluator.broken]
    assert len(study.record.failed) == len(evaluator.broken)
    assert not {compile_plan(knobs).plan_id for knobs in evaluator.broken} & set(study.record.searched[0].finalists)
    _, held_out = study.scored()
    assert {plan.plan.knobs for plan in held_out.plans} <= {SMALL.baseline}


def test_a_resumed_study_begins_with_the_batch_that_fitted(tmp_path):
    study = make_study(tmp_path / "study")
    study.with_batch(BatchSize(3)).save()
    bench = SimpleNamespace(settings=GenerationSettings(64, 64, 3.6, batch_size=10), batch=BatchSize())
    progress = Noted()
    recall_batch(study, bench, progress)
    assert bench.batch.within(bench.settings).batch_size == 3
    assert progress.notes == [
        "3 images at a time, as many as this study found to fit; --batch-size tries another number"
    ]


def test_a_smaller_batch_is_kept_at_once(tmp_path):
    study, batch = make_study(tmp_path / "study"), BatchSize()
    batch.found = lambda: study.with_batch(batch).save()
    batch.shrink(5)
    assert Study.load(study.folder).record.fitting == 5
