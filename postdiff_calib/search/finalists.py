"""Which plans are judged on held-out prompts: those of the highest expected value in each arm.

Of all plans together, the last may be the choice of a second belief (``search.postdiff`` asks a sceptic): a plan that
did well against all expectation is then judged, and not lost.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from postdiff_calib.scores.select import Arm
from postdiff_calib.search.belief import Belief
from postdiff_calib.search.keeping import Keeper
from postdiff_calib.search.plans import Mask, Plans
from postdiff_calib.search.proposals import Finalist
from postdiff_calib.search.space import Candidate

#: Finalists by arm: at the study's own budget, and at each further one.
OWN_FINALISTS: Mapping[Arm, int] = {"combined": 3, "cheaper_steps": 2, "step_reduction": 2}
FURTHER_FINALISTS: Mapping[Arm, int] = {"combined": 1, "cheaper_steps": 2, "step_reduction": 2}


def best_of_each_arm(
    plans: Plans,
    belief: Belief,
    keeper: Keeper,
    budget: int,
    failed: Collection[str] = (),
    second: npt.NDArray[np.float64] | None = None,
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
        second: (M,) what another belief expects of each plan, −∞ of plans that it does not know; the last plan of
            *combined* is the best by it that is not chosen yet. None where there is no other belief.
    """
    mean = belief.posterior().mean()
    sound = np.array([c.plan_id not in failed for c in plans.candidates])
    found: dict[str, Finalist] = {}
    for arm, count in (OWN_FINALISTS if budget == 0 else FURTHER_FINALISTS).items():
        mask = plans.mask(arm, budget) & sound
        if arm == "combined" and mask.any():
            mask = keeper.keeping(mask)
        chosen = [plans.candidates[i] for i in _best(mean, mask)[:count]]
        if arm == "combined" and second is not None and chosen:
            others = (plans.candidates[i] for i in _best(second, mask))
            chosen = [*chosen[: count - 1], next((c for c in others if c not in chosen[: count - 1]), chosen[-1])]
        if arm == "step_reduction" and mask.any():
            most = most_steps(plans.of(mask))
            chosen = [*chosen[: count - 1], most] if most not in chosen else chosen
        for c in chosen:
            found.setdefault(c.plan_id, Finalist(c, arm))
    return list(found.values())


def _best(value: npt.NDArray[np.float64], mask: Mask) -> list[int]:
    """The rows of a mask with a finite value, the highest first."""
    found = np.where(mask, value, -np.inf)
    return [int(i) for i in np.argsort(-found) if np.isfinite(found[i])]


def most_steps(plans: Sequence[Candidate]) -> Candidate:
    """The plan of the most steps; ``plans`` must not be empty."""
    return max(plans, key=lambda c: c.knobs.num_inference_steps)
