"""Which trials of a study count for a search, and what the next one is to do, also beside other workers."""

from collections import Counter

import pytest
from optuna.trial import TrialState
from synthetic_surface import SMALL, Surface, limit, price

from postdiff_calib.scores.store import MemoryStore
from postdiff_calib.search.backend.retry import give_back
from postdiff_calib.search.backend.run import Problem, Search, StudyPlace
from postdiff_calib.search.settings import SearchSettings

N = 40
FURTHER = (limit(0.35, SMALL), limit(0.8, SMALL))
SETTINGS = SearchSettings(n_trials=10, further_trials=3)


def opened(folder, share=0.5, further=FURTHER, settings=SETTINGS, store=None):
    problem = Problem(SMALL, price, limit(share, SMALL), Surface(N, space=SMALL), N, further=further)
    return Search(problem, settings, StudyPlace(folder, store=store or MemoryStore()), {"model": "made up"})


@pytest.fixture
def search(tmp_path):
    found = opened(tmp_path)
    found.prepare()
    yield found
    found.close()


def finish(search, trial):
    search.study.tell(trial, search.runner.run(trial, search.runner.take(trial)))


def run(search, count):
    for _ in range(count):
        finish(search, search.study.ask())


def begin(search):
    """What a worker does until it has decided on its plan and on how many prompts it wants of it."""
    trial = search.study.ask()
    taken = search.runner.take(trial)
    search.runner.begin(trial, taken)
    return trial, taken


def test_the_total_is_what_is_enqueued_and_what_is_proposed(search):
    queue = search.queue
    step_reduction = [p for p in queue.first if p.arm == "step_reduction"]
    others = [p for p in queue.first if p.arm != "step_reduction"]
    assert len(step_reduction) == 3  # T = 6 and 4, and T = 8 within the largest budget
    assert queue.planned == [10 - len(others), 3, 3]
    assert queue.total == 10 + 3 + 6
    assert [t.state for t in queue.trials()] == [TrialState.WAITING] * len(queue.first)


def test_queueing_again_changes_nothing(search):
    before = len(search.queue.trials())
    search.queue.enqueue(search.queue.first)
    assert len(search.queue.trials()) == before


def test_every_budget_gets_its_number_in_turn(search):
    run(search, search.queue.total)
    trials = search.queue.trials()
    assert all(search.queue.counts(t) for t in trials)
    proposed = [t for t in trials if not t.user_attrs.get("enqueued")]
    order = [search.runner.limits.index(t.user_attrs["limit"]) for t in proposed]
    assert order == sorted(order)
    assert [Counter(order)[budget] for budget in range(3)] == search.queue.planned
    assert len(search.queue.begun(trials)) == search.queue.total


def test_two_workers_never_take_the_same_place(search):
    run(search, len(search.queue.first))
    first, one = begin(search)
    second, two = begin(search)
    assert one.candidate != two.candidate
    assert (one.budget, two.budget) == (0, 0)
    # each is what the strategy draws for its own number, with the other's plan in hand
    assert one == search.strategy.propose(0, 0)
    assert two == search.strategy.propose(0, 1, {one.candidate.plan_id})
    for trial in (first, second):
        search.study.tell(trial, 0.0)
    third, three = begin(search)
    assert three == search.strategy.propose(0, 2)
    search.study.tell(third, 0.0)


def test_a_worker_that_has_not_decided_yet_keeps_its_place(search):
    run(search, len(search.queue.first))
    undecided = search.study.ask()
    planned = search.queue.planned[0]
    for number in range(1, planned):
        trial, taken = begin(search)
        assert taken.budget == 0
        assert taken == search.strategy.propose(0, number)
        search.study.tell(trial, 0.0)
    # the own budget is spoken for, though one of its evaluations has no plan yet
    trial, taken = begin(search)
    assert taken.budget == 1
    search.study.tell(trial, 0.0)
    search.study.tell(undecided, state=TrialState.FAIL)


def cut_short(search, trial):
    search.study.tell(trial, state=TrialState.FAIL)
    return search.queue.trials()[trial.number]


def test_a_trial_cut_short_keeps_its_place_and_who_takes_it_up_has_none_beside_it(search):
    run(search, len(search.queue.first))
    left = search.queue.places_left(search.queue.trials())
    first, taken = begin(search)
    cut = cut_short(search, first)
    assert not search.queue.counts(cut)
    assert search.queue.places_left(search.queue.trials()) == left - 1
    # one begins before, another after the successor is queued: both have places of their own
    between, two = begin(search)
    give_back(search.study, cut)
    heir, same = begin(search)
    assert same == taken
    assert two == search.strategy.propose(0, 1)
    third, three = begin(search)
    assert three == search.strategy.propose(0, 2, {taken.candidate.plan_id, two.candidate.plan_id})
    assert search.queue.places_left(search.queue.trials()) == left - 3
    assert not any(search.queue.crowded(trial) or search.queue.surplus(trial) for trial in (heir, between, third))
    for trial in (heir, between, third):
        search.study.tell(trial, 0.0)
    assert search.queue.left_behind(search.queue.trials()) == []


