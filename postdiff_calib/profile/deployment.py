"""What a user asked for of a deployment beside what a profile was made with."""

from __future__ import annotations

from dataclasses import replace

from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.models.deployment import DeploymentSettings, describe_baseline
from postdiff_calib.profile.document import Profile
from postdiff_calib.profile.match import Fact
from postdiff_calib.profile.sections import ModelSection


def deployment_facts(profile: Profile, asked: DeploymentSettings) -> list[Fact]:
    """What was asked for of a deployment beside what the profile was made with; nothing of what was left out.

    The batch size is not one of them: images do not depend on it.
    """
    own = profile.deployment.asked
    own.setdefault("scheduler", profile.model.scheduler)
    wanted = {name: value for name, value in asked.asked.items() if name != "batch_size"}
    return [Fact(name, str(own.get(name, "not set")), str(value)) for name, value in wanted.items()]


def generation_with(profile: Profile, asked: DeploymentSettings) -> GenerationSettings:
    """How images are made with a profile where some of its settings are replaced."""
    names = ("height", "width", "guidance_scale", "batch_size", "negative_prompt")
    return replace(profile.generation, **{n: value for n, value in asked.asked.items() if n in names})


def baseline_with(profile: Profile, asked: DeploymentSettings) -> str:
    """The baseline in one line, where some of a profile's settings are replaced."""
    model = profile.model.model_copy(update={n: v for n, v in asked.asked.items() if n in ModelSection.model_fields})
    return describe_baseline(model.num_inference_steps, model, model.negative_prompt)
