"""Is this way of running the model as good as the model as it is? Any set-up against the baseline, by paired scores.

Stages: read the set-ups → prompts, scorers, model → the baseline's spread and scores → each set-up: its seconds beside
the baseline's, then its images on the same prompts and seeds → verdicts with intervals. Scores and seconds are kept in
the study's folder as they come, so the same command goes on where a stopped one was. The knobs of a set-up, and a
function that yields, are undone; for any other function the model is loaded anew.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from postdiff_calib.cost.budget import PlanCost
from postdiff_calib.errors import PlanError, UsageError
from postdiff_calib.files import StudyLock, refuse_image, safe_name, write_atomically
from postdiff_calib.jobs.calibrate import set_up
from postdiff_calib.jobs.given import NOTHING, Given
from postdiff_calib.jobs.in_turn import TIME_LIMIT, in_turn
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.jobs.judge_images import KeptScores, Make, SetUpEvaluator, kept_scores, known_seconds
from postdiff_calib.jobs.materials import materials_of
from postdiff_calib.jobs.paper_study import about_study, check_folder, claim
from postdiff_calib.jobs.setups import Applied, SetUp, applied, failing, parse_setup
from postdiff_calib.jobs.spread import measure_objective
from postdiff_calib.jobs.stopped import saying_what_is_kept
from postdiff_calib.jobs.workbench import Workbench
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.deployment import describe_baseline
from postdiff_calib.plan import compile_plan
from postdiff_calib.progress import Progress, Silent
from postdiff_calib.quality.scorers import close_scorers, measured_by
from postdiff_calib.scores.evaluator import BaselineImages
from postdiff_calib.scores.memory import release_memory
from postdiff_calib.scores.names import BASELINE, OTHER_SEEDS, SCORES
from postdiff_calib.scores.objective import parse_per_metric
from postdiff_calib.scores.select import PlanScores
from postdiff_calib.study.judged import Cost, Judgement, ScoredSetUp, judge_all

if TYPE_CHECKING:
    import torch

    from postdiff_calib.models.load import LoadedModel

KIND, SECONDS, IMAGES = "judge", "seconds.json", "images"
#: Files of values; those of set-ups that this call does not name go, too, where a study starts anew.
VALUES = (SCORES, OTHER_SEEDS, SECONDS, "setup-*.jsonl")
#: Timed rounds at most: enough for a median.
ROUNDS = 6
#: Prompts of which images are kept, for a grid.
SHOWN = 6


@dataclass(frozen=True)
class JudgeJob:
    """What ``postdiff judge`` was asked for.

    Args:
        base: the model, its deployment, prompts and scorers, as for a calibration; of its search nothing is used.
        setups: as ``jobs.setups.parse_setup`` reads them.
        grid: where an image of all set-ups goes; None makes none.
    """

    base: CalibrateJob
    setups: tuple[Any, ...]
    grid: Path | None = None

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.base.study or Path("studies") / f"{safe_name(self.base.model, 'model')}-judge"


@dataclass
class Bench:
    """The workbench, with a model that is loaded anew where a set-up changed it for good.

    Args:
        now: the workbench.
        reload: loads the model; None where the pipeline is the caller's own.
    """

    now: Workbench
    reload: Callable[[], LoadedModel] | None
    changed: str = ""

    def sound(self) -> Workbench:
        """The workbench with the model as it is.

        Raises:
            UsageError: a set-up changed the caller's pipeline for good.
        """
        if self.changed:
            if self.reload is None:
                rule = "it changed the pipeline for good, so nothing can be judged behind it"
                raise UsageError(f"set-up {self.changed}", rule, "put it last, or let it yield and undo what it did")
            self.now = replace(self.now, loaded=cast(Any, None))  # given back before another takes its memory
            release_memory()
            self.now = replace(self.now, loaded=self.reload())
            self.changed = ""
        return self.now


@dataclass(frozen=True)
class JudgeResult:
    """The judgement, and images (3, H, W) of the first prompts by set-up, the baseline's first; None: not made."""

    judgement: Judgement
    images: tuple[tuple[str, tuple[torch.Tensor | None, ...]], ...]
    prompts: tuple[str, ...]
    folder: Path


def run_judge(job: JudgeJob, progress: Progress | None = None, given: Given = NOTHING) -> JudgeResult:
    """Judge every set-up, or go on judging.

    Raises:
        PostdiffError: bad input, or a set-up's function that fails, by one line; what was scored is kept.
    """
    progress, base = progress or Silent(), job.base
    setups = check_job(job)
    kept = saying_what_is_kept(job.folder, VALUES, fresh=base.fresh)
    with kept, StudyLock(job.folder, inside=(BASELINE,)) as lock:
        materials = materials_of(base, given)
        try:
            bench = Bench(set_up(base, _loaded(base, given, progress), materials), _reloading(base, given))
            return _judge(job, setups, bench, lock, progress)
        finally:
            close_scorers(() if given.scorer is not None else (materials.scorer,))
            close_scorers(() if given.also is not None else materials.also)


