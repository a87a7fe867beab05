"""Step reduction or cheaper steps, in sentences: the answer of a row, of all rows, and where the better arm changes.

And what a reader must know of seconds that another machine measured.
"""

from __future__ import annotations

from collections.abc import Sequence

from postdiff_calib.quality import metric as find_metric
from postdiff_calib.scores.objective import Objective
from postdiff_calib.scores.paired import Comparison
from postdiff_calib.scores.select import ARM_NAMES, Arm, with_verb
from postdiff_calib.study.rows import Row

#: The two arms that the question is about.
_RIVALS: tuple[Arm, Arm] = ("step_reduction", "cheaper_steps")


def row_answer(row: Row, objective: Objective, guides: bool = True) -> str:
    """Step reduction or cheaper steps, at this budget: one sentence, or two where there are several metrics.

    Args:
        row: of the budget.
        objective: the metrics.
        guides: the model uses classifier-free guidance at all.
    """
    where = f"At {100 * row.share:.3g}% of the baseline's cost"
    if not row.searched:
        return f"{where}, the arms were not searched, so neither is known to be better."
    if row.difference is None or row.step_reduction is None or row.cheaper_steps is None:
        if row.winner == "step_reduction" or row.winner == "cheaper_steps":
            plan = row.step_reduction if row.winner == "step_reduction" else row.cheaper_steps
            other = ARM_NAMES["cheaper_steps" if row.winner == "step_reduction" else "step_reduction"]
            assert plan is not None
            words = plan.plan.words(guides)
            return (
                f"{where}, {ARM_NAMES[row.winner]} ({words}): no plan of {other} that may be searched fits the budget."
            )
        return f"{where}, the arms were not compared."
    d = row.in_points(objective)
    cheaper, fewer = row.cheaper_steps.plan.words(guides), row.step_reduction.plan.words(guides)
    pair = f"best found: {cheaper}; against {fewer}"
    score = objective.improved[0].metric if objective.unit == "points" else None
    unit = "points" if objective.unit == "points" else "of the baseline's spread"
    if row.winner == "tie" or row.winner == "undecided":
        gap = f"cheaper steps minus step reduction is {interval(d, score)} {unit}"
        said = f"{where}, neither is shown to be better: {gap} ({pair})."
    else:
        low, high = sorted((abs(d.low), abs(d.high)))
        by, low_end, high_end = (_number(one, score) for one in (abs(d.mean), low, high))
        said = f"{where}, {with_verb(row.winner, 'win')} by {by} {unit} [{low_end}, {high_end}] ({pair})."
    if len(row.metrics) > 1:
        each = (f"{find_metric(name).label} {interval(c, name)}" for name, c in row.metrics.items())
        said += f" By metric: {', '.join(each)}."
    return said


def interval(c: Comparison, metric: str | None = None) -> str:
    """Mean and interval, e.g. ``+0.284 [-0.063, +0.630]``.

    Args:
        c: the difference.
        metric: whose unit it is in; None for spreads.
    """
    mean, low, high = (_number(one, metric, "+") for one in (c.mean, c.low, c.high))
    return f"{mean} [{low}, {high}]"


def _number(value: float, metric: str | None, sign: str = "") -> str:
    """A number with three decimals, or as many as a metric of unknown scale needs."""
    digits = max(3, 0 if metric is None else find_metric(metric).decimals(value))
    return f"{value:{sign}.{digits}f}"


def crossover_text(found: tuple[float, float] | None) -> str | None:
    """Where the better arm changes, in one sentence; None where no change was found."""
    if found is None:
        return None
    low, high = found
    return f"The better arm changes between {100 * low:.3g}% and {100 * high:.3g}% of the baseline's cost."


def overall_answer(rows: Sequence[Row], unit: str) -> str:
    """Step reduction or cheaper steps, at which budgets: one sentence over all rows, cheapest first.

    Args:
        rows: cheapest budget first.
        unit: what budgets are shares of, ``MACs`` or ``time``.
    """
    of = f"of the baseline's {unit}"
    clauses: list[str] = []
    told = [False] * len(rows)
    for arm in _RIVALS:
        won = [row.decided and row.winner == arm for row in rows]
        alone = [not row.decided and row.winner == arm for row in rows]
        for places, words in ((won, f"{with_verb(arm, 'win')} at"), (alone, f"only {with_verb(arm, 'fit')} at")):
            if any(places):
                clauses.append(f"{words} {_where(rows, places)}")
                told = [a or b for a, b in zip(told, places, strict=True)]
    tied = [row.winner == "tie" for row in rows]
    if any(tied):
        clauses.append(f"neither is shown to be better at {_where(rows, tied)}")
    unsearched = [not row.searched for row in rows]
    if any(unsearched):
        clauses.append(f"not searched at {_where(rows, unsearched)}")
    if not clauses:
        return f"The arms were not compared at {_where(rows, [True] * len(rows))} {of}."
    clauses[0] = f"{clauses[0]} {of}"
    sentence = ", ".join(clauses)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _where(rows: Sequence[Row], places: Sequence[bool]) -> str:
    """The budgets of some rows, neighbours joined, e.g. ``16% to 35% and 60%``."""
    runs: list[list[float]] = []
    for i, (row, inside) in enumerate(zip(rows, places, strict=True)):
        if inside and i and places[i - 1]:
            runs[-1].append(row.share)
        elif inside:
            runs.append([row.share])
    texts = [f"{run[0]:.0%}" if len(run) == 1 else f"{run[0]:.0%} to {run[-1]:.0%}" for run in runs]
    return " and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else texts[0]
