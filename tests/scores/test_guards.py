"""Guard rails: how they are read, which plans they let through, and what they do to a search."""

import numpy as np
import pytest
from synthetic_surface import SMALL, Surface, limit, loss, price

from postdiff_calib.cost.budget import PlanCost
from postdiff_calib.errors import GuardError
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.scores import guards as rails
from postdiff_calib.scores.book import ScoreBook
from postdiff_calib.scores.guards import Guard, parse_guards
from postdiff_calib.scores.measured import Measured
from postdiff_calib.scores.select import PlanScores
from postdiff_calib.scores.store import FileStore
from postdiff_calib.search.backend.run import Problem, StudyPlace, run_search
from postdiff_calib.search.postdiff import PostDiff
from postdiff_calib.search.settings import SearchSettings
from postdiff_calib.search.space import candidate

N = 60


# --- reading options -----------------------------------------------------------------------------------------------


def test_options_become_bounds_with_their_directions():
    found = parse_guards(["clip=0.3"], ["cmmd=0.05", " SSIM = .8", "psnr=25", "lpips=2e-1"])
    assert found == (
        Guard("clip", -0.3),
        Guard("cmmd", 0.05),
        Guard("ssim", 0.8),
        Guard("psnr", 25),
        Guard("lpips", 0.2),
    )
    assert [g.rule for g in found] == ["at least", "at most", "at least", "at least", "at most"]
    assert str(found[2]) == "SSIM at least 0.8"
    assert parse_guards(["clip=0"]) == (Guard("clip", 0.0),)
    assert parse_guards(["clip=0.3", "scene=2"]) == (Guard("clip", -0.3), Guard("scene", -2.0))
    assert str(Guard("scene", -2.0)) == "scenes right difference at least -2"
    assert parse_guards() == ()


@pytest.mark.parametrize(
    ("max_drop", "guards", "says"),
    [
        (["0.3"], [], "NAME=NUMBER, with NAME one of clip, scene"),
        (["clip=-0.3"], [], "at least 0"),
        (["clip=inf"], [], "NAME=NUMBER"),
        (["clip=1e999"], [], "finite"),
        (["ssim=0.8"], [], "--max-drop knows clip, scene; ssim is guarded by --guard"),
        (["fid=1"], [], "--max-drop knows clip, scene; such as"),
        (["scene=-1"], [], "at least 0"),
        (["scene=101"], [], "100 at most"),
        (["scene=2", "scene=3"], [], "twice"),
        (["clip=0.1", "clip=0.2"], [], "twice"),
        ([], ["clip=0.3"], "clip is guarded by --max-drop"),
        ([], ["scene=2"], "scene is guarded by --max-drop"),
        ([], ["fid=20"], "cmmd, ssim, psnr, lpips"),
        ([], ["ssim=0,8"], "NAME=NUMBER"),
        ([], ["ssim>0.8"], "NAME=NUMBER"),
        ([], ["ssim=1.1"], "1 at most"),
        ([], ["psnr=101"], "100 at most"),
        ([], ["cmmd=0"], "above 0"),
        ([], ["lpips=-0.1"], "above 0"),
        ([], ["ssim=0.8", "SSIM=0.9"], "twice"),
        ([], [""], "NAME=NUMBER"),
    ],
)
def test_nonsense_is_one_line_that_names_what_exists(max_drop, guards, says):
    with pytest.raises(GuardError) as caught:
        parse_guards(max_drop, guards)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


# --- judging plans -------------------------------------------------------------------------------------------------


def plan(knobs, scores, ssim=None, features=None, macs=1.0):
    measures = {} if ssim is None else {"ssim": np.asarray(ssim, dtype=float)}
    return PlanScores(knobs, PlanCost(macs, macs), np.asarray(scores, dtype=float), measures, features)


BASE = plan(Knobs(12), [10.0, 20.0, 30.0, np.nan], [1, 1, 1, np.nan])


def test_a_reading_is_the_mean_over_common_prompts_with_its_standard_error():
    other = plan(Knobs(6), [9.0, 18.0, 27.0, 5.0], [0.9, 0.8, 0.7, np.nan])
    clip = rails.read("clip", other, BASE)
    assert (clip.value, clip.n) == (-2.0, 3)
    assert clip.error == pytest.approx(1 / np.sqrt(3))
    assert rails.read("ssim", other, BASE).value == pytest.approx(0.8)
    assert rails.read("psnr", other, BASE) is None
    assert rails.read("cmmd", other, BASE) is None


def judged(knobs, right):
    """A plan with equal scores whose scenes are right (1), wrong (0) or not known (None)."""
    rows = np.array([np.nan if r is None else 100.0 * r for r in right])
    return PlanScores(knobs, PlanCost(1.0, 1.0), np.zeros(len(right)), {"scene": rows})