def check_job(job: JudgeJob) -> list[SetUp]:
    """The set-ups, once nothing else is wrong that can be known before anything is loaded.

    Raises:
        PostdiffError: a set-up, a scorer, a δ or a place is wrong.
    """
    from postdiff_calib.models.cards import known_card

    setups = [parse_setup(one) for one in job.setups]
    if not setups:
        raise UsageError("nothing", "there is no set-up to judge", "give --with, such as --with 'T=12 k=2'")
    if len({one.text for one in setups}) < len(setups):
        raise UsageError("--with", "a set-up is given twice", "give it once")
    parse_per_metric("--delta", job.base.delta, [m.name for m in measured_by(job.base.scorer, job.base.also)])
    check_folder(job.folder, KIND, VALUES, fresh=job.base.fresh)
    if job.grid is not None:
        refuse_image(job.grid, inputs=[one.text for one in setups if one.profile is not None], study=job.folder)
    job.base.deployment.check_model(job.base.model)
    if (card := known_card(job.base.model)) is not None and card.available:
        for one in setups:
            one.knobs(job.base.deployment.card(card))
    return setups


def _loaded(base: CalibrateJob, given: Given, progress: Progress) -> LoadedModel:
    if given.loaded is not None:
        return given.loaded
    progress.stage("loading the model")
    return _load(base)


def _load(base: CalibrateJob) -> LoadedModel:
    from postdiff_calib.models.load import load_pipeline

    return load_pipeline(base.model, device=base.device, dtype=base.dtype, settings=base.deployment)


def _reloading(base: CalibrateJob, given: Given) -> Callable[[], LoadedModel] | None:
    return None if given.loaded is not None else lambda: _load(base)


def _judge(job: JudgeJob, setups: list[SetUp], bench: Bench, lock: StudyLock, progress: Progress) -> JudgeResult:
    from postdiff_calib.scores.book import ScoreBook
    from postdiff_calib.scores.store import FileStore

    base, folder, now = job.base, job.folder, bench.now
    card, n = now.loaded.card, len(now.held_out)
    for one in setups:
        one.require_fit(now.loaded, now.settings)
    lock.take()
    about = about_study(KIND, now, now.held_out.sha256)
    claim(folder, about, VALUES, fresh=base.fresh)
    objective = measure_objective(folder, now, progress, base.delta, base.weight)
    knobs = Knobs(card.num_inference_steps)
    evaluator = now.evaluator(now.held_out, now.held_out_seed, progress.advance, folder, progress.note)
    book = ScoreBook(evaluator, n, knobs, FileStore(folder / SCORES), objective)
    progress.stage("scoring the baseline", n - book.count(book.baseline))
    for first in range(0, n, now.settings.batch_size):
        book.scores(knobs, range(first, min(first + now.settings.batch_size, n)))
    baseline = book.plan_scores(knobs, PlanCost(0.0, 0.0))
    wanted = [i for i in range(n) if i not in book.set_aside]
    scored: list[ScoredSetUp] = []
    images = [("baseline", _images(evaluator.baseline, now))]
    scorers = {one.metric: one.name for one in (now.scorer, *now.also)}
    notes = tuple(line for line in (*now.loaded.notes, now.unjudged, now.unembedded) if line)
    settings = now.settings
    del now, evaluator, book  # a set-up may need the memory of their pipeline
    for one in setups:
        found, kept = _one(one, bench, folder, wanted, progress)
        scored.append(found)
        images.append((one.text, _images(kept, bench.now)))
    judgement = Judgement(
        base.model,
        describe_baseline(card.num_inference_steps, card, settings.negative_prompt),
        len(wanted),
        scorers,
        judge_all(scored, baseline, objective),
        notes,
    )
    return JudgeResult(judgement, tuple(images), tuple(bench.now.held_out.prompts[:SHOWN]), folder)


def _file(key: str) -> str:
    return f"setup-{key}.jsonl"


def _images(kept: BaselineImages | None, bench: Workbench) -> tuple[torch.Tensor | None, ...]:
    """The first prompts' images, as they are kept."""
    if kept is None:
        return ()
    return tuple(kept.load(prompt, bench.held_out_seed + i) for i, prompt in enumerate(bench.held_out.prompts[:SHOWN]))


