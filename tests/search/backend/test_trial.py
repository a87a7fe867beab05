"""One trial: which plan it takes, which prompts it scores, and what it writes down."""

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from synthetic_surface import SMALL, Surface, limit, price

from postdiff_calib.errors import OutputError, PostdiffError
from postdiff_calib.plan import compile_plan
from postdiff_calib.scores.store import MemoryStore
from postdiff_calib.search.backend.run import Problem, Search, StudyPlace
from postdiff_calib.search.settings import SearchSettings, prompt_order

N = 12
ORDER = prompt_order(N, 0)


def opened(folder, strategy="postdiff", surface=None):
    surface = surface or Surface(N, space=SMALL)
    settings = SearchSettings(n_trials=6, strategy=strategy, explore_prompts=4, block=3)
    problem = Problem(SMALL, price, limit(0.5, SMALL), surface, N)
    return Search(problem, settings, StudyPlace(folder, store=MemoryStore()), {"model": "made up"})


def done(search, trial):
    return search.runner.run(trial, search.runner.take(trial))


@pytest.fixture
def search(tmp_path):
    found = opened(tmp_path)
    yield found
    found.close()


@pytest.fixture
def plan(search):
    return search.strategy.members("combined")[5]


def test_prompts_are_scored_in_one_order_and_in_blocks(search, plan):
    assert search.runner.blocks(plan, 7) == [ORDER[:3], ORDER[3:6], ORDER[6:7]]
    search.book.scores(plan.knobs, ORDER[:2])
    assert search.runner.blocks(plan, 4) == [ORDER[2:4]]
    assert search.runner.blocks(plan, 2) == []


def test_how_many_prompts_a_role_is_for(search, plan):
    prompts_for = search.runner.prompts_for
    assert prompts_for("baseline", search.reference.plan_id) == 4
    assert prompts_for("explore", plan.plan_id) == 4
    search.book.scores(plan.knobs, ORDER[:10])
    assert prompts_for("explore", plan.plan_id) == N  # 14 of 12
    assert prompts_for("whole", plan.plan_id) == N


def test_a_trial_scores_its_plan_and_the_baseline_and_says_what_came_out(search):
    trial = search.study.ask()
    value = done(search, trial)
    chosen = trial.user_attrs["plan"]
    assert search.book.count(chosen) == search.book.count(search.reference.plan_id) == 4
    difference = search.book.differences(chosen)
    assert value == pytest.approx(np.nanmean(difference))
    assert trial.user_attrs["wanted"] == 4
    assert trial.user_attrs["knobs"] == search.runner.by_plan_id[chosen].knobs.as_dict()
    outcome = trial.user_attrs["outcome"]
    assert (outcome["prompts"], outcome["complete"]) == (4, False)
    assert outcome["standard_error"] == pytest.approx(np.nanstd(difference, ddof=1) / 2)
    assert outcome["macs"] == price(compile_plan(search.runner.by_plan_id[chosen].knobs)).macs


def test_a_trial_of_another_search_of_the_study_is_cut_short(search, plan):
    other = ["macs", "median", 1.0]
    search.study.enqueue_trial({}, user_attrs={"plan": plan.plan_id, "role": "explore", "search": other})
    with pytest.raises(optuna.TrialPruned):
        done(search, search.study.ask())
    assert search.book.count(plan.plan_id) == 0


def test_a_trial_that_is_gone_on_with_has_the_same_number_of_prompts(search, plan):
    attributes = {"plan": plan.plan_id, "role": "explore", "arm": "combined", "wanted": 5}
    search.study.enqueue_trial({}, user_attrs=attributes)
    done(search, search.study.ask())
    assert search.book.count(plan.plan_id) == 5


def test_optunas_suggestion_is_a_plan_within_the_budget_on_every_prompt(tmp_path):
    search = opened(tmp_path, "random")
    trial = search.study.ask()
    done(search, trial)
    assert trial.user_attrs["role"] == "whole"
    assert trial.user_attrs["outcome"]["complete"]
    assert limit(0.5, SMALL).allows(search.runner.by_plan_id[trial.user_attrs["plan"]].cost)
    search.close()


class Failing(Surface):
    error = PostdiffError("3 of 3 images", "are constant", "use float32")

    def scores(self, knobs, indices):
        if knobs != SMALL.baseline:
            raise self.error
        return super().scores(knobs, indices)


def test_a_plan_of_broken_images_fails_with_its_reason_and_the_search_goes_on(tmp_path):
    search = opened(tmp_path, surface=Failing(N, space=SMALL))
    trial = search.study.ask()
    with pytest.raises(PostdiffError, match="are constant"):
        done(search, trial)
    assert trial.user_attrs["failed"] == "3 of 3 images: are constant; use float32"
    assert search.runner.fatal is None
    search.close()


def test_a_fault_that_no_other_plan_would_escape_ends_the_search(tmp_path):
    surface = Failing(N, space=SMALL)
    surface.error = OutputError("scores.jsonl", "the disk is full", "make room")
    search = opened(tmp_path, surface=surface)
    search.study.optimize(lambda trial: done(search, trial), n_trials=3, catch=(PostdiffError,))
    assert search.runner.fatal is surface.error
    assert [t.state for t in search.queue.trials()] == [TrialState.FAIL]
    assert "failed" not in search.queue.trials()[0].user_attrs
    search.close()
