"""Every prompt that the winner was judged on, with its difference in each metric: rows of the report's long table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from postdiff_calib.report.html.findings import Findings

#: What the filter goes by: the score's difference is below −δ, within ±δ, above δ, or not known.
Group = Literal["lost", "within", "gained", ""]


@dataclass(frozen=True)
class PromptRow:
    """One prompt; ``differences`` by metric, None where an image was not scored."""

    prompt: str
    category: str
    seed: int
    group: Group
    differences: Mapping[str, float | None]


def prompt_rows(findings: Findings) -> list[PromptRow]:
    """Every prompt, in the order of the set."""
    by_metric = {name: findings.differences(name) for name in findings.metrics}
    categories = findings.study.record.held_out_categories if findings.confirmed else ()
    delta = findings.profile.expected.delta
    rows = []
    for index, prompt in enumerate(findings.prompts):
        found = {name: _known(float(values[index])) for name, values in by_metric.items()}
        category = categories[index] if categories else ""
        group = _group(found[findings.score], delta)
        rows.append(PromptRow(prompt, category, findings.first_seed + index, group, found))
    return rows


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _group(difference: float | None, delta: float) -> Group:
    if difference is None:
        return ""
    return "lost" if difference < -delta else "gained" if difference > delta else "within"
