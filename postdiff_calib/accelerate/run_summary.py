"""What really ran, step by step; recorded during a call, kept as plain numbers after it."""

from __future__ import annotations

from dataclasses import dataclass, field

from postdiff_calib.errors import UsageError
from postdiff_calib.plan import StepPlan
from postdiff_calib.techniques import techniques


@dataclass
class StepRecord:
    """One denoising step as it ran.

    Attributes:
        index: 0 … T − 1.
        network_calls: calls of the denoiser.
        batch: images in the network's batch, both guidance halves counted.
        guided: both halves ran.
        latent_size: (height, width) of the latent.
        layers_executed, layers_skipped: a U-Net's resnets, attentions and samplers, or a transformer's blocks.
        cross_attention_live, cross_attention_cached: layers that ran, and layers that returned a captured output; both
            0 where no cross-attention caching is attached.
        control_calls: calls of a control network.
        switched: the sample moved to full resolution after this step.
    """

    index: int
    network_calls: int = 0
    batch: int = 0
    guided: bool = False
    latent_size: tuple[int, int] = (0, 0)
    layers_executed: int = 0
    layers_skipped: int = 0
    cross_attention_live: int = 0
    cross_attention_cached: int = 0
    control_calls: int = 0
    switched: bool = False


@dataclass
class RunSummary:
    """A whole call: the plan that was followed, and a record per step that ran.

    ``notes`` say what a profile was overridden in, a sentence each.
    """

    plan: StepPlan
    steps: list[StepRecord] = field(default_factory=list)
    guides: bool = False
    notes: tuple[str, ...] = ()

    @property
    def network_calls(self) -> int:
        """Denoiser calls of the whole run."""
        return sum(step.network_calls for step in self.steps)

    def check(self) -> None:
        """Every technique that the plan asks for has fired.

        Raises:
            UsageError: naming the one that has not.
        """
        for technique in techniques():
            for what, asked, seen in technique.fired(self.plan.steps, self):
                if asked and not seen:
                    raise UsageError(
                        f"{what} of {self.plan.knobs.describe()}",
                        f"it never fired in the {len(self.steps)} steps that ran",
                        "set the knob to its neutral value, or do not cut the run short",
                    )

    def __str__(self) -> str:
        """A table in plain text, a row per step."""
        lines = [
            self.plan.knobs.describe(),
            "step  calls  batch  latent    layers run/skipped  cross-attention live/cached",
        ]
        for s in self.steps:
            size = f"{s.latent_size[0]}×{s.latent_size[1]}"
            lines.append(
                f"{s.index:>4}  {s.network_calls:>5}  {s.batch:>5}  {size:<8}  "
                f"{s.layers_executed:>8}/{s.layers_skipped:<9}  {s.cross_attention_live}/{s.cross_attention_cached}"
                + ("  → full resolution" if s.switched else "")
            )
        return "\n".join([*lines, *self.notes])
