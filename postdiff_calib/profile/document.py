"""A whole profile: what it says of the pipeline at hand, its text, and its schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, model_validator

from postdiff_calib.files import write_atomically
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.cards import CARDS
from postdiff_calib.models.deployment import DeploymentSettings, describe_baseline
from postdiff_calib.models.families import family_named
from postdiff_calib.models.hub import is_commit
from postdiff_calib.plan import compile_plan, plan_facts
from postdiff_calib.profile.categories import CategoriesSection
from postdiff_calib.profile.comments import comment
from postdiff_calib.profile.match import pipeline_mismatches
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
)
from postdiff_calib.profile.times import TimesSection
from postdiff_calib.profile.tradeoff import TradeoffSection
from postdiff_calib.quality.metrics import metrics


class Profile(Section):
    """A whole profile; ``knobs`` are the settings, ``settings`` the file's section of the same name."""

    schema_version: Annotated[int, Field(ge=1)]
    model: ModelSection
    budget: BudgetSection
    settings: KnobsSection = Field(alias="knobs")
    plan: PlanSection
    expected: Expected
    categories: CategoriesSection | None = None
    tradeoff: TradeoffSection
    evidence: EvidenceSection
    environment: EnvironmentSection
    times: TimesSection

    @property
    def knobs(self) -> Knobs:
        """The settings as ``Knobs``, ready for ``enable``."""
        return Knobs.from_dict(self.settings.model_dump())

    @property
    def words(self) -> str:
        """What the settings do, for people, e.g. ``13 steps, guidance on the first 10``; see ``StepPlan.words``."""
        family = family_named(self.model.pipeline_class)
        network = family.network if family is not None else None
        guides = network is None or (network.guides_by_default and self.model.guidance_scale > network.guided_above)
        return compile_plan(self.knobs).words(guides and (family is None or family.guides))

    @property
    def noise(self) -> str:
        """The noise of low-resolution steps, one of ``settings.NOISES``."""
        return self.plan.noise

    @property
    def switch(self) -> str:
        """How low-resolution steps get to full size, one of ``techniques.noise.SWITCH_WAYS``."""
        return self.plan.switch

    @property
    def latent_multiple(self) -> int:
        """The multiple that low-resolution latent sides are rounded to."""
        return self.plan.latent_multiple

    @property
    def metric_results(self) -> tuple[MetricResult, ...]:
        """The quality metrics, the score first."""
        return tuple(self.expected.metrics)

    @property
    def generation(self) -> GenerationSettings:
        """How images are made with this profile."""
        return GenerationSettings(
            height=self.model.height,
            width=self.model.width,
            guidance_scale=self.model.guidance_scale,
            batch_size=self.budget.batch_size,
            noise=self.plan.noise,
            switch=self.plan.switch,
            latent_multiple=self.plan.latent_multiple,
            negative_prompt=self.model.negative_prompt,
        )

    @property
    def model_to_load(self) -> str:
        """What ``load_pipeline`` takes beside ``deployment``, which names the commit of the model's own repository."""
        return self.model.to_load(self.model.card or self.model.id, revision_apart=True)

    @property
    def deployment(self) -> DeploymentSettings:
        """What the model is to be loaded with, so that it runs as it was calibrated."""
        model = self.model
        return DeploymentSettings(
            height=model.height,
            width=model.width,
            num_inference_steps=model.num_inference_steps,
            guidance_scale=model.guidance_scale,
            scheduler=model.scheduler if model.scheduler_config is not None else None,
            scheduler_config=tuple((model.scheduler_config or {}).items()),
            negative_prompt=model.negative_prompt,
            batch_size=self.budget.batch_size,
            loras=tuple(model.loras),
            vae=model.vae,
            variant=model.variant,
            revision=_asked_revision(model),
        )

    @property
    def baseline_text(self) -> str:
        """The baseline in one line."""
        return describe_baseline(self.model.num_inference_steps, self.model, self.model.negative_prompt)

    def pipeline_mismatches(self, pipe: Any) -> list[str]:
        """What differs between ``pipe`` and the pipeline this profile was made for; see ``match``."""
        return pipeline_mismatches(self.model, pipe)

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        compiled = compile_plan(self.knobs)
        stated = (self.plan.plan_id, self.plan.n_low, self.plan.gate_step, tuple(self.plan.refresh_steps))
        if stated != plan_facts(compiled):
            raise ValueError("the plan section does not follow from the knobs section; export the profile again")
        timed, rows = self.times.rows, self.tradeoff.rows
        if timed and [row.share for row in timed] != [row.share for row in rows]:
            raise ValueError("the rows of the times are not those of the trade-off; export the profile again")
        return self

    @model_validator(mode="after")
    def _of_known_metrics(self) -> Profile:
        """Guards and categories are of metrics of the list, or of those that the profile states."""
        known = {m.name for m in metrics()} | {result.metric for result in self.expected.metrics}
        named = [guard.metric for guard in self.budget.guards]
        for row in () if self.categories is None else self.categories.rows:
            named += [*row.metrics, *row.loses]
        if unknown := [name for name in named if name not in known]:
            raise ValueError(f"it states no metric {unknown[0]}; metrics are {', '.join(sorted(known))}")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain data in file order; without the section of categories where there are none."""
        data = self.model_dump(mode="json", by_alias=True)
        return {name: section for name, section in data.items() if name != "categories" or section is not None}

    def to_yaml(self) -> str:
        """The file's text: a comment, then the section."""
        parts = []
        for key, value in self.to_dict().items():
            body = yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=110)
            above = "".join(f"# {line}\n" for line in comment(key, self.words).splitlines())
            parts.append(above + body)
        return "\n".join(parts)

    def save(self, path: str | Path) -> Path:
        """Write the profile atomically; a crash leaves the old file or the new one, never half of one."""
        return write_atomically(path, self.to_yaml())


def _asked_revision(model: ModelSection) -> str | None:
    """The commit to load where that is not the card's own; None for local models, and for a branch, which moves."""
    own = next((card for card in CARDS if card.name == model.card), None)
    is_own = own is not None and (own.embedded or own.revision == model.revision)
    return model.revision if is_commit(model.revision) and not is_own else None


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a profile."""
    schema = Profile.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
