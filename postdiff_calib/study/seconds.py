"""Whose seconds a profile states: what of a latency table's environment goes into it, and what a reader must know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from postdiff_calib.accelerate.compiled import stated_mode
from postdiff_calib.cost.table import Latency
from postdiff_calib.models.backends import FORMATS
from postdiff_calib.profile.sections import EnvironmentSection


def environment_of_seconds(environment: EnvironmentSection, latency: Latency) -> EnvironmentSection:
    """The profile's section with the facts of the machine whose seconds it states; None where a table does not say."""
    facts = latency.environment
    found = {
        "latency_device": str(facts.get("device_name", "unknown")),
        "latency_disagreement": latency.disagreement,
        "compile": stated_mode(facts.get("compiled")),
        "attention": stated_attention(facts),
        "memory_format": facts.get("memory_format") if facts.get("memory_format") in FORMATS else None,
    }
    return environment.model_copy(update=found)


def stated_attention(facts: Mapping[str, Any]) -> dict[str, str] | None:
    """Attention backends by network, where a table states them."""
    found = facts.get("attention")
    if not isinstance(found, dict) or not all(isinstance(text, str) for pair in found.items() for text in pair):
        return None
    return dict(found)


def described(attention: Mapping[str, str]) -> str:
    """Attention backends in a line, e.g. ``text_encoder sdpa; unet AttnProcessor2_0``."""
    return "; ".join(f"{role} {attention[role]}" for role in sorted(attention))


def notes_of_seconds(
    environment: EnvironmentSection, dtype: str, own: Latency | None, latency: Latency | None
) -> tuple[str, ...]:
    """What a reader must know of a table's seconds: what is other than where the scores come from, and is it stable.

    Args:
        environment, dtype: of the scores.
        own: the study's own seconds.
        latency: those that a profile is to state.
    """
    if latency is None:
        return ()
    notes = [] if latency.stable else [f"Seconds are {latency.stability}."]
    if latency is own:
        return tuple(notes)
    facts = latency.environment
    device = facts.get("device_name", "another machine")
    same = f"Seconds are of a table of their own, measured on hardware of the scores' kind ({device})."
    notes += [same if device == environment.device else f"Seconds were measured on {device}, scores were not."]
    if facts.get("dtype", dtype) != dtype:
        notes.append(f"The seconds are of {facts['dtype']}, the scores of {dtype}.")
    ours, theirs = environment, environment_of_seconds(environment, latency)
    if theirs.attention and ours.attention and theirs.attention != ours.attention:
        notes.append(
            f"The seconds are of attention by {described(theirs.attention)}, the scores by {described(ours.attention)}."
        )
    if theirs.memory_format and ours.memory_format and theirs.memory_format != ours.memory_format:
        notes.append(f"The seconds are of {theirs.memory_format} weights, the scores of {ours.memory_format} ones.")
    return tuple(notes)
