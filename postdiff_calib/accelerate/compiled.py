"""Compiling the denoiser with ``torch.compile``, so that no step ever runs uncompiled without a word.

A compiled network has a graph for each kind of step, image size and batch size. By default dynamo stops at 8 graphs of
one function and runs the rest uncompiled, silently: seconds would then mix both. For the length of a block the limit is
what the plans at hand can need, reaching it is an error by name, and shapes are static. Attaching a plan again adds no
graph; attaching other techniques does, since other modules then carry hooks.

Two modes. ``default`` compiles the denoiser as a whole. ``repeated-blocks`` is diffusers' regional compilation: each
transformer block by itself, for networks that name theirs; less is fused. CUDA graphs (``reduce-overhead``) do not fit:
the features that a technique keeps from one step to another lie in memory that the next replay of a graph overwrites.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from postdiff_calib.errors import PostdiffError, UnsupportedError, UsageError
from postdiff_calib.models.families import family_of
from postdiff_calib.plan import StepPlan

CompileMode = Literal["off", "default", "repeated-blocks"]
MODES: tuple[CompileMode, ...] = get_args(CompileMode)
#: Graphs of one kind of step: cross-attention is captured or not, each for a whole batch, for the rest of the prompts
#: and for a batch that was halved because it did not fit into memory.
_PER_KIND = 2 * 3
#: Of ``torch.compile``.
BACKEND = "inductor"
#: Characters of a compiler's message that are shown.
_SHOWN = 300
#: Dynamo's own limit, never lowered.
_LEAST = 8


def parse_compile(text: str) -> CompileMode:
    """A mode by its name.

    Raises:
        UsageError: there is none of this name, or it cannot go with what a plan keeps between steps.
    """
    if text in MODES:
        return text
    given = f"--compile {text}"
    if text in ("reduce-overhead", "max-autotune"):
        rule = "it uses CUDA graphs, whose next replay overwrites the features that a plan keeps from step to step"
        raise UsageError(given, rule, "take --compile default")
    raise UsageError(given, f"it must be {', '.join(MODES[:-1])} or {MODES[-1]}", "take --compile default")


def stated_mode(value: Any) -> CompileMode | None:
    """The mode that a measurement's facts state; older ones say only whether the whole network was compiled."""
    if isinstance(value, bool):
        return "default" if value else "off"
    return value if value in MODES else None


def mode_of(network: Any) -> CompileMode:
    """How a denoiser is compiled now."""
    if hasattr(network, "_orig_mod"):
        return "default"
    modules = getattr(network, "modules", tuple)
    return "repeated-blocks" if any(getattr(m, "_compiled_call_impl", None) for m in modules()) else "off"


def count_kinds(plans: Iterable[StepPlan]) -> int:
    """Kinds of step of some plans that a compiled network tells apart, at most."""
    found = set()
    for plan in plans:
        knobs = plan.knobs
        modes = plan.acting, knobs.cache_branch, knobs.cross_attention_cache
        found |= {(kind, knobs.low_res_scale if kind.low_res else 1.0, modes) for kind in plan.kinds()}
    return len(found)


@dataclass
class Compilation:
    """What was compiled in a block so far.

    Attributes:
        mode: how.
        limit: graphs of one function at which an error is raised.
    """

    mode: CompileMode
    limit: int = 0
    _before: dict[str, float] = field(default_factory=dict)

    @property
    def graphs(self) -> int:
        """Graphs compiled."""
        return int(self._since("graphs"))

    @property
    def seconds(self) -> float:
        """Seconds it took."""
        return self._since("seconds")

    def _since(self, name: str) -> float:
        return _counted()[name] - self._before.get(name, 0.0) if self.mode != "off" else 0.0

    def describe(self) -> str:
        """A line about it; empty where nothing is compiled."""
        if self.mode == "off":
            return ""
        broken = int(self._since("breaks"))
        breaks = f", {broken} breaks between them" if broken else ""
        return f"compiled ({self.mode}): {self.graphs} graphs{breaks} in {self.seconds:.0f} s, which no timing includes"


def announcement(mode: CompileMode, kinds: int) -> str:
    """What to say before the first call; empty where nothing is compiled.

    The example is of ``benchmarks/results/gpu_acceptance_h100.json``.
    """
    if mode == "off":
        return ""
    example = "a U-Net of Stable Diffusion 1.5's size took 23 s for each on an H100"
    return f"compiling ({mode}): up to {kinds} kinds of step, each when it is first met; {example}"


