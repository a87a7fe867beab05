"""Guard rails: what a chosen plan must keep beside the best CLIP score.

A guard bounds one metric of a plan against the baseline, on the prompts both have. ``--max-drop`` is for
quality metrics, ``--guard`` for fidelity metrics:

| option | reading | rule |
| --- | --- | --- |
| ``--max-drop clip=0.3`` | mean paired difference of the CLIP score | at least −0.3 |
| ``--max-drop scene=2`` | mean paired difference of the scenes right, in percentage points | at least −2 |
| ``--guard ssim=0.8``, ``psnr=25`` | mean over prompts | at least |
| ``--guard lpips=0.2`` | mean over prompts | at most |
| ``--guard cmmd=0.05`` | unbiased CMMD of all images; noisy with few prompts | at most |
| ``--guard imagereward=-0.05`` | as ``--max-drop imagereward=0.05``: any quality metric's difference | at least |

Names, directions and deviations are those of the metrics' entries (``quality.metrics``). A guard judges the *reading
itself*, not its interval: it is the figure that the profile states, so a profile never contradicts its own guards. Who
wants to be sure asks for more than needed. The interval (two standard errors) serves the search alone: a plan on part
of the prompts is given up when its reading breaks a guard by more than that, and one finalist is taken from the plans
that meet every guard by more.

The budget does not change what a score means and neither do guards: one study serves any.

Symbol: a *deviation* is 0 for the baseline and grows as images get worse, in units that average well
(points of score lost, 1 − SSIM, root mean squared error for PSNR), so that the surrogate can learn it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from postdiff_calib.errors import GuardError
from postdiff_calib.quality.metric import Metric, OfSet
from postdiff_calib.quality.metrics import SCORE, comparisons, quality_metrics
from postdiff_calib.quality.metrics import metric as find_metric
from postdiff_calib.scores.select import PlanScores

#: Fewest prompts of a reading with an error that can be trusted, and the errors that count as certain.
_SURE_PROMPTS, _SURE_ERRORS = 20, 2.0
_SLACK = 1e-9

Amount = TypeVar("Amount", float, npt.NDArray[np.float64])

_SYNTAX = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*=\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*", re.ASCII)


@dataclass(frozen=True)
class Reading:
    """One metric of one plan: its value, the standard error of that, and on how many prompts."""

    value: float
    error: float
    n: int


@dataclass(frozen=True)
class Guard:
    """A bound on one metric; for quality on the mean paired difference, so a drop of 0.3 is a bound of −0.3."""

    metric: str
    bound: float

    @property
    def rule(self) -> Literal["at least", "at most"]:
        """On which side of the bound a plan must be."""
        return "at least" if find_metric(self.metric).direction == "higher" else "at most"

    @property
    def allowed(self) -> float:
        """The bound as a deviation."""
        return deviation(self.metric, self.bound)

    def miss(self, reading: Reading) -> float:
        """By how much a reading is on the wrong side, in the metric's unit; 0 or less when the guard is met."""
        return self.bound - reading.value if self.rule == "at least" else reading.value - self.bound

    def met(self, reading: Reading) -> bool:
        """Whether a reading is on the right side, the bound included however a mean was rounded."""
        return self.miss(reading) <= _SLACK * max(1.0, abs(self.bound))

    def surely(self, reading: Reading) -> Literal["met", "broken"] | None:
        """What a reading says beyond its own noise; None when it could go either way."""
        if reading.n < _SURE_PROMPTS or abs(self.miss(reading)) <= _SURE_ERRORS * reading.error:
            return None
        return "broken" if self.miss(reading) > 0 else "met"

    def __str__(self) -> str:
        return f"{label(self.metric)} {self.rule} {self.bound:g}"


def label(metric: str) -> str:
    """A guarded metric as text."""
    return find_metric(metric).guarded


def measures() -> tuple[str, ...]:
    """Names of the metrics that compare with the baseline's images; ``--guard`` bounds them."""
    return tuple(m.name for m in comparisons())


def deviation(metric: str, value: float) -> float:
    """A reading's distance from the baseline; see the module."""
    return find_metric(metric).deviation.of(value)


def deviation_error(metric: str, reading: Reading) -> float:
    """Standard error of a reading's deviation."""
    return find_metric(metric).deviation.slope(reading.value) * reading.error


def parse_guards(
    max_drop: Iterable[str] = (), guards: Iterable[str] = (), quality: Sequence[Metric] | None = None
) -> tuple[Guard, ...]:
    """Read ``--max-drop`` and ``--guard`` options, e.g. ``("clip=0.3", "scene=2")`` and ``("cmmd=0.05", "ssim=0.8")``.

    Args:
        max_drop, guards: as given.
        quality: the quality metrics that are measured; those of the list by default.

    Raises:
        GuardError: nonsense, an unknown or repeated name, or a bound that says nothing; the line lists what exists.
    """
    found: dict[str, Guard] = {}
    known = {"--max-drop": quality_metrics() if quality is None else tuple(quality), "--guard": comparisons()}
    knows = {option: [m.name for m in those] for option, those in known.items()}
    for option, texts in (("--max-drop", max_drop), ("--guard", guards)):
        names = knows[option]
        example = f"such as {option} {known[option][0].bound}"
        for text in texts:
            shown = f"{option} {text!r}"
            match = _SYNTAX.fullmatch(text)
            if match is None:
                raise GuardError(shown, f"it is NAME=NUMBER, with NAME one of {', '.join(names)}", example)
            name, number = match[1].lower(), float(match[2])
            if option == "--guard" and name in knows["--max-drop"] and number <= 0:
                number = 0.0 - number  # a quality metric's difference: at least so much
            elif name not in names:
                elsewhere = next((other for other, those in knows.items() if name in those), None)
                hint = "" if elsewhere is None else f"; {name} is guarded by {elsewhere}"
                raise GuardError(shown, f"{option} knows {', '.join(names)}{hint}", example)
            _check_bound(shown, name, number, example)
            if name in found:
                raise GuardError(shown, f"{name} is guarded twice", "give it once")
            found[name] = Guard(name, (0.0 - number) if find_metric(name).quality else number)
    return tuple(found.values())


