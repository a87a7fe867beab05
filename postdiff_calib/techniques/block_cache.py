"""Hybrid module caching, k: the deep part of the network runs every k-th step and is reused in between.

U-Nets (DeepCache, arXiv 2312.00858): of the skip-connected pairs of down and up layers only the shallowest run on a
cached step, fed by the deep feature kept at the last refresh. ``cache_branch`` b says how many (``unet_cut``).
Layers that do not run return an empty tensor, which the block's own bookkeeping carries along for nothing; one place,
the boundary, returns the kept feature.

Transformers (PixArt; idea of Δ-DiT, arXiv 2406.01125): there are no skip connections, so a middle span of blocks is
reused by its residual, output minus input. At each end n = max(1, round((b + 1)·N / 28)) of the N blocks stay live:
2 + 2 of PixArt's 28 for branch 1, whose cached step then costs about as large a share as a U-Net's. Branch 0 keeps the
first block alone, as diffusers' FirstBlockCache does. Blocks on image and text have a residual for each of the two;
where guidance is two calls of the network, each call has its own.

Symbols: k cache interval, b cache branch, N transformer blocks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from postdiff_calib.errors import UnsupportedError
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.families import denoiser_of
from postdiff_calib.models.families.family import BlockOutput
from postdiff_calib.techniques.hooks import add_hook, conditional_half, remove_hook
from postdiff_calib.techniques.layers import count_layers
from postdiff_calib.techniques.span import Flags, Residual, Span, span_of
from postdiff_calib.techniques.step import StepKind
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
from postdiff_calib.techniques.unet_cut import cut_of


class BlockCaching(Technique):
    """Step 0 and the first at full resolution are refreshes, and every k-th step counted from there.

    Features of another size cannot be reused.
    """

    name = "block caching"
    states = (State("refresh", True, "deep", 7, ("refresh", "reuse"), ("deep blocks run", "deep blocks reused")),)

    def columns(self, knobs: Knobs, columns: Columns) -> Columns:  # noqa: D102
        return {"refresh": _refreshes(tuple(columns["low_res"]), knobs.cache_interval)}

    def facts(self, knobs: Knobs, steps: Steps) -> Mapping[str, Any]:  # noqa: D102
        return {"branch": knobs.cache_branch if self.acts(steps) else None}

    def effective(self, knobs: Knobs, steps: Steps) -> Mapping[str, float]:  # noqa: D102
        return {"cache_interval": knobs.cache_interval if self.acts(steps) else 1}

    def inert(self, knobs: Knobs, steps: Steps) -> str:  # noqa: D102
        return "cache_interval" if knobs.cache_interval > 1 and not self.acts(steps) else ""

    def words(self, knobs: Knobs, steps: Steps, guides: bool) -> str:  # noqa: D102
        refreshes = sum(step.refresh for step in steps)
        return f"deep blocks on {refreshes} of them" if self.acts(steps) else ""

    def attach(self, network: Any, knobs: Knobs, steps: Steps, name: str) -> Part:
        """Hooks on the part of the network that cached steps skip, and one that keeps what goes out of it."""
        return attach_block_cache(network, knobs.cache_branch, name)

    def fired(self, steps: Steps, summary: Any) -> tuple[Fired, ...]:  # noqa: D102
        return (Fired("block caching", self.acts(steps), any(step.layers_skipped for step in summary.steps)),)

    def mixed(self, probing: Probing) -> Mapping[str, Any]:  # noqa: D102
        interval = 2 if "cache_interval" in probing.applicable else 1
        return {"cache_interval": interval, "cache_branch": probing.branches[0] if probing.branches else 1}

    def probes(self, mixed: Knobs, probing: Probing) -> tuple[Knobs, ...]:
        """A second share of cached steps, for the line; and the other branches."""
        if mixed.cache_interval == 1:
            return ()
        others = () if probing.quick else probing.branches[1:]
        return (replace(mixed, cache_interval=4), *(replace(mixed, cache_branch=branch) for branch in others))

    def saving_step(self, applicable: Collection[str]) -> tuple[str, StepKind] | None:  # noqa: D102
        return ("cached step", StepKind(False, True, False, True)) if "cache_interval" in applicable else None

    def branches(self, values: Mapping[str, Any]) -> tuple[int, ...]:  # noqa: D102
        return (values["cache_branch"],)

    def key(self, kind: StepKind, knobs: Knobs, deployment: Deployment) -> Mapping[str, Any]:
        """On a cached step the deep blocks do not run; how many those are depends on the branch."""
        return {"refresh": kind.refresh, "branch": -1 if kind.refresh else knobs.cache_branch}

    def restored(self, key: Any) -> Any:  # noqa: D102
        return key._replace(refresh=True, branch=-1)

    def metered(self, key: Any) -> Knobs | None:  # noqa: D102
        return None if key.refresh else Knobs(2, cache_interval=2, cache_branch=key.branch)


@lru_cache(maxsize=4096)
def _refreshes(low_res: tuple[bool, ...], interval: int) -> tuple[bool, ...]:
    n_low = sum(low_res)
    starts = (0 if low else n_low for low in low_res)
    return tuple((i - start) % interval == 0 for i, start in enumerate(starts))


class _Skip:
    """On a cached step the module does not run and returns empty tensors in the form its caller expects."""

    def __init__(self, flags: Flags, module: Any, role: str) -> None:
        self.flags, self.weight, self.ran = flags, count_layers(module), False
        self.role = role
        self.outputs = len(module.resnets) + (module.downsamplers is not None) if role == "down" else 0

    def forward(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.flags.reuse:
            self.ran = True
            return original(*args, **kwargs)
        self.ran = False
        empty = empty_like(args[0] if args else kwargs["hidden_states"])
        if self.role == "down":
            return empty, (empty,) * self.outputs
        return (empty,) if self.role == "attention" else empty


class _Keep:
    """The boundary: keeps its output on a refresh, returns it on a reuse."""

    def __init__(self, flags: Flags, module: Any) -> None:
        self.flags, self.weight, self.ran = flags, count_layers(module), False
        self.held: Any = None

    def forward(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        if self.flags.reuse:
            self.ran = False
            return self.held
        output = original(*args, **kwargs)
        self.ran = True
        if self.flags.keep:
            self.held = output
        return output


def empty_like(hidden: Any) -> Any:
    """A tensor without elements that can be added to and concatenated with its like, shape (1, 0, 1, 1)."""
    return hidden.new_empty((1, 0, 1, 1))


@dataclass
class BlockCache(Part):
    """The hooks of one attachment on one network.

    Attributes:
        name: of the hooks.
        flags: what they do.
        hooks: (module, hook) in the order they were put on.
        holders: objects whose ``held`` is the kept feature.
        skip_live: for each skip connection, conv_in first, whether a cached step computes it; empty for transformers.
        middle_live: a cached step uses what is added to the middle block's output (the boundary is the middle block).
        partial_up: the up block of which a cached step skips some layers and runs others, or None.
        kept_batch: entries of the batch in the kept feature.
    """

    name: str
    flags: Flags
    hooks: list[tuple[Any, Any]]
    holders: list[Any]
    skip_live: list[bool] = field(default_factory=list)
    middle_live: bool = False
    partial_up: Any = None
    kept_batch: int = 0

    def begin(self, call: NetworkCall) -> None:  # noqa: D102
        # Kept on every refresh, needed next or not: fewer kinds of step, so fewer graphs for a compiled network.
        self.flags.reuse, self.flags.keep = not call.step.refresh, call.step.refresh
        self.flags.half = call.half
        if call.guidance == "two calls" and not call.step.guided:
            self.holders[1].held = None  # of the unconditional call, which is not made any more
        if self.flags.keep:
            self.kept_batch = call.batch
            return
        if self.kept_batch == 2 * call.batch:
            self.keep_conditional(call.conditional)
            self.kept_batch = call.batch
        call.kwargs = self.drop_residuals(call.kwargs, call.sample)

    def end(self, output: Any) -> Any:  # noqa: D102
        self.rest()
        return output

    def note(self, record: Any) -> None:  # noqa: D102
        record.layers_skipped = self.layers_skipped

    def prime(self) -> None:  # noqa: D102
        self.flags.reuse, self.flags.keep = False, True

    def apply(self) -> None:  # noqa: D102
        self.flags.reuse, self.flags.keep = True, False

    def rest(self) -> None:  # noqa: D102
        self.flags.reuse = self.flags.keep = False
        self.flags.half = 0

    def check(self) -> None:
        """Refuse what has been switched on in the network since, and does not go with skipped layers.

        Raises:
            UnsupportedError: FreeU filters the skip connections of a block of which layers are skipped.
        """
        block = self.partial_up
        if block is not None and getattr(block, "s1", None) and getattr(block, "resolution_idx", None) in (0, 1):
            raise UnsupportedError(
                "FreeU with a cache_branch inside the two deepest levels",
                "it filters skip connections that cached steps do not compute",
                "call pipe.disable_freeu(), or take a smaller cache_branch",
            )

    @property
    def layers_skipped(self) -> int:
        """Layers that did not run in the last network call."""
        return sum(hook.weight for _, hook in self.hooks if not hook.ran)

    def keep_conditional(self, half: int = 1) -> None:
        """Forget the unconditional half of the kept feature; ``half`` is the other one's place in the batch."""
        for holder in self.holders:
            if holder.held is not None:
                holder.held = conditional_half(holder.held, half)

    def clear(self) -> None:
        """Drop every tensor."""
        self.rest()
        self.kept_batch = 0
        for holder in self.holders:
            holder.held = None
            if isinstance(holder, Residual):
                holder.entry = None

    def drop_residuals(self, kwargs: dict[str, Any], sample: Any) -> dict[str, Any]:
        """A control network's residuals on a cached step: empty where the layer they belong to does not run."""
        residuals, middle = kwargs.get("down_block_additional_residuals"), kwargs.get("mid_block_additional_residual")
        if residuals is None or middle is None:
            return kwargs
        empty = empty_like(sample)
        live = [residual if keep else empty for residual, keep in zip(residuals, self.skip_live, strict=True)]
        return {
            **kwargs,
            "down_block_additional_residuals": live,
            "mid_block_additional_residual": middle if self.middle_live else empty,
        }

    def detach(self) -> None:
        """Take every hook off."""
        self.clear()
        for module, _ in self.hooks:
            remove_hook(module, self.name)