def test_scenes_are_read_as_the_mean_paired_difference_in_percentage_points():
    base = judged(Knobs(12), [1, 1, 1, 0, 1])
    other = judged(Knobs(6), [1, 0, 0, 1, None])  # of four, two lost and one gained
    found = rails.read("scene", other, base)
    assert (found.value, found.n) == (-25.0, 4)
    assert found.error == pytest.approx(np.std([0, -100, -100, 100], ddof=1) / 2)
    assert rails.read("scene", base, base).value == 0
    assert rails.broken([Guard("scene", -25.0), Guard("clip", 0.0)], other, base) == []
    assert rails.broken([Guard("scene", -24.0)], other, base) == [Guard("scene", -24.0)]
    assert "scenes right difference -25 (1 too low)" in str(rails.nearest([Guard("scene", -24.0)], [other], base))


def test_scenes_that_one_of_the_two_lacks_cannot_be_read():
    base = judged(Knobs(12), [1, 1, 1])
    for first, second in ((plan(Knobs(6), [0, 0, 0]), base), (base, plan(Knobs(12), [0, 0, 0]))):
        assert rails.read("scene", first, second) is None
        assert rails.broken([Guard("scene", -50.0)], first, second) == [Guard("scene", -50.0)]


@pytest.mark.parametrize(("bound", "kept"), [(0.8, True), (0.81, False), (0.79, True)])
def test_a_guard_judges_the_reading_itself_and_its_bound_is_allowed(bound, kept):
    other = plan(Knobs(6), [9.0, 18.0, 27.0, 5.0], [0.75, 0.75, 0.9, np.nan])
    assert (rails.broken([Guard("ssim", bound)], other, BASE) == []) is kept


def test_what_was_not_measured_is_not_met():
    other = plan(Knobs(6), [9.0, 18.0, 27.0, 5.0])
    assert rails.broken([Guard("clip", -3), Guard("ssim", 0.1)], other, BASE) == [Guard("ssim", 0.1)]
    assert rails.nearest([Guard("ssim", 0.1)], [other], BASE) is None


def test_noise_is_not_called_certain():
    guard = Guard("ssim", 0.8)
    assert guard.surely(rails.Reading(0.7, 0.02, 20)) == "broken"
    assert guard.surely(rails.Reading(0.7, 0.06, 20)) is None
    assert guard.surely(rails.Reading(0.7, 0.02, 19)) is None
    assert guard.surely(rails.Reading(0.9, 0.02, 20)) == "met"
    assert Guard("cmmd", 0.05).surely(rails.Reading(0.2, 0.02, 20)) == "broken"


def test_the_nearest_plan_says_by_how_much_it_misses():
    near = plan(Knobs(8), [9.5, 19.5, 29.5, 0], [0.7, 0.7, 0.7, np.nan])
    far = plan(Knobs(6), [9.5, 19.5, 29.5, 0], [0.3, 0.3, 0.3, np.nan])
    found = rails.nearest([Guard("ssim", 0.8), Guard("clip", -1.0)], [far, near], BASE)
    assert found.plan is near
    assert [guard.metric for guard, _ in found.misses] == ["ssim"]
    assert "SSIM 0.7 (0.1 too low)" in str(found)


def test_deviations_are_nothing_for_equal_images_and_grow_as_they_get_worse():
    for metric, equal, good, bad in (
        ("clip", 0, -0.1, -0.5),
        ("scene", 0, -2, -20),
        ("ssim", 1, 0.9, 0.5),
        ("psnr", 100, 30, 20),
        ("cmmd", 0, 0.1, 0.5),
        ("lpips", 0, 0.1, 0.5),
    ):
        values = [rails.deviation(metric, value) for value in (equal, good, bad)]
        assert values[0] == pytest.approx(0, abs=1e-4)
        assert values[0] < values[1] < values[2]


# --- searching -----------------------------------------------------------------------------------------------------


class Measuring(Surface):
    """Images are as unlike the baseline's as their noise at low resolution is; scores say otherwise."""

    def ssim_of(self, knobs):
        c = candidate(compile_plan(knobs), price)
        return 1 - 0.9 * c.coordinates()[1] - 0.02 * loss(c, 0)

    def measured(self, knobs, indices):
        scores = self.scores(knobs, indices)
        if knobs == self.space.baseline:
            ssim = [1.0] * len(indices)
        else:
            own = np.random.default_rng([7, *compile_plan(knobs).plan_id.encode()]).normal(0, 0.05, self.num_prompts)
            ssim = [float(v) for v in self.ssim_of(knobs) + own[list(indices)]]
        return Measured(scores, {"ssim": ssim})


GUARDS = (Guard("ssim", 0.9),)


