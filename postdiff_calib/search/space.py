"""The search space: which values of the knobs are tried, and the distinct plans that they come to.

The values are those of the table of knobs, narrowed to what a model has and its sizes allow. Knob settings that compile
to the same step plan count once; each plan is known by its plan id. A plan over the budget is not part of the
space that is searched at all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from postdiff_calib.cost.budget import Limit, PlanCost
from postdiff_calib.errors import BudgetError
from postdiff_calib.knobs import Knobs, names, searched, settled
from postdiff_calib.models.families import family_named
from postdiff_calib.plan import StepPlan, compile_plan
from postdiff_calib.search.restrict import Restriction, require_use, restrict
from postdiff_calib.techniques import techniques

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
    """One distinct plan and its cost."""

    plan: StepPlan
    cost: PlanCost

    @property
    def knobs(self) -> Knobs:
        """The plan's knobs."""
        return self.plan.knobs

    @property
    def plan_id(self) -> str:
        """The plan id."""
        return self.plan.plan_id

    @property
    def step_reduction(self) -> bool:
        """Of the step-reduction arm: nothing but T differs from the baseline."""
        return not self.plan.acting

    def coordinates(self) -> tuple[float, ...]:
        """Effective values of the searched knobs, in the order of the table."""
        return tuple(self.plan.effective[row.field] for row in searched())


@dataclass(frozen=True)
class SearchSpace:
    """The grid of knobs; ``from_card`` is the usual way to make one.

    Args:
        default_steps: T of the baseline.
        given: values to try by field; what is left out has the table's own grid. The neutral value stands first, but
            for knobs that another one needs to be set (β) the neutral value is left out.
        paper_values: the paper's setting by field; what is left out is the table's.
        lacks: fields of ``Knobs`` that do nothing for the model.
        restrictions: what ``given`` was narrowed to.
    """

    default_steps: int
    given: Mapping[str, tuple[float, ...]] = field(hash=False)
    paper_values: Mapping[str, float] = field(default_factory=dict, hash=False)
    lacks: frozenset[str] = frozenset()
    restrictions: tuple[Restriction, ...] = ()

    @classmethod
    def from_card(
        cls,
        card: CardLike,
        latent_size: tuple[int, int] | None = None,
        restrictions: tuple[Restriction, ...] = (),
    ) -> SearchSpace:
        """The space for a model.

        Args:
            card: the model's card.
            latent_size: (height, width) in latent pixels; β values that round to the same size, or to full size,
                are tried once or not at all. None keeps the card's values as they are.
            restrictions: knobs that are held to some values, each once.

        Raises:
            KnobError: a restriction leaves nothing to search; the line names it.
        """
        knobs, grids = card.knobs, dict[str, tuple[float, ...]]()
        for row in searched():
            values = row.card_grid(card) if row.card_grid is not None else row.grid
            applies = row.per_model or (row.field in knobs and (not row.needs or row.needs in knobs))
            grids[row.field] = values if applies else () if row.needs else (row.neutral,)
        grids = restrict(grids, restrictions, getattr(card, "name", "this model"))
        if latent_size is not None:
            for technique in techniques():
                technique.narrow(grids, card, latent_size)
        for row in searched():
            if row.needs and not grids[row.field]:
                grids[row.needs] = require_use(grids, row, restrictions)
        family = family_named(card.pipeline_class)
        rows = searched() if family is not None else ()
        paper = {row.field: row.family_paper(family) for row in rows if row.family_paper is not None}
        return cls(card.num_inference_steps, grids, paper, names() - frozenset(knobs), restrictions)

    def settled(self, values: Mapping[str, Any]) -> Knobs:
        """Knobs from values by field, as ``knobs.settled`` has it, for this space's model."""
        return settled(values, self.default_steps, self.lacks)

    @cached_property
    def grids(self) -> dict[str, tuple[float, ...]]:
        """The values by field, of every knob that a search varies, in the order of the table."""
        return {row.field: tuple(self.given.get(row.field, row.grid)) for row in searched()}

    @property
    def baseline(self) -> Knobs:
        """The baseline."""
        return Knobs(self.default_steps)

    @property
    def paper(self) -> Knobs:
        """The paper's setting, as far as this space has its knobs, at the default T."""
        values: dict[str, float] = {}
        for row in searched():
            wanted, grid = self.paper_values.get(row.field, row.paper), self.grids[row.field]
            if wanted is None or not grid:
                continue
            if row.needs:
                values[row.field] = nearest(grid, wanted)
            elif wanted in grid:
                values[row.field] = wanted
        return self.settled(values)

    def as_dict(self) -> dict[str, list[float]]:
        """The values by name, for the record."""
        return {name: list(values) for name, values in self.grids.items()}

    def settings(self) -> Iterator[Knobs]:
        """Every combination of values, T outermost; a knob beside a neutral one that it needs stays neutral."""
        rows = searched()
        neutral = {row.field: row.neutral for row in rows}
        for values in product(*(self.grids[row.field] or (row.neutral,) for row in rows)):
            chosen: dict[str, Any] = {row.field: value for row, value in zip(rows, values, strict=True)}
            idle = [row for row in rows if row.needs and chosen[row.needs] == neutral[row.needs]]
            if all(chosen[row.field] == (self.grids[row.field] or (row.neutral,))[0] for row in idle):
                yield self.settled(chosen)

    @cached_property
    def plans(self) -> tuple[StepPlan, ...]:
        """Every distinct plan of the grid, the mildest knobs that compile to it first."""
        unique: dict[str, StepPlan] = {}
        for knobs in self.settings():
            plan = compile_plan(knobs)
            unique.setdefault(plan.plan_id, plan)
        return tuple(unique.values())

    def candidates(self, price: Price) -> tuple[Candidate, ...]:
        """All plans of the space with their cost; ``price`` is called once for each."""
        return tuple(candidate(plan, price) for plan in self.plans)


def within(
    candidates: Collection[Candidate], limit: Limit, restrictions: Collection[Restriction] = ()
) -> tuple[Candidate, ...]:
    """The plans that the budget allows.

    Args:
        candidates: every plan of the space.
        limit: the budget.
        restrictions: what the space was narrowed to, to be named where it allows none.

    Raises:
        BudgetError: it allows none; the line says what is reachable.
    """
    allowed = tuple(c for c in candidates if limit.allows(c.cost))
    if not allowed:
        cheapest = min(candidates, key=lambda c: limit.measure(c.cost))
        binding = f"T there is at its lower end of {min(c.knobs.num_inference_steps for c in candidates)}"
        if restrictions:
            binding += f", with {', '.join(one.option for one in restrictions)}"
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
    least = {row.field: tuple(sorted(space.grids[row.field])[:1]) for row in searched() if row.binding}
    corner = SearchSpace(space.default_steps, {**space.grids, **least}, lacks=space.lacks)
    within(corner.candidates(price), limit, space.restrictions)


def candidate(plan: StepPlan, price: Price) -> Candidate:
    """A plan with its cost."""
    return Candidate(plan, price(plan))


def coordinate_matrix(candidates: Collection[Candidate]) -> npt.NDArray[np.float64]:
    """Effective values of the searched knobs of each candidate, (N, knobs)."""
    return np.array([c.coordinates() for c in candidates], dtype=np.float64).reshape(-1, len(searched()))


def nearest(options: Collection[float], wanted: float) -> float:
    """The option next to a wanted value; the first of two that are equally near."""
    return min(options, key=lambda option: abs(option - wanted))
