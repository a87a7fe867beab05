"""The chosen plan by category of held-out prompt: the profile's section, and what is warned of."""

from __future__ import annotations

from collections.abc import Sequence

from postdiff_calib.profile import Comparison
from postdiff_calib.profile.categories import CategoriesSection, CategoryRow
from postdiff_calib.quality.metrics import metric
from postdiff_calib.scores.categories import LEVEL, CategoryDifferences, by_category
from postdiff_calib.scores.objective import Objective
from postdiff_calib.scores.paired import verdict
from postdiff_calib.study.choose import Choice


def categories_section(
    choice: Choice, objective: Objective, categories: Sequence[str]
) -> tuple[CategoriesSection | None, list[str]]:
    """The section, and a warning for each category that loses where all prompts together do not.

    Args:
        choice: the plan with its scores.
        objective: the metrics with their δ.
        categories: of the held-out prompts, ``""`` for one without; empty where the prompt set has none.

    Returns:
        (None, []) where the plan was not judged on held-out prompts or is the baseline, or where there are not two
        categories with enough prompts.
    """
    winner, baseline = choice.winner, choice.field.baseline
    if not choice.confirmed or not categories or winner.plan.plan_id == baseline.plan.plan_id:
        return None, []
    differences = {name: winner.metric(name) - baseline.metric(name) for name in objective.metrics}
    found = by_category(differences, categories)
    if not found:
        return None, []
    delta = {term.metric: term.delta for term in objective.terms}
    whole = dict(zip(objective.metrics, choice.comparisons, strict=True))
    rows = [
        CategoryRow(
            category=row.category,
            num_prompts=row.n,
            metrics={
                name: Comparison(mean=c.mean, low=c.low, high=c.high, num_prompts=c.n)
                for name, c in row.metrics.items()
            },
            loses=[name for name in row.metrics if row.loses(name, delta[name])],
        )
        for row in found
    ]
    comparisons = len(found) * len(objective.metrics)
    section = CategoriesSection(rows=rows, comparisons=comparisons, correction="Holm", level=LEVEL)
    warnings = [
        _warning(source, name, comparisons)
        for row, source in zip(rows, found, strict=True)
        for name in row.loses
        if verdict(whole[name], delta[name]) != "worse"
    ]
    return section, warnings


def _warning(row: CategoryDifferences, name: str, comparisons: int) -> str:
    known, c = metric(name), row.metrics[name]
    mean, low, high = (known.show(end, signed=True) for end in (c.mean, c.low, c.high))
    return (
        f"Warning: prompts of the category {row.category!r} lose in {known.label}, {mean} [{low}, {high}] on {row.n} "
        f"of them, though all prompts together do not. Significant at {100 * LEVEL:.0f} % after Holm's correction for "
        f"{comparisons} comparisons. If such prompts matter, look at their images or take a larger budget."
    )
