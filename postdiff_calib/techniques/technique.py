"""What a technique is: what it adds to a step of the plan, what it puts on a network, what of a step it makes cheaper.

``Technique`` has a method for each, with the answer of a technique that does nothing as its default. A plan, the hooks
of a network and the cost meter walk the list in ``techniques``; nothing here imports torch.

Symbols: T steps, numbered from 0.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from postdiff_calib.knobs import Knob, Knobs
from postdiff_calib.models.families import Family
from postdiff_calib.models.families.family import Guidance
from postdiff_calib.techniques.step import Step, StepKind, StepRow

Steps = Sequence[Step]
_OWN = frozenset(StepKind._fields)
#: State by name → its values, one per step.
Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class State:
    """Something that a technique says of every step.

    Attributes:
        name: field of ``Step`` and ``StepKind``, or the name under which ``more`` has it.
        neutral: its value on a step of the baseline.
        heading, width: of its column where a plan is printed.
        cells: the column's text on a neutral step, and on another.
        tips: a line about the step in the report, in the same two cases.
        of_guidance: it is of no interest where the model does not guide.
    """

    name: str
    neutral: Any
    heading: str
    width: int
    cells: tuple[str, str]
    tips: tuple[str, str]
    of_guidance: bool = False

    def of(self, step: Step | StepKind) -> Any:
        """Its value on a step."""
        if self.name in _OWN:
            return getattr(step, self.name)
        return dict(step.more).get(self.name, self.neutral)

    def cell(self, step: Step) -> str:
        """The column's text for a step."""
        return self.cells[self.of(step) != self.neutral]

    def tip(self, step: Step) -> str:
        """The report's line for a step."""
        return self.tips[self.of(step) != self.neutral]


@dataclass
class NetworkCall:
    """One call of a denoiser, or of the control network before it, which techniques may change before it is made.

    Attributes:
        step: the plan's row.
        steps: the whole plan.
        knobs: the plan's knobs.
        sample: the latent that it is called with.
        args, kwargs: of the call.
        batch: entries of the batch; two per image where both halves of guidance run.
        guided: both halves are in the batch, or there is a call for each.
        full_size: full latent size (height, width), where known.
        size: latent size (height, width) of this call, where known.
        guidance: where the two halves are.
        half: 1 in the second of two calls, the unconditional one; else 0.
    """

    step: Step
    steps: Steps
    knobs: Knobs
    sample: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    batch: int
    guided: bool
    full_size: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    guidance: Guidance = "unconditional first"
    half: int = 0

    @property
    def conditional(self) -> int:
        """Which half of a batch is the conditional one."""
        return 0 if self.guidance == "conditional first" else 1


class Part:
    """What a technique has put on one network. It passes everything through until a call begins.

    A run calls ``start``, then ``begin``, the network, ``end`` and ``note`` for each step, at last ``clear``. The cost
    meter calls ``prime`` or ``apply``, the network, and ``rest``.
    """

    def start(self, steps: Steps) -> None:
        """A run of these steps begins."""

    def begin(self, call: NetworkCall) -> None:
        """Before a network call: set what the hooks do, change the call."""

    def begin_control(self, call: NetworkCall) -> None:
        """Before a control network's call."""

    def end(self, output: Any) -> Any:
        """After it: the output that the pipeline gets."""
        return output

    def note(self, record: Any) -> None:
        """Write what ran into the step's ``StepRecord``."""

    def check(self) -> None:
        """Refuse what was switched on in the network since and does not go with this technique."""

    def prime(self) -> None:
        """The next calls run whole and keep what cheaper ones use."""

    def apply(self) -> None:
        """The next calls are the cheaper ones."""

    def rest(self) -> None:
        """Let every hook pass through."""

    def clear(self) -> None:
        """Drop every tensor."""

    def detach(self) -> None:
        """Take every hook off."""


class Deployment(NamedTuple):
    """What a step's cost depends on beside the plan.

    Attributes:
        latent: full latent (height, width).
        multiple: low-resolution sides are multiples of this.
        guides: guidance doubles the batch.
    """

    latent: tuple[int, int]
    multiple: int
    guides: bool


class Probing(NamedTuple):
    """What is to be measured.

    Attributes:
        applicable: the knobs that do something for the model.
        scales: β values, the most telling first.
        branches: cache branches.
        quick: few kinds of step.
    """

    applicable: Collection[str]
    scales: Sequence[float]
    branches: Sequence[int]
    quick: bool


