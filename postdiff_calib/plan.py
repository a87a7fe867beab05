"""Knobs → step plan: a row per denoising step, and the one source of truth.

The sampler executes the plan, the cost model prices it, the report draws it. Source: PostDiff, arXiv 2508.06160,
sections 2.2 and 2.5.

Rules, with T steps numbered from 0:

- the first n_low = min(round(s·T), T − 1) steps run at low resolution: at least one step is at full resolution;
- step 0 and step n_low (the first at full resolution) are refreshes, and every k-th step counted from there: features
  of another size cannot be reused;
- the first n_guided = max(1, round(m·T)) steps are guided; the others run the conditional half of the batch alone;
- on steps that are not guided, cross-attention returns its cached output; where that was cached at low resolution, it
  runs live once more on the first full-resolution step. With ``cross_attention_cache="off"`` it is always live.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from postdiff_calib.errors import KnobError
from postdiff_calib.knobs import Knobs


class StepKind(NamedTuple):
    """What decides a step's cost; steps of one kind cost the same."""

    low_res: bool
    guided: bool
    refresh: bool
    cross_attention_live: bool


@dataclass(frozen=True)
class Step:
    """One row of the plan: what the network does at step ``index``.

    Attributes:
        index: 0 … T − 1.
        low_res: latents have the low-resolution size.
        guided: both halves of the guidance batch run (where the pipeline guides at all).
        refresh: the deep part of the network runs and is kept; otherwise the kept features are reused.
        cross_attention_live: cross-attention is computed; otherwise its kept output is returned.
        switch: after this step the sample moves from low to full resolution.
    """

    index: int
    low_res: bool
    guided: bool
    refresh: bool
    cross_attention_live: bool
    switch: bool = False

    @cached_property
    def kind(self) -> StepKind:
        """The kind of step, for pricing."""
        return StepKind(self.low_res, self.guided, self.refresh, self.cross_attention_live)


#: A search compiles thousands of plans from the same few hundred steps.
_step = lru_cache(maxsize=8192)(Step)


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
        """True when every step is full resolution, guided, refreshed and live: the unaccelerated model."""
        return all(step.kind == StepKind(False, True, True, True) for step in self.steps)

    def kinds(self) -> Counter[StepKind]:
        """How many steps there are of each kind; a plan's cost is the sum over these."""
        return Counter(step.kind for step in self.steps)

    @cached_property
    def content(self) -> str:
        """Short hash of what the plan makes the sampler do; equal for knobs that compile to the same run.

        Includes β, cache branch and cache mode only where a step makes use of them.
        """
        knobs = self.knobs
        facts = {
            "steps": [list(step.kind) for step in self.steps],
            "scale": knobs.low_res_scale if self.n_low else None,
            "branch": knobs.cache_branch if len(self.refresh_steps) < len(self.steps) else None,
            "cross": knobs.cross_attention_cache if self.gate_step < len(self.steps) else None,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        """A table in plain text, a row per step."""
        lines = [f"{self.knobs.describe()}", "step  resolution  guidance     deep     cross-attention"]
        for step in self.steps:
            lines.append(
                f"{step.index:>4}  {'low' if step.low_res else 'full':<10}  "
                f"{'guided' if step.guided else 'conditional':<11}  {'refresh' if step.refresh else 'reuse':<7}  "
                f"{'live' if step.cross_attention_live else 'cached'}" + ("  → full resolution" if step.switch else "")
            )
        return "\n".join(lines)


def compile_plan(knobs: Knobs) -> StepPlan:
    """Compile knobs into the step plan.

    Examples:
        >>> compile_plan(Knobs(4, low_res_fraction=0.5, low_res_scale=0.5, cache_interval=2)).refresh_steps
        (0, 2)
    """
    total = knobs.num_inference_steps
    # 9 decimals first: 0.15 · 10 must count as 1.5 whatever its binary form.
    n_low = min(round(round(knobs.low_res_fraction * total, 9)), total - 1)
    n_guided = max(1, round(round(knobs.guidance_fraction * total, 9)))
    steps = []
    for index in range(total):
        low_res = index < n_low
        phase_start = 0 if low_res else n_low
        guided = index < n_guided
        first_full_after_gate = index == n_low and n_guided <= n_low
        steps.append(
            _step(
                index=index,
                low_res=low_res,
                guided=guided,
                refresh=(index - phase_start) % knobs.cache_interval == 0,
                cross_attention_live=guided or first_full_after_gate or knobs.cross_attention_cache == "off",
                switch=low_res and index == n_low - 1,
            )
        )
    return StepPlan(knobs, tuple(steps))


def plan_facts(plan: StepPlan) -> tuple[str, int, int, tuple[int, ...]]:
    """What a profile states of a plan: content hash, low-resolution steps, gate step, refresh steps."""
    return plan.content, plan.n_low, plan.gate_step, plan.refresh_steps


def low_res_size(height: int, width: int, scale: float, multiple: int) -> tuple[int, int]:
    """The low-resolution latent size: β·side rounded to the nearest multiple that the network accepts.

    Args:
        height, width: full latent size, in latent pixels.
        scale: β in [0.25, 1].
        multiple: the network's total down-sampling factor, or its patch size.

    Returns:
        (height, width) in latent pixels, each at least one multiple.

    Raises:
        KnobError: rounding leaves nothing smaller than the full size, so the knob would do nothing.
    """

    def side(full: int) -> int:
        return max(multiple, int(scale * full / multiple + 0.5) * multiple)

    low = side(height), side(width)
    if low[0] >= height and low[1] >= width:
        raise KnobError(
            f"low_res_scale={scale:g} of a {height}×{width} latent",
            f"the nearest size the network accepts (multiples of {multiple}) is {low[0]}×{low[1]}, not smaller",
            f"take a scale of at most {(min(height, width) - multiple) / min(height, width):g}",
        )
    return low
