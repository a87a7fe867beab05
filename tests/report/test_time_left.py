"""Time left: done in the head on simulated clocks, and replayed from the recorded moments of a real calibration."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from postdiff_calib.cost.budget import PlanCost
from postdiff_calib.jobs.expected import Followed, ImagesInTurn
from postdiff_calib.knobs import Knobs
from postdiff_calib.report import progress as module
from postdiff_calib.report.progress import console_progress
from postdiff_calib.report.time_left import PRIOR, TimeLeft

RECORDED = Path(__file__).parents[2] / "benchmarks" / "results" / "time_left.json"


def test_a_stage_takes_its_work_at_the_pace_so_far():
    left = TimeLeft(0.0)
    left.stage(100.0)
    assert left.of_stage(105.0) is None
    # what nothing was done of yet is taken as it is expected
    left.work(made=0.0, left=40.0, later=7.0)
    assert (left.of_stage(110.0), left.of_all(110.0)) == (40.0, 47.0)
    # 10 s of work in 20 s: at twice the expected time, but for the 5 % of the stage that count at a pace of 1
    left.work(made=10.0, left=30.0, later=0.0)
    pace = (20 + PRIOR * 40) / (10 + PRIOR * 40)
    assert left.of_stage(120.0) == pytest.approx(30 * pace)
    assert left.of_all(120.0) is None
    left.work(made=30.0, left=0.0, later=0.0)
    assert left.of_stage(180.0) == 0.0


def test_later_stages_take_the_pace_of_all_work():
    left = TimeLeft(0.0)
    left.stage(0.0)
    left.work(made=10.0, left=0.0, later=50.0)
    assert left.of_all(15.0) == pytest.approx(75.0)
    left.stage(15.0)
    assert left.of_all(16.0) is None
    left.work(made=10.0, left=30.0, later=10.0)
    # 20 s of work took 15 + 30 s; the stage itself runs at 3, with 2 s at the earlier pace of 1.5
    stage = 30 * (30 + 2 * 1.5) / (10 + 2)
    assert left.of_all(45.0) == pytest.approx(stage + 10 * 45 / 20)


def test_dear_images_that_come_last_are_foreseen(monkeypatch):
    """Ten images at 1 s, then ten at 9 s: half of the images are a tenth of the time."""
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    out = io.StringIO()
    plans = [Knobs(2), Knobs(18)]
    with console_progress(quiet=False, console=Console(file=out, width=200)) as bar:
        told = ImagesInTurn(
            Followed(bar, later=450.0), lambda plan: PlanCost(1, 1, len(plan) / 2, None), plans, num_images=10
        )
        bar.stage("judging", 20)
        for knobs in plans:
            told.begin(knobs)
            for _ in range(10):
                now += knobs.num_inference_steps / 2
                told(1)
    lines = out.getvalue().splitlines()
    assert lines[1] == "judging: 10/20, 10 s, about 2 min left, 9 min in all"
    assert lines[-1].endswith("judging: 20/20, 2 min, about 8 min left in all")


def test_without_seconds_images_count_alone(monkeypatch):
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    out = io.StringIO()
    with console_progress(quiet=False, console=Console(file=out, width=200)) as bar:
        told = ImagesInTurn(bar, lambda plan: PlanCost(1, 1, None, None), [Knobs(2)], num_images=30)
        bar.stage("judging", 30)
        told.begin(Knobs(2))
        for _ in range(30):
            now += 1.0
            told(1)
    assert out.getvalue().splitlines()[1] == "judging: 10/30, 10 s, about 20 s left"


def test_from_a_tenth_on_the_time_left_of_a_real_run_is_right_within_a_factor_of_two(monkeypatch):
    """The recorded moments of ``postdiff calibrate --model shapes --budget 60%``, through what a terminal shows."""
    events = json.loads(RECORDED.read_text())["events"]
    now, end = 0.0, events[-1][0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    console = Console(file=io.StringIO(), width=200)
    factors = []
    with console_progress(quiet=False, console=console) as bar:
        for now, name, *given in events:
            getattr(bar, name)(*given)
            left = bar.now.time.of_all(now) or bar.now.time.of_stage(now)
            # what is left of the last seconds cannot be told to a factor
            if not 0.1 * end <= now <= end - 5:
                continue
            if left is None:
                assert bar.now.time.made == 0
                continue
            factors.append(left / (end - now))
    assert len(factors) > 300
    assert min(factors) > 0.5
    assert max(factors) < 2