def attach_block_cache(network: Any, branch: int, name: str) -> BlockCache:
    """Hook the part of ``network`` that cached steps skip.

    Raises:
        UnsupportedError: the network has no such branch, or blocks of an unknown kind.
    """
    flags = Flags()
    kind = denoiser_of(network)
    chain = kind.blocks(network)
    if chain:
        cache = _span_cache(chain, kind.block_output, branch, flags, name)
    else:
        cache = _unet_cache(network, branch, flags, name)
    for module, hook in cache.hooks:
        add_hook(module, hook, name)
    return cache


def _span_cache(chain: list[Any], output: BlockOutput, branch: int, flags: Flags, name: str) -> BlockCache:
    span = span_of(len(chain), branch)
    residuals = [Residual(), Residual()]
    hooks = [(chain[i], Span(flags, residuals, output, first=i == span[0], last=i == span[-1])) for i in span]
    return BlockCache(name, flags, hooks, residuals)


def _unet_cache(network: Any, branch: int, flags: Flags, name: str) -> BlockCache:
    cut = cut_of(network, branch)
    keep = _Keep(flags, cut.boundary)
    hooks = [*((module, _Skip(flags, module, role)) for module, role in cut.skipped), (cut.boundary, keep)]
    return BlockCache(name, flags, hooks, [keep], cut.skip_live, cut.middle_live, cut.partial_up)