def _one(
    one: SetUp, bench: Bench, folder: Path, wanted: Sequence[int], progress: Progress
) -> tuple[ScoredSetUp, BaselineImages]:
    """One set-up: timed beside the baseline, then scored; and its kept images."""
    from postdiff_calib.scores.store import FileStore

    card = bench.now.loaded.card
    key, path = one.key(card), folder / SECONDS
    store = FileStore(folder / _file(key))
    kept = BaselineImages(folder / IMAGES, Knobs(card.num_inference_steps), {"setup": key})
    known = known_seconds(path)
    have = kept_scores(store, len(bench.now.held_out))
    if key in known and all(i in have for i in wanted):
        return ScoredSetUp(one.text, _as_scores(bench.now, have), _cost(one, bench.now, known[key])), kept
    now = bench.sound()
    evaluator = SetUpEvaluator(now, folder, progress, kept, SHOWN)
    before: list[float] | None = None
    if one.function is not None and key not in known:  # with its set-up on, the pipeline is not the baseline's
        progress.stage(f"timing the baseline for {one.text}", ROUNDS)
        (before,) = _timed([lambda: _stock(now)], now, progress)
    with _running(one, bench, now) as make:
        evaluator.with_setup(make)
        if key not in known:
            progress.stage(f"timing {one.text}", ROUNDS)
            with failing(one, "its images cannot be made"):
                if before is None:
                    with_it, without = _timed([lambda: make(*_batch(now)), lambda: _stock(now)], now, progress)
                else:
                    (with_it,), without = _timed([lambda: make(*_batch(now))], now, progress), before
            known[key] = {"seconds": with_it, "baseline_seconds": without, "batch_size": now.settings.batch_size}
            write_atomically(path, json.dumps(known) + "\n")
        progress.stage(f"scoring {one.text}", len([i for i in wanted if i not in have]))
        try:
            with failing(one, "its images cannot be made"):
                evaluator.fill(store, key, wanted)
            broken = ""
        except PlanError as error:
            broken = f"{error.given}: {error.rule}"
            progress.note(f"{one.text} is not judged: {broken}")
    have = kept_scores(store, len(now.held_out))
    scores = None if broken else _as_scores(now, have)
    return ScoredSetUp(one.text, scores, _cost(one, now, known[key]), broken), kept


def _as_scores(bench: Workbench, have: KeptScores) -> PlanScores:
    return have.plan_scores(Knobs(bench.loaded.card.num_inference_steps))


@contextmanager
def _running(one: SetUp, bench: Bench, now: Workbench) -> Iterator[Make]:
    """What makes images with a set-up, for the length of the block."""
    from postdiff_calib.generate.images import generate, generate_stock

    pipe, settings, steps = now.loaded.pipe, now.settings, now.loaded.card.num_inference_steps
    if one.function is None:
        plan: Any = one.profile or one.knobs(now.loaded.card)
        yield lambda prompts, seeds: generate(pipe, plan, prompts, seeds, now.batch.within(one.settings(settings)))
        return
    if not one.undone:
        bench.changed = one.text
    with applied(one, pipe) as found:

        def make(prompts: Sequence[str], seeds: Sequence[int], found: Applied = found) -> Iterator[torch.Tensor]:
            arguments = {"num_inference_steps": steps, **found.arguments}
            own = now.batch.within(settings)
            return generate_stock(pipe, prompts, seeds, own, call=found.call, arguments=arguments)

        yield make


def _batch(bench: Workbench) -> tuple[list[str], list[int]]:
    """Prompts and seeds of the call that is timed: a whole batch."""
    size, prompts = bench.settings.batch_size, bench.held_out.prompts
    return [prompts[i % len(prompts)] for i in range(size)], [bench.held_out_seed + i for i in range(size)]


def _stock(bench: Workbench) -> Iterator[torch.Tensor]:
    from postdiff_calib.generate.images import generate_stock

    steps = {"num_inference_steps": bench.loaded.card.num_inference_steps}
    return generate_stock(bench.loaded.pipe, *_batch(bench), bench.settings, arguments=steps)


def _timed(
    calls: Sequence[Callable[[], Iterator[torch.Tensor]]], bench: Workbench, progress: Progress
) -> list[list[float]]:
    """Seconds per image of each call, in turn; images arrive on the CPU, so no device clock is needed."""

    def clocked(call: Callable[[], Iterator[torch.Tensor]]) -> Callable[[], float]:
        def run() -> float:
            start = time.perf_counter()
            for _ in call():
                pass
            return (time.perf_counter() - start) / bench.settings.batch_size

        return run

    return in_turn([clocked(call) for call in calls], ROUNDS, TIME_LIMIT, time.monotonic, progress)


def _cost(one: SetUp, bench: Workbench, timed: dict[str, Any]) -> Cost:
    from postdiff_calib.cost.build import build_cost_table
    from postdiff_calib.cost.setting import Setting

    macs = baseline = None
    card, settings = bench.loaded.card, bench.settings
    knobs = one.knobs(card)
    if knobs is not None:
        setting = Setting(**settings.call, batch_size=settings.batch_size, scales=card.low_res_scales)
        table = build_cost_table(bench.loaded, setting, measure=False)
        macs = table.price(compile_plan(knobs)).macs
        baseline = table.price(compile_plan(Knobs(card.num_inference_steps))).macs
    seconds, without = tuple(timed["seconds"]), tuple(timed["baseline_seconds"])
    return Cost(int(timed["batch_size"]), seconds, without, macs, baseline)
