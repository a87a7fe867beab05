"""The scorers that a profile or a study states: named again, loaded, and compared with what is stated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from postdiff_calib.errors import UsageError
from postdiff_calib.jobs import checks
from postdiff_calib.jobs.checks import Check
from postdiff_calib.jobs.given import NOTHING, Given
from postdiff_calib.profile import Profile
from postdiff_calib.quality.scorers import EMBEDDED, ScorerName, close_scorers, load_scorer, parse_scorer

if TYPE_CHECKING:
    from postdiff_calib.quality.scorer import Scorer


def scorer_names(
    profile: Profile, scorer: str | None, also: Sequence[str], given: Given = NOTHING
) -> tuple[ScorerName, ...]:
    """The scorers of a profile as they are written, the one that was searched on first.

    Args:
        profile: whose they are.
        scorer, also: where they are on this machine, where that is elsewhere, or where they are code.
        given: scorers that the caller brings along in their place.

    Raises:
        UsageError: as ``named_again``.
    """
    evidence = profile.evidence
    stated = {one.metric: one.scorer for one in evidence.also}
    if given.scorer is not None:
        scorer = EMBEDDED  # any name: it is not loaded
    if given.also is not None:
        stated = {}
    first, *others = named_again(evidence.scorer, stated, scorer, also)
    return (replace(first, metric=profile.expected.metrics[0].metric), *others)


def named_again(
    stated: str, others: Mapping[str, str], scorer: str | None, also: Sequence[str]
) -> tuple[ScorerName, ...]:
    """The scorers that a file states, where a person may have named them again: those that are code must be.

    Args:
        stated: the one that is searched on, as the file has it.
        others: those that judge beside it, by metric.
        scorer, also: as a person names them here; None and empty where the file's words do.

    Raises:
        UsageError: one has no such form, is none of the file's, or is code that only the file names.
    """
    own: dict[str, ScorerName] = {}
    for text in also:
        named = parse_scorer(text, "--also")
        if named.metric not in others:
            known = ", ".join(others) or "no others"
            remedy = "leave it out, or write NAME= with one of these"
            raise UsageError(f"--also {text}", f"beside the scorer itself there is {known}", remedy)
        own[named.metric] = named
    first = parse_scorer(scorer) if scorer else parse_scorer(stated).of_a_file("--scorer")
    found = [
        own[metric] if metric in own else replace(parse_scorer(text, "--also").of_a_file("--also"), metric=metric)
        for metric, text in others.items()
    ]
    return (first, *found)


def loaded_scorers(named: Sequence[ScorerName], device: str, given: Given = NOTHING) -> tuple[Scorer, ...]:
    """The scorers, loaded where the caller did not bring them along.

    Raises:
        ModelError, UsageError: one cannot be loaded; those that were started are ended.
    """
    loaded: list[Scorer] = []
    try:
        if given.scorer is None:
            loaded.append(load_scorer(named[0], device))
        if given.also is None:
            for one in named[1:]:
                loaded.append(load_scorer(one, device))
    except BaseException:
        close_scorers(loaded)
        raise
    first = [] if given.scorer is None else [given.scorer]
    return (*first, *loaded, *(given.also or ()))


def scorer_checks(profile: Profile, scorers: Sequence[Scorer]) -> list[Check]:
    """Are these the scorers of the profile? One that is absent, or another one, fails."""
    evidence, reason = profile.evidence, "scores of another scorer do not compare"
    wanted = [("scorer", evidence.scorer_sha256), *((f"scorer {a.metric}", a.scorer_sha256) for a in evidence.also)]
    own = {one.metric: one.fingerprint for one in scorers[1:]}
    found = [scorers[0].fingerprint, *(own.get(a.metric, "none") for a in evidence.also)]
    return [
        checks.same(name, stated[:16], here[:16], reason) for (name, stated), here in zip(wanted, found, strict=True)
    ]
