"""What is proposed, at which budget, how often, and which plans are judged in the end."""

import math
from dataclasses import replace

import numpy as np
import pytest
from synthetic_surface import SMALL, Surface, limit, loss, price

from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.scores.book import ScoreBook
from postdiff_calib.scores.guards import Guard
from postdiff_calib.scores.measured import Measured
from postdiff_calib.scores.store import MemoryStore
from postdiff_calib.search.finalists import FURTHER_FINALISTS, OWN_FINALISTS, most_steps
from postdiff_calib.search.settings import SearchSettings, default_explore_prompts, prompt_order
from postdiff_calib.search.space import candidate
from postdiff_calib.search.strategies import default_trials, find_strategy
from postdiff_calib.search.strategy import enqueued

N = 40
CANDIDATES = SMALL.candidates(price)
REFERENCE = candidate(compile_plan(SMALL.baseline), price)
LIMITS = (limit(0.5, SMALL), limit(0.35, SMALL), limit(0.8, SMALL))


def strategy(book=None, limits=LIMITS, candidates=CANDIDATES, **settings):
    book = book or ScoreBook(Surface(N, space=SMALL), N, SMALL.baseline, MemoryStore())
    chosen = SearchSettings(**settings)
    return find_strategy(chosen.strategy)(candidates, limits, REFERENCE, book, chosen)


def scored(prompts=10, surface=None, plans=None):
    """A book of the baseline and of some plans on the first prompts."""
    book = ScoreBook(surface or Surface(N, space=SMALL), N, SMALL.baseline, MemoryStore())
    book.scores(SMALL.baseline, range(N))
    for c in CANDIDATES[::9] if plans is None else plans:
        book.scores(c.knobs, range(prompts))
    return book


# --- how many, and of what -----------------------------------------------------------------------------------------


def test_the_number_of_evaluations_at_each_budget():
    found = strategy(n_trials=24)
    assert [found.planned(budget, enqueued=5) for budget in range(3)] == [19, 4, 4]
    assert strategy(n_trials=120).planned(1, 5) == 20  # a sixth
    assert strategy(n_trials=24, further_trials=7).planned(2, 5) == 7
    assert strategy(n_trials=3).planned(0, 5) == 0
    # Optuna's own searches know one budget only
    assert [strategy(n_trials=24, strategy="tpe").planned(budget, 5) for budget in range(3)] == [19, 0, 0]


def test_a_budget_that_no_cheaper_steps_plan_fits_gets_no_evaluation():
    step_reduction = [c for c in CANDIDATES if c.step_reduction]
    assert strategy(candidates=step_reduction, further_trials=5).planned(1, 0) == 0


@pytest.mark.parametrize(
    ("prompts", "each", "trials"),
    [(10, 3, 36), (60, 3, 140), (120, 3, 280), (200, 3, 466), (500, 3, 1166), (1000, 6, 1166), (5000, 10, 1200)],
)
def test_evaluations_make_seven_images_a_prompt_between_bounds(prompts, each, trials):
    assert default_explore_prompts(prompts) == each
    assert default_trials(prompts) == trials
    assert default_trials(prompts, "tpe") == 36


def test_many_evaluations_end_on_a_ladder():
    """Ever fewer of the plans that did best are seen on ever more prompts; a lone good one is not lost."""
    open_plans = [c for c in CANDIDATES if LIMITS[0].allows(c.cost)]
    odd = max(open_plans, key=lambda c: loss(c, 0.0))

    class Odd(Surface):
        def scores(self, knobs, indices):
            found = super().scores(knobs, indices)
            return [100.0 + score for score in found] if knobs == odd.knobs else found

    book = scored(3, Odd(N, space=SMALL), open_plans)
    found = strategy(book, n_trials=480)
    proposed = []
    for number in range(320, 480):
        proposed.append(found.propose(0, number).candidate)
        known = int(np.isfinite(book.known(proposed[-1].plan_id)).sum())
        book.scores(proposed[-1].knobs, range(known, min(known + 3, N)))
    assert odd in proposed[:26]
    assert book.complete(odd.plan_id)
    assert len({c.plan_id for c in proposed[:20]}) >= 15
    assert len({c.plan_id for c in proposed[-20:]}) <= 10