def _check_bound(shown: str, name: str, number: float, example: str) -> None:
    drop, highest = find_metric(name).quality, find_metric(name).highest
    if not math.isfinite(number) or number < 0 or (number == 0 and not drop):
        rule = "the drop must be finite and at least 0" if drop else "the bound must be finite and above 0"
        raise GuardError(shown, rule, example)
    if number > highest:
        raise GuardError(shown, f"{name} is {highest:g} at most", "give a lower bound")


def values(metric: str, plan: PlanScores) -> npt.NDArray[np.float64]:
    """A per-prompt metric of a plan: (N,), NaN where not measured; all of it NaN where the study has none."""
    unknown = np.full(len(plan.scores), math.nan)
    return plan.scores if metric == SCORE else plan.measures.get(metric, unknown)


def read(metric: str, plan: PlanScores, baseline: PlanScores) -> Reading | None:
    """A metric of a plan against the baseline; None where too little of it was measured."""
    of_set, quality = find_metric(metric).of_set, find_metric(metric).quality
    if of_set is not None:
        return _read_set(metric, of_set, plan, baseline)
    found = values(metric, plan)
    if quality:
        found = found - values(metric, baseline)
    found = found[np.isfinite(found)]
    if len(found) < 2:
        return None
    return Reading(float(found.mean()), float(found.std(ddof=1) / math.sqrt(len(found))), len(found))


#: A metric of the set may cost N² kernels, and the same plans are judged again and again: its readings are kept, by the
#: metric's name, as long as the plan is, with the baseline that they are against.
_OF_SETS: WeakKeyDictionary[PlanScores, dict[str, tuple[PlanScores, Reading | None]]] = WeakKeyDictionary()


def _read_set(metric: str, of_set: OfSet, plan: PlanScores, baseline: PlanScores) -> Reading | None:
    if plan is baseline:  # a value that held its own key would never be given back
        return _new_reading(of_set, plan, baseline)
    kept = _OF_SETS.setdefault(plan, {})
    known = kept.get(metric)
    if known is None or known[0] is not baseline:
        known = kept[metric] = (baseline, _new_reading(of_set, plan, baseline))
    return known[1]


def _new_reading(of_set: OfSet, plan: PlanScores, baseline: PlanScores) -> Reading | None:
    if plan.features is None or baseline.features is None or plan.features.shape != baseline.features.shape:
        return None
    both = np.isfinite(plan.features).all(1) & np.isfinite(baseline.features).all(1)
    n = int(both.sum())
    if n < 3:
        return None
    return Reading(*of_set(plan.features[both], baseline.features[both]), n)


def broken(guards: Sequence[Guard], plan: PlanScores, baseline: PlanScores) -> list[Guard]:
    """The guards that a plan does not meet on the prompts at hand; one that cannot be read is not met."""
    found = []
    for guard in guards:
        reading = read(guard.metric, plan, baseline)
        if reading is None or not guard.met(reading):
            found.append(guard)
    return found


def obeying(guards: Sequence[Guard], plans: Iterable[PlanScores], baseline: PlanScores) -> list[PlanScores]:
    """The plans that meet every guard."""
    return [plan for plan in plans if not broken(guards, plan, baseline)]


@dataclass(frozen=True)
class Nearest:
    """The plan that comes nearest to meeting the guards, and each guard it misses with its reading."""

    plan: PlanScores
    misses: tuple[tuple[Guard, Reading], ...]

    def __str__(self) -> str:
        said = [
            f"{label(guard.metric)} {reading.value:.3g} ({guard.miss(reading):.2g} "
            f"{'too low' if guard.rule == 'at least' else 'too high'})"
            for guard, reading in self.misses
        ]
        return f"{self.plan.knobs.describe()} has {' and '.join(said)}"


def nearest(guards: Sequence[Guard], plans: Iterable[PlanScores], baseline: PlanScores) -> Nearest | None:
    """The plan whose worst deviation over the allowed one is least; None when no plan has every reading."""
    best: tuple[float, Nearest] | None = None
    for plan in plans:
        readings = [(guard, read(guard.metric, plan, baseline)) for guard in guards]
        known = [(guard, reading) for guard, reading in readings if reading is not None]
        if len(known) < len(readings):
            continue
        worst = max(excess(guard, deviation(guard.metric, reading.value)) for guard, reading in known)
        misses = tuple((guard, reading) for guard, reading in known if not guard.met(reading))
        if best is None or worst < best[0]:
            best = worst, Nearest(plan, misses)
    return None if best is None else best[1]


def excess(guard: Guard, deviating: Amount) -> Amount:
    """A deviation beyond the allowed one, as a share of that; 0 or less when within it."""
    return (deviating - guard.allowed) / max(abs(guard.allowed), 1e-3)
