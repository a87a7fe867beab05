"""Any order of what several workers do, with kills and failures anywhere: every place is filled, each once."""

from collections import Counter

import pytest
from interleaving import Schedule, SharedSearch
from killing_workers import unaccounted
from optuna.trial import TrialState
from synthetic_surface import SMALL, Surface, limit, price

from postdiff_calib.search.backend.run import Problem
from postdiff_calib.search.settings import SearchSettings

N = 12
OFTEN_KILLED = {"kill": 0.03, "interrupt": 0.0, "fail": 0.0, "silent": 0.0, "faults": 20}
OFTEN_SILENT = {"kill": 0.01, "interrupt": 0.0, "fail": 0.0, "silent": 0.05, "faults": 30}
HARDLY_A_TRIAL_ENDS = {"kill": 0.05, "interrupt": 0.03, "fail": 0.02, "silent": 0.0, "faults": 40}
A_LITTLE_OF_ALL = {"kill": 0.02, "interrupt": 0.01, "fail": 0.005, "silent": 0.01, "faults": 12}


def played(monkeypatch, seed, chances, strategy="random"):
    problem = Problem(SMALL, price, limit(0.5, SMALL), Surface(N, space=SMALL), N, further=(limit(0.35, SMALL),))
    settings = SearchSettings(n_trials=10, further_trials=2, strategy=strategy, seed=seed)
    shared = SharedSearch(problem, settings, Schedule(seed, **chances), workers=2)
    shared.play(monkeypatch)
    return shared


def require_each_once(shared):
    """What is queued at the start and every place that is proposed: done, each once, and nothing is left open."""
    done = [t for t in shared.trials() if t.state == TrialState.COMPLETE]
    queued = Counter(t.user_attrs["plan"] for t in done if t.user_attrs.get("enqueued"))
    assert queued == Counter(p.candidate.plan_id for p in shared.first)
    proposed = Counter(shared.limits.index(t.user_attrs["limit"]) for t in done if not t.user_attrs.get("enqueued"))
    assert [proposed[budget] for budget in range(2)] == shared.planned
    assert unaccounted(shared.trials()) == []


@pytest.mark.parametrize("seeds", [range(10), pytest.param(range(10, 40), marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("chances", [OFTEN_KILLED, OFTEN_SILENT, HARDLY_A_TRIAL_ENDS, A_LITTLE_OF_ALL])
def test_every_place_is_filled_once(monkeypatch, chances, seeds):
    happened = 0
    for seed in seeds:
        shared = played(monkeypatch, seed, chances)
        require_each_once(shared)
        happened += chances["faults"] - shared.schedule.left
    assert happened > 2 * len(seeds)  # there was something to survive


def test_every_place_of_our_own_search_is_filled_once(monkeypatch):
    for seed in range(3):
        require_each_once(played(monkeypatch, seed, A_LITTLE_OF_ALL, strategy="postdiff"))


def test_a_schedule_can_be_played_again(monkeypatch):
    first, second = (played(monkeypatch, 3, A_LITTLE_OF_ALL) for _ in range(2))
    assert first.schedule.moments == second.schedule.moments
    assert [t.user_attrs for t in first.trials()] == [t.user_attrs for t in second.trials()]