@contextmanager
def compiled(pipe: Any, mode: CompileMode, kinds: int) -> Iterator[Compilation]:
    """Compile a pipeline's denoiser for the length of a block; afterwards it is as it was.

    Args:
        pipe: of a supported family.
        mode: how; with ``off`` nothing is changed.
        kinds: kinds of step that will run, at most; see ``count_kinds``.

    Raises:
        UsageError: the denoiser is compiled already.
        UnsupportedError: it names no blocks to compile, torch cannot compile it, or more graphs were needed than
            ``kinds`` can explain.
    """
    if mode == "off":
        yield Compilation(mode)
        return
    import torch._dynamo

    role = family_of(pipe).denoiser
    network = getattr(pipe, role)
    if mode_of(network) != "off":
        raise UsageError(f"--compile {mode}", "the network is compiled already", "pass one that is not")
    limit = max(_LEAST, _PER_KIND * kinds * (_shapes(network, mode)))
    torch._dynamo.reset()  # graphs of other networks of this class would count towards the limit
    done = Compilation(mode, limit, _counted())
    try:
        with torch._dynamo.config.patch(_settings(limit)):
            if mode == "default":
                setattr(pipe, role, torch.compile(network, dynamic=False, backend=BACKEND))
            else:
                network.compile_repeated_blocks(fullgraph=True, dynamic=False, backend=BACKEND)
            yield done
    except PostdiffError:
        raise
    except Exception as error:
        named = _named(error, done)
        if named is None:
            raise
        raise named from error
    finally:
        setattr(pipe, role, network)
        network.__dict__.pop("_is_torch_compile", None)  # torch marks what it has wrapped
        for module in network.modules():
            module.__dict__.pop("_compiled_call_impl", None)
        torch._dynamo.reset()


def _shapes(network: Any, mode: CompileMode) -> int:
    """Blocks of one class that differ in their weights' shapes: each needs graphs of its own.

    Raises:
        UnsupportedError: a network without named blocks.
    """
    if mode == "default":
        return 1
    names = getattr(network, "_repeated_blocks", None) or ()
    blocks = [module for module in network.modules() if type(module).__name__ in names]
    if not blocks:
        raise UnsupportedError(
            f"--compile {mode} of {type(network).__name__}", "it names no repeated blocks", "take --compile default"
        )
    # A hook inside a block is an object of its own, so each block may need its own graphs.
    return len(blocks)


def _settings(limit: int) -> dict[str, Any]:
    """Dynamo's settings under the names that this torch has."""
    import torch._dynamo

    config = torch._dynamo.config
    wanted = {
        "recompile_limit": ("cache_size_limit", limit),
        "accumulated_recompile_limit": ("accumulated_cache_size_limit", max(256, 4 * limit)),
        "fail_on_recompile_limit_hit": ("fail_on_cache_limit_hit", True),
    }
    return {name if hasattr(config, name) else older: value for name, (older, value) in wanted.items()}


def _counted() -> dict[str, float]:
    """What dynamo has counted in this process."""
    from torch._dynamo import utils

    return {
        "graphs": float(utils.counters["stats"].get("unique_graphs", 0)),
        "breaks": float(sum(utils.counters["graph_break"].values())),
        "seconds": float(utils.calculate_time_spent().get("total_wall_time", 0.0)),
    }


def _named(error: BaseException, done: Compilation) -> UnsupportedError | None:
    """What went wrong in the compiler, as a line; None for any other error."""
    given, causes = f"--compile {done.mode}", [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for cause in causes:
        kind = type(cause)
        if kind.__name__.startswith(("FailOnRecompileLimit", "RecompileLimit", "FailOnCacheLimit", "CacheLimit")):
            rule = f"the network needs more than {done.limit} graphs, and torch would run the rest uncompiled"
            return UnsupportedError(given, rule, "take --compile default, or leave it out")
        if kind.__module__.startswith(("torch._dynamo", "torch._inductor")):
            # The first line says which backend raised, the next ones why.
            rule = f"torch cannot compile this network ({' '.join(str(cause).split())[:_SHOWN]})"
            return UnsupportedError(given, rule, "leave it out, or mend what torch names")
    return None