def search(folder, surface, guards, n_trials=16):
    problem = Problem(SMALL, price, limit(0.5, SMALL), surface, N)
    settings = SearchSettings(n_trials=n_trials, guards=guards)
    result = run_search(problem, settings, StudyPlace(folder), {"model": "made up"})
    book = ScoreBook(surface, N, SMALL.baseline, FileStore(folder / "scores.jsonl"))
    plans = [book.plan_scores(knobs, price(compile_plan(knobs))) for knobs in book.plans.values()]
    return result, book, plans, book.plan_scores(SMALL.baseline, price(compile_plan(SMALL.baseline)))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    return search(tmp_path_factory.mktemp("study"), Measuring(N, space=SMALL), GUARDS)


def test_a_guarded_search_finds_the_best_plan_that_obeys(guarded):
    surface = Measuring(N, space=SMALL)
    result, *_ = guarded
    allows = limit(0.5, SMALL).allows
    found = [f.candidate for f in result.searched[0].finalists if f.arm == "combined"]
    # the plans that may be chosen obey; the arms are compared by quality alone
    assert all(surface.ssim_of(c.knobs) >= 0.9 - 0.03 for c in found)
    possible = [p.knobs for p in SMALL.plans if allows(price(p)) and surface.ssim_of(p.knobs) >= 0.9]
    assert len(possible) > 3
    regret = min(true_loss(c.knobs) for c in found) - min(map(true_loss, possible))
    assert regret < 0.35


def true_loss(knobs):
    return loss(candidate(compile_plan(knobs), price))


def test_a_plan_that_breaks_a_guard_beyond_its_noise_is_passed_over_and_never_leads(guarded):
    _, book, plans, _ = guarded
    candidates = list(SMALL.candidates(price))
    reference = next(c for c in candidates if c.knobs == SMALL.baseline)

    def strategy(guards):
        return PostDiff(candidates, [limit(0.5, SMALL)], reference, book, SearchSettings(guards=guards))

    strict, free = strategy(GUARDS), strategy(())
    low = [p for p in plans if p.knobs.low_res_fraction >= 0.3]
    assert low
    for p in low:
        assert strict.keeper.known_to_break(p.plan.plan_id) == (p.n >= 20)
        assert not p.complete
        assert not free.keeper.known_to_break(p.plan.plan_id)
    leader = strict.choice()
    assert leader is not None
    assert not strict.keeper.known_to_break(leader)
    broken = {p.plan.plan_id for p in plans if strict.keeper.known_to_break(p.plan.plan_id)}
    proposed = {strict.propose(0, number).candidate.plan_id for number in range(30)}
    assert not proposed & broken
    assert len(proposed) > 3


class Judged(Surface):
    """With few steps, three scenes in ten go wrong, and the score likes them best."""

    def measured(self, knobs, indices):
        few = knobs.num_inference_steps < 8
        wrong = 0.3 if few else 0.0
        draws = np.random.default_rng(3).random(self.num_prompts)[list(indices)]
        scores = [score + 3.0 * few for score in self.scores(knobs, indices)]
        return Measured(scores, {"scene": [100.0 * (draw >= wrong) for draw in draws]})


def test_a_search_keeps_scenes_right_that_the_score_would_lose(tmp_path):
    def winners(guards, folder):
        result, *_ = search(folder, Judged(N, space=SMALL), guards, 24)
        return [f.candidate.knobs for f in result.searched[0].finalists if f.arm == "combined"]

    # the search finds the few steps that the score likes best; with the guard it passes them over
    free = winners((), tmp_path / "free")
    kept = winners((Guard("scene", -5.0),), tmp_path / "kept")
    assert min(knobs.num_inference_steps for knobs in free) < 8
    assert min(knobs.num_inference_steps for knobs in kept) >= 8


def test_without_guards_measuring_changes_nothing(tmp_path):
    _, _, measured, _ = search(tmp_path / "a", Measuring(N, space=SMALL), (), 8)
    _, _, plain, _ = search(tmp_path / "b", Surface(N, space=SMALL), (), 8)
    assert {p.plan.plan_id: p.n for p in measured} == {p.plan.plan_id: p.n for p in plain}


def test_a_guard_that_nothing_meets_still_ends_with_what_is_nearest(tmp_path):
    impossible = (Guard("ssim", 0.9999),)
    result, _, plans, baseline = search(tmp_path, Measuring(N, space=SMALL), impossible, 10)
    inside = [p for p in plans if limit(0.5, SMALL).allows(p.cost)]
    assert rails.obeying(impossible, inside, baseline) == []
    found = rails.nearest(impossible, inside, baseline)
    assert found.misses[0][1].value > 0.95
    # somebody stands for it all the same: the plan that is believed nearest, and the arms
    combined = [f for f in result.searched[0].finalists if f.arm == "combined"]
    assert len(combined) == 1
    assert {f.arm for f in result.searched[0].finalists} >= {"combined", "step_reduction"}
