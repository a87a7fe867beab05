"""A profile's conditions on the pipeline it runs on, held when it is enabled and again in every call.

A profile's figures are of one pipeline: its class, its networks' configuration, its scheduler, one image size, one
guidance scale, one step count. A pipeline or a call that differs is refused. With an override it runs, and what differs
is written into the run's summary. A LoRA or a control network that was added since leaves all of these as they were,
so it is a warning, once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from postdiff_calib.accelerate.network import unwrapped
from postdiff_calib.errors import ProfileWarning, UnsupportedError, UsageError
from postdiff_calib.models.families import DENOISER_ROLES, TEXT_ROLES, family_named, family_of, for_each

#: Arguments of a call that a profile fixes, besides guidance, and the step count, which the plan fixes.
ARGUMENTS = ("height", "width")
_ADAPTED = (*DENOISER_ROLES, *TEXT_ROLES)


class Conditions:
    """Holds one pipeline object to one profile.

    Args:
        profile: has ``pipeline_mismatches(pipe)``, ``generation`` and ``model``.
        override: run in spite of differences, and note them.
    """

    def __init__(self, profile: Any, override: bool) -> None:
        self.profile, self.override = profile, override
        self._pipeline_notes: tuple[str, ...] = ()
        self._call_notes: tuple[str, ...] = ()
        self._admitted: tuple[Any, ...] = ()
        self._warned: set[str] = set()

    @property
    def notes(self) -> tuple[str, ...]:
        """What was overridden, in the pipeline and in the last call."""
        return self._pipeline_notes + self._call_notes

    def admit(self, pipe: Any) -> None:
        """Compare the pipeline with the profile's, unless its parts are those that were compared before.

        Raises:
            UnsupportedError: it differs, and there is no override.
        """
        parts = (pipe.scheduler, *(getattr(pipe, role, None) for role in _ADAPTED))
        if len(parts) != len(self._admitted) or any(a is not b for a, b in zip(parts, self._admitted, strict=True)):
            found = self.profile.pipeline_mismatches(pipe)
            if found and not self.override:
                raise UnsupportedError(
                    f"profile for {self.profile.model.id}",
                    f"this pipeline differs in {'; '.join(found)}",
                    "calibrate this pipeline, or pass override=True to run at your own risk",
                )
            self._pipeline_notes = tuple(f"override: the pipeline differs in {what}" for what in found)
            self._admitted = parts
        self._warn(pipe)

    def fill(
        self,
        given: Mapping[str, Any],
        kwargs: Mapping[str, Any],
        accepted: Mapping[str, Any],
        scale_arguments: Callable[[float], Mapping[str, Any]],
    ) -> dict[str, Any]:
        """The profile's size, guidance scale and negative prompt, for the arguments that a call leaves out.

        Args:
            given: arguments of the call, by name.
            kwargs: those of them that were passed by keyword.
            accepted: what the pipeline's call takes, by name.
            scale_arguments: (guidance scale) → the arguments that set it.

        Raises:
            UsageError: the call differs from the profile, and there is no override.
        """
        made = self.profile.generation
        sizes = {name: getattr(made, name) for name in ARGUMENTS if name in accepted}
        wanted = {**sizes, **scale_arguments(made.guidance_scale)}
        own = made.negative_prompt
        if own is not None and given.get("prompt") is not None and given.get("negative_prompt_embeds") is None:
            wanted["negative_prompt"] = own
        # A text is what the profile takes where a caller has none of their own.
        other = {
            name: value
            for name, value in wanted.items()
            if given.get(name) is not None and given[name] != value and not isinstance(value, str)
        }
        if other and not self.override:
            raise UsageError(
                ", ".join(f"{name}={given[name]}" for name in other),
                f"the profile was made for {', '.join(f'{name}={value}' for name, value in other.items())}",
                "leave it out, or enable the profile with override=True to run at your own risk",
            )
        self._call_notes = tuple(
            f"override: called with {name}={given[name]}, profile: {value}" for name, value in other.items()
        )
        prompt = given.get("prompt")
        wanted = for_each(wanted, len(prompt)) if isinstance(prompt, list) else wanted
        left_out = {name: value for name, value in wanted.items() if given.get(name) is None}
        # A ``None`` passed by position cannot be replaced by keyword.
        return {name: value for name, value in left_out.items() if name not in given or name in kwargs}

    def _warn(self, pipe: Any) -> None:
        for what in _added(pipe, self.profile.model):
            if what not in self._warned:
                self._warned.add(what)
                warnings.warn(
                    f"{what} is loaded, with which this profile was not calibrated: its cost and quality may differ; "
                    "check with 'postdiff verify', or calibrate again",
                    ProfileWarning,
                    stacklevel=2,
                )


def _added(pipe: Any, model: Any) -> list[str]:
    """Adapters and control networks of a pipeline that its profile was not made with."""
    networks = [unwrapped(network) for role in _ADAPTED if (network := getattr(pipe, role, None)) is not None]
    adapters = sorted({name for network in networks for name in getattr(network, "peft_config", None) or ()})
    found = [f"LoRA {name!r}" for name in adapters if name not in getattr(model, "adapters", ())]
    calibrated = family_named(model.pipeline_class)
    if family_of(pipe).control and (calibrated is None or not calibrated.control):
        found.append("a control network")
    return found
