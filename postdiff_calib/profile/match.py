"""Is this the pipeline that a profile or a study was made for? Asked here and nowhere else.

A pipeline is known by the classes of itself, its denoiser and its scheduler, by the configuration of its networks and
scheduler, by a hash of its weights (the loader's fingerprint, which a bare pipeline lacks), and by what its tokenizers
make of text. A study is known by everything that its scores depend on, its pipeline's scheduler, configuration
and tokenizers included. What a difference means is the caller's: a refusal, a note or a failed check.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from postdiff_calib.files.differences import differences_of_studies
from postdiff_calib.profile.sections import ModelSection

if TYPE_CHECKING:
    from postdiff_calib.generate.settings import GenerationSettings
    from postdiff_calib.models.load import LoadedModel


@dataclass(frozen=True)
class Fact:
    """One thing that a pipeline is known by.

    Attributes:
        what: its name in a sentence.
        wanted: what it was when the profile or the study was made.
        found: what it is now.
    """

    what: str
    wanted: str
    found: str

    @property
    def same(self) -> bool:
        """Whether it is as it was."""
        return self.wanted == self.found

    def __str__(self) -> str:
        return f"{self.what} ({self.found}, profile: {self.wanted})"


def class_facts(model: ModelSection, pipe: Any) -> tuple[Fact, Fact, Fact]:
    """Classes of pipeline, denoiser and scheduler. A control network beside the same model is no difference.

    Args:
        model: the pipeline that the profile was made for.
        pipe: the one at hand; its denoiser may be compiled.
    """
    from postdiff_calib.models.families import denoiser_in, family_named

    _, denoiser = denoiser_in(pipe)
    denoiser = getattr(denoiser, "_orig_mod", denoiser)  # torch.compile wraps it
    pipeline_class = type(pipe).__name__
    family, own = family_named(pipeline_class), family_named(model.pipeline_class)
    if family is not None and (own is None or not own.control):
        pipeline_class = family.without_control
    return (
        Fact("pipeline class", model.pipeline_class, pipeline_class),
        Fact("denoiser class", model.denoiser_class, type(denoiser).__name__),
        Fact("scheduler", model.scheduler, type(getattr(pipe, "scheduler", None)).__name__),
    )


def configuration_fact(model: ModelSection, pipe: Any) -> Fact | None:
    """Settings of networks and scheduler, as a hash; None where the profile does not state them."""
    from postdiff_calib.models.fingerprint import configuration_of

    if model.configuration is None:
        return None
    return Fact("the configuration of a network or the scheduler", model.configuration, configuration_of(pipe))


def tokenizer_fact(model: ModelSection, pipe: Any) -> Fact | None:
    """What the tokenizers make of text, as a hash; None where the profile does not state it."""
    from postdiff_calib.models.fingerprint import fingerprint_tokenizers

    if model.tokenizer is None:
        return None
    return Fact("its tokenizers", model.tokenizer, fingerprint_tokenizers(pipe))


def weights_fact(model: ModelSection, loaded: LoadedModel) -> Fact:
    """The loader's fingerprint, which is of weights and networks."""
    return Fact("weights or configuration", model.fingerprint, loaded.fingerprint)


def pipeline_mismatches(model: ModelSection, pipe: Any) -> list[str]:
    """What differs between ``pipe`` and a profile's pipeline, as text; empty when nothing does.

    Classes, then, where those are the same, the configuration of networks and scheduler.
    """
    found = [str(fact) for fact in class_facts(model, pipe) if not fact.same]
    if not found and (configuration := configuration_fact(model, pipe)) is not None and not configuration.same:
        found.append(str(configuration))
    return found


def mismatches(model: ModelSection, loaded: LoadedModel) -> list[str]:
    """As ``pipeline_mismatches``, and the weights and the tokenizers."""
    found, weights = pipeline_mismatches(model, loaded.pipe), weights_fact(model, loaded)
    if not weights.same:
        found.append(str(weights))
    tokenizer = tokenizer_fact(model, loaded.pipe)
    if tokenizer is not None and not tokenizer.same:
        found.append(f"{tokenizer}; is a file of theirs missing?")
    return found


def call_mismatches(made: GenerationSettings, now: GenerationSettings, *, low_res: bool = False) -> list[str]:
    """What of a call decides images and differs, as text; empty when nothing does.

    Args:
        made: how the profile's images were made.
        now: how images are made at hand.
        low_res: low-resolution steps count, too: their noise and the way to full size.
    """
    names = ["height", "width", "guidance_scale", "negative_prompt", *(("noise", "switch") if low_res else ())]
    facts = [Fact(name, str(getattr(made, name)), str(getattr(now, name))) for name in names]
    return [str(fact) for fact in facts if not fact.same]


def other_settings(known: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What a study was made with differently, as text; empty when nothing differs.

    Args:
        known: what the study's scores depend on, as it was stored; what older studies do not state is passed over.
        now: the same of what is at hand; tuples count as the lists that JSON makes of them.
    """
    plain: dict[str, Any] = json.loads(json.dumps(dict(now)))
    return differences_of_studies(known, plain)
