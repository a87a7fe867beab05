"""The main job on one page: model and budget in, deployment profile out.

Stages: load → draw prompts → price → spread → search → confirm → conclude. Each leaves what it computed in the study
folder, so the same command goes on where a killed one stopped; a study made with other settings is refused by what
differs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from postdiff_calib.accelerate.compiled import parse_compile
from postdiff_calib.errors import BudgetError, CheckError
from postdiff_calib.files import StudyLock, remove_leftovers
from postdiff_calib.jobs.call_times import calls_stage
from postdiff_calib.jobs.devices import LocalWorkers, workers_of
from postdiff_calib.jobs.expected import EvenUnits, Followed, ImagesInTurn
from postdiff_calib.jobs.given import NOTHING, Given
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.jobs.materials import Materials, materials_of
from postdiff_calib.jobs.new_record import record_of
from postdiff_calib.jobs.outlook import outlook
from postdiff_calib.jobs.preflight import check_guards, check_job, check_metrics, refuse_other_study, refuse_unreachable
from postdiff_calib.jobs.spread import measure_objective
from postdiff_calib.jobs.stopped import place_for_unfinished
from postdiff_calib.jobs.workbench import Workbench, generation_settings
from postdiff_calib.profile import Profile
from postdiff_calib.progress import Progress, Silent, log_event, tell_work
from postdiff_calib.quality import metric
from postdiff_calib.quality.scorers import close_scorers
from postdiff_calib.scores.names import BASELINE
from postdiff_calib.study.earlier import earlier_seconds, fitted_earlier, with_earlier_searches
from postdiff_calib.study.record import RECORD, Study
from postdiff_calib.study.searched import SearchedBudget, further_limits

if TYPE_CHECKING:
    from postdiff_calib.cost.table import CostTable, Latency
    from postdiff_calib.models.load import LoadedModel
    from postdiff_calib.search.backend.run import SearchResult
    from postdiff_calib.search.proposals import Searched

#: How often finalists that broke on held-out prompts are replaced by the next.
REPLACEMENTS = 3


@dataclass(frozen=True)
class CalibrateResult:
    """The profile, where it was written, whether Ctrl-C ended the search early, and which workers died, a line each.

    An interrupted run never replaces a confirmed profile; its own is then beside it.
    """

    profile: Profile
    path: Path
    interrupted: bool
    died: Sequence[str] = ()


def run_calibrate(job: CalibrateJob, progress: Progress | None = None, given: Given = NOTHING) -> CalibrateResult:
    """Find the best plan under the budget and write its profile.

    Args:
        job: what was asked for.
        progress: called with each stage, each image and each note.
        given: what the caller brings along.

    Raises:
        PostdiffError: bad input, by one line; nothing already computed is lost. Another process at work on the study's
            folder is one such.
        KeyboardInterrupt: stopped before any plan was scored on enough prompts.
    """
    with StudyLock(job.folder, inside=(BASELINE,)) as lock, ExitStack() as stack:
        return _calibrate(job, progress or Silent(), lock, stack, given)


def _calibrate(
    job: CalibrateJob, progress: Progress, lock: StudyLock, stack: ExitStack, given: Given
) -> CalibrateResult:
    from postdiff_calib.cost.store import cache_folder

    bench, prompt_set = load_stage(job, progress, lock, given)
    if given.scorer is None:
        stack.callback(close_scorers, (bench.scorer,))
    if given.also is None:
        stack.callback(close_scorers, bench.also)
    stack.enter_context(bench.compiled(progress.note))
    anew = job.fresh or job.refresh
    table = price(bench, progress, None if anew else seconds_of_study(job.folder, bench), refresh=job.refresh)
    lock.take()
    remove_leftovers(Path(os.path.realpath(job.out)).parent, cache_folder() / "latency", shared=True)
    study = Study(job.folder, record_of(job, bench, prompt_set, table))
    if above := study.record.resolve().above_baseline:
        progress.note(above)
    if not job.fresh:
        study = with_earlier_searches(study)
        if job.deployment.batch_size is None:
            recall_batch(study, bench, progress)
    expected = outlook(job, bench, table)
    each = expected.reference.cost.seconds or 0.0
    study = spread_stage(study, bench, EvenUnits(progress, each, expected.after_spread), fresh=job.fresh)
    study = study.with_batch(bench.batch)
    bench.batch.found = lambda: study.with_batch(bench.batch).save()
    searching = Followed(progress, expected.after_search)
    workers = stack.enter_context(workers_of(job, progress.note))
    search = run_stage(study, bench, searching, fresh=job.fresh, workers=workers)
    study = saved(study, bench, search, search.searched)
    if interrupted := search.interrupted:
        workers.stop()
    if not interrupted:
        try:
            study = confirm_stage(study, bench, search, progress)
        except KeyboardInterrupt:
            interrupted = True
    try:
        profile = study.conclude()
    except (BudgetError, CheckError):
        if interrupted:
            raise KeyboardInterrupt from None
        raise
    if job.budget.kind == "seconds" and not interrupted:
        try:
            profile = calls_stage(study, bench, profile, progress)
        except KeyboardInterrupt:
            interrupted = True
    path = profile.save(place_for_unfinished(job.out) if interrupted else job.out)
    return CalibrateResult(profile, path, interrupted, workers.died)


def load_stage(job: CalibrateJob, progress: Progress, lock: StudyLock, given: Given = NOTHING) -> tuple[Workbench, str]:
    """Refuse what is wrong as soon as it can be known, and load the prompts, the scorer and, last, the model.

    Returns the workbench and the prompt set's name.
    """
    from postdiff_calib.models.load import load_pipeline

    check_job(job)
    lock.take(make=False)
    if left_out := check_guards(job):
        progress.note(left_out)
    if given.loaded is None:
        refuse_unreachable(job)
    materials = materials_of(job, given)
    loaded = given.loaded
    if loaded is None:
        progress.stage("loading the model")
        device = job.devices[0] if job.devices else job.device
        loaded = load_pipeline(model_of(job), device=device, dtype=job.dtype, settings=job.deployment)
        for note in loaded.notes:
            progress.note(note)
    refuse_unreachable(job, loaded)
    bench = set_up(job, loaded, materials)
    if left_out := check_metrics(job, bench):
        progress.note(left_out)
    if not job.fresh:
        refuse_other_study(job, bench)
    return bench, materials.prompt_set.name


def model_of(job: CalibrateJob) -> str:
    """What is loaded: for a study that is there, the commit of the hub that it was begun with."""
    if job.fresh or not os.path.lexists(job.folder / RECORD):
        return job.model
    known = Study.load(job.folder).record
    return known.model_to_load if known.asked.model == job.model else job.model


def set_up(job: CalibrateJob, loaded: LoadedModel, materials: Materials) -> Workbench:
    """The workbench of a loaded model.

    Raises:
        UnsupportedError: its scheduler cannot change to full size in the way asked for.
    """
    from postdiff_calib.accelerate.low_res import way_of

    switch = way_of(loaded.pipe.scheduler, job.switch)
    settings = generation_settings(loaded.card, noise=job.noise, switch=switch, deployment=job.deployment)
    return Workbench(
        loaded,
        materials.scorer,
        materials.calibration,
        materials.held_out,
        job.seed,
        settings,
        job.deployment,
        job.restrictions,
        compile=parse_compile(job.compile),
        also=materials.also,
    )


def seconds_of_study(folder: Path, bench: Workbench) -> Latency | None:
    """The seconds that a study was begun with, where they are of this machine and setting; a resumed one keeps them."""
    from postdiff_calib.cost.store import environment_of

    return earlier_seconds(folder, environment_of(bench.loaded, bench.call_batch))


def price(bench: Workbench, progress: Progress, known: Latency | None = None, *, refresh: bool = False) -> CostTable:
    """The cost of every plan on this machine; ``known`` seconds are kept, those on disk unless ``refresh`` is asked."""
    from postdiff_calib.cost.build import build_cost_table
    from postdiff_calib.cost.setting import Setting

    settings = bench.settings
    scales = bench.loaded.card.low_res_scales
    setting = Setting(**settings.call, batch_size=bench.call_batch, scales=scales, quick=True)
    table = build_cost_table(bench.loaded, setting, measure=known is None, refresh=refresh, progress=progress)
    if known is not None:
        table.latency = known
        progress.note(f"seconds of {len(known.steps)} kinds of step: as this study has them")
    progress.stage("pricing every plan", len(bench.space.plans))
    for plan in bench.space.plans:
        table.price(plan)  # counts the MACs of each kind of step when it first meets it
        progress.advance()
    return table


def recall_batch(study: Study, bench: Workbench, progress: Progress) -> None:
    """Begin with as many images at a time as an earlier call found to fit into memory."""
    size = fitted_earlier(study)
    if size is not None and size < bench.settings.batch_size:
        progress.note(f"{size} images at a time, as many as this study found to fit; --batch-size tries another number")
        bench.batch.size = size


def spread_stage(study: Study, bench: Workbench, progress: Progress, *, fresh: bool = False) -> Study:
    """How much the baseline's own metrics move when only the seed changes; returns the study with its objective."""
    asked = study.record.asked
    return study.with_objective(
        measure_objective(study.folder, bench, progress, asked.delta, asked.weight, fresh=fresh)
    )


