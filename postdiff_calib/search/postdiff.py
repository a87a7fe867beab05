"""What to try next: a broad sample, then Thompson sampling within each budget, then finalists judged on unseen prompts.

An evaluation scores a plan on its next few prompts of the search. First, plans within the budget are drawn at random,
until the plans are a third as many as the evaluations: they teach the surrogate, and among them may be one that no knob
points to. After that a plan is drawn from the surrogate's belief (one joint draw of all plans' values, the best one is
taken; Russo et al., "A Tutorial on Thompson Sampling", arXiv 1707.02038). One such evaluation in three is drawn from
the belief of a sceptic, for whom the knobs explain little and every plan is its own: it evaluates again those that did
well beyond expectation.

Where there are many evaluations, the last third of those at the study's own budget goes down a ladder (as successive
halving does; Jamieson and Talwalkar, arXiv 1502.07943): of the plans that the sceptic believes best, the one seen on
the fewest prompts is evaluated again, and fewer and fewer plans are in question. So a plan that is much better than its
neighbours is not lost because the surrogate expected nothing of it. Such a search draws every plan within the budget at
random first where these are not more than half as many as its evaluations.

Of the finalists at the study's own budget, one is the plan that a milder sceptic believes best of those not chosen yet.

The question "step reduction or cheaper steps?" is asked at several budgets, and each of them is searched: first at the
study's own budget, in all plans and, every third time, in the cheaper-steps arm alone; then in the cheaper-steps arm
within each further budget. The step-reduction arm is small: every plan of it is scored on some prompts.

Plans that guards rule out (``keeping``) are passed over.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from postdiff_calib.scores.select import Arm
from postdiff_calib.search.finalists import best_of_each_arm
from postdiff_calib.search.plans import Mask
from postdiff_calib.search.proposals import Finalist, Proposal
from postdiff_calib.search.space import Candidate
from postdiff_calib.search.strategy import Array, Strategy
from postdiff_calib.search.surrogate import Scales

#: One in so many evaluations at the study's own budget is of the cheaper-steps arm, and one in so many of all is drawn
#: from the belief of a sceptic, for whom plans deviate strongly from what the knobs explain.
_CHEAPER_STEPS_EVERY, _SCEPTIC_EVERY = 3, 3
_SCEPTIC = Scales(own=1.2)
#: The belief that names one of the finalists: more lone optima are chosen with it, and elsewhere it costs nothing
#: (``benchmarks/README.md``).
_MILD_SCEPTIC = Scales(own=0.3)
#: Plans are drawn at random until so many are evaluated within the study's own budget: a share of the evaluations.
_BROAD = 3
#: The ladder is the last of the evaluations, this share of them. It begins with a plan for every six and ends with four
#: plans. With fewer plans to begin with than 24 it finds nothing that draws do not (``benchmarks/README.md``).
_LADDER, _EACH_ON_LADDER, _LAST_ON_LADDER, _LEAST_ON_LADDER = 1 / 3, 6, 4, 24


class PostDiff(Strategy):
    """The project's own strategy; see the module."""

    name = "postdiff"
    by_arm = True

    def propose(
        self, budget: int, number: int, busy: Collection[str] = (), suggested: Candidate | None = None
    ) -> Proposal:
        """The next evaluation at a budget; see ``Strategy.propose``."""
        limit = self.limits[budget]
        rng = np.random.default_rng([self.settings.seed, number, round(1e6 * limit.value / limit.baseline)])
        cheaper_steps = budget > 0 or number % _CHEAPER_STEPS_EVERY == _CHEAPER_STEPS_EVERY - 1
        arms: tuple[Arm, ...] = ("cheaper_steps", "combined") if cheaper_steps else ("combined", "cheaper_steps")
        for arm in arms if budget == 0 else arms[:1]:
            open_plans = self._open(arm, budget, busy)
            if open_plans.any():
                row = self._unseen(open_plans, rng) if budget == 0 and self._few_are_seen() else None
                row = self._on_ladder(arm, open_plans, number) if row is None and budget == 0 else row
                row = self._drawn(open_plans, number, rng) if row is None else row
                return Proposal(self.candidates[row], "explore", arm, budget)
        # every plan is scored on every prompt: repeat the best, at no cost
        best = self.choice("combined", budget)
        row = self.plans.row[best] if best is not None else int(self.mask("combined", budget).argmax())
        return Proposal(self.candidates[row], "explore", "combined", budget)

    def _unseen(self, open_plans: Mask, rng: np.random.Generator) -> int | None:
        """A plan that was not evaluated yet, drawn at random; None where all were."""
        unseen = open_plans & ~self.plans.seen()
        rows = np.flatnonzero(self.keeper.keeping(unseen))
        return int(rng.choice(rows)) if len(rows) else None

    def finalists(self, budget: int = 0, failed: Collection[str] = ()) -> list[Finalist]:
        """As ``Strategy.finalists``; one plan at the study's own budget is a sceptic's choice."""
        second = self._expected_by(_MILD_SCEPTIC) if budget == 0 else None
        return best_of_each_arm(self.plans, self.belief, self.keeper, budget, failed, second)

    def _expected_by(self, scales: Scales) -> Array:
        """What a belief of these scales expects of every plan that was evaluated, (M,); −∞ for others."""
        expected: Array = np.where(self.plans.seen(), self.belief.fit(scales).mean(), -np.inf)
        return expected

    def _few_are_seen(self) -> bool:
        """Whether plans are still to be drawn at random."""
        within, trials = self.mask("combined", 0), self.settings.n_trials
        every = self._first_on_ladder >= _LEAST_ON_LADDER and within.sum() <= trials // 2
        return int((self.plans.seen() & within).sum()) < (int(within.sum()) if every else trials // _BROAD)

    @property
    def _first_on_ladder(self) -> int:
        """Plans that a ladder begins with."""
        return int(_LADDER * self.settings.n_trials / _EACH_ON_LADDER)

    def _on_ladder(self, arm: Arm, open_plans: Mask, number: int) -> int | None:
        """The least seen of the arm's plans that are still in question; None where there is no ladder, or not yet."""
        rungs, first = _LADDER * self.settings.n_trials, self._first_on_ladder
        done = (number - self.settings.n_trials + rungs) / rungs
        if first < _LEAST_ON_LADDER or done < 0:
            return None
        tried = self.mask(arm) & self.plans.seen()
        value = np.where(self.keeper.keeping(tried), self._expected_by(_SCEPTIC), -np.inf)
        size = round(first * (_LAST_ON_LADDER / first) ** done)
        best = [int(row) for row in np.argsort(-value)[:size] if np.isfinite(value[row]) and open_plans[row]]
        return min(best, key=lambda row: self.book.count(self.candidates[row].plan_id), default=None)

    def _drawn(self, open_plans: Mask, number: int, rng: np.random.Generator) -> int:
        """The best plan of one draw from the belief, or from the sceptic's belief in the plans that were evaluated."""
        posterior, eligible = self.posterior(), open_plans
        sceptical = open_plans & self.plans.seen()
        if number % _SCEPTIC_EVERY == _SCEPTIC_EVERY - 1 and sceptical.any():
            posterior, eligible = self.belief.fit(_SCEPTIC), sceptical
        value = np.where(eligible, posterior.draw(rng)[0], -np.inf)
        value = np.where(self.keeper.keeping(eligible, rng), value, -np.inf)
        return int(value.argmax())

    def _open(self, arm: Arm, budget: int, busy: Collection[str]) -> Mask:
        """The arm's plans that can still teach something."""
        mask = self.mask(arm, budget)
        for plan in (*self.book.plans, *busy):
            row = self.plans.row.get(plan)
            if row is not None and (plan in busy or self.book.complete(plan) or self.keeper.known_to_break(plan)):
                mask[row] = False
        return mask
