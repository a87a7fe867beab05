"""What a strategy says: the evaluation to make next, the plans to judge in the end, and what a budget came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from postdiff_calib.cost.budget import Limit
from postdiff_calib.scores.select import Arm
from postdiff_calib.search.space import Candidate
from postdiff_calib.search.unfound import Unfound

#: ``whole`` evaluations score all prompts of the search; only Optuna's own searches ask for them.
Role = Literal["baseline", "explore", "whole"]


@dataclass(frozen=True)
class Proposal:
    """What a trial is to do; ``budget`` numbers the budget it is made for, 0 being the study's own."""

    candidate: Candidate
    role: Role
    arm: Arm
    budget: int = 0


@dataclass(frozen=True)
class Finalist:
    """A plan to be judged on held-out prompts, and the arm it stands for."""

    candidate: Candidate
    arm: Arm


@dataclass(frozen=True)
class Searched:
    """One budget that was searched.

    Attributes:
        limit: the budget.
        finalists: the plans to judge on held-out prompts.
        unfound: what better plans may lie elsewhere; None where the arms were not searched one by one (Optuna's own
            searches), so that the budget decides nothing between them.
        fits: whether any plan of each arm fits the budget.
    """

    limit: Limit
    finalists: tuple[Finalist, ...]
    unfound: Unfound | None
    fits: Mapping[Arm, bool]