def run_stage(
    study: Study,
    bench: Workbench,
    progress: Progress,
    *,
    fresh: bool = False,
    workers: LocalWorkers | None = None,
    join: bool = False,
) -> SearchResult:
    """The Optuna study of the plans within the study's budget: alone, as the leader of workers, or as one of them.

    Args:
        study: what is searched.
        bench: what it is measured with.
        progress: called with every block of scores.
        fresh: drop what there is.
        workers: who shares the study, and where; they are started once they can join.
        join: be one of them.
    """
    from postdiff_calib.search.backend.run import Problem, StudyPlace, run_search
    from postdiff_calib.search.backend.run import Progress as SearchProgress
    from postdiff_calib.search.settings import SearchSettings, default_explore_prompts

    record, last, worked = study.record, 0, 0.0
    limit, score = record.resolve(), metric(record.objective.metrics[0])

    def show(state: SearchProgress) -> None:
        nonlocal last, worked
        best = ""
        if state.best is not None and state.best_difference is not None:
            best = f", best {state.best.knobs.describe()} {score.show(state.best_difference, signed=True)}"
        detail = f"trial {state.trials_done}/{state.trials_total}{best}"
        if state.seconds_made > worked:
            tell_work(progress, state.seconds_made - worked, state.seconds_left)
        progress.advance(state.images_made - last, detail, total=state.images_at_most)
        last, worked = state.images_made, state.seconds_made

    problem = Problem(
        space=bench.space,
        price=record.cost.price,
        limit=limit,
        evaluator=bench.evaluator(bench.calibration, record.seed, folder=study.folder, note=progress.note),
        num_prompts=len(record.calibration),
        further=further_limits(limit),
        objective=record.objective,
    )
    settings = SearchSettings(
        n_trials=record.asked.trials,
        strategy=record.asked.search,
        seed=record.seed,
        explore_prompts=default_explore_prompts(len(record.held_out)),
        guards=record.asked.rails,
    )
    progress.stage("searching")
    place = StudyPlace(study.folder, fresh=fresh, join=join, record=None if join else record.as_dict())
    if workers is not None:
        place = replace(place, storage=workers.storage, study_name=workers.name, described=workers.start)
    return run_search(
        problem,
        settings,
        place,
        record.fingerprint,
        progress=show,
        opened=None if join else study.save,
        note=progress.note,
    )