def test_many_evaluations_see_every_plan_of_a_small_space_first():
    whole = (limit(1.0, SMALL),)
    members = strategy(limits=whole).members("combined")
    book = scored(3, plans=members[:-2])
    many, fewer = (strategy(book, whole, n_trials=2 * len(members) - less) for less in (0, 2))
    assert many.propose(0, 300).candidate in members[-2:]
    assert fewer.propose(0, 300).candidate not in members[-2:]
    book.scores(members[-1].knobs, range(3))
    book.scores(members[-2].knobs, range(3))
    assert many.propose(0, 300) == strategy(book, whole, n_trials=2 * len(members)).propose(0, 300)


def test_few_evaluations_have_no_ladder():
    book = scored(3, plans=[c for c in CANDIDATES if LIMITS[0].allows(c.cost)])
    few, many = strategy(book, n_trials=430), strategy(book, n_trials=432)
    assert few._on_ladder("combined", few.mask("combined"), 429) is None
    assert many._on_ladder("combined", many.mask("combined"), 287) is None
    assert many._on_ladder("combined", many.mask("combined"), 288) is not None


def test_every_third_evaluation_is_a_sceptics():
    """A plan that should be among the worst and did well on ten prompts is looked at again, or it was luck."""
    open_plans = [c for c in CANDIDATES if LIMITS[2].allows(c.cost) and c.knobs.num_inference_steps == 12]
    odd = max(open_plans, key=loss).knobs

    class Odd(Surface):
        def row(self, knobs):
            return super().row(knobs) + 9 * (knobs == odd)

    book = scored(surface=Odd(N, space=SMALL))
    book.scores(odd, range(10))

    def again(*numbers):
        found = [strategy(book, seed=seed).propose(2, number) for seed in range(20) for number in numbers]
        return sum(p.candidate.knobs == odd for p in found)

    assert again(2, 5) > 1.5 * again(0, 1)


def test_a_proposal_is_a_function_of_seed_budget_and_number():
    book = scored()

    def drawn(**settings):
        return [strategy(book, **settings).propose(0, number).candidate.plan_id for number in range(8)]

    assert drawn(seed=1) == drawn(seed=1)
    assert drawn(seed=1) != drawn(seed=2)
    assert len(set(drawn(seed=1))) > 3
    # the number alone counts, not what was asked before
    asked = strategy(book, seed=1)
    assert asked.propose(0, 5) == strategy(book, seed=1).propose(0, 5)


def test_plans_in_hand_and_complete_ones_are_not_proposed():
    cheaper_steps = strategy().members("cheaper_steps")[:4]
    book = scored(plans=[])
    for c in cheaper_steps[:2]:
        book.scores(c.knobs, range(N))
    few = strategy(book, candidates=cheaper_steps)
    for number in range(9):
        assert few.propose(0, number).candidate in cheaper_steps[2:]
        assert few.propose(0, number, busy={cheaper_steps[2].plan_id}).candidate == cheaper_steps[3]
    # with all known, the best is named again, at no cost
    for c in cheaper_steps[2:]:
        book.scores(c.knobs, range(N))
    best = max(cheaper_steps, key=lambda c: few.posterior().mean()[few.candidates.index(c)])
    assert few.propose(0, 0).candidate == best
    assert few.choice() == best.plan_id


# --- what comes first ----------------------------------------------------------------------------------------------


def test_the_queue_holds_each_plan_once_and_the_whole_step_reduction_arm():
    paper = candidate(compile_plan(Knobs(12, cache_interval=2, guidance_fraction=0.45)), price)
    found = enqueued(strategy(), paper)
    assert found[0].candidate is REFERENCE
    assert found[0].role == "baseline"
    assert len({p.candidate.plan_id for p in found}) == len(found)
    assert [p.candidate.knobs.num_inference_steps for p in found if p.arm == "step_reduction"] == [6, 4, 8]
    assert [p.budget for p in found if p.arm == "step_reduction"] == [0, 0, 2]
    assert paper in [p.candidate for p in found]


def test_prompts_are_seen_in_one_order():
    order = prompt_order(50, 3)
    assert sorted(order) == list(range(50))
    assert order == prompt_order(50, 3) != prompt_order(50, 4)


