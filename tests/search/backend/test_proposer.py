"""Knobs as Optuna's parameters and back, and what answers for a strategy."""

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from synthetic_surface import SMALL, limit, price

from postdiff_calib.errors import StudyError
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.search.backend.proposer import Proposer, distributions, fit, make_proposer, parameters, snap
from postdiff_calib.search.proposals import Proposal
from postdiff_calib.search.space import candidate

MIXED = Knobs(10, 0.3, 0.75, 2, 0.75)


def of(knobs):
    return candidate(compile_plan(knobs), price)


def allowed(share):
    within = limit(share, SMALL)
    return {c.plan_id: c for c in SMALL.candidates(price) if within.allows(c.cost)}


def test_a_knob_is_a_whole_or_a_real_number_between_the_ends_of_its_grid():
    found = distributions(SMALL)
    assert found["num_inference_steps"] == IntDistribution(4, 12)
    assert found["low_res_fraction"] == FloatDistribution(0.0, 0.5)
    assert found["cache_interval"] == IntDistribution(1, 3)
    assert "cache_branch" not in found  # one value only


def test_parameters_and_grid_values_are_each_others_inverse():
    values = parameters(MIXED, SMALL)
    assert set(values) == set(distributions(SMALL))
    assert values == {
        "num_inference_steps": 10,
        "low_res_fraction": 0.3,
        "low_res_scale": 0.75,
        "cache_interval": 2,
        "guidance_fraction": 0.75,
    }
    assert {name: snap(values, SMALL)[name] for name in values} == values


def test_values_that_do_nothing_are_put_inside_their_range():
    assert parameters(SMALL.baseline, SMALL)["low_res_scale"] == 0.75  # 1 does not lie within 0.5 and 0.75


def test_a_suggestion_goes_to_the_nearest_value_of_the_grid():
    found = snap({"num_inference_steps": 9, "low_res_fraction": 0.39, "guidance_fraction": 0.9}, SMALL)
    assert found["num_inference_steps"] in (8, 10)
    assert (found["low_res_fraction"], found["guidance_fraction"]) == (0.3, 1.0)
    assert found["cache_interval"] == 1  # not suggested: the neutral value


def test_what_is_too_expensive_gets_fewer_steps_with_the_other_knobs_as_they_were():
    values = snap(parameters(MIXED, SMALL), SMALL)
    assert fit(values, SMALL, allowed(0.9)).knobs == MIXED
    share = 1.001 * of(Knobs(6, 0.3, 0.75, 2, 0.75)).cost.macs / of(SMALL.baseline).cost.macs
    assert fit(values, SMALL, allowed(share)).knobs == Knobs(6, 0.3, 0.75, 2, 0.75)
    # not even the fewest steps fit: the cheapest plan there is
    cheapest = min(SMALL.candidates(price), key=lambda c: c.cost.macs)
    assert fit(values, SMALL, {cheapest.plan_id: cheapest}) == cheapest


def test_a_strategys_proposer_answers_with_its_proposals_and_leaves_enqueued_trials_alone():
    asked = []

    def propose(study, number):
        asked.append(number)
        return Proposal(of(MIXED), "explore", "combined")

    study = optuna.create_study(sampler=Proposer(SMALL, propose))
    study.enqueue_trial(parameters(Knobs(8), SMALL))
    for wanted in (Knobs(8), MIXED):
        trial = study.ask(distributions(SMALL))
        assert trial.params == parameters(wanted, SMALL)
    assert asked == [1]
    assert set(study.sampler.proposals) == {1}


def test_an_enqueued_trial_that_lacks_a_knob_has_it_as_in_the_baseline():
    study = optuna.create_study(sampler=Proposer(SMALL, None))
    study.enqueue_trial({"num_inference_steps": 6})
    trial = study.ask(distributions(SMALL))
    assert trial.params == {**parameters(SMALL.baseline, SMALL), "num_inference_steps": 6}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("postdiff", Proposer),
        ("tpe", optuna.samplers.TPESampler),
        ("gp", optuna.samplers.GPSampler),
        ("random", optuna.samplers.RandomSampler),
        ("nsga2", optuna.samplers.NSGAIISampler),
    ],
)
def test_each_strategy_has_its_proposer(name, kind):
    assert type(make_proposer(name, 0, SMALL, None)) is kind


def test_a_strategy_that_does_not_exist_is_refused():
    with pytest.raises(StudyError, match="search 'cma': searches are postdiff, tpe, gp, random, nsga2"):
        make_proposer("cma", 0, SMALL, None)
