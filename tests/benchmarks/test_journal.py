"""Runs of a benchmark are kept as they end."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import journal


def made(path):
    return journal.Journal(path / "result.json", lambda run: (run["world"], run["seed"]))


def test_a_stopped_benchmark_goes_on_where_it_was(tmp_path):
    first = made(tmp_path / "new")
    first.add({"world": "grid", "seed": 0, "regret": 0.5})
    with first.path.open("a") as file:
        file.write('{"world": "grid", "se')
    again = made(tmp_path / "new")
    assert ("grid", 0) in again
    assert ("grid", 1) not in again
    again.add({"world": "grid", "seed": 1, "regret": 0.25})
    assert [run["regret"] for run in made(tmp_path / "new").runs.values()] == [0.5, 0.25]


def test_a_later_run_takes_the_place_of_an_earlier_one(tmp_path):
    for regret in (0.5, 0.25):
        made(tmp_path).add({"world": "grid", "seed": 0, "regret": regret})
    assert [run["regret"] for run in made(tmp_path).runs.values()] == [0.25]


def test_a_result_has_machine_versions_and_a_line_for_each_run(tmp_path):
    runs = made(tmp_path)
    for seed in (1, 0):
        runs.add({"world": "grid", "seed": seed})
    runs.write("numpy", "no-such-package", key=lambda run: run["seed"], spread=[1.0])
    about = json.loads((tmp_path / "result.json").read_text())["about"]
    assert about["numpy"]
    assert about["no-such-package"] is None
    assert about["spread"] == [1.0]
    assert [run["seed"] for run in journal.recorded_runs(tmp_path / "result.json")] == [0, 1]
    assert len((tmp_path / "result.json").read_text().splitlines()) == 5
