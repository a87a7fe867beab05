"""What a study was asked for, as plain data and back."""

import json

import pytest

from postdiff_calib.cost.budget import parse_budget
from postdiff_calib.errors import BudgetError, GuardError
from postdiff_calib.scores.guards import Guard
from postdiff_calib.study.asked import Asked

LEAST = Asked("shapes", parse_budget("60%"), trials=40, seed=3)
ALL = Asked(
    "sd15",
    parse_budget("p95:1.2s"),
    trials=0,
    seed=2**40,
    prompts="captions.txt",
    search="random",
    delta=("clip=0.3",),
    weight=("scene=2",),
    max_drop=("clip=1",),
    guards=("ssim=0.8",),
)


@pytest.mark.parametrize("asked", [LEAST, ALL])
def test_it_is_plain_data_and_back(asked):
    data = json.loads(json.dumps(asked.as_dict()))
    assert data["budget"] == asked.budget.text
    assert Asked.from_dict(data) == asked


def test_its_guards_are_read():
    assert LEAST.rails == ()
    assert ALL.rails == (Guard("clip", -1.0), Guard("ssim", 0.8))


@pytest.mark.parametrize(
    ("change", "error"),
    [({"budget": "fast"}, BudgetError), ({"guards": ["fid=3"]}, GuardError), ({"more": 1}, TypeError)],
)
def test_what_cannot_be_read_is_refused(change, error):
    with pytest.raises(error):
        Asked.from_dict({**LEAST.as_dict(), **change})
