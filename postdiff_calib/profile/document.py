"""A whole profile: what it says of the pipeline at hand, its text, and its schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, model_validator

from postdiff_calib.files import write_atomically
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan, plan_facts
from postdiff_calib.profile.comments import comment
from postdiff_calib.profile.sections import (
    BudgetSection,
    EnvironmentSection,
    EvidenceSection,
    Expected,
    KnobsSection,
    MetricResult,
    ModelSection,
    PlanSection,
    Section,
    TradeoffSection,
)
from postdiff_calib.quality.metrics import SCORE

#: Written; version 1, which lacks single metrics and what was searched, is still read.
SCHEMA_VERSION = 2


class Profile(Section):
    """A whole profile; ``knobs`` are the settings, ``settings`` the file's section of the same name."""

    schema_version: Annotated[int, Field(ge=1)]
    model: ModelSection
    budget: BudgetSection
    settings: KnobsSection = Field(alias="knobs")
    plan: PlanSection
    expected: Expected
    tradeoff: TradeoffSection
    evidence: EvidenceSection
    environment: EnvironmentSection

    @property
    def knobs(self) -> Knobs:
        """The settings as ``Knobs``, ready for ``enable``."""
        return Knobs.from_dict(self.settings.model_dump())

    @property
    def noise(self) -> str:
        """How low-resolution starting noise is made: ``coupled`` or ``independent``."""
        return self.plan.noise

    @property
    def latent_multiple(self) -> int:
        """The multiple that low-resolution latent sides are rounded to."""
        return self.plan.latent_multiple

    @property
    def metric_results(self) -> tuple[MetricResult, ...]:
        """The quality metrics; a profile of version 1 states its score alone, and no spread."""
        e = self.expected
        if e.metrics:
            return tuple(e.metrics)
        alone = MetricResult(
            metric=SCORE,
            score=e.score,
            baseline_score=e.baseline_score,
            difference=e.difference,
            spread=e.delta,
            weight=1.0,
            delta=e.delta,
            verdict=e.verdict,
        )
        return (alone,)

    @property
    def generation(self) -> dict[str, Any]:
        """How pictures are made with this profile: the keyword arguments of ``generate``."""
        return {
            "height": self.model.height,
            "width": self.model.width,
            "guidance_scale": self.model.guidance_scale,
            "batch_size": self.budget.batch_size,
            "noise": self.noise,
            "latent_multiple": self.latent_multiple,
        }

    def pipeline_mismatches(self, pipe: Any) -> list[str]:
        """What differs between ``pipe`` and the pipeline this profile was made for; empty when nothing does.

        Classes, then the configuration of networks and scheduler. A control network beside the same model is no
        difference. Weights are compared by the loader's fingerprint (``deploy.mismatches``), which a bare pipeline
        lacks.
        """
        from postdiff_calib.models.families import denoiser_in, family_named
        from postdiff_calib.models.fingerprint import configuration_of

        _, denoiser = denoiser_in(pipe)
        denoiser = getattr(denoiser, "_orig_mod", denoiser)  # torch.compile wraps it
        pipeline_class = type(pipe).__name__
        family, own = family_named(pipeline_class), family_named(self.model.pipeline_class)
        if family is not None and (own is None or not own.control):
            pipeline_class = family.without_control
        facts = (
            ("pipeline class", pipeline_class, self.model.pipeline_class),
            ("denoiser class", type(denoiser).__name__, self.model.denoiser_class),
            ("scheduler", type(getattr(pipe, "scheduler", None)).__name__, self.model.scheduler),
        )
        differing = [f"{what} ({has}, profile: {wants})" for what, has, wants in facts if has != wants]
        wanted = self.model.configuration
        if not differing and wanted is not None and (found := configuration_of(pipe)) != wanted:
            differing.append(f"the configuration of a network or the scheduler ({found}, profile: {wanted})")
        return differing

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        compiled = compile_plan(self.knobs)
        stated = (self.plan.content, self.plan.n_low, self.plan.gate_step, tuple(self.plan.refresh_steps))
        if stated != plan_facts(compiled):
            raise ValueError("the plan section does not follow from the knobs section; export the profile again")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain data in file order."""
        return self.model_dump(mode="json", by_alias=True)

    def to_yaml(self) -> str:
        """The file's text: a comment, then the section."""
        parts = []
        for key, value in self.to_dict().items():
            body = yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=110)
            above = "".join(f"# {line}\n" for line in comment(key).splitlines())
            parts.append(above + body)
        return "\n".join(parts)

    def save(self, path: str | Path) -> Path:
        """Write the profile atomically; a crash leaves the old file or the new one, never half of one."""
        return write_atomically(path, self.to_yaml())


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a profile."""
    schema = Profile.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
