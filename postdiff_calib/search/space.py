"""The search space: the only place that says which values of the knobs are tried.

Ranges follow PostDiff, arXiv 2508.06160, section 3 and appendices B to D, a little widened at the cheap end: T from the
model's card, s in tenths, β as the sizes the network accepts, k from 1 to 5, m in six steps. Knob settings that compile
to the same step plan count once; each plan is known by its content hash. A plan over the budget is not part of the
space that is searched at all.

Symbols: T steps, s low-resolution share, β low-resolution scale, k cache interval, m guided share.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from postdiff_calib.budget import Limit, PlanCost
from postdiff_calib.errors import BudgetError, KnobError
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.families import family_named
from postdiff_calib.plan import StepPlan, compile_plan, low_res_size

LOW_RES_FRACTIONS: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
CACHE_INTERVALS: tuple[int, ...] = (1, 2, 3, 4, 5)
GUIDANCE_FRACTIONS: tuple[float, ...] = (1.0, 0.9, 0.75, 0.6, 0.45, 0.3)

#: The paper's own choice, in the knobs other than T (its table 1; β is the family's).
PAPER = {"low_res_fraction": 0.5, "cache_interval": 2, "guidance_fraction": 0.75}
PAPER_SCALE = 0.5

Price = Callable[[StepPlan], PlanCost]


class CardLike(Protocol):
    """What the search reads of a model's card."""

    @property
    def num_inference_steps(self) -> int: ...  # noqa: D102
    @property
    def pipeline_class(self) -> str: ...  # noqa: D102
    @property
    def knobs(self) -> Collection[str]: ...  # noqa: D102
    @property
    def step_range(self) -> tuple[int, int]: ...  # noqa: D102
    @property
    def low_res_scales(self) -> tuple[float, ...]: ...  # noqa: D102
    @property
    def latent_multiple(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class Candidate:
    """One distinct plan: its knobs, content hash, cost, and what it effectively does.

    ``n_low`` and ``n_guided`` are steps; ``k`` is 1 wherever every step refreshes.
    """

    knobs: Knobs
    content: str
    cost: PlanCost
    n_low: int
    n_guided: int
    k: int

    @property
    def fewer(self) -> bool:
        """Of the fewer-steps arm: nothing but T differs from the unaccelerated model."""
        return self.n_low == 0 and self.k == 1 and self.n_guided == self.knobs.num_inference_steps

    def coordinates(self) -> tuple[float, float, float, float, float]:
        """Effective (T, s, β, k, m); β is 1 where no step is at low resolution."""
        total = self.knobs.num_inference_steps
        scale = self.knobs.low_res_scale if self.n_low else 1.0
        return total, self.n_low / total, scale, self.k, self.n_guided / total


@dataclass(frozen=True)
class SearchSpace:
    """The grid of knobs; ``from_card`` is the usual way to make one.

    Args:
        default_steps: T of the unaccelerated model.
        steps, fractions, scales, intervals, guidance: values of T, s, β, k and m; each must hold the
            unaccelerated value (``scales`` lists values below 1 only).
        paper_scale: β of the paper's setting.
    """

    default_steps: int
    steps: tuple[int, ...]
    fractions: tuple[float, ...] = LOW_RES_FRACTIONS
    scales: tuple[float, ...] = (0.375, 0.5, 0.625, 0.75, 0.875)
    intervals: tuple[int, ...] = CACHE_INTERVALS
    guidance: tuple[float, ...] = GUIDANCE_FRACTIONS
    paper_scale: float = PAPER_SCALE

    @classmethod
    def from_card(cls, card: CardLike, latent_size: tuple[int, int] | None = None) -> SearchSpace:
        """The space for a model.

        Args:
            card: the model's card.
            latent_size: (height, width) in latent pixels; β values that round to the same size, or to full size,
                are tried once or not at all. None keeps the card's values as they are.
        """
        low, high = card.step_range
        steps = tuple(sorted({*range(low, high + 1), card.num_inference_steps}))
        scales = card.low_res_scales
        if latent_size is not None:
            scales = _distinct_scales(scales, latent_size, card.latent_multiple)
        applies = card.knobs
        resolution = bool(scales) and "low_res_fraction" in applies
        family = family_named(card.pipeline_class)
        return cls(
            default_steps=card.num_inference_steps,
            steps=steps,
            fractions=LOW_RES_FRACTIONS if resolution else (0.0,),
            scales=scales if resolution else (),
            intervals=CACHE_INTERVALS if "cache_interval" in applies else (1,),
            guidance=GUIDANCE_FRACTIONS if "guidance_fraction" in applies else (1.0,),
            paper_scale=family.paper_scale if family is not None else PAPER_SCALE,
        )

    @property
    def baseline(self) -> Knobs:
        """The unaccelerated model."""
        return Knobs(self.default_steps)

    @property
    def paper(self) -> Knobs:
        """The paper's setting, as far as this space has its knobs, at the default T."""
        values: dict[str, float] = {}
        if self.scales:
            values["low_res_fraction"] = PAPER["low_res_fraction"]
            values["low_res_scale"] = min(self.scales, key=lambda scale: abs(scale - self.paper_scale))
        if PAPER["cache_interval"] in self.intervals:
            values["cache_interval"] = int(PAPER["cache_interval"])
        if PAPER["guidance_fraction"] in self.guidance:
            values["guidance_fraction"] = PAPER["guidance_fraction"]
        return Knobs.from_dict({"num_inference_steps": self.default_steps, **values})

    def as_dict(self) -> dict[str, list[float]]:
        """The values by name, for the record."""
        return {
            "num_inference_steps": list(self.steps),
            "low_res_fraction": list(self.fractions),
            "low_res_scale": list(self.scales),
            "cache_interval": list(self.intervals),
            "guidance_fraction": list(self.guidance),
        }

    @cached_property
    def plans(self) -> tuple[StepPlan, ...]:
        """Every distinct plan of the grid, the mildest knobs that compile to it first."""
        unique: dict[str, StepPlan] = {}
        seen: set[tuple[float, ...]] = set()
        for total in self.steps:
            lows = {s: compile_plan(Knobs(total, s, 0.5)).n_low if s else 0 for s in self.fractions}
            gates = {m: compile_plan(Knobs(total, guidance_fraction=m)).gate_step for m in self.guidance}
            for s, n_low in lows.items():
                for beta in self.scales if n_low else (1.0,):
                    for k in self.intervals:
                        for m, gate in gates.items():
                            # compiling is the slow part, so equal step counts are recognised before it
                            key = (total, n_low, beta, min(k, max(n_low, total - n_low)), gate)
                            if key in seen:
                                continue
                            seen.add(key)
                            plan = compile_plan(Knobs(total, s if n_low else 0.0, beta, k, m))
                            unique.setdefault(plan.content, plan)
        return tuple(unique.values())

    def candidates(self, price: Price) -> tuple[Candidate, ...]:
        """All plans of the space with their cost; ``price`` is called once for each."""
        return tuple(candidate(plan, price) for plan in self.plans)


def within(candidates: Collection[Candidate], limit: Limit) -> tuple[Candidate, ...]:
    """The plans that the budget allows.

    Raises:
        BudgetError: it allows none; the line says what is reachable.
    """
    allowed = tuple(c for c in candidates if limit.allows(c.cost))
    if not allowed:
        cheapest = min(candidates, key=lambda c: limit.measure(c.cost))
        binding = f"T there is at its lower end of {min(c.knobs.num_inference_steps for c in candidates)}"
        limit.require_reachable(cheapest.cost, cheapest.knobs.describe(), binding)
        raise BudgetError("the budget", "no plan of the search space meets it", "take a larger budget")
    return allowed


def require_reachable(space: SearchSpace, price: Price, limit: Limit) -> None:
    """Refuse a limit below the cheapest plan of the space, pricing one corner of it instead of all plans.

    MACs fall with T and with β whatever the other knobs are, so the cheapest plan has the least of both. (Seconds need
    not: they are looked up plan by plan, in ``within``.)

    Raises:
        BudgetError: as ``within``.
    """
    corner = replace(space, steps=(min(space.steps),), scales=tuple(sorted(space.scales)[:1]))
    within(corner.candidates(price), limit)


def candidate(plan: StepPlan, price: Price) -> Candidate:
    """A plan with its cost and its effective settings."""
    caches = len(plan.refresh_steps) < len(plan)
    return Candidate(
        plan.knobs, plan.content, price(plan), plan.n_low, plan.gate_step, plan.knobs.cache_interval if caches else 1
    )


def coordinate_matrix(candidates: Collection[Candidate]) -> npt.NDArray[np.float64]:
    """Effective (T, s, β, k, m) of each candidate, (N, 5)."""
    return np.array([c.coordinates() for c in candidates], dtype=np.float64).reshape(-1, 5)


def _distinct_scales(scales: tuple[float, ...], size: tuple[int, int], multiple: int) -> tuple[float, ...]:
    sizes: dict[tuple[int, int], float] = {}
    for scale in sorted(scales):
        try:
            low = low_res_size(*size, scale, multiple)
        except KnobError:
            continue
        sizes.setdefault(low, scale)
    return tuple(sizes.values())
