"""Knobs → step plan: a row per denoising step, and the one source of truth.

The sampler executes the plan, the cost model prices it, the report draws it. Source: PostDiff, arXiv 2508.06160,
sections 2.2 and 2.5.

There are T steps. The techniques (``techniques``) say, one after another, what happens on each of them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from postdiff_calib.knobs import Knobs
from postdiff_calib.techniques import states, techniques
from postdiff_calib.techniques.mixed_resolution import low_res_size as low_res_size
from postdiff_calib.techniques.step import Step as Step
from postdiff_calib.techniques.step import StepKind as StepKind
from postdiff_calib.techniques.step import StepRow

#: A search compiles thousands of plans from the same few hundred steps.
_step = lru_cache(maxsize=8192)(Step)
#: Where the steps stand in the text that a plan's hash is of.
_STEPS = "\N{DOWNWARDS ARROW}steps"
_STEPS_AS_JSON = json.dumps(_STEPS)


@lru_cache(maxsize=16384)
def _steps(*columns: tuple[bool, ...]) -> StepRow:
    """Steps of these columns, which many plans share."""
    return StepRow(_step(index, *values) for index, values in enumerate(zip(*columns, strict=True)))


@dataclass(frozen=True)
class StepPlan:
    """A compiled configuration: its knobs and one ``Step`` per denoising step."""

    knobs: Knobs
    steps: tuple[Step, ...]

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __getitem__(self, index: int) -> Step:
        return self.steps[index]

    @property
    def n_low(self) -> int:
        """Number of low-resolution steps."""
        return sum(step.low_res for step in self.steps)

    @property
    def gate_step(self) -> int:
        """The first step without guidance; T when guidance is never dropped."""
        return sum(step.guided for step in self.steps)

    @property
    def refresh_steps(self) -> tuple[int, ...]:
        """Indices of the steps on which the deep part runs."""
        return tuple(step.index for step in self.steps if step.refresh)

    @property
    def is_identity(self) -> bool:
        """True when every step is full resolution, guided, refreshed and live: the baseline."""
        return all(step.kind == StepKind(False, True, True, True) for step in self.steps)

    def kinds(self) -> Counter[StepKind]:
        """How many steps there are of each kind; a plan's cost is the sum over these."""
        return Counter(step.kind for step in self.steps)

    def words(self, guides: bool = True) -> str:
        """What the plan does, for people, e.g. ``20 steps, the first 6 at 0.5 of the side, guidance on the first 15``.

        Counts are those of the compiled steps; each technique that acts says its own part. The short form, for tables,
        is ``Knobs.describe``.

        Args:
            guides: the model uses classifier-free guidance at all.
        """
        total = f"{len(self)} step{'s' * (len(self) != 1)}"
        if self.is_identity:
            return f"{len(self)} full step{'s' * (len(self) != 1)}"
        parts = (technique.words(self.knobs, self.steps, guides) for technique in techniques())
        return ", ".join([total, *(part for part in parts if part)])

    @cached_property
    def plan_id(self) -> str:
        """Short hash of what the plan makes the sampler do; equal for knobs that compile to the same run.

        Includes β, cache branch and cache mode only where a step makes use of them.
        """
        knobs = self.knobs
        facts: dict[str, Any] = {"steps": _STEPS}
        for technique in techniques():
            facts |= technique.facts(knobs, self.steps)
        steps = self.steps if isinstance(self.steps, StepRow) else StepRow(self.steps)
        text = json.dumps(facts, sort_keys=True).replace(_STEPS_AS_JSON, steps.text)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        """A table in plain text, a row per step."""
        columns = states()

        def row(first: str, cells: Sequence[str]) -> str:
            padded = [cell.ljust(state.width) for cell, state in zip(cells[:-1], columns, strict=False)]
            return "  ".join([first, *padded, cells[-1]])

        lines = [f"{self.knobs.describe()}", row("step", [state.heading for state in columns])]
        for step in self.steps:
            line = row(f"{step.index:>4}", [state.cell(step) for state in columns])
            lines.append(line + ("  → full resolution" if step.switch else ""))
        return "\n".join(lines)

    @cached_property
    def acting(self) -> tuple[str, ...]:
        """Names of the techniques that make a step other than the baseline's."""
        return tuple(technique.name for technique in techniques() if technique.acts(self.steps))

    @cached_property
    def effective(self) -> dict[str, float]:
        """What the searched knobs come to, by field; neutral where they do nothing."""
        found: dict[str, float] = {"num_inference_steps": len(self.steps)}
        for technique in techniques():
            found |= technique.effective(self.knobs, self.steps)
        return found


def compile_plan(knobs: Knobs) -> StepPlan:
    """Compile knobs into the step plan.

    Examples:
        >>> compile_plan(Knobs(4, low_res_fraction=0.5, low_res_scale=0.5, cache_interval=2)).refresh_steps
        (0, 2)
    """
    columns: dict[str, Sequence[Any]] = {}
    for technique in techniques():
        columns |= technique.columns(knobs, columns)
    own = [columns[name] for name in ("low_res", "guided", "refresh", "cross_attention_live", "switch")]
    further = [state for state in states() if state.name not in StepKind._fields]
    if not further:
        return StepPlan(knobs, _steps(*map(tuple, own)))
    steps = []
    for index, values in enumerate(zip(*own, strict=True)):
        given = [(state, columns[state.name][index]) for state in further]
        more = tuple((state.name, value) for state, value in given if value != state.neutral)
        steps.append(_step(index, *values, more))
    return StepPlan(knobs, StepRow(steps))


def plan_facts(plan: StepPlan) -> tuple[str, int, int, tuple[int, ...]]:
    """What a profile states of a plan: plan id, low-resolution steps, gate step, refresh steps."""
    return plan.plan_id, plan.n_low, plan.gate_step, plan.refresh_steps
