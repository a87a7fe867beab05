"""The jobs from Python, on a live pipeline object: ``calibrate``, ``verify``, ``judge`` and ``price``.

Errors are the project's own (``postdiff_calib.errors``), one line each; nothing here ends the process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postdiff_calib.api.result import Result
from postdiff_calib.cost.budget import Budget, parse_budget
from postdiff_calib.errors import PromptError, UsageError
from postdiff_calib.jobs.given import Given
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.card import Card
from postdiff_calib.models.deployment import DeploymentSettings
from postdiff_calib.profile import Profile
from postdiff_calib.progress import Progress
from postdiff_calib.quality.scorers import given_scorer, given_text
from postdiff_calib.report.progress import told_progress
from postdiff_calib.search.restrict import parse_restrictions

if TYPE_CHECKING:
    from postdiff_calib.jobs.verify import VerifyResult
    from postdiff_calib.models.load import LoadedModel
    from postdiff_calib.prompts import PromptSet
    from postdiff_calib.quality.scorer import Scorer
    from postdiff_calib.study.judged import Judgement

#: Options that belong to a call of the pipeline; a live one has its own scheduler.
_CALL = ("height", "width", "num_inference_steps", "guidance_scale", "negative_prompt", "batch_size")
_SEARCH = ("num_prompts", "trials", "seed", "out", "study", "noise", "switch", "search", "fresh", "refresh")
_LISTS = ("delta", "weight", "max_drop", "guards")
_RESTRICTIONS = ("fix", "range", "values")


def calibrate(
    pipe: Any,
    budget: str | Budget = "60%",
    *,
    prompts: str | Path | Sequence[str] | None = None,
    scorer: Any = None,
    also: Sequence[Any] = (),
    progress: Progress | Callable[[str], None] | bool | None = None,
    **options: Any,
) -> Result:
    """Find the best plan for a pipeline under a budget.

    The pipeline is used as it is, with its scheduler and what is loaded into it, and left as it was. Scores are kept in
    the study's folder, so the same call goes on after a stop and makes no image twice.

    Args:
        pipe: a diffusers pipeline of a supported class, not enabled.
        budget: e.g. ``60%``, ``1.2s`` (of a call of ``batch_size`` images, 1 by default), ``1.2s per image``,
            ``850ms``, ``4.2GMACs``, ``2x``, ``p95:1.2s``.
        prompts: a shipped set's name, a file, or N prompts, of which a third is searched on and two thirds judge; the
            model's own set by default.
        scorer: what is searched on, as text (``ARCH::tag``, ``local-dir:/path``, ``pickscore``, ``hpsv2``,
            ``module:function``, ``command: …``), a function of images (B, 3, H, W) float in [0, 1] and B prompts → B
            numbers, or an object of ``quality.scorer.Scorer``'s form; the model's own by default.
        also: scorers that judge beside it, and can be guarded.
        progress: True shows it, a function is given lines, a ``Progress`` everything; None is silent.
        options: of the call ``height``, ``width`` (pixels), ``num_inference_steps`` (the baseline's T and the search's
            upper end), ``guidance_scale``, ``negative_prompt``, ``batch_size``; of the search ``num_prompts``,
            ``trials``, ``seed``, ``out`` (profile.yaml), ``study`` (folder), ``noise``, ``switch``, ``search``,
            ``fresh``, ``refresh``, ``delta``, ``weight``, ``max_drop``, ``guards``, ``fix``, ``range``, ``values``, as
            their options on the command line, a text or several.

    Raises:
        PostdiffError: what is wrong, in one line: ``UnsupportedError`` a pipeline that is not supported,
            ``BudgetError`` a budget that nothing meets, ``StudyError`` a study made with other settings, and so on.
        KeyboardInterrupt: stopped before any plan was scored on enough prompts.
    """
    from postdiff_calib.jobs.calibrate import run_calibrate

    _known(options, (*_CALL, *_SEARCH, *_LISTS, *_RESTRICTIONS))
    own = budget if isinstance(budget, Budget) else parse_budget(budget)
    job, given = _job(pipe, prompts, scorer, also, {**options, "budget": own})
    with told_progress(progress) as told:
        result = run_calibrate(job, told, given)
    return Result(result.profile, result.path, job.folder, result.interrupted, given.loaded)


def _job(
    pipe: Any, prompts: Any, scorer: Any, also: Sequence[Any], options: Mapping[str, Any]
) -> tuple[CalibrateJob, Given]:
    """What a job is asked for, and what it is given."""
    deployment = DeploymentSettings(**{n: options[n] for n in _CALL if n in options})
    loaded = _live(pipe, deployment)
    prompt_set, name = _prompts(prompts)
    chosen: dict[str, Any] = {n: options[n] for n in ("budget", *_SEARCH) if n in options}
    chosen |= {n: _texts(options.get(n)) for n in _LISTS}
    if prompt_set is not None and chosen.get("num_prompts") is None:
        chosen["num_prompts"] = 2 * len(prompt_set) // 3
    for place in ("out", "study"):
        if chosen.get(place) is not None:
            chosen[place] = Path(chosen[place])
    given = Given(loaded, prompt_set, *_scorers(scorer, also, loaded.device))
    restricted = parse_restrictions(*(_texts(options.get(n)) for n in _RESTRICTIONS))
    job = CalibrateJob(
        model=loaded.source,
        prompts=name,
        deployment=deployment,
        restrictions=restricted,
        scorer=None if scorer is None else given_text(scorer),
        also=tuple(given_text(one) for one in also),
        **chosen,
    )
    return job, given


def verify(
    pipe: Any,
    profile: Profile | str | Path,
    *,
    num_prompts: int = 100,
    prompts: str | Path | Sequence[str] | None = None,
    scorer: Any = None,
    also: Sequence[Any] | None = None,
    progress: Progress | Callable[[str], None] | bool | None = None,
) -> VerifyResult:
    """Does a profile hold for this pipeline, here and now?

    Args:
        pipe: the pipeline, with what was loaded into it when it was calibrated, not enabled.
        profile: a profile or its path.
        num_prompts: fresh prompts to judge quality on, at least 2; two images each.
        prompts: the set that the calibration drew from: its prompts, a shipped one's name or a file; found by itself
            where it can.
        scorer, also: as for ``calibrate``; by default those that the profile names.
        progress: as for ``calibrate``.

    Returns:
        Its ``checks``, a line each; ``failed`` names those that failed, ``require()`` raises ``CheckError`` for them.

    Raises:
        PostdiffError: it could not be checked.
    """
    from postdiff_calib.jobs.verify import VerifyJob, run_verify
    from postdiff_calib.profile import load_profile

    known = profile if isinstance(profile, Profile) else load_profile(profile)
    loaded = _live(pipe, _call_of(known))
    where = Path(known.model.id) if isinstance(profile, Profile) else Path(profile)
    first, others = _scorers(scorer, also or (), loaded.device)
    prompt_set, name = _prompts(prompts)
    job = VerifyJob(
        where,
        num_prompts,
        prompt_set=name,
        scorer=scorer if isinstance(scorer, str) else None,
        also=tuple(also or ()) if others is None else (),
    )
    with told_progress(progress) as told:
        return run_verify(job, told, Given(loaded, prompt_set, first, others), known)


def judge(
    pipe: Any,
    setups: Sequence[Any],
    *,
    prompts: str | Path | Sequence[str] | None = None,
    scorer: Any = None,
    also: Sequence[Any] = (),
    progress: Progress | Callable[[str], None] | bool | None = None,
    **options: Any,
) -> Judgement:
    """Is a way of running a pipeline as good as the pipeline as it is? Paired scores, intervals, a verdict for each.

    Args:
        pipe: the pipeline, not enabled.
        setups: each a profile or its path, ``Knobs`` or a line of them, or a function of the pipeline that changes it
            (``jobs.setups`` says what it may return); one that does not yield must be the last.
        prompts: as for ``calibrate``; a list of them is judged on as a whole.
        scorer, also, progress: as for ``calibrate``.
        options: of the call as for ``calibrate``; ``num_prompts``, ``seed``, ``study``, ``delta``, ``fresh``.

    Returns:
        Its ``setups``, in order, with ``cost``, ``metrics`` and ``verdict``; ``as_dict()`` is plain data.

    Raises:
        PostdiffError: bad input, or a function that fails, in one line.
    """
    from postdiff_calib.jobs.judge import JudgeJob, run_judge

    _known(options, (*_CALL, "num_prompts", "seed", "study", "delta", "fresh"))
    base, given = _job(pipe, prompts, scorer, also, options)
    if given.prompts is not None:  # nothing is searched, so nothing is kept from the judging
        whole = _reserved(given.prompts)
        base, given = replace(base, num_prompts=options.get("num_prompts") or len(whole)), replace(given, prompts=whole)
    with told_progress(progress) as told:
        return run_judge(JudgeJob(base, tuple(setups)), told, given).judgement


def price(model: Any, knobs: Knobs | None = None, **options: Any) -> dict[str, Any]:
    """What one image costs under a plan, and as a share of the baseline.

    Args:
        model: a live pipeline, a card, or a card's name.
        knobs: the plan, as ``enable`` takes it; the baseline by default.
        options: ``height``, ``width``, ``num_inference_steps`` (the baseline's T), ``guidance_scale``, ``batch_size``;
            ``convention`` (``full`` or ``paper``), and for a pipeline ``measure=True`` for seconds, with ``quick`` and
            ``refresh``.

    Returns:
        Plain data: ``macs_total``, ``macs_per_step`` (T figures), ``relative_to_baseline`` and more; ``times``, the
        seconds of a call and of an image, where they were measured.

    Raises:
        PostdiffError: an unknown card, a pipeline that is not supported, options that do not fit, or knobs that
            ``enable`` refuses.
    """
    from postdiff_calib.jobs.price import CostJob, run_cost
    from postdiff_calib.models.cards import get_card

    asked = ("convention", "measure", "quick", "refresh")
    _known(options, (*_CALL, *asked))
    deployment = DeploymentSettings(**{n: options[n] for n in _CALL if n in options})
    values = {} if knobs is None else knobs.as_dict()
    job = CostJob(knobs=values, deployment=deployment, **{n: options[n] for n in asked if n in options})
    if isinstance(model, (str, Card)):
        if job.measure:
            raise UsageError("measure=True", "seconds are measured on a pipeline", "pass one that is loaded")
        return run_cost(job, card=get_card(model) if isinstance(model, str) else model).facts()
    return run_cost(job, _live(model, deployment)).facts()


def _scorers(scorer: Any, also: Sequence[Any], device: str) -> tuple[Scorer | None, tuple[Scorer, ...] | None]:
    """The scorers that are not named by texts, which the job loads itself; None in their place."""
    own = None if scorer is None or isinstance(scorer, str) else given_scorer(scorer, device)
    if all(isinstance(one, str) for one in also):
        return own, None
    return own, tuple(given_scorer(one, device, "--also") for one in also)


def _live(pipe: Any, settings: DeploymentSettings) -> LoadedModel:
    from postdiff_calib.accelerate.attach import is_enabled
    from postdiff_calib.models.families import family_of
    from postdiff_calib.models.live import live_model

    family_of(pipe)
    if is_enabled(pipe):
        raise UsageError("pipeline", "it is enabled, so its baseline cannot be run", "call disable(pipe) first")
    return live_model(pipe, settings)


def _call_of(profile: Profile) -> DeploymentSettings:
    """A profile's settings but for the scheduler, which a live pipeline has itself."""
    asked = profile.deployment.asked
    return DeploymentSettings(**{n: asked[n] for n in _CALL if n in asked})


def _known(options: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in options:
        if name not in names:
            raise UsageError(f"option {name!r}", f"options are {', '.join(names)}", "correct the name")


def _texts(given: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if given is None else (given,) if isinstance(given, str) else tuple(given)


def _reserved(prompts: PromptSet) -> PromptSet:
    """A set of which all prompts may be judged on."""
    from postdiff_calib.prompts import content_hash

    return replace(prompts, held_out=prompts.prompts, sha256=content_hash(prompts.prompts, prompts.prompts))


def _prompts(given: str | Path | Sequence[str] | None) -> tuple[PromptSet | None, str | None]:
    """(the set itself, or the name that a job loads)."""
    if given is None or isinstance(given, (str, Path)):
        return None, None if given is None else str(given)
    from postdiff_calib.prompts import PromptSet, content_hash

    texts = tuple(dict.fromkeys(given))
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise PromptError("prompts", "each must be a text that is not empty", "leave the others out")
    return PromptSet(texts, content_hash(texts), name="given"), None
