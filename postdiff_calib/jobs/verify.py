"""Does a profile hold on this machine? Model, scheduler, size, versions, cost and quality, a check each.

Stages: read the profile → find fresh prompts → load the model and compare it → count and time the plan → score it.
What cannot be compared with the profile's pipeline (it is another one) is neither timed nor scored.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postdiff_calib.accelerate.compiled import announcement, compiled, count_kinds, parse_compile
from postdiff_calib.errors import CheckError
from postdiff_calib.jobs import checks
from postdiff_calib.jobs.call_times import ROUNDS, UNJUDGED_ROUNDS, time_calls
from postdiff_calib.jobs.checks import Check
from postdiff_calib.jobs.fresh import FreshPrompts, fresh_prompts
from postdiff_calib.jobs.given import NOTHING, Given
from postdiff_calib.jobs.profile_scorers import loaded_scorers, scorer_checks, scorer_names
from postdiff_calib.jobs.same_pipeline import deployment_checks, environment_checks, identity_checks
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.deployment import MODELS_OWN, DeploymentSettings
from postdiff_calib.plan import compile_plan
from postdiff_calib.profile import Profile, load_profile
from postdiff_calib.profile.deployment import baseline_with
from postdiff_calib.progress import Progress, Silent
from postdiff_calib.prompts import Columns
from postdiff_calib.quality.scorers import close_scorers

if TYPE_CHECKING:
    from postdiff_calib.models.load import LoadedModel
    from postdiff_calib.quality.scorer import Scorer
    from postdiff_calib.scores.select import PlanScores


@dataclass(frozen=True)
class VerifyJob:
    """What ``postdiff verify`` was asked for.

    ``model`` None takes the profile's own, ``prompt_set`` None the set that the calibration used, ``dtype`` ``auto``
    and ``compile`` ``auto`` the profile's, and so is what ``deployment`` leaves out. ``scorer`` and ``also`` say where
    the profile's scorers are on this machine, where that is elsewhere; another scorer fails.
    """

    profile: Path
    num_prompts: int = 100
    model: str | None = None
    prompt_set: str | None = None
    #: Of ``prompt_set``; None takes those that the calibration was asked for.
    columns: Columns | None = None
    device: str = "auto"
    dtype: str = "auto"
    compile: str = "auto"
    deployment: DeploymentSettings = MODELS_OWN
    scorer: str | None = None
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class VerifyResult:
    """Every check of a verification; a warning is not a failure."""

    profile: Path
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()
    baseline: str = ""

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return tuple(check.name for check in self.checks if check.outcome == "failed")

    def require(self) -> None:
        """Refuse a profile that does not hold.

        Raises:
            CheckError: naming what failed; commands leave with exit code 3.
        """
        if self.failed:
            raise CheckError(
                f"profile {self.profile}",
                f"{len(self.failed)} of {len(self.checks)} checks failed: {', '.join(self.failed)}",
                "do not deploy it here: restore what differs, or calibrate again",
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "profile": str(self.profile),
            "passed": not self.failed,
            "failed": list(self.failed),
            "checks": [check.as_dict() for check in self.checks],
            "notes": list(self.notes),
            "baseline": self.baseline,
        }


def run_verify(
    job: VerifyJob, progress: Progress | None = None, given: Given = NOTHING, profile: Profile | None = None
) -> VerifyResult:
    """Check a profile on this machine.

    Args:
        job: what was asked for.
        progress: called with each stage, each image and each note.
        given: a live model, prompts and scorers that the caller brings along.
        profile: in the place of the one at the job's path.

    Raises:
        PostdiffError: it could not be checked: no such profile, model, prompt set or scorer.
    """
    from postdiff_calib.cost.store import device_name

    progress = progress or Silent()
    profile = profile or load_profile(job.profile)
    mode = parse_compile(profile.environment.compile or "off" if job.compile == "auto" else job.compile)
    done = [checks.budget_section(profile)]
    fresh = fresh_prompts(profile, job.num_prompts, given.prompts or job.prompt_set, job.columns)
    named = scorer_names(profile, job.scorer, job.also, given)

    loaded = given.loaded or _load(job, profile, progress)
    baseline = baseline_with(profile, job.deployment)
    identity = [*identity_checks(profile, loaded), *deployment_checks(profile, job.deployment)]
    done += [*identity, *environment_checks(profile, loaded, mode)]
    notes = (*loaded.notes, *((fresh.note,) if fresh.note else ()))
    if any(check.outcome == "failed" for check in identity):
        reason = "not measured, because this is not the profile's pipeline"
        done += [checks.not_judged(name, profile.budget.text, reason) for name in ("compute", "latency")]
        done.append(checks.not_judged("quality", "as stated", reason))
        return VerifyResult(job.profile, tuple(done), notes, baseline)

    done.append(checks.compute(profile, counted_macs(profile, loaded)))
    kinds = count_kinds([compile_plan(profile.knobs), compile_plan(Knobs(loaded.card.num_inference_steps))])
    if told := announcement(mode, kinds):
        progress.note(told)
    with compiled(loaded.pipe, mode, kinds) as compilation:
        accelerated, stock = time_plan(profile, loaded, fresh, progress)
        done.append(checks.latency(profile, accelerated, stock))
        done += checks.stated_seconds(profile, device_name(loaded.device), stock)
        scorers = loaded_scorers(named, loaded.device, given)
        try:
            done += quality_checks(profile, loaded, fresh, progress, scorers)
        finally:
            close_scorers(one for one in scorers if one not in (given.scorer, *(given.also or ())))
        notes += (compilation.describe(),) if mode != "off" else ()
    return VerifyResult(job.profile, tuple(done), notes, baseline)


def _load(job: VerifyJob, profile: Profile, progress: Progress) -> LoadedModel:
    """The model to check, with the profile's settings and card."""
    from postdiff_calib.models.cards import get_card
    from postdiff_calib.models.load import load_pipeline

    progress.stage("loading the model")
    dtype = profile.model.dtype if job.dtype == "auto" else job.dtype
    settings = job.deployment.over(profile.deployment)
    if job.model is not None:  # the profile's revision is of its own model
        settings = replace(settings, revision=job.deployment.revision)
    model = job.model or profile.model_to_load
    loaded = load_pipeline(model, device=job.device, dtype=dtype, settings=settings)
    if profile.model.card is None:
        return loaded
    return replace(loaded, card=settings.card(get_card(profile.model.card)))


