"""Is this the pipeline, the deployment and the machine that a profile was made for? A check for each difference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from postdiff_calib.accelerate.compiled import CompileMode
from postdiff_calib.jobs import checks
from postdiff_calib.jobs.checks import Check
from postdiff_calib.models.deployment import DeploymentSettings
from postdiff_calib.profile import Profile, match
from postdiff_calib.profile.deployment import deployment_facts
from postdiff_calib.study.seconds import described

if TYPE_CHECKING:
    from postdiff_calib.models.load import LoadedModel


def deployment_checks(profile: Profile, asked: DeploymentSettings) -> list[Check]:
    """What was asked for beside what the profile was made with; another batch size is a warning."""
    found = [
        checks.same(fact.what.replace("_", " "), fact.wanted, fact.found, "the profile was made with another")
        for fact in deployment_facts(profile, asked)
    ]
    if asked.batch_size is not None:
        reason = "seconds are of calls of the profile's batch size"
        own = profile.budget.batch_size
        found.append(checks.same("batch size", str(own), str(asked.batch_size), reason, "warning"))
    return found


def identity_checks(profile: Profile, loaded: LoadedModel) -> list[Check]:
    """Is this the pipeline that the profile was made for?"""
    model, pipe = profile.model, loaded.pipe
    pipeline, denoiser, scheduler = match.class_facts(model, pipe)
    other = "the figures are of another model"
    told = [
        ("weights", match.weights_fact(model, loaded), "the weights or the networks differ"),
        ("pipeline", pipeline, other),
        ("denoiser", denoiser, other),
        ("scheduler", scheduler, "another scheduler, other images"),
    ]
    if (configuration := match.configuration_fact(model, pipe)) is not None:
        told.append(("configuration", configuration, "a network or the scheduler is set up otherwise"))
    if (tokenizer := match.tokenizer_fact(model, pipe)) is not None:
        told.append(("tokenizer", tokenizer, "texts become other tokens; is a tokenizer's file missing?"))
    found = [checks.same(name, fact.wanted, fact.found, reason) for name, fact, reason in told]
    size = (f"{model.height}×{model.width}", f"{loaded.card.height}×{loaded.card.width}")
    found.append(checks.same("size", *size, "the model's own size is not the profile's"))
    return found


def environment_checks(profile: Profile, loaded: LoadedModel, mode: CompileMode = "off") -> list[Check]:
    """Type, compilation, versions and device; differences are warnings, since cost and quality are measured anyway."""
    from importlib.metadata import version

    from postdiff_calib.cost.store import device_name

    differs = "another type computes at another speed and rounds otherwise"
    otherwise, stated = "the profile's seconds are of a network compiled otherwise", profile.environment.compile
    here = {name: version(name) for name in checks.PACKAGES}
    return [
        checks.same("dtype", profile.model.dtype, loaded.dtype, differs, "warning"),
        *([checks.same("compile", stated, mode, otherwise, "warning")] if stated is not None else []),
        *computed_checks(profile, loaded),
        *checks.versions(profile.environment.versions, here),
        checks.latency_device(profile.times.device, device_name(loaded.device)),
    ]


def computed_checks(profile: Profile, loaded: LoadedModel) -> list[Check]:
    """Attention backends and memory format, where the profile states them; differences are warnings."""
    from postdiff_calib.models.backends import attention_backends, memory_format
    from postdiff_calib.models.families import denoiser_in

    stated, reason = profile.environment, "the profile's seconds are of a network that computes otherwise"
    found = []
    if stated.attention is not None:
        wanted, here = described(stated.attention), described(attention_backends(loaded.pipe))
        found.append(checks.same("attention", wanted, here, reason, "warning"))
    _, network = denoiser_in(loaded.pipe)
    if stated.memory_format is not None and network is not None:
        found.append(checks.same("memory format", stated.memory_format, memory_format(network), reason, "warning"))
    return found
