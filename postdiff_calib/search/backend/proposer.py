"""What Optuna asks for the knobs of a trial: a strategy's proposals, or the class of its own that the strategy asks.

Optuna does storage, resuming and workers; a trial's parameters are the knobs. A strategy proposes values of the grid
that are within the budget. Optuna's own searches know no budget: their proposals are moved to the grid and, where
too expensive, to the largest T that fits with the other knobs as proposed, so that no image is made over the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from postdiff_calib.knobs import Knobs, searched
from postdiff_calib.plan import compile_plan
from postdiff_calib.search.proposals import Proposal
from postdiff_calib.search.space import Candidate, SearchSpace, nearest
from postdiff_calib.search.strategies import find_strategy


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Optuna's view of the space; knobs with one value are left out, with those that need them."""
    found: dict[str, BaseDistribution] = {}
    for row in searched():
        values = space.grids[row.field]
        if len(values) > 1 and (not row.needs or row.needs in found):
            ends = min(values), max(values)
            found[row.field] = IntDistribution(*ends) if row.kind is int else FloatDistribution(*ends)
    return found


def parameters(knobs: Knobs, space: SearchSpace) -> dict[str, Any]:
    """The trial parameters that stand for these knobs; values that do nothing are put inside their range."""
    values, neutral = knobs.as_dict(), {row.field: row.neutral for row in searched()}
    for row in searched():
        grid = space.grids[row.field]
        if row.needs and grid and values[row.needs] == neutral[row.needs]:
            values[row.field] = nearest(grid, row.neutral)
        elif grid:  # the baseline may lie outside a restricted range
            values[row.field] = type(values[row.field])(min(max(values[row.field], min(grid)), max(grid)))
    return {name: values[name] for name in distributions(space)}


def suggest(trial: optuna.Trial, space: SearchSpace) -> dict[str, float]:
    """Ask Optuna for every knob; returns grid values by name."""
    for name, distribution in distributions(space).items():
        if isinstance(distribution, IntDistribution):
            trial.suggest_int(name, distribution.low, distribution.high)
        elif isinstance(distribution, FloatDistribution):
            trial.suggest_float(name, distribution.low, distribution.high)
    return snap(trial.params, space)


def snap(values: Mapping[str, float], space: SearchSpace) -> dict[str, float]:
    """The nearest grid value of every knob."""
    found = {}
    for row in searched():
        options = space.grids[row.field] or (row.neutral,)
        usual = space.default_steps if row.per_model else options[0] if row.needs else row.neutral
        wanted = values.get(row.field, usual)
        found[row.field] = nearest(options, wanted)
    return found


def fit(values: Mapping[str, float], space: SearchSpace, allowed: Mapping[str, Candidate]) -> Candidate:
    """The plan of these grid values, or with fewer steps until the budget allows it.

    Args:
        values: grid values by knob name.
        space: the space they come from.
        allowed: plans within the budget by plan id; not empty.
    """
    wanted = space.settled(values)
    steps = (t for t in space.grids["num_inference_steps"] if t <= wanted.num_inference_steps)
    for total in sorted(steps, reverse=True):
        found = allowed.get(compile_plan(replace(wanted, num_inference_steps=int(total))).plan_id)
        if found is not None:
            return found
    return min(allowed.values(), key=lambda c: c.cost.macs)


class Proposer(optuna.samplers.BaseSampler):  # type: ignore[misc]  # Optuna is untyped to our checker
    """Answers every trial with the knobs of a proposal.

    Args:
        space: the grid.
        propose: (trial number, finished and running trials) → what to do; see ``study``.

    Attributes:
        proposals: what was proposed, by trial number, until the trial takes it.
    """

    def __init__(self, space: SearchSpace, propose: Callable[[optuna.Study, int], Proposal]) -> None:
        self._space = space
        self._propose = propose
        self.proposals: dict[int, Proposal] = {}

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All knobs are proposed together."""
        return distributions(self._space)

    def sample_relative(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The knobs of the next proposal; nothing for a trial whose knobs were enqueued."""
        if "fixed_params" in trial.system_attrs:
            return {}
        proposal = self._propose(study, trial.number)
        self.proposals[trial.number] = proposal
        return parameters(proposal.candidate.knobs, self._space)

    def take(self, study: optuna.Study, number: int) -> Proposal | None:
        """What was proposed to a trial; None for one whose knobs were enqueued.

        It is proposed anew, from the same scores, where a kill came before the plan was stored but after the knobs
        were, which Optuna then does not ask for again.
        """
        if number in self.proposals:
            return self.proposals.pop(number)
        fixed = "fixed_params" in study.get_trials(deepcopy=False)[number].system_attrs
        return None if fixed else self._propose(study, number)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Only an enqueued trial that lacks a knob comes here: it stays as in the baseline."""
        return parameters(self._space.baseline, self._space)[param_name]


def make_proposer(
    name: str, seed: int, space: SearchSpace, propose: Callable[[optuna.Study, int], Proposal]
) -> optuna.samplers.BaseSampler:
    """What proposes for a strategy: one that answers with its proposals, or the class of Optuna's that it asks.

    Raises:
        StudyError: there is no strategy of that name.
    """
    asked = find_strategy(name).asks
    return getattr(optuna.samplers, asked)(seed=seed) if asked else Proposer(space, propose)
