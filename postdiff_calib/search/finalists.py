"""Which plans are judged on held-out prompts: those of the highest expected value in each arm."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from postdiff_calib.scores.select import Arm
from postdiff_calib.search.belief import Belief
from postdiff_calib.search.keeping import Keeper
from postdiff_calib.search.plans import Plans
from postdiff_calib.search.proposals import Finalist
from postdiff_calib.search.space import Candidate

#: Finalists by arm: at the study's own budget, and at each further one.
OWN_FINALISTS: Mapping[Arm, int] = {"combined": 3, "cheaper_steps": 2, "step_reduction": 2}
FURTHER_FINALISTS: Mapping[Arm, int] = {"combined": 1, "cheaper_steps": 2, "step_reduction": 2}


def best_of_each_arm(
    plans: Plans, belief: Belief, keeper: Keeper, budget: int, failed: Collection[str] = ()
) -> list[Finalist]:
    """The plans to judge at a budget.

    Of the step-reduction arm the plan of the most steps that fit is always one. Guards rule over the plans that may be
    chosen (*combined*); the two arms are compared by quality alone.

    Args:
        plans: of the search.
        belief: in their values.
        keeper: of the guards.
        budget: which one.
        failed: plans whose images were broken.
    """
    mean = belief.posterior().mean()
    sound = np.array([c.plan_id not in failed for c in plans.candidates])
    found: dict[str, Finalist] = {}
    for arm, count in (OWN_FINALISTS if budget == 0 else FURTHER_FINALISTS).items():
        mask = plans.mask(arm, budget) & sound
        if arm == "combined" and mask.any():
            mask = keeper.keeping(mask)
        chosen = [plans.candidates[i] for i in np.argsort(-np.where(mask, mean, -np.inf))[:count] if mask[i]]
        if arm == "step_reduction" and mask.any():
            most = most_steps(plans.of(mask))
            chosen = [*chosen[: count - 1], most] if most not in chosen else chosen
        for c in chosen:
            found.setdefault(c.plan_id, Finalist(c, arm))
    return list(found.values())


def most_steps(plans: Sequence[Candidate]) -> Candidate:
    """The plan of the most steps; ``plans`` must not be empty."""
    return max(plans, key=lambda c: c.knobs.num_inference_steps)
