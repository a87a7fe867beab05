"""Which plans keep the guards, known from readings or believed of plans that were not looked at."""

import numpy as np
from synthetic_surface import SMALL, Surface, limit, price

from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.scores.book import ScoreBook
from postdiff_calib.scores.guards import Guard
from postdiff_calib.scores.measured import Measured
from postdiff_calib.scores.store import MemoryStore
from postdiff_calib.search.postdiff import PostDiff
from postdiff_calib.search.settings import SearchSettings
from postdiff_calib.search.space import candidate

N = 40
CANDIDATES = SMALL.candidates(price)
REFERENCE = candidate(compile_plan(SMALL.baseline), price)
LOW, FULL = Knobs(12, 0.5, 0.5), Knobs(12, cache_interval=3)


class Likeness(Surface):
    """SSIM is 1 at full resolution, and 0.5 where any step is at a lower one; noise of ±0.01 from prompt to prompt."""

    def measured(self, knobs, indices):
        level = 1.0 if knobs.low_res_fraction == 0 else 0.5
        wobble = [0.01 * (-1) ** i for i in indices] if knobs != SMALL.baseline else [0.0] * len(indices)
        return Measured(self.scores(knobs, indices), {"ssim": [level + w for w in wobble]})


def keeper(*guards, plans=(), prompts=N):
    book = ScoreBook(Likeness(N, space=SMALL), N, SMALL.baseline, MemoryStore())
    book.scores(SMALL.baseline, range(N))
    for knobs in plans:
        book.scores(knobs, range(prompts))
    return PostDiff(CANDIDATES, [limit(0.9, SMALL)], REFERENCE, book, SearchSettings(guards=guards)).keeper


def plan_id(knobs):
    return compile_plan(knobs).plan_id


def rows(*knobs):
    mask = np.zeros(len(CANDIDATES), dtype=bool)
    mask[[i for i, c in enumerate(CANDIDATES) if c.knobs in knobs]] = True
    return mask


def test_without_guards_every_plan_is_kept():
    free = keeper(plans=[LOW])
    assert not free.known_to_break(plan_id(LOW))
    mask = rows(LOW, FULL)
    assert free.keeping(mask) is mask


def test_a_reading_on_every_prompt_decides_by_itself():
    strict = keeper(Guard("ssim", 0.5), plans=[LOW, FULL])
    assert not strict.known_to_break(plan_id(LOW))  # 0.5 exactly, the bound included
    assert keeper(Guard("ssim", 0.501), plans=[LOW]).known_to_break(plan_id(LOW))
    assert not keeper(Guard("ssim", 0.501), plans=[FULL]).known_to_break(plan_id(FULL))


def test_a_reading_on_some_prompts_decides_beyond_its_noise_alone():
    # ± 0.01 on 20 prompts has a standard error of 0.0023: two of them are less than 0.01 and more than 0.001
    assert keeper(Guard("ssim", 0.51), plans=[LOW], prompts=20).known_to_break(plan_id(LOW))
    assert not keeper(Guard("ssim", 0.501), plans=[LOW], prompts=20).known_to_break(plan_id(LOW))
    assert not keeper(Guard("ssim", 0.51), plans=[LOW], prompts=19).known_to_break(plan_id(LOW))


def test_what_was_never_measured_breaks_its_guard_once_all_is_scored():
    strict = keeper(Guard("psnr", 20), plans=[LOW])
    assert strict.known_to_break(plan_id(LOW))
    assert not keeper(Guard("psnr", 20), plans=[LOW], prompts=20).known_to_break(plan_id(LOW))


def test_plans_that_are_not_of_the_space_are_nobodys_business():
    assert not keeper(Guard("ssim", 0.9)).known_to_break("another study's plan")


def test_plans_nobody_evaluated_are_judged_by_those_that_were():
    looked = [c.knobs for c in CANDIDATES[::7]]
    strict = keeper(Guard("ssim", 0.8), plans=looked)
    full = np.array([c.knobs.low_res_fraction == 0 for c in CANDIDATES])
    unseen = np.array([c.knobs not in looked for c in CANDIDATES])
    kept = strict.keeping(np.ones(len(CANDIDATES), dtype=bool))
    assert kept[full & unseen].mean() > 0.9
    assert kept[~full & unseen].mean() < 0.1


def test_where_no_plan_keeps_them_the_nearest_is_left():
    looked = [c.knobs for c in CANDIDATES[::7]]
    strict = keeper(Guard("ssim", 0.9), plans=looked)
    low = np.array([c.knobs.low_res_fraction == 0.5 for c in CANDIDATES])
    assert strict.keeping(low).sum() == 1
    nothing = np.zeros(len(CANDIDATES), dtype=bool)
    assert not strict.keeping(nothing).any()


def test_a_guard_on_the_score_needs_no_surrogate():
    mask = rows(LOW, FULL)
    assert keeper(Guard("clip", -0.1), plans=[LOW, FULL]).keeping(mask) is mask
