"""The plans of the frontier, each as the profile that an export would write for it: the report's budget slider.

A plan's budget is the searched one at which it is chosen, so that its profile says all that is known there; else its
own cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from postdiff_calib.cost.budget import Budget, parse_budget
from postdiff_calib.errors import BudgetError, CheckError
from postdiff_calib.knobs import Knobs
from postdiff_calib.profile import Profile
from postdiff_calib.report.html.findings import Findings
from postdiff_calib.report.wording import interval, results, shown, speed_up

#: Held-out prompts whose images stand beside each plan: the first ones, none picked.
PROMPTS = 3


@dataclass(frozen=True)
class Choice:
    """One place of the slider.

    Attributes:
        label: its budget and cost.
        profile: what an export for the budget would be.
        differences: each metric's label and difference.
        speed_up: in time and compute.
    """

    label: str
    profile: Profile
    differences: tuple[tuple[str, str], ...]
    speed_up: str

    @property
    def knobs(self) -> Knobs:
        """Of the plan."""
        return self.profile.knobs

    @property
    def yaml(self) -> str:
        """The profile's text."""
        return self.profile.to_yaml()


def choices(findings: Findings) -> list[Choice]:
    """The frontier's plans that are chosen at some budget, cheapest first; the page's own profile is one of them."""
    limit, evidence = findings.limit, findings.evidence
    found: dict[str, Profile] = {findings.profile.plan.plan_id: findings.profile}
    searched = [_share(findings, row.share) for row in findings.profile.tradeoff.rows if row.searched]
    own = [_share(findings, row.relative, up=True) for row in findings.frontiers()["combined"]]
    for budget in (*searched, *own):
        try:
            profile = findings.study.conclude(budget, evidence=evidence)
        except (BudgetError, CheckError):
            continue
        found.setdefault(profile.plan.plan_id, profile)
    costs = {row.scores.plan.plan_id: row.relative for row in findings.rows}
    wanted = [row.scores.plan.plan_id for row in findings.frontiers()["combined"]]
    kept = [plan for plan in found if plan in wanted or plan == findings.profile.plan.plan_id]
    measure = "MACs" if limit.kind == "macs" else "time"
    return [
        Choice(
            label=f"{found[plan].budget.text}: {costs.get(plan, 1.0):.0%} of the {measure}",
            profile=found[plan],
            differences=_differences(found[plan]),
            speed_up=speed_up(found[plan]),
        )
        for plan in sorted(kept, key=lambda plan: costs.get(plan, 1.0))
    ]


def _share(findings: Findings, share: float, *, up: bool = False) -> Budget:
    """A share of the baseline's cost as a budget in the report's terms; ``up``: rounded up to a hundredth of 1 %."""
    percent = math.ceil(1e4 * share - 1e-6) / 100 if up else 100 * share
    time = findings.limit.kind == "seconds"
    before = "p95:" if findings.limit.quantile == "p95" else ""
    return parse_budget(f"{before}{percent:.10g}%{' time' if time else ''}")


def _differences(profile: Profile) -> tuple[tuple[str, str], ...]:
    return tuple((shown(r.metric).label, f"{interval(r.difference, r.metric)} {r.verdict}") for r in results(profile))


def plans_of(found: Sequence[Choice], baseline: Knobs) -> list[Knobs]:
    """The baseline and every plan, each once: those whose images are shown."""
    return list(dict.fromkeys([baseline, *(choice.knobs for choice in found)]))