def test_a_budget_gets_its_number_also_when_a_trial_ends_while_another_is_about_to_decide(search):
    """The last place of a budget is held by one who dies after another began and before that one chooses."""
    run(search, len(search.queue.first) + search.queue.planned[0] - 1)
    last, taken = begin(search)
    assert taken.budget == 0
    undecided = search.study.ask()
    give_back(search.study, cut_short(search, last))
    assert search.runner.take(undecided).budget == 1
    search.study.tell(undecided, 0.0)
    run(search, search.queue.places_left(search.queue.trials()) + 1)
    finished = [t for t in search.queue.trials() if t.state == TrialState.COMPLETE]
    assert len(finished) == search.queue.total
    own = [t for t in finished if not t.user_attrs.get("enqueued")]
    found = Counter(search.runner.limits.index(t.user_attrs["limit"]) for t in own)
    assert [found[budget] for budget in range(3)] == search.queue.planned


def test_a_trial_that_died_without_a_plan_is_not_queued_again(search):
    run(search, len(search.queue.first))
    before = search.queue.places_left(search.queue.trials())
    trial = search.study.ask()
    assert search.queue.places_left(search.queue.trials()) == before - 1
    give_back(search.study, cut_short(search, trial))
    assert search.queue.places_left(search.queue.trials()) == before
    assert not any(t.state == TrialState.WAITING for t in search.queue.trials())


def test_who_finds_its_place_taken_when_it_has_chosen_steps_back(search):
    planned = search.queue.planned[0]
    run(search, len(search.queue.first) + planned - 1)
    slow, one = begin(search)
    assert one.budget == 0
    assert not search.queue.crowded(slow)
    # as another that had read the trials before the slow one stored its choice
    other = search.study.ask()
    for name, value in slow.user_attrs.items():
        other.set_user_attr(name, value)
    assert search.queue.crowded(other)
    assert search.queue.crowded(slow)
    search.study.tell(other, state=TrialState.PRUNED)
    assert not search.queue.crowded(slow)
    search.study.tell(slow, 0.0)


def test_a_plan_whose_images_were_broken_counts_and_is_not_proposed_again(search):
    run(search, len(search.queue.first))
    trial, taken = begin(search)
    trial.set_user_attr("failed", "1 of 10 images: are constant")
    search.study.tell(trial, state=TrialState.FAIL)
    assert search.queue.counts(search.queue.trials()[trial.number])
    assert search.queue.failed() == {taken.candidate.plan_id: "1 of 10 images: are constant"}
    for _ in range(5):
        other, proposed = begin(search)
        assert proposed.candidate != taken.candidate
        search.study.tell(other, 0.0)


def test_trials_of_another_budget_do_not_count(tmp_path):
    store = MemoryStore()
    first = opened(tmp_path, store=store)
    first.prepare()
    run(first, first.queue.total)
    done = first.queue.total
    first.close()
    second = opened(tmp_path, share=0.6, store=store)
    assert second.queue.begun(second.queue.trials()) == []
    assert len(second.queue.trials()) == done
    second.prepare()
    waiting = [t for t in second.queue.trials() if t.state == TrialState.WAITING]
    assert len(waiting) == len(second.queue.first)
    run(second, second.queue.total)
    assert len(second.queue.begun(second.queue.trials())) == second.queue.total
    assert len(second.queue.trials()) == done + second.queue.total
    second.close()


def test_two_searches_may_share_a_further_budget(tmp_path):
    """A search at 50 % with 35 % as a further budget is not one at 35 %."""
    first = opened(tmp_path)
    first.prepare()
    run(first, first.queue.total)
    first.close()
    second = opened(tmp_path, share=0.35, further=(limit(0.5, SMALL),))
    assert second.queue.begun(second.queue.trials()) == []
    second.close()


def test_images_left_are_those_of_open_trials(search):
    queue = search.queue
    # the baseline has its first ten; ten for each trial, and the baseline's other prompts
    assert queue.work_left(queue.trials())[0] == N - 10 + 10 * (queue.total - 1)
    run(search, queue.total)
    assert queue.work_left(queue.trials())[0] == N - search.book.count(search.book.baseline)
