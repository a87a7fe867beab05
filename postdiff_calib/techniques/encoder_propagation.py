"""Encoder propagation, e: a U-Net's encoder runs on every e-th step, its features serve the steps in between.

Faster Diffusion (Li et al., arXiv 2312.09608): the encoder's features hardly change from step to step, the decoder's
do. On a reuse step the first convolution, the down blocks and the middle block return what they returned on the last
key step; the decoder runs with the timestep at hand, which is all that tells it apart from that step. Key steps are
spaced evenly here; the paper also places them by hand. Its noise injection is left out.

It is in no list of techniques: ``compare-methods`` registers it for its own length, so plans and profiles know nothing
of it. It does not go with k, which already skips the encoder on its cached steps, nor with kept cross-attention.

Symbols: e encoder interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from postdiff_calib.errors import UnsupportedError
from postdiff_calib.knobs import Knob, Knobs
from postdiff_calib.models.families import denoiser_of
from postdiff_calib.techniques.hooks import add_hook, conditional_half, remove_hook
from postdiff_calib.techniques.layers import count_layers
from postdiff_calib.techniques.technique import Columns, Fired, NetworkCall, Part, State, Steps, Technique

#: Name of the state that it adds to a step.
REUSED = "encoder_reused"


class _Kept:
    """A module of the encoder: its output is kept on a key step and returned on the others."""

    def __init__(self, module: Any) -> None:
        self.module, self.weight = module, count_layers(module)
        self.reuse = self.keep = False
        self.ran = True
        self.held: Any = None

    def forward(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        if self.reuse:
            self.ran = False
            return self.held
        self.ran = True
        output = original(*args, **kwargs)
        if self.keep:
            self.held = output
        return output


class _Encoder(Part):
    """The hooks on one U-Net's encoder."""

    def __init__(self, network: Any, name: str) -> None:
        modules = [network.conv_in, *network.down_blocks]
        if network.mid_block is not None:
            modules.append(network.mid_block)
        self.name, self.batch = name, 0
        self.hooks = [_Kept(module) for module in modules]
        for hook in self.hooks:
            add_hook(hook.module, hook, name)

    def begin(self, call: NetworkCall) -> None:
        reuse = dict(call.step.more).get(REUSED, False)
        # this comes before the technique that drops the unconditional half
        batch = call.batch // 2 if call.guided and not call.step.guided else call.batch
        if reuse and self.batch == 2 * batch:  # guidance has ended since the key step
            for hook in self.hooks:
                hook.held = conditional_half(hook.held, call.conditional)
        self.batch = batch
        self._set(reuse=reuse, keep=not reuse)

    def end(self, output: Any) -> Any:
        self.rest()
        return output

    def note(self, record: Any) -> None:
        record.layers_skipped += sum(hook.weight for hook in self.hooks if not hook.ran)

    def prime(self) -> None:
        self._set(reuse=False, keep=True)

    def apply(self) -> None:
        self._set(reuse=True, keep=False)

    def rest(self) -> None:
        self._set(reuse=False, keep=False)

    def _set(self, *, reuse: bool, keep: bool) -> None:
        for hook in self.hooks:
            hook.reuse, hook.keep = reuse, keep

    def clear(self) -> None:
        self.rest()
        for hook in self.hooks:
            hook.held = None

    def detach(self) -> None:
        self.clear()
        for hook in self.hooks:
            remove_hook(hook.module, self.name)


class EncoderPropagation(Technique):
    """Step 0 and the first at full resolution are key steps, and every e-th step counted from there."""

    name = "encoder propagation"
    states = (State(REUSED, False, "encoder", 7, ("runs", "reused"), ("encoder runs", "encoder's features reused")),)
    rows = (
        Knob(
            field="encoder_interval",
            symbol="e",
            flag="--encoder-interval",
            meaning="a U-Net's encoder runs every e-th step",
            kind=int,
            neutral=1,
            low=1,
            high=1000,
            remedy="take 1 to run the encoder on every step, 2 on every other",
            optional=True,
        ),
    )

    def columns(self, knobs: Knobs, columns: Columns) -> Columns:  # noqa: D102
        low = columns["low_res"]
        starts = [0 if is_low else sum(low) for is_low in low]
        return {REUSED: [(i - start) % knobs.encoder_interval != 0 for i, start in enumerate(starts)]}

    def effective(self, knobs: Knobs, steps: Steps) -> Mapping[str, float]:  # noqa: D102
        return {"encoder_interval": knobs.encoder_interval if self.acts(steps) else 1}

    def inert(self, knobs: Knobs, steps: Steps) -> str:  # noqa: D102
        return "encoder_interval" if knobs.encoder_interval > 1 and not self.acts(steps) else ""

    def words(self, knobs: Knobs, steps: Steps, guides: bool) -> str:  # noqa: D102
        keys = sum(not step.more for step in steps)
        return f"the encoder runs on {keys} of them and is reused on the others" if self.acts(steps) else ""

    def attach(self, network: Any, knobs: Knobs, steps: Steps, name: str) -> Part:
        """Hooks on the encoder.

        Raises:
            UnsupportedError: the network has no encoder and decoder, k skips the encoder already, or cross-attention
                is kept.
        """
        if denoiser_of(network).chains:
            raise UnsupportedError(
                f"encoder_interval with {type(network).__name__}", "only U-Nets have an encoder", "leave it at 1"
            )
        if knobs.cache_interval > 1:
            raise UnsupportedError(
                f"encoder_interval={knobs.encoder_interval} with cache_interval={knobs.cache_interval}",
                "cached steps skip the encoder already",
                "leave one of them at 1",
            )
        if any(not step.cross_attention_live for step in steps):
            raise UnsupportedError(
                f"encoder_interval={knobs.encoder_interval} with kept cross-attention",
                "the encoder's may not have run on the last guided step",
                "set cross_attention_cache=off",
            )
        return _Encoder(network, name)

    def fired(self, steps: Steps, summary: Any) -> tuple[Fired, ...]:  # noqa: D102
        return (Fired(self.name, self.acts(steps), any(step.layers_skipped for step in summary.steps)),)

    def metered(self, key: Any) -> Knobs | None:  # noqa: D102
        reused = {"num_inference_steps": 2, "encoder_interval": 2}
        return Knobs.from_dict(reused) if (REUSED, True) in key.more else None
