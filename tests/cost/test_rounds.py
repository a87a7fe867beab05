"""Rounds of a measurement that disagree: they go on, the settled ones count, and what never settles says so."""

from types import SimpleNamespace

import pytest

from postdiff_calib.cost import CostTable, latency
from postdiff_calib.cost.check import read_data
from postdiff_calib.cost.macs import Macs
from postdiff_calib.cost.meter import Meter
from postdiff_calib.cost.rounds import MAX_ROUNDS, MIN_ROUNDS, MORE_ROUNDS, Agreement, agreement, goes_on, paces
from postdiff_calib.cost.setting import Setting
from postdiff_calib.cost.timeline import Timeline
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan

PLANS = [compile_plan(Knobs(4)), compile_plan(Knobs(4, cache_interval=2))]
SETTING = Setting(height=64, width=64, guidance_scale=5.0, batch_size=1, scales=())
#: Seconds of a step at full speed: one that runs the deep blocks, one that does not.
FULL, CACHED = 1.0, 0.25


def rounds(*speeds):
    """Two plans, of 4 and of 2 seconds at speed 1."""
    return [{"a": 4 / speed, "b": 2 / speed} for speed in speeds]


def test_a_pace_is_of_all_plans_alike():
    assert paces(rounds(1, 1, 0.5)) == [1, 1, 2]
    disturbed = [{"a": 4, "b": 2, "c": 1}, {"a": 4, "b": 2, "c": 9}, {"a": 4, "b": 2, "c": 1}]
    assert paces(disturbed) == [1, 1, 1]


@pytest.mark.parametrize(
    ("found", "first", "apart"),
    [
        ([1.0, 1.0], 0, 0.0),
        ([1.0, 1.02], 0, 0.02),
        ([1.0, 1.03], 0, 0.03),
        ([1.3, 1.2, 1.0, 1.0], 2, 0.0),
        ([1.3, 1.2, 1.1, 1.0, 1.0], 0, 0.3),  # fewer than half have settled
        ([1.0, 1.01, 1.0, 1.5], 0, 0.5),  # the last one is not settled
    ],
)
def test_the_latest_rounds_that_agree_are_kept(found, first, apart):
    assert agreement(found) == Agreement(first, pytest.approx(apart))


def test_when_another_round_is_run():
    steady, ramp = rounds(1, 1), rounds(1, 2)
    assert goes_on([], 0, True)
    assert goes_on(rounds(1), 0, True)
    assert goes_on(steady, 0, False)
    assert not goes_on(steady, 0, True)
    assert goes_on(ramp, 0, True)
    assert goes_on(ramp, MORE_ROUNDS - 1, True)
    assert not goes_on(ramp, MORE_ROUNDS, True)
    assert not goes_on(rounds(*[1] * MAX_ROUNDS), 0, False)
    assert goes_on(rounds(*range(1, MAX_ROUNDS + 1)), 0, False)


class Machine:
    """A simulated machine whose speed is a function of it; ``rounds`` are those that were run."""

    def __init__(self, monkeypatch, speed):
        self.now, self.calls, self.speed = 0.0, 0, speed
        monkeypatch.setattr("time.perf_counter", lambda: self.now)
        monkeypatch.setattr(latency, "probes", lambda *_: PLANS)
        monkeypatch.setattr(latency, "run_plan", self.run_plan)
        monkeypatch.setattr(latency, "environment_of", lambda *_: {"device_name": "simulated"})

    @property
    def rounds(self):
        return self.calls / len(PLANS) - 1  # each plan is run once to warm up

    def run_plan(self, loaded, table, setting, plan, **_):
        speed, self.calls = self.speed(self), self.calls + 1
        steps = [(FULL if step.refresh else CACHED) / speed for step in plan]
        self.now += sum(steps)
        return Timeline(sum(steps), 0.0, 0.0, steps, steps, 0.0)


@pytest.fixture
def table():
    found = CostTable(
        model="tiny",
        height=64,
        width=64,
        latent=(8, 8),
        latent_multiple=1,
        guides=True,
        meter=Meter({"_class_name": "x"}, 1),
    )
    found.macs = {key: Macs(1, 1, 1) for plan in PLANS for key in found.keys(plan)}
    return found


LOADED = SimpleNamespace(fingerprint="f", card=SimpleNamespace(knobs=frozenset()))


class Notes:
    def __init__(self):
        self.notes = []

    def stage(self, name, total=None):
        pass

    def advance(self, count=1, detail=None, total=None):
        pass

    def note(self, text):
        self.notes.append(text)


def measure(table, limit=0.0, refresh=False):
    progress = Notes()
    found = latency.measured_latency(LOADED, table, SETTING, limit=limit, refresh=refresh, progress=progress)
    return found, progress.notes


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POSTDIFF_CACHE", str(tmp_path))


def test_a_steady_machine_is_measured_as_long_as_it_was(monkeypatch, table):
    machine = Machine(monkeypatch, lambda it: 1.0)
    found, notes = measure(table)
    assert machine.rounds == MIN_ROUNDS
    assert (found.stable, found.disagreement, notes) == (True, 0.0, [])


def test_a_clock_that_ramps_is_waited_for_and_its_slow_rounds_do_not_count(monkeypatch, table):
    machine = Machine(monkeypatch, lambda it: min(1.0, 0.5 + it.now / 50))
    found, notes = measure(table)
    assert MIN_ROUNDS < machine.rounds <= MIN_ROUNDS + MORE_ROUNDS
    assert (found.stable, notes) == (True, [])
    assert sorted(timing.median for timing in found.steps.values()) == pytest.approx([CACHED, FULL], rel=0.02)


def test_a_machine_that_never_settles_says_so_and_is_measured_anew(monkeypatch, table):
    machine = Machine(monkeypatch, lambda it: (1.0, 0.8)[int(it.rounds) % 2])
    found, notes = measure(table)
    assert machine.rounds == MIN_ROUNDS + MORE_ROUNDS
    assert not found.stable
    assert notes == [f"seconds are {found.stability}: measure again on a machine that does nothing else"]
    assert found.stability.startswith("unstable (rounds disagree by 2")
    table.latency = found
    assert read_data(table.as_dict()).latency.disagreement == found.disagreement

    machine.calls, machine.speed = 0, lambda it: 1.0
    steady, notes = measure(table)
    assert machine.rounds == MIN_ROUNDS
    assert steady.stable
    assert notes == [f"seconds measured before on this machine were {found.stability}: they are measured anew"]

    machine.calls = 0
    again, notes = measure(table)
    # What is stable is taken from the cache: a few short calls see that it still holds.
    assert (machine.calls, again) == (1 + latency._CHECKED_CALLS, steady)
    measure(table, refresh=True)
    assert machine.calls > 0
