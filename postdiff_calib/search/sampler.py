"""The strategy as an Optuna sampler, and Optuna's own samplers for comparison.

Optuna does storage, resuming and workers; a trial's parameters are the knobs. The postdiff sampler proposes values of
the grid that are within the budget. Optuna's samplers know no budget: their proposals are moved to the grid and, where
too dear, to the largest T that fits with the other knobs as proposed, so that no picture is ever made over the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from postdiff_calib.errors import StudyError
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.search.space import Candidate, SearchSpace
from postdiff_calib.search.strategy import Proposal

SAMPLERS: tuple[str, ...] = ("postdiff", "tpe", "gp", "random", "nsga2")


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Optuna's view of the space; knobs with one value are left out."""
    found: dict[str, BaseDistribution] = {}
    if len(space.steps) > 1:
        found["num_inference_steps"] = IntDistribution(min(space.steps), max(space.steps))
    if len(space.fractions) > 1:
        found["low_res_fraction"] = FloatDistribution(min(space.fractions), max(space.fractions))
        if len(space.scales) > 1:
            found["low_res_scale"] = FloatDistribution(min(space.scales), max(space.scales))
    if len(space.intervals) > 1:
        found["cache_interval"] = IntDistribution(min(space.intervals), max(space.intervals))
    if len(space.guidance) > 1:
        found["guidance_fraction"] = FloatDistribution(min(space.guidance), max(space.guidance))
    return found


def parameters(knobs: Knobs, space: SearchSpace) -> dict[str, Any]:
    """The trial parameters that stand for these knobs; values that do nothing are put inside their range."""
    values = knobs.as_dict()
    if knobs.low_res_fraction == 0 and space.scales:
        values["low_res_scale"] = max(space.scales)
    return {name: values[name] for name in distributions(space)}


def suggest(trial: optuna.Trial, space: SearchSpace) -> dict[str, float]:
    """Ask the sampler for every knob; returns grid values by name."""
    for name, distribution in distributions(space).items():
        if isinstance(distribution, IntDistribution):
            trial.suggest_int(name, distribution.low, distribution.high)
        elif isinstance(distribution, FloatDistribution):
            trial.suggest_float(name, distribution.low, distribution.high)
    return snap(trial.params, space)


def snap(values: Mapping[str, float], space: SearchSpace) -> dict[str, float]:
    """The nearest grid value of every knob."""
    grid: dict[str, Sequence[float]] = {
        "num_inference_steps": space.steps,
        "low_res_fraction": space.fractions,
        "low_res_scale": space.scales or (1.0,),
        "cache_interval": space.intervals,
        "guidance_fraction": space.guidance,
    }
    neutral = {"num_inference_steps": space.default_steps, "cache_interval": 1, "guidance_fraction": 1.0}
    return {
        name: min(options, key=lambda option: abs(option - values.get(name, neutral.get(name, options[0]))))
        for name, options in grid.items()
    }


def fit(values: Mapping[str, float], space: SearchSpace, allowed: Mapping[str, Candidate]) -> Candidate:
    """The plan of these grid values, or with fewer steps until the budget allows it.

    Args:
        values: grid values by knob name.
        space: the space they come from.
        allowed: plans within the budget by content hash; not empty.
    """
    low_res = values["low_res_fraction"] > 0
    for steps in sorted((t for t in space.steps if t <= values["num_inference_steps"]), reverse=True):
        knobs = Knobs(
            steps,
            values["low_res_fraction"] if low_res else 0.0,
            values["low_res_scale"] if low_res else 1.0,
            int(values["cache_interval"]),
            values["guidance_fraction"],
        )
        found = allowed.get(compile_plan(knobs).content)
        if found is not None:
            return found
    return min(allowed.values(), key=lambda c: c.cost.macs)


class PostDiffSampler(optuna.samplers.BaseSampler):  # type: ignore[misc]  # Optuna is untyped to our checker
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

    def sample_independent(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Only an enqueued trial that lacks a knob comes here: it stays as in the unaccelerated model."""
        return parameters(self._space.baseline, self._space)[param_name]


def make_sampler(
    name: str, seed: int, space: SearchSpace, propose: Callable[[optuna.Study, int], Proposal]
) -> optuna.samplers.BaseSampler:
    """The sampler of that name.

    Raises:
        StudyError: there is none.
    """
    if name == "postdiff":
        return PostDiffSampler(space, propose)
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed)
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed)
    raise StudyError(f"sampler {name!r}", f"it is one of {', '.join(SAMPLERS)}", "the default is postdiff")