# --- finalists -----------------------------------------------------------------------------------------------------


def test_finalists_are_the_best_believed_of_each_arm_and_once_only():
    book = scored(prompts=N)
    found = strategy(book).finalists()
    mean = strategy(book).posterior().mean()
    row = {c.plan_id: i for i, c in enumerate(strategy(book).candidates)}

    def best(arm, count):
        return sorted(strategy(book).members(arm), key=lambda c: -mean[row[c.plan_id]])[:count]

    of_all = [f.candidate for f in found if f.arm == "combined"]
    believed = OWN_FINALISTS["combined"] - 1
    assert of_all[:believed] == best("combined", believed)
    assert len(of_all) == OWN_FINALISTS["combined"]
    chosen = [f.candidate for f in found]
    assert set(best("cheaper_steps", 2)) <= set(chosen)
    assert len(chosen) == len(set(chosen))
    assert all(LIMITS[0].allows(c.cost) for c in chosen)
    assert sum(OWN_FINALISTS.values()) >= len(chosen)


def test_a_plan_that_did_well_against_expectation_is_judged():
    open_plans = [c for c in CANDIDATES if LIMITS[0].allows(c.cost)]
    lone = sorted(open_plans, key=lambda c: loss(c, 0.0))[80]

    class Lone(Surface):
        def scores(self, knobs, indices):
            found = super().scores(knobs, indices)
            return [8.0 + score for score in found] if knobs == lone.knobs else found

    searched = strategy(scored(6, Lone(N, space=SMALL), open_plans))
    mean = searched.posterior().mean()
    expected = sorted(open_plans, key=lambda c: -mean[searched.plans.row[c.plan_id]])
    assert lone not in expected[:10]
    assert [f.arm for f in searched.finalists() if f.candidate == lone] == ["combined"]
    assert searched.finalists(failed=[lone.plan_id])
    assert lone not in [f.candidate for f in searched.finalists(failed=[lone.plan_id])]


@pytest.mark.parametrize("budget", [0, 1, 2])
def test_the_most_steps_are_always_judged_of_step_reduction(budget):
    book = scored(prompts=N, plans=[c for c in CANDIDATES if c.step_reduction])
    found = strategy(book).finalists(budget)
    step_reduction = [f.candidate for f in found if f.candidate.step_reduction]
    assert most_steps(strategy().members("step_reduction", budget)) in step_reduction
    assert len([f for f in found if f.arm == "step_reduction"]) <= FURTHER_FINALISTS["step_reduction"]


def test_failed_plans_are_no_finalists():
    book = scored(prompts=N)
    first = [f.candidate.plan_id for f in strategy(book).finalists()]
    again = [f.candidate.plan_id for f in strategy(book).finalists(failed=first)]
    assert again
    assert not set(first) & set(again)
    assert strategy(book).finalists(failed=[c.plan_id for c in CANDIDATES]) == []


def test_guards_rule_over_plans_that_may_be_chosen_and_not_over_the_arms():
    class Unlike(Surface):
        """The fewer the steps, the less alike: T = 12 keeps 0.95, any other 0.5."""

        def measured(self, knobs, indices):
            alike = {SMALL.baseline: 1.0}.get(knobs, 0.95 if knobs.num_inference_steps == 12 else 0.5)
            return Measured(self.scores(knobs, indices), {"ssim": [alike + 0.001 * (i % 2) for i in indices]})

    book = scored(prompts=N, surface=Unlike(N, space=SMALL))
    guarded = strategy(book, guards=(Guard("ssim", 0.8),))
    found = guarded.finalists()
    combined = [f.candidate.knobs.num_inference_steps for f in found if f.arm == "combined"]
    assert combined == [12] * 3
    assert any(f.candidate.step_reduction for f in found)
    steps = [guarded.propose(0, number).candidate.knobs.num_inference_steps for number in range(12)]
    assert steps.count(12) >= 10
    assert min(strategy(book).propose(0, number).candidate.knobs.num_inference_steps for number in range(40)) < 12


