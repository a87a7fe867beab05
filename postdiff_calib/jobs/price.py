"""What a plan costs: the model's card and prices, from a file, by measuring, or from the card alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from postdiff_calib.errors import UsageError
from postdiff_calib.knobs import Knobs, names, settled
from postdiff_calib.models.deployment import MODELS_OWN, DeploymentSettings
from postdiff_calib.plan import compile_plan

if TYPE_CHECKING:
    from postdiff_calib.cost.macs import Convention
    from postdiff_calib.cost.table import CostTable
    from postdiff_calib.models.card import Card
    from postdiff_calib.models.load import LoadedModel


@dataclass(frozen=True)
class CostJob:
    """What ``postdiff cost`` was asked for; see its help for the meaning of each field.

    ``knobs`` are values by field, as ``knobs.settled`` reads them; ``table`` a file that ``--out`` wrote.
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

    def __post_init__(self) -> None:
        if self.convention not in ("paper", "full"):
            given = f"--convention {self.convention}"
            raise UsageError(given, "it must be paper or full", "full counts attention's products")
        if self.table is not None and self.measure:
            raise UsageError("--table with --measure", "seconds come from one of them", "leave one out")


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

    def facts(self) -> dict[str, Any]:
        """The price of the plan as plain data; MACs and seconds are per image."""
        plan = compile_plan(self.knobs)
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
            facts |= {
                "seconds": cost.seconds,
                "seconds_p95": cost.seconds_p95,
                "batch_size": self.costs.latency.batch_size,
                "environment": dict(self.costs.latency.environment),
            }
        return facts


def run_cost(job: CostJob, loaded: LoadedModel | None = None, card: Card | None = None) -> Priced:
    """The price of a plan.

    Args:
        job: what was asked for.
        loaded: the model, where it is loaded already.
        card: in the place of the job's model: priced without weights.

    Raises:
        PostdiffError: bad input, by one line.
    """
    from postdiff_calib.cost import table_for_card

    if card is not None:
        card = job.deployment.card(card)
        costs = table_for_card(card)
    else:
        card, costs = _card_and_table(job, loaded)
    return Priced(card, costs, settled(job.knobs, card.num_inference_steps, names() - card.knobs), job.convention)


def _card_and_table(job: CostJob, loaded: LoadedModel | None) -> tuple[Card, CostTable]:
    from postdiff_calib.cost import build_cost_table, table_for_card
    from postdiff_calib.models.cards import CARDS, get_card
    from postdiff_calib.techniques import techniques

    if loaded is None and not job.measure and any(card.name == job.model for card in CARDS):
        card = job.deployment.card(get_card(job.model))
        return card, table_for_card(card) if job.table is None else _read(job.table, card)
    if loaded is None:
        from postdiff_calib.models.load import load_pipeline

        loaded = load_pipeline(job.model, device=job.device, dtype=job.dtype, settings=job.deployment)
    card = loaded.card
    return card, build_cost_table(
        loaded,
        height=card.height,
        width=card.width,
        guidance_scale=card.guidance_scale,
        batch_size=job.deployment.batch_size or 1,
        measure=job.measure,
        scales=card.low_res_scales,
        branches=tuple(branch for technique in techniques() for branch in technique.branches(dict(job.knobs))),
        quick=job.quick,
        refresh=job.refresh,
    )


def _read(path: Path, card: Card) -> CostTable:
    from postdiff_calib.cost.store import read_table

    costs = read_table(path)
    if costs.model != card.name:
        raise UsageError(f"--table {path}", f"it is of {costs.model}, not {card.name}", f"add --model {costs.model}")
    return costs
