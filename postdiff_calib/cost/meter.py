"""What one denoising step costs: the real hooks on a weightless network, counted.

The denoiser is built on the meta device, the very hooks that a deployment attaches are put on it, and each kind of
step is called and counted. So a figure is of what runs: on a cached step the blocks that the cache skips do not run, on
a step with cached cross-attention those layers do not (queries, keys, values, products and output projection).
Control networks run whole on every step, on as many items as the denoiser and at its size.

Symbols: (h, w) latent size, b cache branch; a guided step runs 2 network items per image, another 1.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from typing import Any, NamedTuple

from postdiff_calib.cost.macs import Macs
from postdiff_calib.errors import UnsupportedError, reason_of
from postdiff_calib.plan import StepKind, StepPlan, compile_plan
from postdiff_calib.techniques import techniques
from postdiff_calib.techniques.technique import Deployment, Part, Technique

#: The name under which the hooks are put on; the network is our own, so nothing can clash.
_HOOKS = "postdiff-cost"


class StepKey(NamedTuple):
    """All that decides the cost of a step, for one model: kinds of step with the sizes filled in.

    ``branch`` is −1 where no block is reused, ``guided`` False where guidance does not double the batch; ``more`` has
    the states of further techniques.
    """

    height: int
    width: int
    guided: bool
    refresh: bool
    cross_attention_live: bool
    branch: int
    more: tuple[tuple[str, Any], ...] = ()

    def describe(self) -> str:
        """As text, e.g. ``48×48 guided reuse(1) live``."""
        further = "".join(f" {name}={value}" for name, value in self.more)
        return (
            f"{self.height}×{self.width} {'guided' if self.guided else 'conditional'} "
            f"{'refresh' if self.refresh else f'reuse({self.branch})'} "
            f"{'live' if self.cross_attention_live else 'cached'}{further}"
        )


class Meter:
    """Counts the MACs of step keys for one denoiser, each once.

    Args:
        config: the denoiser's configuration, with ``_class_name``.
        text_length: L, tokens of a padded prompt.
        control: the same of each control network that is called before the denoiser.
    """

    def __init__(self, config: Mapping[str, Any], text_length: int, control: Iterable[Mapping[str, Any]] = ()) -> None:
        self.config: dict[str, Any] = json.loads(json.dumps(dict(config)))
        self.control: list[dict[str, Any]] = json.loads(json.dumps([dict(one) for one in control]))
        self.text_length = text_length
        self._control_modules: dict[tuple[int, int], list[dict[str, Macs]]] = {}
        self._network: Any = None
        self._modules: dict[StepKey, dict[str, Macs]] = {}

    def step(self, key: StepKey) -> Macs:
        """MACs of one step per image, control networks included.

        Raises:
            UnsupportedError: the network has no such cache branch, or no cross-attention to cache.
        """
        return sum((modules[""] for modules in self.control_modules(key)), self.modules(key)[""])

    def control_modules(self, key: StepKey) -> list[dict[str, Macs]]:
        """As ``modules``, of each control network."""
        from postdiff_calib.cost.macs import count
        from postdiff_calib.cost.networks import build, control_inputs

        size = key.height, key.width
        if self.control and size not in self._control_modules:
            counted = []
            for config in self.control:
                network, inputs = _built(build, config), control_inputs(config, 1, *size, self.text_length)
                counted.append(count(functools.partial(network, **inputs)))
            self._control_modules[size] = counted
        times = 2 if key.guided else 1
        found = self._control_modules.get(size, [])
        return [{name: macs * times for name, macs in modules.items()} for modules in found]

    def modules(self, key: StepKey) -> dict[str, Macs]:
        """The denoiser's by module: dotted name to the MACs of it and all inside it; ``""`` is the whole network."""
        if key not in self._modules:
            # Every operation's MACs are proportional to the batch, so the conditional half is counted for both.
            single = key._replace(guided=False)
            if single not in self._modules:
                self._count(single)
            times = 2 if key.guided else 1
            self._modules[key] = {name: macs * times for name, macs in self._modules[single].items()}
        return self._modules[key]

    def _count(self, key: StepKey) -> None:
        """Count ``key`` and what comes with it: the step with none or some of its techniques."""
        import torch

        from postdiff_calib.cost.macs import count
        from postdiff_calib.cost.networks import build, denoiser_inputs

        if self._network is None:
            self._network = _built(build, self.config)
        network, found = self._network, self._modules
        inputs = denoiser_inputs(self.config, 1, key.height, key.width, self.text_length)
        acting = [(technique, knobs) for technique in techniques() if (knobs := technique.metered(key)) is not None]
        parts: list[tuple[Technique, Part]] = []
        try:
            for technique, knobs in acting:
                # Hooks of one module need distinct names.
                name = f"{_HOOKS}-{technique.name}"
                parts.append((technique, technique.attach(network, knobs, compile_plan(knobs).steps, name)))
            full = key
            for technique, _ in parts:
                full = technique.restored(full)
            # The full call fills what the later ones return from what was kept.
            for _, part in parts:
                part.prime()
            if full in found:
                with torch.no_grad():
                    network(**inputs)
            else:
                found[full] = count(lambda: network(**inputs))
            for chosen in product((False, True), repeat=len(parts)):
                kind = key
                for applied, (technique, part) in zip(chosen, parts, strict=True):
                    if applied:
                        part.apply()
                    else:
                        part.rest()
                        kind = technique.restored(kind)
                if kind not in found:
                    found[kind] = count(lambda: network(**inputs))
        finally:
            for _, part in reversed(parts):
                part.rest()
                part.detach()


def _built(build: Callable[[Mapping[str, Any]], Any], config: Mapping[str, Any]) -> Any:
    """The network of a configuration, which may come from another's file.

    Raises:
        UnsupportedError: it is of no known class, or its settings do not fit the class.
    """
    try:
        return build(config)
    except UnsupportedError:
        raise
    except Exception as error:  # the classes raise what they like on settings that do not fit
        said = f"its settings do not fit ({reason_of(error)})"
        raise UnsupportedError(f"network {config.get('_class_name')!r}", said, "measure the model again") from error


def keys_of_kinds(plan: StepPlan, latent: tuple[int, int], multiple: int, guides: bool) -> dict[StepKind, StepKey]:
    """The key of each kind of step in a plan.

    Args:
        plan: the compiled knobs.
        latent: full latent (height, width).
        multiple: low-resolution sides are multiples of this.
        guides: guidance doubles the batch.

    Raises:
        KnobError: β leaves no smaller size.
    """
    deployment = Deployment(latent, multiple, guides)
    keys: dict[StepKind, StepKey] = {}
    for kind in plan.kinds():
        own: dict[str, Any] = {"more": kind.more}
        for technique in techniques():
            own |= technique.key(kind, plan.knobs, deployment)
        keys[kind] = StepKey(**own)
    return keys
