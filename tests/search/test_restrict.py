"""Restrictions: three forms, knobs by symbol, field or flag, and a space that is refused by the one that empties it."""

import pytest

from postdiff_calib.cost.budget import PlanCost, parse_budget
from postdiff_calib.errors import BudgetError, KnobError
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.cards import CARDS, get_card
from postdiff_calib.models.deployment import DeploymentSettings
from postdiff_calib.search.backend.proposer import distributions, parameters
from postdiff_calib.search.restrict import Restriction, allowed, parse_restriction, parse_restrictions
from postdiff_calib.search.space import SearchSpace, within

CARD = get_card("shapes")


def space(fix=(), ranges=(), values=(), card=CARD):
    return SearchSpace.from_card(card, card.latent_size(), parse_restrictions(fix, ranges, values))


@pytest.mark.parametrize("name", ["β", "low_res_scale", "--beta", "beta"])
def test_a_knob_goes_by_symbol_field_or_flag(name):
    one = parse_restriction(f"{name}=0.5,0.75")
    assert one == Restriction("low_res_scale", (0.5, 0.75))
    assert (one.text, one.option) == ("β=0.5,0.75", "--values β=0.5,0.75")
    assert parse_restriction(one.text) == one


def test_each_form_is_read_and_written():
    found = parse_restrictions(["k=1"], ["T=8..16", "s=0.2..0.4"], ["m=1,0.75"])
    assert [one.option for one in found] == ["--fix k=1", "--range T=8..16", "--range s=0.2..0.4", "--values m=1,0.75"]
    assert tuple(parse_restriction(one.text) for one in found) == found


def test_the_space_has_these_values_alone():
    grids = space(["k=1"], ["T=8..16", "s=0.2..0.4"], ["beta=0.5,0.75"]).grids
    assert grids["cache_interval"] == (1,)
    assert grids["num_inference_steps"] == tuple(range(8, 17))
    assert grids["low_res_fraction"] == (0.2, 0.3, 0.4)
    assert grids["low_res_scale"] == (0.5, 0.75)
    assert grids["guidance_fraction"] == space().grids["guidance_fraction"]


def test_every_plan_keeps_the_restrictions_and_no_other_plan_is_lost():
    given = ["k=2"], ["T=4..6"], ["s=0.5,0", "m=0.6,1"]
    found = space(*given)
    assert all(allowed(found.restrictions, plan.knobs) for plan in found.plans)
    free = SearchSpace.from_card(CARD, CARD.latent_size())
    kept = {knobs for knobs in free.settings() if allowed(found.restrictions, knobs)}
    assert set(found.settings()) == kept
    assert Knobs(4, cache_interval=2) in kept
    assert Knobs(20) not in kept


def test_values_beside_the_grid_are_tried():
    assert space(["T=25"], [], ["k=1,7"]).grids["cache_interval"] == (1, 7)
    assert space(["T=25"]).grids["num_inference_steps"] == (25,)


def test_no_low_resolution_by_either_knob():
    assert {p.n_low for p in space(["s=0"]).plans} == {0}
    assert {p.n_low for p in space(["beta=1"]).plans} == {0}
    assert {p.n_low > 0 for p in space(["s=0.5"]).plans} == {True}


def test_the_baseline_stays_the_models_own_and_fits_the_storage():
    found = space([], ["T=4..6"], ["k=2,3"])
    assert found.baseline == Knobs(20)
    asked = parameters(found.baseline, found)
    for name, distribution in distributions(found).items():
        assert distribution.low <= asked[name] <= distribution.high


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((["k"],), "--fix k: it is a knob, '=' and its values"),
        ((["q=1"],), "there is no knob 'q'; knobs are T (num_inference_steps, -T)"),
        ((["branch=1"],), "a search does not vary cache_branch"),
        ((["k=1.5"],), "'1.5' is not a whole number"),
        ((["k=0"],), "--fix k=0: it must be a whole number from 1 to 1000"),
        ((["s=1"],), "it must be below 1"),
        ((["k=1,2"],), "--fix k=1,2: it is written k=1"),
        ((["k=1..2"],), "--fix k=1..2: it is written k=1"),
        (([], ["T=8"]), "--range T=8: it is written T=8..30"),
        (([], ["T=9..8"]), "its lower end is above its upper end"),
        (([], [], ["T=8..9"]), "--values T=8..9: it is written beta=0.5,0.75"),
        ((["k=1"], [], ["-k=1,2"]), "--fix k=1 restricts that knob too"),
        (([], ["T=50..60"]), "--range T=50..60: it leaves nothing to search: the values of T are 2 to 20"),
        (([], ["s=0.55..0.58"]), "--range s=0.55..0.58: it leaves nothing to search: the values of s are 0 to 0.8"),
        ((["s=0.5", "beta=1"],), "--fix s=0.5 with --fix β=1: it leaves nothing to search: s needs a value of β"),
        ((["s=0.5", "beta=0.99"],), "--fix s=0.5 with --fix β=0.99: it leaves nothing to search"),
    ],
)
def test_nonsense_and_an_empty_space_are_refused_by_name(given, says):
    with pytest.raises(KnobError) as caught:
        space(*given)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_knob_that_does_nothing_for_the_model():
    lacking = next(card for card in CARDS if "guidance_fraction" not in card.knobs)
    with pytest.raises(KnobError, match=f"does nothing for {lacking.name}"):
        space(["m=0.5"], card=lacking)
    assert space(["m=1"], card=lacking).grids["guidance_fraction"] == (1,)


def test_a_budget_that_a_restriction_puts_out_of_reach_names_it():
    found = space([], ["T=15..20"])
    limit = parse_budget("25%").resolve(PlanCost(20.0, 20.0))
    candidates = SearchSpace(20, {**found.grids, "low_res_fraction": (0.0,), "cache_interval": (1,)}).candidates(
        lambda plan: PlanCost(float(len(plan)), float(len(plan)))
    )
    with pytest.raises(BudgetError, match=r"lower end of 15, with --range T=15\.\.20"):
        within(candidates, limit, found.restrictions)


def test_steps_are_the_upper_end_of_the_search():
    card = DeploymentSettings(num_inference_steps=30).card(CARD)
    assert space([], ["T=28..40"], card=card).grids["num_inference_steps"] == (28, 29, 30)
