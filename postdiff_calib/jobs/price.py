"""What a plan costs: the model's card and prices, from a file, by measuring, or from the card alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from postdiff_calib.accelerate.compiled import announcement, compiled, parse_compile
from postdiff_calib.errors import UsageError
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.deployment import MODELS_OWN, DeploymentSettings
from postdiff_calib.models.families import family_named
from postdiff_calib.plan import StepPlan, compile_plan
from postdiff_calib.study.seconds import plan_times
from postdiff_calib.techniques import admit

if TYPE_CHECKING:
    from postdiff_calib.cost.macs import Convention
    from postdiff_calib.cost.table import CostTable
    from postdiff_calib.models.card import Card
    from postdiff_calib.models.load import LoadedModel


@dataclass(frozen=True)
class CostJob:
    """What ``postdiff cost`` was asked for; see its help for the meaning of each field.

    ``knobs`` are values by field, as ``knobs.settled`` reads them; ``table`` a file that ``--out`` wrote; ``compile`` a
    mode of ``accelerate.compiled``.
    """

    model: str = "shapes"
    knobs: Mapping[str, Any] = field(default_factory=dict)
    deployment: DeploymentSettings = MODELS_OWN
    convention: str = "full"
    measure: bool = False
    quick: bool = False
    refresh: bool = False
    table: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    compile: str = "off"

    def __post_init__(self) -> None:
        if self.convention not in ("paper", "full"):
            given = f"--convention {self.convention}"
            raise UsageError(given, "it must be paper or full", "full counts attention's products")
        if self.table is not None and self.measure:
            raise UsageError("--table with --measure", "seconds come from one of them", "leave one out")
        if parse_compile(self.compile) != "off" and not self.measure:
            raise UsageError(f"--compile {self.compile}", "it changes seconds, which are measured", "add --measure")


@dataclass(frozen=True)
class Priced:
    """One plan with its prices.

    Args:
        card: the model with the deployment's settings.
        costs: its cost table.
        knobs: the plan.
        convention: of counting, ``paper`` or ``full``.
    """

    card: Card
    costs: CostTable
    knobs: Knobs
    convention: str = "full"

    @property
    def baseline(self) -> Knobs:
        """The baseline."""
        return Knobs(self.card.num_inference_steps)

    def admit(self, plan: StepPlan) -> None:
        """Refuse a plan that the sampler refuses, in its words.

        Raises:
            UnsupportedError: no such pipeline can run it.
            UsageError: no call at this guidance scale can.
        """
        family = family_named(self.card.pipeline_class)
        if family is not None:
            admit(plan.knobs, plan.steps, family, self.costs.guides)

    def facts(self) -> dict[str, Any]:
        """The price of the plan as plain data; MACs are per image, ``times`` has the seconds of a call and an image.

        Raises:
            PostdiffError: the sampler refuses the plan.
        """
        plan = compile_plan(self.knobs)
        self.admit(plan)
        convention = cast("Convention", self.convention)
        per_step = [self.costs.step_macs(key).by(convention) for key in self.costs.keys(plan)]
        total = sum(per_step)
        keys = self.costs.keys(compile_plan(self.baseline))
        baseline = sum(self.costs.step_macs(key).by(convention) for key in keys)
        facts: dict[str, Any] = {
            "model": self.costs.model,
            "height": self.costs.height,
            "width": self.costs.width,
            "knobs": self.knobs.as_dict(),
            "convention": self.convention,
            "macs_total": total,
            "macs_per_step": per_step,
            "flops_total": 2 * total,
            "relative_to_baseline": total / baseline,
            "macs_text_encoder": self.costs.macs_text_encoder,
            "macs_vae_decoder": self.costs.macs_vae_decoder,
        }
        if self.costs.latency is not None:
            cost = self.costs.price(plan)
            times = plan_times(cost)
            facts |= {
                "times": None if times is None else times.model_dump(),
                "batch_size": self.costs.latency.batch_size,
                "stable": self.costs.latency.stable,
                "disagreement": self.costs.latency.disagreement,
                "environment": dict(self.costs.latency.environment),
            }
        return facts


def run_cost(
    job: CostJob,
    loaded: LoadedModel | None = None,
    card: Card | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Priced:
    """The price of a plan.

    Args:
        job: what was asked for.
        loaded: the model, where it is loaded already.
        card: in the place of the job's model: priced without weights.
        note: hears in a line each what compiling takes.

    Raises:
        PostdiffError: bad input, by one line.
    """
    from postdiff_calib.cost import table_for_card

    if card is not None:
        card = job.deployment.card(card)
        chosen, costs = card.settled(job.knobs), table_for_card(card)
    else:
        card, chosen, costs = _card_and_table(job, loaded, note)
    return Priced(card, costs, chosen, job.convention)


def _card_and_table(
    job: CostJob, loaded: LoadedModel | None, note: Callable[[str], None]
) -> tuple[Card, Knobs, CostTable]:
    from postdiff_calib.cost import build_cost_table, table_for_card
    from postdiff_calib.cost.latency import MAX_KINDS
    from postdiff_calib.cost.setting import Setting
    from postdiff_calib.models.cards import known_card
    from postdiff_calib.techniques import techniques

    if loaded is None and not job.measure and (known := known_card(job.model)) is not None:
        card = job.deployment.card(known)
        chosen = card.settled(job.knobs)
        return card, chosen, table_for_card(card) if job.table is None else _read(job.table, card)
    if loaded is None:
        from postdiff_calib.models.load import load_pipeline

        loaded = load_pipeline(job.model, device=job.device, dtype=job.dtype, settings=job.deployment)
    card, mode = loaded.card, parse_compile(job.compile)
    chosen = card.settled(job.knobs)
    if told := announcement(mode, MAX_KINDS):
        note(told)
    with compiled(loaded.pipe, mode, MAX_KINDS) as compilation:
        setting = Setting(
            height=card.height,
            width=card.width,
            guidance_scale=card.guidance_scale,
            batch_size=job.deployment.batch_size or 1,
            scales=card.low_res_scales,
            branches=tuple(branch for technique in techniques() for branch in technique.branches(chosen.as_dict())),
            quick=job.quick,
        )
        costs = build_cost_table(loaded, setting, measure=job.measure, refresh=job.refresh)
        if told := compilation.describe():
            note(told)
    return card, chosen, costs


def _read(path: Path, card: Card) -> CostTable:
    from postdiff_calib.cost.store import read_table

    costs = read_table(path)
    if costs.model != card.name:
        raise UsageError(f"--table {path}", f"it is of {costs.model}, not {card.name}", f"add --model {costs.model}")
    return costs
