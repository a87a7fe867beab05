"""A rival answers both questions with one purse, and ours is asked for the same answers."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import both_questions as b
import purse as p
import worlds as w
from journal import recorded_runs

PROMPTS = 60


@pytest.fixture
def world():
    return w.make_world("table")


def test_a_part_has_fewer_images_and_plans_and_reserves_for_finalists_that_are_new(world):
    purse = p.Purse(world, world.draw(np.random.default_rng(0), PROMPTS), PROMPTS, 1000)
    purse.take(3, PROMPTS)
    purse.take(4, 10)
    with purse.part(205, [3, 5]):
        assert purse.rows == [3]
        assert (purse.left, purse.reserve(1, 10)) == (205 - 130, PROMPTS - 10)
        assert purse.take(5, 20)
        assert purse.rows == [3, 5]
        assert purse.reserve(2, 10) == 2 * (PROMPTS - 10)
        assert not purse.take(6, PROMPTS)
        assert purse.finish([5]) in (3, 5)
        assert purse.n(5) == PROMPTS
    assert purse.rows == [3, 4, 5]
    assert (purse.used, purse.left) == (190, 810)
    # of complete plans the better one, and nothing of those not in question
    assert purse.best_of([4]) == 4
    assert purse.best_of([4, 5]) == 5


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", b.NAMES)
def test_a_rival_answers_both_questions_within_its_images(world, name):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    noise = world.noise
    quiet = replace(world, noise=lambda rng, columns: lambda row: noise(rng, columns)(row) / 100)
    rows = {question: quiet.allowed_rows(0.6, question).tolist() for question in b.QUESTIONS}
    for split in b.SPLITS:
        purse = p.Purse(quiet, quiet.draw(np.random.default_rng(1), PROMPTS), PROMPTS, 1500)
        chosen = b.both(quiet, purse, 0.6, 0, name, split)
        assert 1000 <= purse.used <= 1500
        assert chosen == {question: purse.best_of(rows[question]) for question in b.QUESTIONS}
        assert all(chosen[question] in rows[question] for question in b.QUESTIONS)
        assert all(purse.n(row) == PROMPTS for row in chosen.values())
        found = b.regrets(quiet, 0.6, chosen)
        assert found.keys() == set(b.QUESTIONS)
        assert max(found["step_reduction"], found["cheaper_steps"]) < 0.1
        assert found["combined"] < 0.3


def test_an_arm_without_plans_has_no_regret(world):
    assert b.regrets(world, 0.6, dict.fromkeys(b.QUESTIONS)) == {}


def test_runs_are_kept_and_told(tmp_path, capsys):
    out = tmp_path / "found.json"
    campaign = b.Campaign(out, b.identity)
    for seed in (0, 1):
        campaign.scene("lone optimum", 0.6, 24, seed, ["halving"])
    campaign.write(key=lambda run: tuple(map(str, b.identity(run))))
    runs = recorded_runs(out)
    assert len(runs) == 2 * (1 + len(b.SPLITS))
    ours = {run["seed"]: run for run in runs if run["search"] == b.OURS}
    assert all(run["used"] <= ours[run["seed"]]["used"] for run in runs)
    assert all(regret >= 0 for run in runs for regret in run["regret"].values())
    for run in runs:
        mine = {"combined": 0.25 + 0.5 * run["seed"], "cheaper_steps": 0.1, "step_reduction": 0.3}
        run["regret"] = dict.fromkeys(mine, 0.0) if run["split"] else mine
    b.print_tables(runs)
    said = capsys.readouterr().out
    assert "regret of the best plan lone optimum 0.50; lone optimum found in 0% of 2" in said
    arms = "**+0.30 ± 0.00** | **+0.10 ± 0.00**"
    of_splits = [line for line in said.splitlines() if line.startswith("| halving |")]
    assert len(of_splits) == len(b.SPLITS)
    assert of_splits[2] == f"| halving | 15%, 45%, 2 | +0.50 ± 0.25 | +0.50 ± 0.25 | {arms} | 100% of 2 |"
    # nothing is run again
    before = (tmp_path / "found.jsonl").read_text()
    b.Campaign(out, b.identity).scene("lone optimum", 0.6, 24, 0, ["halving"])
    assert (tmp_path / "found.jsonl").read_text() == before