def searched_budgets(searched: Sequence[Searched]) -> list[SearchedBudget]:
    """What each budget's search came to, as a study keeps it."""
    return [
        SearchedBudget(s.limit, tuple(f.candidate.plan_id for f in s.finalists), s.unfound, s.fits) for s in searched
    ]


def saved(study: Study, bench: Workbench, search: SearchResult, searched: Sequence[Searched]) -> Study:
    """The study with what each budget's search came to, and the batch size that fitted into memory; on the disk."""
    return study.with_batch(bench.batch).with_search(search.trials, search.failed, searched_budgets(searched))


def confirm_stage(study: Study, bench: Workbench, search: SearchResult, progress: Progress) -> Study:
    """The finalists of every budget and the baseline on held-out prompts; broken plans are struck off.

    What better plans may not have been found is then told from these scores too.
    """
    from postdiff_calib.search.confirm import confirm

    record = study.record
    broken: dict[str, tuple[str, str]] = {}
    for _ in range(1 + REPLACEMENTS):
        chosen = {f.candidate.plan_id: f.candidate.knobs for s in search.searched for f in s.finalists}
        progress.stage("judging the finalists", len(bench.held_out) * (1 + len(chosen)))
        plans = list(chosen.values())
        made = ImagesInTurn(progress, record.cost.price, [record.baseline, *plans], len(bench.held_out))
        evaluator = bench.evaluator(bench.held_out, bench.held_out_seed, made, study.folder, progress.note)
        found = confirm(evaluator, len(bench.held_out), plans, record.baseline, study.folder, begin=made.begin)
        if not found:
            break
        broken |= {plan: (chosen[plan].describe(), reason) for plan, reason in found.items()}
        for plan in found:
            log_event("failed plan", plan=plan, knobs=broken[plan][0], reason=broken[plan][1])
            log_event("fallback", what="the next finalist takes its place", plan=plan)
            progress.note(f"{broken[plan][0]} is dropped, the next takes its place: {broken[plan][1]}")
        search = search.without(broken)
    else:
        progress.note(
            f"finalists broke in each of {1 + REPLACEMENTS} rounds; those that took the last places are not judged"
        )
    evidence = study.evidence()
    searched = search.after_judging(evidence.differences(evidence.held_out))
    return saved(study, bench, search, searched).without(broken)
