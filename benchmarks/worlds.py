"""Worlds to try a search on: plans with known true means, and scores of fresh prompts without making an image.

A world's population are the 500 prompts of the recorded table (``search_table.py``). ``World.draw`` takes prompts from
it with replacement, so intervals for an infinite population are the right ones, and ``World.truth`` is the mean over
all 500. A score is the baseline's on that prompt, plus the plan's truth, plus noise with a mean of 0:

    world = make_world("cheaper wins")
    scores = world.draw(np.random.default_rng(0), 700)  # rows on demand
    calibration, held_out = scores.split(200)
    calibration[world.baseline], calibration[3, [0, 1, 2]]

``WORLDS`` lists them. ``no structure`` and ``lone optimum`` differ from run to run: give ``make_world`` the run's rng.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from postdiff_calib.cost.budget import Limit, PlanCost
from postdiff_calib.knobs import Knobs, searched
from postdiff_calib.models.cards import get_card
from postdiff_calib.plan import compile_plan
from postdiff_calib.search.space import Candidate, SearchSpace, candidate, coordinate_matrix

Array = npt.NDArray[np.float64]
Arm = Literal["step_reduction", "cheaper_steps", "combined"]

RESULTS = Path(__file__).parent / "results"
TABLE = RESULTS / "search_table.npz"


class Scores:
    """Scores of every plan on drawn prompts, (plans, prompts), made row by row when asked for.

    ``scores[row]`` is all prompts of a plan, ``scores[row, prompts]`` some of them, ``scores[rows]`` (R, prompts).
    """

    def __init__(self, row: Callable[[int], Array], plans: int, prompts: int, first: int = 0) -> None:
        self._row, self._first = row, first
        self.shape = plans, prompts

    def __getitem__(self, index: object) -> Array:
        rows, prompts = index if isinstance(index, tuple) else (index, slice(None))
        if isinstance(rows, (int, np.integer)):
            return self._row(int(rows))[self._first : self._first + self.shape[1]][prompts]
        if isinstance(rows, slice):
            rows = range(*rows.indices(self.shape[0]))
        return np.array([self[int(i), prompts] for i in rows])

    def split(self, prompts: int) -> tuple[Scores, Scores]:
        """The first so many prompts, and the rest."""
        plans, total = self.shape
        return Scores(self._row, plans, prompts, self._first), Scores(
            self._row, plans, total - prompts, self._first + prompts
        )


#: How noise is made: (rng, columns of the table) → a function from a row to its noise on those prompts.
Noise = Callable[[np.random.Generator, npt.NDArray[np.intp]], Callable[[int], Array]]


@dataclass(frozen=True, eq=False)
class World:
    """Plans, their true means, and a way to draw scores.

    Attributes:
        name: of the world.
        candidates: the plans with their cost; the baseline among them.
        baseline: its row.
        truth: (M,) true mean paired difference to the baseline, in CLIP points; 0 at the baseline.
        level: the baseline's score on each prompt of the population.
        noise: what a plan's score deviates by.
        own: the arm that a search sees.
    """

    name: str
    candidates: list[Candidate]
    baseline: int
    truth: Array
    level: Array = field(repr=False)
    noise: Noise = field(repr=False)
    own: Arm = "combined"

    @cached_property
    def rows(self) -> dict[str, int]:
        """Row by plan id."""
        return {c.plan_id: i for i, c in enumerate(self.candidates)}

    @cached_property
    def macs(self) -> Array:
        """Cost of every plan."""
        return np.array([c.cost.macs for c in self.candidates])

    @property
    def reference(self) -> Candidate:
        """The baseline."""
        return self.candidates[self.baseline]

    @cached_property
    def arms(self) -> dict[Arm, npt.NDArray[np.bool_]]:
        """Which plans belong to which arm."""
        default = self.reference.knobs.num_inference_steps
        return {
            "step_reduction": np.array([c.step_reduction for c in self.candidates]),
            "cheaper_steps": np.array([c.knobs.num_inference_steps == default for c in self.candidates]),
            "combined": np.ones(len(self.candidates), dtype=np.bool_),
        }

    def draw(self, rng: np.random.Generator, num_prompts: int) -> Scores:
        """Scores on fresh prompts: independent draws, so one call can be split into calibration and held-out."""
        columns = rng.integers(0, len(self.level), num_prompts)
        level = self.level[columns]
        noise = self.noise(rng, columns)
        made: dict[int, Array] = {}

        def row(i: int) -> Array:
            if i not in made:
                made[i] = level if i == self.baseline else level + self.truth[i] + noise(i)
            return made[i]

        return Scores(row, len(self.candidates), num_prompts)

    def limit(self, share: float) -> Limit:
        """This share of the baseline's MACs."""
        return Limit("macs", "median", share * self.reference.cost.macs, self.reference.cost.macs)

    def allowed_rows(self, share: float, arm: Arm = "combined") -> npt.NDArray[np.intp]:
        """Rows of an arm's plans within a budget."""
        limit = self.limit(share)
        within = np.array([limit.allows(c.cost) for c in self.candidates])
        return np.flatnonzero(within & self.arms[arm] & self.arms[self.own])

    def allowed(self, share: float) -> list[Candidate]:
        """The plans within a budget."""
        return [self.candidates[i] for i in self.allowed_rows(share)]

    def best(self, share: float, arm: Arm = "combined") -> int | None:
        """The row of the highest truth of an arm within a budget; None where the arm has no plan there."""
        rows = self.allowed_rows(share, arm)
        return int(rows[self.truth[rows].argmax()]) if len(rows) else None


