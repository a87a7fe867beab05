"""What ``compare-methods`` is asked for, and the methods that are plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from postdiff_calib.cost.budget import Budget, parse_budgets
from postdiff_calib.jobs.paper_study import PaperStudyJob
from postdiff_calib.knobs import Knobs, settled
from postdiff_calib.knobs import names as knob_names
from postdiff_calib.models.families import family_named
from postdiff_calib.plan import compile_plan

if TYPE_CHECKING:
    from postdiff_calib.cost.table import CostTable
    from postdiff_calib.models.card import Card
    from postdiff_calib.profile import Profile
    from postdiff_calib.study.methods import Setting

KIND = "methods"
OURS, CALIBRATED = "PostDiff, the paper's setting", "calibrated"


@dataclass(frozen=True)
class MethodsJob(PaperStudyJob):
    """What ``postdiff compare-methods`` was asked for.

    Attributes:
        budgets: as ``parse_budgets`` reads them.
        profiles: calibrated plans; at each budget the costliest that fits takes part.
        measure: seconds of the chosen settings are measured.
        fid_reference: a folder of real images, or ``own``; FID of every method against it, from 2,048 prompts on.
    """

    budgets: str = "75%,60%,45%"
    profiles: tuple[Path, ...] = ()
    measure: bool = True
    fid_reference: str | None = None

    def calibrated(self) -> list[Profile]:
        """The profiles, read.

        Raises:
            ProfileError: one cannot be read.
        """
        from postdiff_calib.profile import load_profile

        return [load_profile(path) for path in self.profiles]

    def asked(self) -> list[Budget]:
        """The budgets.

        Raises:
            BudgetError: one cannot be read.
        """
        return parse_budgets(self.budgets)


def plan_methods(card: Card, profiles: Sequence[Profile] = ()) -> dict[str, list[Knobs]]:
    """Methods that are plans, and their settings, the one that saves least first; the encoder's technique registered.

    Args:
        card: of the model; a method that does nothing for it is left out.
        profiles: of calibrated plans.
    """
    from postdiff_calib.search.space import SearchSpace

    steps, lacks = card.num_inference_steps, knob_names() - card.knobs
    unet = not card.denoiser.chains
    family = family_named(card.pipeline_class)
    crossed = "cross_attention_cache" not in lacks and family is not None and family.guides
    paper = SearchSpace.from_card(card, card.latent_size()).paper

    def plans(field: str, values: Sequence[float], **more: str) -> list[Knobs]:
        return [settled({field: value, **more}, steps, lacks) for value in values]

    found: dict[str, list[Knobs]] = {"step reduction": [Knobs(t) for t in range(steps - 1, 0, -1)]}
    caching = "DeepCache" if unet else "block caching"
    found[caching] = plans("cache_interval", range(2, steps + 1))
    if unet:
        found["Faster Diffusion"] = [
            Knobs.from_dict({"num_inference_steps": steps, "encoder_interval": e}) for e in range(2, steps + 1)
        ]
    if "guidance_fraction" in card.knobs:
        # the package tgate keeps the mean of both halves' outputs
        gate, kept = ("T-GATE", {"cross_attention_cache": "mean"}) if crossed else ("guidance dropped", {})
        found[gate] = plans("guidance_fraction", [i / steps for i in range(steps - 1, 0, -1)], **kept)
    found[OURS] = [Knobs.from_dict({**paper.as_dict(), "num_inference_steps": t}) for t in range(steps, 1, -1)]
    if profiles:
        found[CALIBRATED] = [profile.knobs for profile in profiles]
    return found


def plan_settings(card: Card, table: CostTable, profiles: Sequence[Profile]) -> dict[str, list[Setting]]:
    """``plan_methods`` with their costs."""
    from postdiff_calib.study.methods import Setting

    found: dict[str, list[Setting]] = {}
    for method, plans in plan_methods(card, profiles).items():
        found[method] = [Setting(method, k.describe(), table.price(compile_plan(k)), k) for k in plans]
    return found
