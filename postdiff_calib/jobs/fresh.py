"""Prompts that a calibration did not use, to verify its profile on.

They come from the prompt set that the calibration drew from, without its calibration and held-out prompts; where too
few of them are left, or the set is gone, the held-out prompts are drawn again with new seeds, and the check says so.
Seeds count on behind those of the calibration, so no image of it is made again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from postdiff_calib.errors import PromptError, StudyError
from postdiff_calib.profile import Profile
from postdiff_calib.prompts import Columns, PromptSet, content_hash, draw, left_over, load_prompt_set
from postdiff_calib.study.record import Study

#: With fewer fresh prompts than this (and than asked for), held-out prompts with new seeds say more.
LEAST_FRESH = 20


@dataclass(frozen=True)
class FreshPrompts:
    """Prompts to verify on: prompt i has seed ``seed`` + i; ``what`` they are as text, ``note`` where not fresh."""

    prompts: tuple[str, ...]
    seed: int
    what: str = "fresh prompts"
    note: str = ""


def fresh_prompts(
    profile: Profile, count: int, given: str | PromptSet | None = None, columns: Columns | None = None
) -> FreshPrompts:
    """Prompts that the calibration did not use, or its held-out ones with new seeds where there are none (see module).

    Args:
        profile: says which prompts were drawn, by set, number and seed.
        count: how many are wanted, at least 2.
        given: the prompt set, a shipped one's name or a file; by default the one that the study or the profile names.
        columns: which of its columns hold prompts and categories; by default those that the study was asked for.

    Raises:
        PromptError: the set is not the one that was drawn from, or neither it nor the study is found.
    """
    evidence = profile.evidence
    if count < 2:
        raise PromptError(f"{count} prompts", "an interval needs at least 2", "the default is 100")
    study = _study(profile)
    asked = None if study is None else study.record.asked
    named = None if asked is None else asked.prompts
    columns = columns or (Columns() if asked is None else Columns(asked.column, asked.category))
    drawn = None
    for name in [given] if given else dict.fromkeys([named, evidence.prompt_set]):
        if drawn is None and name is not None:
            drawn = _drawn(profile, name, columns, required=name == given)
    if drawn is not None:
        rest, held_out = drawn
        seed = evidence.seed + evidence.num_prompts + len(held_out)
        if len(rest) >= min(count, LEAST_FRESH):
            note = f"only {len(rest)} fresh prompts are left in the set" if len(rest) < count else ""
            return FreshPrompts(rest[:count], seed, note=note)
        why = f"prompt set {evidence.prompt_set!r} has {len(rest)} prompts left that the calibration did not use"
    elif study is not None:
        held_out = study.record.held_out
        seed = evidence.seed + evidence.num_prompts + len(held_out)
        why = f"prompt set {evidence.prompt_set!r} is not found as it was"
    else:
        raise PromptError(
            f"prompt set {evidence.prompt_set!r}",
            "neither it, as it was drawn from, nor the study is here, so no prompt is known to be fresh",
            "name the set's file with --prompt-set",
        )
    if len(held_out) < 2:
        raise PromptError(why, "and a single held-out prompt gives no interval", "calibrate with more prompts")
    note = f"{why}: quality is judged on held-out prompts with new seeds, which flatters the profile a little"
    return FreshPrompts(held_out[:count], seed, "held-out prompts with new seeds", note)


def _study(profile: Profile) -> Study | None:
    """The study that the profile came from, where its folder is still here and still holds the same prompts."""
    try:
        study = Study.load(profile.evidence.study)
    except StudyError:
        return None
    return study if content_hash(study.record.held_out) == profile.evidence.held_out_sha256 else None


def _drawn(
    profile: Profile, name: str | PromptSet, columns: Columns, *, required: bool
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """(fresh prompts, held-out prompts) of a set, or None where it is not the set that the calibration drew from."""
    evidence = profile.evidence
    try:
        found = load_prompt_set(name, columns) if isinstance(name, str) else name
    except PromptError:
        if required:
            raise
        return None
    # Sets with categories were once drawn without a look at them.
    for one in (found, replace(found, categories={})) if found.categories else (found,):
        try:
            calibration, held_out = draw(one, evidence.num_prompts, evidence.seed)
        except PromptError:
            break
        if (calibration.sha256, held_out.sha256) == (evidence.prompt_set_sha256, evidence.held_out_sha256):
            return left_over(one, evidence.num_prompts, evidence.seed), held_out.prompts
    if required:
        raise PromptError(
            f"prompt set {name if isinstance(name, str) else name.name!r}",
            "it is not the one that the profile was calibrated on, so its intervals do not compare",
            "give that set, or leave --prompt-set out",
        )
    return None
