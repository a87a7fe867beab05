"""Guidance, m: classifier-free guidance on the first m·T steps; after that the conditional half runs alone.

Two parts. The batch: pipelines stack [unconditional, conditional] and compute u + w·(c − u); running only the
conditional half and handing it back twice makes that collapse to c. Where there is a call for each half, the second is
answered with the first one's output and not computed (``accelerate.two_calls``).

The cross-attention (T-GATE, arXiv 2404.02747; PostDiff, arXiv 2508.06160, section 2.6): once guidance is dropped, each
cross-attention layer returns the output it captured on the last guided step on which it ran: its conditional half
(``cond``) or the mean of both (``mean``). Where a model does not guide (LCM, or a guidance scale of 1) the whole output
is captured, under either name. Networks whose image and text attend jointly have none, and take ``off``.

Symbols: m guidance fraction, w guidance scale, b images in the batch, B = 2b network batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from postdiff_calib.errors import UnsupportedError, UsageError
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.families import Family, denoiser_of
from postdiff_calib.techniques.halves import double_output, halve_batch
from postdiff_calib.techniques.hooks import add_hook, remove_hook
from postdiff_calib.techniques.step import Step, StepKind
from postdiff_calib.techniques.technique import (
    Columns,
    Deployment,
    Fired,
    NetworkCall,
    Part,
    Probing,
    State,
    Steps,
    Technique,
)


class GuidanceDropping(Technique):
    """The first n_guided = max(1, round(m·T)) steps are guided; the others run the conditional half alone.

    On steps that are not guided, cross-attention returns its cached output; where that was cached at low resolution, it
    runs live once more on the first full-resolution step. With ``cross_attention_cache="off"`` it is always live.
    """

    name = "guidance"
    states = (
        State(
            "guided",
            True,
            "guidance",
            11,
            ("guided", "conditional"),
            ("guided", "conditional half only"),
            of_guidance=True,
        ),
        State(
            "cross_attention_live",
            True,
            "cross-attention",
            15,
            ("live", "cached"),
            ("cross-attention live", "cross-attention cached"),
        ),
    )

    def columns(self, knobs: Knobs, columns: Columns) -> Columns:  # noqa: D102
        total, n_low = knobs.num_inference_steps, sum(columns["low_res"])
        # 9 decimals first: 0.15 · 10 must count as 1.5 whatever its binary form.
        n_guided = max(1, round(round(knobs.guidance_fraction * total, 9)))
        always = knobs.cross_attention_cache == "off"
        live_again = n_low if n_guided <= n_low else -1
        return _columns(total, n_guided, live_again, always)

    def facts(self, knobs: Knobs, steps: Steps) -> Mapping[str, Any]:  # noqa: D102
        return {"cross": knobs.cross_attention_cache if self.acts(steps) else None}

    def effective(self, knobs: Knobs, steps: Steps) -> Mapping[str, float]:  # noqa: D102
        return {"guidance_fraction": _count_guided(steps) / len(steps)}

    def inert(self, knobs: Knobs, steps: Steps) -> str:  # noqa: D102
        return "guidance_fraction" if knobs.guidance_fraction < 1 and not self.acts(steps) else ""

    def words(self, knobs: Knobs, steps: Steps, guides: bool) -> str:  # noqa: D102
        if not (self.acts(steps) and guides):
            return ""
        count = _count_guided(steps)
        return "guidance on the first alone" if count == 1 else f"guidance on the first {count}"

    def admit(self, family: Family, knobs: Knobs, guides: bool | None = None) -> None:  # noqa: D102
        mode = knobs.cross_attention_cache
        if mode != "off" and "cross_attention_cache" in family.network.lacks:
            raise _no_cross_attention(mode, family.network.classes[0])
        if not family.guides and mode == "off":
            raise UnsupportedError(
                f"guidance_fraction={knobs.guidance_fraction:g} with cross_attention_cache='off'",
                f"{family.pipeline_class} has no unconditional half to drop",
                "set guidance_fraction=1, or cross_attention_cache='cond'",
            )
        if guides is False:
            _require_effect(knobs)

    def attach(self, network: Any, knobs: Knobs, steps: Steps, name: str) -> Part:
        """Around the network, which runs on half the batch; and on every cross-attention layer, if any is cached."""
        cached = any(not step.cross_attention_live for step in steps)
        hooks = _cross_attention_hooks(network, knobs.cross_attention_cache) if cached else []
        flags = Flags()
        for module, hook in hooks:
            hook.flags = flags
            add_hook(module, hook, name)
        return Guidance(name, flags, hooks)

    def fired(self, steps: Steps, summary: Any) -> tuple[Fired, ...]:  # noqa: D102
        dropped = any(not step.guided for step in summary.steps)
        cached = any(step.cross_attention_cached for step in summary.steps)
        # Layers inside blocks that are reused do not run at all.
        asked = not all(step.cross_attention_live or not step.refresh for step in steps)
        return (
            Fired("dropping guidance", self.acts(steps) and summary.guides, dropped),
            Fired("cross-attention caching", asked, cached),
        )

    def mixed(self, probing: Probing) -> Mapping[str, Any]:  # noqa: D102
        return {"guidance_fraction": 0.5} if "guidance_fraction" in probing.applicable else {}

    def key(self, kind: StepKind, knobs: Knobs, deployment: Deployment) -> Mapping[str, Any]:
        """A step without guidance runs half the batch, and one with cached cross-attention lacks those layers."""
        return {
            "guided": deployment.guides and kind.guided,
            "cross_attention_live": kind.cross_attention_live,
        }

    def restored(self, key: Any) -> Any:  # noqa: D102
        return key._replace(cross_attention_live=True)

    def metered(self, key: Any) -> Knobs | None:  # noqa: D102
        return None if key.cross_attention_live else Knobs(2, guidance_fraction=0.5)


def _require_effect(knobs: Knobs) -> None:
    """Refuse dropping guidance in a call that does not guide, where nothing is cached either.

    Raises:
        UsageError: it is such a plan.
    """
    if knobs.cross_attention_cache == "off":
        raise UsageError(
            f"guidance_fraction={knobs.guidance_fraction:g} with cross_attention_cache='off'",
            "this call does not guide, so there is neither an unconditional half to drop nor anything to cache",
            "set guidance_fraction=1, cross_attention_cache='cond', or a guidance scale above 1",
        )


@lru_cache(maxsize=4096)
def _columns(total: int, n_guided: int, live_again: int, always: bool) -> Columns:
    return {
        "guided": tuple(i < n_guided for i in range(total)),
        "cross_attention_live": tuple(i < n_guided or i == live_again or always for i in range(total)),
    }


def _count_guided(steps: Steps) -> int:
    return sum(step.guided for step in steps)


@dataclass
class Flags:
    """What the hooks do at the present step; all False outside an accelerated call.

    Attributes:
        cached: cross-attention returns what was captured.
        capture: cross-attention runs, and its output is captured.
        guided: the batch holds an unconditional and a conditional half.
    """

    cached: bool = False
    capture: bool = False
    guided: bool = False


def capture_steps(plan: Iterable[Step]) -> frozenset[int]:
    """Steps on which cross-attention outputs are captured.

    The last live step before cached ones, and the last refresh up to it: deep layers do not run on a cached step, so
    theirs is that of the refresh.
    """
    steps = list(plan)
    captures: set[int] = set()
    for step, following in pairwise(steps):
        if step.cross_attention_live and not following.cross_attention_live:
            captures.add(step.index)
            captures.add(max(s.index for s in steps[: step.index + 1] if s.refresh))
    return frozenset(captures)


class _CrossAttention:
    """One cross-attention layer: captures its output, or returns what was captured."""

    def __init__(self, mean: bool) -> None:
        self.flags, self.mean = Flags(), mean
        self.held: Any = None
        self.ran = self.returned = False

    def forward(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        if self.flags.cached:
            self.returned = True
            return self.held
        output = original(*args, **kwargs)
        self.ran = True
        if self.flags.capture:
            if not self.flags.guided:
                self.held = output
            elif self.mean:
                unconditional, conditional = output.chunk(2)
                self.held = (unconditional + conditional) / 2
            else:
                # Copied, so that the unconditional half's memory is free.
                self.held = output.chunk(2)[1].clone()
        return output


@dataclass
class Guidance(Part):
    """Guidance on one network: the batch, and the hooks on its cross-attention layers.

    Attributes:
        name: of the hooks.
        flags: what they do.
        hooks: (module, hook) of each cross-attention layer; empty where none is cached.
        captures: steps on which outputs are captured.
        dropped: the present call runs the conditional half alone.
    """

    name: str
    flags: Flags
    hooks: list[tuple[Any, _CrossAttention]]
    captures: frozenset[int] = frozenset()
    dropped: bool = False

    def start(self, steps: Steps) -> None:  # noqa: D102
        self.captures = capture_steps(steps)

    def begin(self, call: NetworkCall) -> None:
        """Halve the batch where guidance has been dropped.

        Raises:
            UsageError: the call does not guide, and nothing is cached either.
        """
        step, knobs = call.step, call.knobs
        stacked = call.guided and call.guidance != "two calls"
        # Whether there is a second call is known when the first step is over.
        known = 1 if call.guidance == "two calls" else 0
        if step.index == known and not call.guided and any(not s.guided for s in call.steps):
            _require_effect(knobs)
        self.flags.cached, self.flags.capture = not step.cross_attention_live, step.index in self.captures
        self.flags.guided = stacked and step.guided
        self.dropped = stacked and not step.guided
        if self.dropped:
            self._halve(call)

    def begin_control(self, call: NetworkCall) -> None:  # noqa: D102
        if call.guided and not call.step.guided:
            self._halve(call)

    def _halve(self, call: NetworkCall) -> None:
        half, listed = call.conditional, isinstance(call.sample, list)
        call.args = halve_batch(call.args, call.batch, half, listed=listed)
        call.kwargs = halve_batch(call.kwargs, call.batch, half, listed=listed)
        call.batch, call.guided = call.batch // 2, False

    def end(self, output: Any) -> Any:  # noqa: D102
        self.rest()
        return double_output(output) if self.dropped else output

    def note(self, record: Any) -> None:  # noqa: D102
        record.cross_attention_live, record.cross_attention_cached = self.take_counts()

    def take_counts(self) -> tuple[int, int]:
        """(ran, returned from the cache) in the last network call; counting starts anew."""
        counts = sum(hook.ran for _, hook in self.hooks), sum(hook.returned for _, hook in self.hooks)
        for _, hook in self.hooks:
            hook.ran = hook.returned = False
        return counts

    def prime(self) -> None:  # noqa: D102
        self.flags.cached, self.flags.capture = False, True

    def apply(self) -> None:  # noqa: D102
        self.flags.cached, self.flags.capture = True, False

    def rest(self) -> None:  # noqa: D102
        self.flags.cached = self.flags.capture = self.flags.guided = False

    def clear(self) -> None:  # noqa: D102
        self.rest()
        self.dropped = False
        for _, hook in self.hooks:
            hook.held = None

    def detach(self) -> None:  # noqa: D102
        self.clear()
        for module, _ in self.hooks:
            remove_hook(module, self.name)


def _no_cross_attention(mode: str, network: str) -> UnsupportedError:
    return UnsupportedError(
        f"cross_attention_cache={mode!r} with {network}",
        "this network has no cross-attention layers",
        "set cross_attention_cache='off', or guidance_fraction=1",
    )


def _cross_attention_hooks(network: Any, mode: str) -> list[tuple[Any, _CrossAttention]]:
    """A hook for every cross-attention layer of ``network``.

    Raises:
        UnsupportedError: it has none.
    """
    modules = denoiser_of(network).cross_attention(network)
    if not modules:
        raise _no_cross_attention(mode, type(network).__name__)
    return [(module, _CrossAttention(mode == "mean")) for module in modules]
