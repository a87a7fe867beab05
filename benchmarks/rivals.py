"""Other searches with the structure and the images of ours: short evaluations, then the best few on all prompts.

A rival buys scores with the images in its ``Purse``. At the end the best mean over all prompts wins.

Rivals that propose knobs (Optuna, SMAC3) are told which plan they really got: the nearest within the budget.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from purse import Purse
from worlds import World, by_symbol

from postdiff_calib.search.space import coordinate_matrix

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]

#: Optuna's view of the knobs, in effective terms: whole steps make some shares a little less or more than the grid's.
KNOBS: dict[str, BaseDistribution] = {
    "T": IntDistribution(2, 20),
    "s": FloatDistribution(0.0, 0.9),
    "beta": FloatDistribution(0.375, 1.0),
    "k": IntDistribution(1, 5),
    "m": FloatDistribution(0.2, 1.0),
}


class Knobs:
    """The plans within a budget as points, for rivals that propose knobs."""

    def __init__(self, world: World, share: float) -> None:
        self.rows = world.allowed_rows(share)
        self.points = coordinate_matrix([world.candidates[i] for i in self.rows])
        # On a whole grid the other knobs are kept and T gives way, as the project does with proposals over the budget.
        self._steps_weight = 0.3 if len(world.candidates) > 2000 else 1.0
        self._places = self._place(self.points)

    def _place(self, points: Array) -> Array:
        total, s, beta, k, m = points.T
        steps = self._steps_weight * np.log(total) / np.log(10)
        return np.stack([steps, s / 0.8, s * (1 - beta) / 0.5, (k - 1) / 4, (m - 0.3) / 0.7], 1)

    def nearest(self, values: dict[str, Any], but: Iterable[int] = ()) -> int:
        """The position in ``rows`` of the plan nearest to a proposal, but for some positions."""
        point = self._place(np.array([[values[name] for name in KNOBS]], dtype=np.float64))[0]
        distance = ((self._places - point) ** 2).sum(1)
        distance[list(but)] = np.inf
        return int(distance.argmin())

    def values(self, position: int) -> dict[str, Any]:
        """Optuna's parameters of a plan."""
        total, s, beta, k, m = self.points[position].tolist()
        return {"T": int(total), "s": s, "beta": beta, "k": int(k), "m": m}


@dataclass(frozen=True)
class Setting:
    """Constants of a rival: prompts of a short evaluation, plans scored in full, and its own."""

    short: int = 10
    finalists: int = 4
    own: tuple[Any, ...] = ()


Rival = Callable[[World, Purse, float, int, Setting], int]


def by_mean(purse: Purse) -> list[int]:
    return sorted(purse.rows, key=purse.mean, reverse=True)


def random(world: World, purse: Purse, share: float, seed: int, setting: Setting) -> int:
    """Short evaluations of random plans, no plan twice before all have had one."""
    rng = np.random.default_rng([seed, 1])
    rows = world.allowed_rows(share)
    queue: list[int] = []
    while purse.left - purse.reserve(setting.finalists, setting.short) >= 2 * setting.short:
        queue = queue or rng.permutation(rows).tolist()
        purse.take(queue.pop(), setting.short)
        purse.note()
    return purse.finish(by_mean(purse))


def ask_optuna(make: Callable[..., optuna.samplers.BaseSampler]) -> Rival:
    """An Optuna sampler, to which the plans that really ran are reported."""

    def run(world: World, purse: Purse, share: float, seed: int, setting: Setting) -> int:
        knobs = Knobs(world, share)
        study = optuna.create_study(direction="maximize", sampler=make(seed, *setting.own))
        complete: list[int] = []
        short, finalists = setting.short, setting.finalists
        while len(complete) < len(knobs.rows) and purse.left - purse.reserve(finalists, short) >= 2 * short:
            trial = study.ask(KNOBS)
            position = knobs.nearest(trial.params, but=complete)
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            row = int(knobs.rows[position])
            purse.take(row, setting.short)
            purse.note()
            values = knobs.values(position)
            study.add_trial(optuna.create_trial(params=values, distributions=KNOBS, value=purse.mean(row)))
            if purse.n(row) == purse.num_prompts:
                complete.append(position)
        return purse.finish(by_mean(purse))

    return run


