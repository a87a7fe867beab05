"""The record of a new study: what it is about, before it is searched."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

from postdiff_calib.accelerate.network import unwrapped
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.jobs.workbench import Workbench
from postdiff_calib.models.backends import attention_backends, memory_format
from postdiff_calib.models.cards import CARDS
from postdiff_calib.models.deployment import DeploymentSettings
from postdiff_calib.profile.sections import EnvironmentSection, EvidenceSection, ModelSection, ScorerEntry
from postdiff_calib.quality.scorers import EMBEDDED
from postdiff_calib.study.asked import Asked
from postdiff_calib.study.record import StudyRecord

if TYPE_CHECKING:
    from postdiff_calib.cost.table import CostTable


def record_of(job: CalibrateJob, bench: Workbench, prompt_set: str, table: CostTable) -> StudyRecord:
    """What a study is about, before it is searched."""
    from importlib.metadata import version

    from postdiff_calib.cost.store import device_name
    from postdiff_calib.models.fingerprint import adapters_of, configuration_of, fingerprint_tokenizers
    from postdiff_calib.search.strategies import default_trials

    loaded = bench.loaded
    pipe, card = loaded.pipe, loaded.card
    known = card.name if any((card.name, card.hub_id) == (one.name, one.hub_id) for one in CARDS) else None
    trials = job.trials if job.trials is not None else default_trials(len(bench.held_out), job.search)
    return StudyRecord(
        asked=Asked(
            model=job.model,
            budget=job.budget,
            trials=trials,
            seed=job.seed,
            prompts=job.prompts,
            column=job.column,
            category=job.category,
            search=job.search,
            delta=job.delta,
            weight=job.weight,
            max_drop=job.max_drop,
            guards=job.guards,
            deployment=job.deployment,
            restrictions=job.restrictions,
            scorer=job.scorer,
            also=job.also,
        ),
        settings=bench.settings,
        fingerprint=bench.fingerprint(),
        num_inference_steps=card.num_inference_steps,
        model=ModelSection(
            id=card.name if card.embedded else loaded.source,
            card=known,
            revision=loaded.revision or "local",
            unet_revision=loaded.unet_revision or None,
            pipeline_class=type(pipe).__name__,
            denoiser_class=type(unwrapped(getattr(pipe, card.denoiser_role))).__name__,
            fingerprint=loaded.fingerprint,
            dtype=loaded.dtype,
            height=card.height,
            width=card.width,
            scheduler=type(pipe.scheduler).__name__,
            guidance_scale=float(card.guidance_scale),
            configuration=configuration_of(pipe),
            tokenizer=fingerprint_tokenizers(pipe),
            notes=list(loaded.notes),
            num_inference_steps=card.num_inference_steps,
            negative_prompt=bench.settings.negative_prompt,
            scheduler_config=_scheduler_config(job.deployment),
            adapters=adapters_of(pipe),
            loras=list(job.deployment.loras),
            vae=job.deployment.vae,
            variant=job.deployment.variant,
        ),
        evidence=EvidenceSection(
            prompt_set=prompt_set,
            prompt_set_sha256=bench.calibration.sha256,
            num_prompts=len(bench.held_out),
            num_held_out=0,
            held_out_sha256=bench.held_out.sha256,
            seed=job.seed,
            scorer=EMBEDDED if card.embedded and job.scorer is None else job.scorer or bench.scorer.name,
            scorer_sha256=bench.scorer.fingerprint,
            also=_also(job, bench),
            search=job.search,
            trials=0,
            images=0,
            minimum_detectable_difference=0.0,
            study=str(job.folder),
            notes=[],
            restrictions=[one.text for one in job.restrictions],
        ),
        environment=EnvironmentSection(
            device=device_name(loaded.device),
            compile=bench.compile,
            attention=attention_backends(loaded.pipe),
            memory_format=memory_format(getattr(loaded.pipe, loaded.card.denoiser_role)),
            versions={
                "python": platform.python_version(),
                **{name: version(name) for name in ("postdiff", "torch", "diffusers", "transformers", "optuna")},
            },
        ),
        calibration=bench.calibration.prompts,
        held_out=bench.held_out.prompts,
        held_out_categories=bench.held_out.categories_of(bench.held_out.prompts),
        cost=table,
    )


def _also(job: CalibrateJob, bench: Workbench) -> list[ScorerEntry]:
    """The scorers that judge beside the one that is searched on."""
    return [
        ScorerEntry(metric=one.metric, scorer=text, scorer_sha256=one.fingerprint)
        for text, one in zip(job.also, bench.also, strict=True)
    ]


def _scheduler_config(deployment: DeploymentSettings) -> dict[str, Any] | None:
    """What the scheduler was given beside the model's own settings; None where nothing was asked for of it."""
    config = dict(deployment.scheduler_config)
    return config if config or deployment.scheduler is not None else None
