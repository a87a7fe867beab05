"""One row of a step plan: what the network does at one denoising step."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple


class StepKind(NamedTuple):
    """What decides a step's cost; steps of one kind cost the same.

    ``more`` has the states of further techniques, by name, where they are not neutral.
    """

    low_res: bool
    guided: bool
    refresh: bool
    cross_attention_live: bool
    more: tuple[tuple[str, Any], ...] = ()

    @property
    def facts(self) -> list[Any]:
        """For the plan's hash: what a technique that does not act would add is left out."""
        return [*self[:4], *([list(state) for state in self.more])]


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
        more: states of further techniques, by name, where they are not neutral.
    """

    index: int
    low_res: bool
    guided: bool
    refresh: bool
    cross_attention_live: bool
    switch: bool = False
    more: tuple[tuple[str, Any], ...] = ()

    @cached_property
    def kind(self) -> StepKind:
        """The kind of step, for pricing."""
        return StepKind(self.low_res, self.guided, self.refresh, self.cross_attention_live, self.more)


class StepRow(tuple[Step, ...]):
    """The steps of a plan in order; plans that share them share what is worked out here once."""

    @cached_property
    def kinds(self) -> frozenset[StepKind]:
        """The kinds of step there are."""
        return frozenset(step.kind for step in self)

    @cached_property
    def acting(self) -> dict[Any, bool]:
        """Which techniques act, as far as that was asked."""
        return {}

    @cached_property
    def text(self) -> str:
        """For the plan's hash: the facts of every step, as JSON."""
        return json.dumps([step.kind.facts for step in self])