def test_plans_are_drawn_at_random_until_a_third_as_many_were_seen_as_there_are_evaluations():
    def drawn(n_trials):
        book = scored()
        seen = {c.plan_id for c in CANDIDATES if book.count(c.plan_id)}
        return {strategy(book, n_trials=n_trials).propose(0, number).candidate.plan_id for number in range(30)} - seen

    many, few = drawn(n_trials=300), drawn(n_trials=3)
    assert len(many) > len(few)
    assert len(many) >= 10


# --- what was not found --------------------------------------------------------------------------------------------


def test_nothing_is_unfound_when_all_plans_are_judged():
    book = scored()
    found = strategy(book).unfound(0, {c.plan_id for c in CANDIDATES})
    assert (found.cheaper_steps, found.step_reduction) == (-math.inf, math.inf)


def test_what_may_be_unfound_grows_with_what_is_not_judged():
    book = scored()
    cheaper_steps = [c.plan_id for c in strategy().members("cheaper_steps")]
    step_reduction = [c.plan_id for c in strategy().members("step_reduction")]
    none = strategy(book).unfound(0, [])
    half = strategy(book).unfound(0, [*cheaper_steps[::2], *step_reduction[1:]])
    assert none.cheaper_steps >= half.cheaper_steps > -math.inf
    assert none.step_reduction <= half.step_reduction < math.inf
    assert strategy(book).unfound(0, cheaper_steps).cheaper_steps == -math.inf
    assert strategy(book).unfound(0, cheaper_steps).step_reduction < math.inf
    assert strategy(book).unfound(0, step_reduction).step_reduction == math.inf
    assert strategy(book).unfound(0, []) == none
    # without a plan of the other arm there is no difference to speak of
    alone = strategy(book, candidates=[c for c in CANDIDATES if c.step_reduction]).unfound(0, [])
    assert (alone.cheaper_steps, alone.step_reduction) == (-math.inf, math.inf)


def test_the_truth_lies_within_what_is_held_possible():
    allows = LIMITS[0].allows
    inside = 0
    for seed in range(12):
        surface = Surface(N, seed=seed, space=SMALL, private=0.0, noise=0.3)
        book = scored(surface=surface, plans=CANDIDATES[seed % 5 :: 5])
        found = strategy(book, seed=seed)
        judged = {f.candidate.plan_id for f in found.finalists()}
        step_reduction = max(-loss(c, 0.0) for c in found.members("step_reduction"))
        best = max(-loss(c, 0.0) for c in found.members("cheaper_steps") if c.plan_id not in judged and allows(c.cost))
        inside += best - step_reduction <= found.unfound(0, judged).cheaper_steps
    assert inside >= 10


def test_other_budgets_teach_too():
    """A score of a plan over the budget is an observation of the same surrogate."""
    expensive = [c for c in CANDIDATES if not LIMITS[0].allows(c.cost)]
    book = scored(plans=expensive)
    assert {o.plan for o in strategy(book).observations()} == {c.plan_id for c in expensive} - {REFERENCE.plan_id}
    assert all(f.candidate not in expensive for f in strategy(book).finalists())


def test_what_may_be_unfound_is_told_from_held_out_scores_too():
    book = scored()
    proposer = strategy(book)
    before = proposer.searched()[0]
    judged = [f.candidate for f in before.finalists]

    def after(step_reduction, cheaper_steps):
        ripple = 0.1 * (np.arange(N) % 3)
        rows = {c.plan_id: (step_reduction if c.step_reduction else cheaper_steps) + ripple for c in judged}
        return proposer.after_judging([before], rows)[0]

    good, bad = after(step_reduction=5.0, cheaper_steps=0.0), after(step_reduction=-5.0, cheaper_steps=0.0)
    assert good.finalists == bad.finalists == before.finalists
    # the better the plans of step reduction turned out, the less an unknown cheaper plan is likely to be ahead of them
    assert good.unfound.cheaper_steps < before.unfound.cheaper_steps < bad.unfound.cheaper_steps
    assert proposer.after_judging([replace(before, unfound=None)], {})[0].unfound is None
    # a plan that was judged once and is not searched any more teaches nothing, and breaks nothing
    rows = {c.plan_id: 0.1 * (np.arange(N) % 3) for c in judged}
    assert proposer.after_judging([before], {**rows, "f" * 16: np.zeros(N)}) == proposer.after_judging([before], rows)