class Fired(NamedTuple):
    """Whether a plan asks for something, and whether it was seen to happen."""

    what: str
    asked: bool
    seen: bool


class Technique:
    """Base of every technique; one that does nothing.

    Attributes:
        name: what it is called.
        states: what it says of a step.
        rows: its knobs, where it is registered for a time; otherwise they are fields of ``Knobs``.
    """

    name: str = ""
    states: tuple[State, ...] = ()
    rows: tuple[Knob, ...] = ()

    # The plan

    def columns(self, knobs: Knobs, columns: Columns) -> Columns:
        """The states of all T steps; ``columns`` has those of the techniques before it in the list."""
        return {}

    def acts(self, steps: Iterable[Step]) -> bool:
        """Whether any step is other than in the baseline."""
        if not isinstance(steps, StepRow):
            return any(state.of(step) != state.neutral for step in steps for state in self.states)
        if self not in steps.acting:
            steps.acting[self] = any(state.of(kind) != state.neutral for kind in steps.kinds for state in self.states)
        return steps.acting[self]

    def facts(self, knobs: Knobs, steps: Steps) -> Mapping[str, Any]:
        """What the plan's hash needs beside the states; nothing where it does not act."""
        return {}

    def effective(self, knobs: Knobs, steps: Steps) -> Mapping[str, float]:
        """What its searched knobs come to, by field; neutral where they do nothing."""
        return {}

    def inert(self, knobs: Knobs, steps: Steps) -> str:
        """The knob that is set but does nothing; empty where there is none."""
        return ""

    def words(self, knobs: Knobs, steps: Steps, guides: bool) -> str:
        """What it does, as part of a sentence; empty where it does nothing."""
        return ""

    # The search

    def narrow(self, grids: dict[str, tuple[float, ...]], card: Any, latent: tuple[int, int]) -> None:
        """Leave out values that come to the same for this model and latent (height, width)."""

    # The network

    def admit(self, family: Family, knobs: Knobs, guides: bool | None = None) -> None:
        """Refuse a kind of pipeline, or of call, for which it is not defined; asked where it acts.

        Args:
            family: of the pipeline.
            knobs: of the plan.
            guides: whether the call guides; None where that is not known yet.

        Raises:
            UnsupportedError: such a pipeline.
            UsageError: such a call.
        """

    def attach(self, network: Any, knobs: Knobs, steps: Steps, name: str) -> Part:
        """Put its hooks on a network, under a name that is new there; asked where it acts.

        Raises:
            UnsupportedError: the network lacks what it needs.
        """
        return Part()

    def fired(self, steps: Steps, summary: Any) -> tuple[Fired, ...]:
        """What it was asked to do and was seen to do in a run, from its ``RunSummary``."""
        return ()

    # The cost

    def key(self, kind: StepKind, knobs: Knobs, deployment: Deployment) -> Mapping[str, Any]:
        """What it makes of a step's ``StepKey``, by field."""
        return {}

    def mixed(self, probing: Probing) -> Mapping[str, Any]:
        """Its knobs in the first plan of which seconds are measured, 8 steps that use what the model has."""
        return {}

    def probes(self, mixed: Knobs, probing: Probing) -> tuple[Knobs, ...]:
        """Further knobs to run when seconds are measured; none: its seconds come from MACs.

        Args:
            mixed: 8 steps that use what else the model has.
            probing: what is to be measured.
        """
        return ()

    def saving_step(self, applicable: Collection[str]) -> tuple[str, StepKind] | None:
        """A step of its own whose layers are of interest one by one, and its name; None: there is none.

        Args:
            applicable: the knobs that do something for the model.
        """
        return None

    def branches(self, values: Mapping[str, Any]) -> tuple[int, ...]:
        """The cache branches whose seconds are measured for these values of the knobs, by field."""
        return ()

    def restored(self, key: Any) -> Any:
        """A ``StepKey`` as it is where this technique does not act."""
        own = {state.name for state in self.states}
        return key._replace(more=tuple(state for state in key.more if state[0] not in own))

    def metered(self, key: Any) -> Knobs | None:
        """Knobs with which such a step comes about; None where this technique does not act in it."""
        return None
