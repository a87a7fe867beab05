"""Whole calls of the plan that a search in seconds led to: timed once, kept, and held against the budget."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from studies import cost_table, latency, make_study

from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.jobs import call_times
from postdiff_calib.jobs.call_times import ROUNDS, calls_stage
from postdiff_calib.progress import Silent
from postdiff_calib.report.terminal import profile_facts
from postdiff_calib.study.earlier import with_earlier_searches
from postdiff_calib.study.record import Study
from postdiff_calib.study.seconds import TimedCalls

#: The made-up study's plan at half the time: predicted 200 ms of the baseline's 400 ms per call of 10 images.
BENCH = SimpleNamespace(
    loaded=None,
    settings=GenerationSettings(64, 64, 3.6, batch_size=4),
    held_out=SimpleNamespace(prompts=("a", "b")),
    held_out_seed=7,
)


@pytest.fixture
def study(tmp_path):
    return make_study(tmp_path / "study", budget="60% time")


@pytest.fixture
def timed(monkeypatch):
    """Calls that take what the test says, and what was asked of them."""
    said = SimpleNamespace(ours=0.0, theirs=0.4, asked=[])

    def time_calls(loaded, knobs, settings, prompts, seed, rounds, progress):
        said.asked.append((knobs, settings.batch_size, prompts, seed, rounds))
        return [said.ours] * 18 + [2 * said.ours] * 2, [said.theirs] * 20

    monkeypatch.setattr(call_times, "time_calls", time_calls)
    return said


def test_calls_are_timed_at_the_batch_of_the_seconds_kept_and_stated(study, timed):
    before = study.conclude()
    assert before.times.whole_calls is None
    timed.ours = before.times.plan.call
    profile = calls_stage(study, BENCH, before, Silent())
    assert timed.asked == [(before.knobs, 10, ("a", "b"), 7, ROUNDS)]
    calls = profile.times.whole_calls
    assert (calls.number, calls.plan.call, calls.baseline.call) == (20, timed.ours, 0.4)
    assert calls.plan.call_p95 == 2 * timed.ours
    assert calls.plan.per_image == pytest.approx(timed.ours / 10)
    assert profile.times.notes == before.times.notes == []
    assert profile.model_copy(update={"times": before.times}) == before
    assert "20 calls of each" in profile_facts(profile)["timed whole"]
    # a resumed study has them
    again = Study.load(study.folder)
    assert calls_stage(again, BENCH, again.conclude(), Silent()) == profile
    assert len(timed.asked) == 1


@pytest.mark.parametrize(("per_mac", "kept"), [(1e-6, True), (2e-6, False)])
def test_a_call_that_goes_on_keeps_them_with_the_seconds_they_were_timed_with(study, timed, per_mac, kept):
    timed.ours = 0.2
    calls_stage(study, BENCH, study.conclude(), Silent())
    again = replace(study, record=replace(study.record, cost=cost_table(latency(per_mac)), searched=()))
    found = with_earlier_searches(again).record
    assert (found.whole_calls is not None) == kept
    assert found.searched == study.record.searched


def test_calls_of_another_plan_are_not_stated_and_not_kept(study, timed):
    other = TimedCalls("another", 10, (1.0, 1.0), (2.0, 2.0))
    study = replace(study, record=replace(study.record, whole_calls=other))
    study.save()
    assert study.conclude().times.whole_calls is None
    timed.ours = 0.2
    calls_stage(study, BENCH, study.conclude(), Silent())
    assert Study.load(study.folder).record.whole_calls.plan_id == study.conclude().plan.plan_id


@pytest.mark.parametrize(("share", "told"), [(0.6, 0), (0.61, 1)])
def test_whole_calls_above_the_budget_are_a_note(study, timed, share, told):
    # of the baseline timed in the same minutes, which is half as fast as predicted
    timed.ours, timed.theirs = share * 0.8, 0.8
    notes = calls_stage(study, BENCH, study.conclude(), Silent()).times.notes
    assert len(notes) == told
    assert all("median of 20 whole calls is 488 ms per call, above the budget's 480 ms" in note for note in notes)


def test_a_limit_of_the_95th_percentile_is_held_against_that(tmp_path, timed):
    study = make_study(tmp_path / "p95", budget="p95:300ms")
    timed.ours = 0.16
    (note,) = calls_stage(study, BENCH, study.conclude(), Silent()).times.notes
    assert "95th percentile of 20 whole calls is 320 ms per call, above the budget's 300 ms" in note
