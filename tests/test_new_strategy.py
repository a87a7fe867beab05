"""A search strategy comes from this one file and runs a whole search: nothing else in the package knows of it.

The toy goes through the plans within the budget from the cheapest to the most expensive, and its one finalist is the
plan with the best mean so far.
"""

import numpy as np
import pytest
from synthetic_surface import SMALL, Surface, limit, price

from postdiff_calib.errors import StudyError
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.jobs.preflight import check_job
from postdiff_calib.search.backend.run import Problem, StudyPlace, run_search
from postdiff_calib.search.proposals import Finalist, Proposal
from postdiff_calib.search.settings import SearchSettings
from postdiff_calib.search.strategies import STRATEGIES, default_trials, find_strategy, registered, strategies
from postdiff_calib.search.strategy import Strategy

N = 12


class CheapestFirst(Strategy):
    name = "cheapest"

    def propose(self, budget, number, busy=(), suggested=None):
        assert suggested is None
        known = {*self.book.plans, *busy}
        open_plans = [c for c in self.members("combined", budget) if c.plan_id not in known]
        return Proposal(min(open_plans, key=lambda c: (c.cost.macs, c.plan_id)), self.role, "combined", budget)

    def finalists(self, budget=0, failed=()):
        seen = [c for c in self.members("combined", budget) if c.plan_id in self.book.plans and c.plan_id not in failed]
        return [Finalist(max(seen, key=lambda c: np.nanmean(self.book.differences(c.plan_id))), "combined")]


@pytest.fixture
def _toy():
    with registered(CheapestFirst):
        yield


def search(folder, trials):
    problem = Problem(SMALL, price, limit(0.5, SMALL), Surface(N, space=SMALL), N, further=(limit(0.35, SMALL),))
    settings = SearchSettings(n_trials=trials, strategy="cheapest", explore_prompts=4)
    return run_search(problem, settings, StudyPlace(folder), {"model": "toy"})


def test_it_is_gone_afterwards():
    with registered(CheapestFirst):
        assert strategies() == (*STRATEGIES, CheapestFirst)
    assert strategies() == STRATEGIES
    with pytest.raises(StudyError, match="search 'cheapest': searches are postdiff, tpe, gp, random, nsga2"):
        find_strategy("cheapest")


@pytest.mark.usefixtures("_toy")
def test_it_may_be_asked_for(tmp_path):
    check_job(CalibrateJob(search="cheapest", study=tmp_path / "study", out=tmp_path / "profile.yaml"))
    assert default_trials(240, "cheapest") == default_trials(240)


@pytest.mark.usefixtures("_toy")
def test_it_searches(tmp_path):
    result = search(tmp_path, 12)
    strategy = result.strategy
    assert isinstance(strategy, CheapestFirst)
    by_cost = sorted(strategy.members("combined"), key=lambda c: (c.cost.macs, c.plan_id))
    looked = [c.plan_id in result.plans for c in by_cost]
    first_left_out = looked.index(False)
    # it proposed the cheapest ones, beside those that every search starts with, and would go on with the next
    assert first_left_out >= strategy.planned(0, result.trials - first_left_out) > 0
    assert strategy.propose(0, 12).candidate == by_cost[first_left_out]


@pytest.mark.usefixtures("_toy")
def test_its_own_finalists_are_judged_and_further_budgets_are_left_alone(tmp_path):
    result = search(tmp_path, 12)
    (searched,) = result.searched
    (finalist,) = searched.finalists
    means = {
        c.plan_id: np.nanmean(result.strategy.book.differences(c.plan_id))
        for c in result.strategy.members("combined")
        if c.plan_id in result.plans
    }
    assert finalist.candidate.plan_id == max(means, key=means.get)
    assert searched.unfound is None
    assert result.strategy.planned(1, 0) == 0
    # a resumed search has nothing left to do
    assert search(tmp_path, 12).own_trials == 0