def counted_macs(profile: Profile, loaded: LoadedModel) -> float:
    """MACs per image of the profile's plan, counted on this pipeline's networks."""
    from postdiff_calib.cost.build import build_cost_table
    from postdiff_calib.cost.setting import Setting

    setting = Setting(**profile.generation.call, batch_size=profile.budget.batch_size)
    table = build_cost_table(loaded, setting, measure=False)
    return table.price(compile_plan(profile.knobs)).macs


def time_plan(
    profile: Profile, loaded: LoadedModel, fresh: FreshPrompts, progress: Progress
) -> tuple[list[float], list[float]]:
    """Seconds of calls with and without the profile, at its batch size."""
    rounds = ROUNDS if profile.budget.kind == "seconds" else UNJUDGED_ROUNDS
    return time_calls(loaded, profile.knobs, profile.generation, fresh.prompts, fresh.seed, rounds, progress)


def quality_checks(
    profile: Profile, loaded: LoadedModel, fresh: FreshPrompts, progress: Progress, scorers: Sequence[Scorer]
) -> list[Check]:
    """The scorers' fingerprints, and on fresh prompts the loss by them and what the guards bound."""
    import numpy as np

    from postdiff_calib.quality.health import HealthError
    from postdiff_calib.scores.guards import Guard, read
    from postdiff_calib.scores.paired import compare

    stated = {m.metric: m.difference for m in profile.metric_results}
    same = scorer_checks(profile, scorers)
    if any(check.outcome == "failed" for check in same):
        return [*same, checks.not_judged("quality", "as stated", "not measured, because the scorer is another")]
    try:
        ours, theirs = score(profile, loaded, scorers, fresh, progress)
    except HealthError as error:
        return [*same, Check("quality", "sound images", "broken images", "failed", str(error))]
    baselines = [
        checks.baseline_score(m.metric, m.baseline_score, m.difference.num_prompts, values, fresh.what)
        for m in profile.metric_results
        if len(values := [float(v) for v in theirs.metric(m.metric) if np.isfinite(v)]) > 1
    ]
    rails = [Guard(entry.metric, entry.limit) for entry in profile.budget.guards]
    return [
        *same,
        *baselines,
        *(
            checks.quality(m, stated[m], compare(ours.metric(m), theirs.metric(m)), fresh.what, len(stated))
            if np.isfinite(theirs.metric(m)).sum() > 1
            else checks.not_judged(f"quality {m}", "as stated", "it cannot be measured here")
            for m in stated
        ),
        *(checks.guard_rail(guard, read(guard.metric, ours, theirs), fresh.what) for guard in rails),
    ]


def score(
    profile: Profile, loaded: LoadedModel, scorers: Sequence[Scorer], fresh: FreshPrompts, progress: Progress
) -> tuple[PlanScores, PlanScores]:
    """The profile's plan and the baseline on fresh prompts, measured against each other for the guards.

    Raises:
        HealthError: images are constant, saturated or not finite.
    """
    from postdiff_calib.cost.budget import PlanCost
    from postdiff_calib.jobs.workbench import judge_for
    from postdiff_calib.scores.book import ScoreBook
    from postdiff_calib.scores.evaluator import BaselineImages, ImageEvaluator
    from postdiff_calib.scores.store import MemoryStore

    n, baseline = len(fresh.prompts), Knobs(loaded.card.num_inference_steps)
    progress.stage("scoring", 2 * n)
    with tempfile.TemporaryDirectory(prefix="postdiff-") as folder:
        kept = BaselineImages(Path(folder), baseline, {}) if profile.budget.guards else None
        settings = profile.generation
        judge = judge_for(loaded.card, fresh.prompts, loaded.device)
        evaluator = ImageEvaluator(
            loaded.pipe,
            scorers[0],
            fresh.prompts,
            fresh.seed,
            settings,
            progress.advance,
            kept,
            judge,
            also=scorers[1:],
        )
        book = ScoreBook(evaluator, n, baseline, MemoryStore())
        for knobs in (baseline, profile.knobs):  # in this order: the second is measured against the first
            book.scores(knobs, range(n))
    free = PlanCost(0.0, 0.0)  # costs are checked elsewhere
    return book.plan_scores(profile.knobs, free), book.plan_scores(baseline, free)
