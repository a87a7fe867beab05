"""The optional section of a profile with its plan's differences by category of prompt."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from postdiff_calib.profile.sections import Comparison, MetricName, Section


class CategoryRow(Section):
    """One category of held-out prompts; each interval of ``metrics`` is 95 % by itself.

    ``loses`` names the metrics in which the category loses significantly after the section's ``correction``, by more
    than δ for all that is known.
    """

    category: str
    num_prompts: Annotated[int, Field(ge=2)]
    metrics: dict[MetricName, Comparison]
    loses: list[MetricName]


class CategoriesSection(Section):
    """The plan minus the baseline by category of held-out prompt.

    ``level`` is the chance of even one false finding among all ``comparisons`` (categories × metrics), which
    ``correction`` keeps.
    """

    rows: Annotated[list[CategoryRow], Field(min_length=2)]
    comparisons: Annotated[int, Field(ge=2)]
    correction: Literal["Holm"]
    level: Annotated[float, Field(gt=0, lt=1)]
