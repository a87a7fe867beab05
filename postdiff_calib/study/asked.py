"""What a study was asked for: the part of a calibrate command that its answers rest on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from postdiff_calib.cost.budget import Budget, parse_budget
from postdiff_calib.models.deployment import MODELS_OWN, DeploymentSettings
from postdiff_calib.quality.scorers import measured_by
from postdiff_calib.scores.guards import Guard, parse_guards
from postdiff_calib.search.restrict import Restriction, parse_restriction

_LISTS = ("delta", "weight", "max_drop", "guards", "also")


@dataclass(frozen=True)
class Asked:
    """What a study was asked for, as far as it is not in the settings of its images.

    Args:
        model: a card's name, a local directory or a hub id: what is loaded.
        budget: the study's own.
        trials: evaluations at that budget.
        seed: of calibration prompt 0.
        prompts: the prompt set's name or file; None is the model's own.
        column, category: the file's columns of prompts and categories; None are those of the usual names.
        search: what proposes plans, by the name of its strategy.
        delta, weight: per metric, as ``scores.objective.parse_per_metric`` reads them.
        max_drop, guards: as ``scores.guards.parse_guards`` reads them.
        restrictions: knobs that the search held to some values.
        deployment: how images are made, as far as it is not the model's own.
        scorer: that is searched on, as ``quality.scorers`` reads it; None is the model's own.
        also: scorers that judge beside it.
    """

    model: str
    budget: Budget
    trials: int
    seed: int
    prompts: str | None = None
    column: str | None = None
    category: str | None = None
    search: str = "postdiff"
    delta: tuple[str, ...] = ()
    weight: tuple[str, ...] = ()
    max_drop: tuple[str, ...] = ()
    guards: tuple[str, ...] = ()
    deployment: DeploymentSettings = MODELS_OWN
    restrictions: tuple[Restriction, ...] = ()
    scorer: str | None = None
    also: tuple[str, ...] = ()

    @property
    def rails(self) -> tuple[Guard, ...]:
        """What a chosen plan must meet beside the budget."""
        return parse_guards(self.max_drop, self.guards, measured_by(self.scorer, self.also))

    def as_dict(self) -> dict[str, Any]:
        """Plain data; the inverse of ``from_dict``."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        lists = {name: list(plain[name]) for name in _LISTS}
        restrictions = {"restrictions": [one.text for one in self.restrictions]}
        return {**plain, "budget": self.budget.text, **lists, "deployment": self.deployment.asked, **restrictions}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Asked:
        """Rebuild from ``as_dict``'s data.

        Raises:
            BudgetError, GuardError, KnobError, UsageError: the budget, a guard, a restriction or a scorer is nonsense.
            TypeError: a key is missing or unknown.
        """
        lists = {name: tuple(data.get(name, ())) for name in _LISTS}
        deployment = DeploymentSettings.from_dict(data.get("deployment", {}))
        restrictions = tuple(parse_restriction(text) for text in data.get("restrictions", ()))
        made = {"budget": parse_budget(data["budget"]), "deployment": deployment, "restrictions": restrictions}
        asked = cls(**{**data, **lists, **made})
        _ = asked.rails
        return asked