def tpe(seed: int, joint: bool) -> optuna.samplers.BaseSampler:
    """Its own constant: whether knobs are modelled jointly."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.samplers.TPESampler(seed=seed, multivariate=joint)


def tpe_with_pruner(world: World, purse: Purse, share: float, seed: int, setting: Setting) -> int:
    """TPE with Optuna's WilcoxonPruner: a plan goes on to all prompts unless the pruner stops it; none is tried twice.

    Its own constants: prompts per report, and the pruner's threshold.
    """
    block, threshold = setting.own
    knobs = Knobs(world, share)
    pruner = optuna.pruners.WilcoxonPruner(p_threshold=threshold)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed), pruner=pruner)
    seen: list[int] = []
    while len(seen) < len(knobs.rows):
        trial = study.ask(KNOBS)
        seen.append(knobs.nearest(trial.params, but=seen))
        row, step = int(knobs.rows[seen[-1]]), 0
        for start in range(0, purse.num_prompts, 10):
            prompts = range(start, min(start + 10, purse.num_prompts))
            if not purse.take_at(row, prompts):
                return purse.finish(by_mean(purse))
            for part in np.array_split(purse.at(row, prompts), max(1, len(prompts) // block)):
                trial.report(float(part.mean()), step)
                step += 1
            if trial.should_prune():
                break
        purse.note()
        study.tell(trial, purse.mean(row))
    return purse.finish(by_mean(purse))


def smoothed(world: World, purse: Purse) -> dict[int, float]:
    """Means drawn towards a ridge regression on the knobs, the more the fewer prompts a plan has.

    The penalty is chosen by leave-one-out errors, and the weight of a plan's own mean from what they leave beyond the
    noise.
    """
    rows = np.array(purse.rows)
    x = ridge_features(world)[rows]
    y = np.array([purse.mean(r) for r in rows])
    n = np.array([purse.n(r) for r in rows])
    variance = np.array([purse.variance(r) for r in rows])
    typical = np.nanmedian(variance) if np.isfinite(variance).any() else 1.0
    variance = np.where(np.isfinite(variance), (variance * (n - 1) + 6 * typical) / (n + 5), typical)
    noise = np.maximum(variance / n, 1e-9)
    weight = 1 / noise
    weight = weight / weight.mean()
    root = np.sqrt(weight)
    centre = (weight * y).sum() / weight.sum()
    a, b = (x - (weight[:, None] * x).sum(0) / weight.sum()) * root[:, None], (y - centre) * root
    u, sizes, _ = np.linalg.svd(a, full_matrices=False)
    best, fitted, error = np.inf, y, 0.0
    for penalty in (0.3, 1.0, 3.0, 10.0, 30.0, 100.0):
        shrink = sizes**2 / (sizes**2 + penalty)
        smooth = u @ (shrink * (u.T @ b))
        lever = (u**2 * shrink).sum(1) + 1 / len(rows)
        left_out = (b - smooth) / np.maximum(1 - lever, 0.05)
        loss = float((left_out**2).mean())
        if loss < best:
            best, fitted, error = loss, centre + smooth / root, loss
    beyond = max(error / weight.mean() - float((noise * weight).mean()), 0.05 * error)
    own = beyond / (beyond + noise)
    return dict(zip(rows.tolist(), (fitted + own * (y - fitted)).tolist(), strict=True))


_FEATURES: dict[int, tuple[object, Array]] = {}


def ridge_features(world: World) -> Array:
    """Knobs, their squares and products, standardised."""
    key = id(world.candidates)
    if key not in _FEATURES:
        total, s, beta, k, m = (by_symbol(world.candidates)[symbol] for symbol in ("T", "s", "β", "k", "m"))
        base = np.stack([1 / total, np.log(total), s, s * (1 - beta), k, k / total, m, np.log(world.macs)], 1)
        base = (base - base.mean(0)) / base.std(0)
        i, j = np.triu_indices(base.shape[1])
        every = np.concatenate([base, base[:, i] * base[:, j]], 1)
        _FEATURES[key] = world.candidates, (every - every.mean(0)) / every.std(0)
    return _FEATURES[key][1]


def halving(world: World, purse: Purse, share: float, seed: int, setting: Setting) -> int:
    """Successive halving. Its own constants: prompts of the first round, what each round divides by, whether smoothed.

    As many plans start, at random, as the images allow, all of them where they do; every round takes as many images.
    """
    first, divisor, smooth = setting.own
    rng = np.random.default_rng([seed, 2])
    rows = rng.permutation(world.allowed_rows(share))
    total = purse.left - purse.reserve(setting.finalists, 0)

    def cost(n: int) -> int:
        return _halving_cost(n, first, divisor, setting.finalists, purse.num_prompts)

    fits = range(setting.finalists, len(rows) + 1)
    n = fits[max(0, bisect_right(fits, total, key=cost) - 1)] if len(fits) else len(rows)
    rounds = _rounds(n, first, divisor, setting.finalists, purse.num_prompts)
    if n == len(rows) and rounds:  # images to spare: longer rounds
        spare = max(1.0, total / max(cost(n), 1))
        rounds = [(size, min(int(prompts * spare), purse.num_prompts)) for size, prompts in rounds]
    alive = rows[:n].tolist()
    for size, prompts in rounds:
        alive = alive[:size]
        for row in alive:
            if purse.n(row) < prompts:
                purse.take(row, prompts - purse.n(row))
        purse.note()
        value = smoothed(world, purse) if smooth else {r: purse.mean(r) for r in alive}
        alive.sort(key=lambda r: -value[r])
    others = [r for r in by_mean(purse) if r not in set(alive)]
    return purse.finish([*alive, *others])


def _rounds(n: int, first: int, divisor: float, finalists: int, most: int) -> list[tuple[int, int]]:
    """Plans and prompts so far, round by round, down to the finalists."""
    found: list[tuple[int, int]] = []
    prompts, size = float(first), float(n)
    while round(size) > finalists:
        found.append((round(size), min(round(prompts), most)))
        size, prompts = size / divisor, prompts * divisor
    return found


def _halving_cost(n: int, first: int, divisor: float, finalists: int, most: int) -> int:
    cost, before = 0, 0
    for size, prompts in _rounds(n, first, divisor, finalists, most):
        cost += size * (prompts - before)
        before = prompts
    return cost - min(n, finalists) * before


def smac(world: World, purse: Purse, share: float, seed: int, setting: Setting) -> int:
    """SMAC3 for algorithm configuration: blocks of prompts are its instances, and its own intensifier races plans.

    Its own constants: prompts in a block, and how many of the plans with the highest mean less its standard error are
    scored in full at the end; with 0 it spends all images itself and its incumbent wins. (Single prompts as instances
    take minutes a run.)
    """
    import joblib
    from ConfigSpace import ConfigurationSpace, Float, Integer
    from smac import AlgorithmConfigurationFacade, Scenario
    from smac.runhistory.dataclasses import TrialValue

    logging.getLogger("smac").setLevel(logging.ERROR)
    block, finalists = setting.own
    blocks = {str(i): range(i, min(i + block, purse.num_prompts)) for i in range(0, purse.num_prompts, block)}
    knobs = Knobs(world, share)
    space = ConfigurationSpace(seed=seed)
    space.add(
        [
            Integer("T", (2, 20), default=10, log=True),
            Float("s", (0.0, 0.9), default=0.1),
            Float("beta", (0.375, 1.0), default=0.75),
            Integer("k", (1, 5), default=2),
            Float("m", (0.2, 1.0), default=0.75),
        ]
    )
    found: dict[Any, int] = {}
    # its forest asks for threads, which cost a hundred times what they save here
    one_thread = joblib.parallel_config(backend="sequential")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), one_thread:
        warnings.simplefilter("ignore")
        scenario = Scenario(
            space,
            deterministic=True,
            n_trials=100_000,
            instances=list(blocks),
            output_directory=folder,
            seed=seed,
        )
        optimiser = AlgorithmConfigurationFacade(scenario, lambda config, instance, seed: 0.0, logging_level=False)
        free = 0
        while purse.left >= purse.reserve(finalists, block) + 2 * block and free < 200:
            info = optimiser.ask()
            if info.config not in found:
                found[info.config] = int(knobs.rows[knobs.nearest(dict(info.config))])
            row, prompts = found[info.config], blocks[info.instance]
            free = 0 if purse.cost(row, prompts) else free + 1
            if not purse.take_at(row, prompts):
                break
            optimiser.tell(info, TrialValue(cost=-float(purse.at(row, prompts).mean())), save=False)
            incumbent = optimiser.intensifier.get_incumbent()
            if incumbent is not None:
                purse.note(found[incumbent])
    if not finalists:
        return purse.curve[-1][1]
    return purse.finish(sorted(purse.rows, key=lambda r: purse.mean(r) - purse.doubt(r), reverse=True))


#: Every rival with its constants, which ``tune_rivals.py`` found to serve it best.
RIVALS: dict[str, tuple[Rival, Setting]] = {
    "random": (random, Setting()),
    "tpe": (ask_optuna(tpe), Setting(own=(True,))),
    "gp": (ask_optuna(lambda seed: optuna.samplers.GPSampler(seed=seed)), Setting()),
    "halving": (halving, Setting(finalists=2, own=(3, 3, False))),
    "halving + ridge": (halving, Setting(finalists=2, own=(2, 2, True))),
    "tpe + WilcoxonPruner": (tpe_with_pruner, Setting(own=(1, 0.2))),
    "smac": (smac, Setting(own=(10, 0))),
}