@dataclass(frozen=True, eq=False)
class Recorded:
    """The table as it was recorded: scores (plans, prompts)."""

    candidates: list[Candidate]
    scores: Array
    baseline: int

    @cached_property
    def residual(self) -> Array:
        """Paired differences to the baseline less their means."""
        differences = self.scores - self.scores[self.baseline]
        return differences - differences.mean(1, keepdims=True)


@cache
def recorded(path: Path = TABLE) -> Recorded:
    """Read the table."""
    with np.load(path) as data:
        plans = [compile_plan(Knobs.from_dict(k)) for k in json.loads(str(data["knobs"]))]
        macs, scores, baseline = data["macs"].tolist(), data["scores"].astype(np.float64), int(data["baseline"])
    cost = {plan.plan_id: PlanCost(m, 0) for plan, m in zip(plans, macs, strict=True)}
    return Recorded([candidate(plan, lambda plan: cost[plan.plan_id]) for plan in plans], scores, baseline)


def _rows_of(residual: Array, order: npt.NDArray[np.intp] | None = None) -> Noise:
    """Noise that is the recorded one."""

    def noise(_: np.random.Generator, columns: npt.NDArray[np.intp]) -> Callable[[int], Array]:
        return lambda i: residual[i if order is None else order[i]][columns]

    return noise


@cache
def _table() -> World:
    found = recorded()
    truth = (found.scores - found.scores[found.baseline]).mean(1)
    level = found.scores[found.baseline]
    return World("table", found.candidates, found.baseline, truth, level, _rows_of(found.residual))


@cache
def _grid_file() -> dict[str, npt.NDArray]:
    with np.load(RESULTS / "grid_world.npz") as data:
        return {name: data[name] for name in data.files}


@cache
def _grid() -> World:
    found, data = recorded(), _grid_file()
    card = get_card("shapes")
    plans = SearchSpace.from_card(card, card.latent_size()).plans
    cost = {
        f"{plan_id:016x}": PlanCost(macs, paper)
        for plan_id, macs, paper in zip(
            data["content"].tolist(), data["macs"].tolist(), data["macs_paper"].tolist(), strict=True
        )
    }
    if len(plans) != len(cost) or any(plan.plan_id not in cost for plan in plans):
        raise SystemExit("the search space has changed since grid_world.npz: run python benchmarks/grid_world.py")
    by_plan_id = {plan.plan_id: plan for plan in plans}
    candidates = [candidate(by_plan_id[plan_id], lambda plan: cost[plan.plan_id]) for plan_id in cost]
    factor, correlation, neighbour = (data[n].astype(np.float64) for n in ("factor", "correlation", "neighbour"))
    baseline = next(i for i, c in enumerate(candidates) if c.plan_id == found.candidates[found.baseline].plan_id)
    prompts = found.scores.shape[1]

    def noise(_: np.random.Generator, columns: npt.NDArray[np.intp]) -> Callable[[int], Array]:
        def row(i: int) -> Array:
            near = found.residual[int(neighbour[i])]
            if correlation[i] < 1:
                other = near[np.random.default_rng([1, i]).permutation(prompts)]
                near = correlation[i] * near + np.sqrt(1 - correlation[i] ** 2) * other
            return factor[i] * near[columns]

        return row

    return World("grid", candidates, baseline, data["truth"], found.scores[found.baseline], noise)


def smooth_part() -> Array:
    """Of every plan of the world ``grid``, the mean that its knobs tell, without the plan's own deviation: (M,)."""
    return _grid_file()["smooth"].astype(np.float64)


@cache
def _flat() -> World:
    table = _table()
    return replace(table, name="flat", truth=np.zeros(len(table.truth)))


@cache
def _cheaper_wins() -> World:
    table = _table()
    truth, macs = table.truth.copy(), table.macs
    cheaper_steps = np.flatnonzero(table.arms["cheaper_steps"] & ~table.arms["step_reduction"])
    step_reduction = np.flatnonzero(table.arms["step_reduction"])
    edges = table.reference.cost.macs * np.array([0.0, *np.arange(0.15, 0.81, 0.05), 1.0]) * (1 + 1e-9)
    for low, high in pairwise(edges):
        band = cheaper_steps[(macs[cheaper_steps] > low) & (macs[cheaper_steps] <= high)]
        rivals = step_reduction[macs[step_reduction] <= high]
        if len(band) and len(rivals):
            truth[band] += table.truth[rivals].max() + 1.0 - table.truth[band].max()
    return replace(table, name="cheaper wins", truth=truth)


