"""The scorers that a profile was judged by: found again, loaded, and compared with what the profile states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from postdiff_calib.errors import UsageError
from postdiff_calib.jobs import checks
from postdiff_calib.jobs.checks import Check
from postdiff_calib.jobs.given import Given
from postdiff_calib.profile import Profile
from postdiff_calib.quality.scorers import ScorerName, load_scorer, parse_scorer

if TYPE_CHECKING:
    from postdiff_calib.quality.scorer import Scorer


def scorer_names(profile: Profile, scorer: str | None, also: Sequence[str]) -> tuple[ScorerName, ...]:
    """The scorers of a profile as they are written, the one that was searched on first.

    Args:
        profile: whose they are.
        scorer, also: where they are on this machine, where that is elsewhere.

    Raises:
        UsageError: one has no such form, or is none of the profile's.
    """
    evidence = profile.evidence
    texts = {one.metric: one.scorer for one in evidence.also}
    for text in also:
        named = parse_scorer(text, "--also")
        if named.metric not in texts:
            known = ", ".join(texts) or "no others"
            remedy = "leave it out, or write NAME= with one of these"
            raise UsageError(f"--also {text}", f"beside its own scorer the profile has {known}", remedy)
        texts[named.metric] = text
    others = [replace(parse_scorer(text, "--also"), metric=metric) for metric, text in texts.items()]
    first = replace(parse_scorer(scorer or evidence.scorer), metric=profile.expected.metrics[0].metric)
    return (first, *others)


def loaded_scorers(named: Sequence[ScorerName], device: str, given: Given) -> tuple[Scorer, ...]:
    """The scorers, loaded where the caller did not bring them along."""
    first = given.scorer or load_scorer(named[0], device)
    others = given.also if given.also is not None else [load_scorer(one, device) for one in named[1:]]
    return (first, *others)


def scorer_checks(profile: Profile, scorers: Sequence[Scorer]) -> list[Check]:
    """Are these the scorers of the profile? One that is absent, or another one, fails."""
    evidence, reason = profile.evidence, "scores of another scorer do not compare"
    wanted = [("scorer", evidence.scorer_sha256), *((f"scorer {a.metric}", a.scorer_sha256) for a in evidence.also)]
    own = {one.metric: one.fingerprint for one in scorers[1:]}
    found = [scorers[0].fingerprint, *(own.get(a.metric, "none") for a in evidence.also)]
    return [
        checks.same(name, stated[:16], here[:16], reason) for (name, stated), here in zip(wanted, found, strict=True)
    ]