def by_symbol(candidates: Sequence[Candidate]) -> dict[str, npt.NDArray[np.float64]]:
    """Effective values of the searched knobs by symbol, (M,) each."""
    return {row.symbol: values for row, values in zip(searched(), coordinate_matrix(candidates).T, strict=True)}


@cache
def _cliffs() -> World:
    table, data = _table(), _grid_file()
    known = (f"{plan_id:016x}" for plan_id in data["content"].tolist())
    smooth = dict(zip(known, data["smooth"].tolist(), strict=True))
    truth = np.zeros(len(table.truth))
    knobs = by_symbol(table.candidates)
    for i, c in enumerate(table.candidates):
        total, s, k, m = (float(knobs[symbol][i]) for symbol in ("T", "s", "k", "m"))
        # losses are lessened and the way to the edge rises, so that the best plans are near it
        truth[i] = 0.4 * smooth[c.plan_id] + 6.0 * (k - 1) / 4 * s / 0.8 + 2.0 * (1 - m)
        truth[i] -= 8.0 * (k >= 4 and s >= 0.4) + 5.0 * (m < 0.6 and total <= 8)
    truth[table.baseline] = 0.0
    return replace(table, name="cliffs", truth=truth)


def _no_structure(rng: np.random.Generator) -> World:
    table = _table()
    others = np.array([i for i in np.argsort(table.macs, kind="stable") if i != table.baseline])
    order = np.arange(len(table.truth))
    for block in np.array_split(others, len(others) // 20):
        order[block] = rng.permutation(block)
    noise = _rows_of(recorded().residual, order)
    return replace(table, name="no structure", truth=table.truth[order], noise=noise)


def _lone_optimum(rng: np.random.Generator, share: float) -> World:
    table = _table()
    rows = table.allowed_rows(share)
    low, high = np.quantile(table.macs[rows], [1 / 3, 2 / 3])
    middle = rows[(table.macs[rows] >= low) & (table.macs[rows] <= high)]
    truth = table.truth.copy()
    truth[rng.choice(middle[middle != table.baseline])] = truth[rows].max() + 2.5
    return replace(table, name="lone optimum", truth=truth)


@cache
def _heavy_tails() -> World:
    table, residual = _table(), recorded().residual
    deviation = residual.std(1)
    unit = residual / np.maximum(deviation, 1e-12)[:, None]
    shared = unit.mean(0) / unit.mean(0).std()
    loading = np.clip((unit * shared).mean(1), 0, 0.99)

    def noise(rng: np.random.Generator, columns: npt.NDArray[np.intp]) -> Callable[[int], Array]:
        seed = int(rng.integers(2**32))
        prompt = rng.standard_t(3, len(columns)) / np.sqrt(3)

        def row(i: int) -> Array:
            own = np.random.default_rng([seed, i]).standard_t(3, len(columns)) / np.sqrt(3)
            return deviation[i] * (loading[i] * prompt + np.sqrt(1 - loading[i] ** 2) * own)

        return row

    return replace(table, name="heavy tails", noise=noise)


#: Every world: what makes it, from the run's rng and the budget's share (most need neither), and what it is.
WORLDS: dict[str, tuple[Callable[[np.random.Generator, float], World], str]] = {
    "table": (lambda rng, share: _table(), "469 plans of the shapes model as recorded"),
    "grid": (lambda rng, share: _grid(), "all 17,489 plans of that model's grid; means by a model (grid_world.py)"),
    "flat": (lambda rng, share: _flat(), "every plan is as good as the baseline; noise as recorded"),
    "cheaper wins": (
        lambda rng, share: _cheaper_wins(),
        "the best cheaper-steps plan is one point above step reduction",
    ),
    "cliffs": (lambda rng, share: _cliffs(), "smooth, but k ≥ 4 with s ≥ 0.4 and m < 0.6 with T ≤ 8 fall off"),
    "no structure": (lambda rng, share: _no_structure(rng), "the table's plans permuted among those of similar cost"),
    "lone optimum": (_lone_optimum, "one plan of middling cost, another in each run, is 2.5 points above the best"),
    "heavy tails": (lambda rng, share: _heavy_tails(), "the table's means; noise is t with 3 degrees of freedom"),
}


def make_world(name: str, rng: np.random.Generator | None = None, share: float = 0.25) -> World:
    """The world of that name.

    Args:
        name: one of ``WORLDS``.
        rng: the run's; worlds that differ from run to run take their differences from it. None is seed 0.
        share: the run's budget; ``lone optimum`` puts its best plan within it.
    """
    return WORLDS[name][0](np.random.default_rng(0) if rng is None else rng, share)


def worlds(
    names: Sequence[str] = tuple(WORLDS), rng: np.random.Generator | None = None, share: float = 0.25
) -> list[World]:
    """The worlds of those names; see ``make_world``."""
    return [make_world(name, rng, share) for name in names]
