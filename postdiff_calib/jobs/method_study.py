"""One run of a comparison of methods: what fits is scored, measured and put together."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from postdiff_calib.cost.budget import Budget, Limit, PlanCost
from postdiff_calib.errors import PlanError, PostdiffError, UnsupportedError
from postdiff_calib.files import safe_name
from postdiff_calib.jobs.fid import reference_images
from postdiff_calib.jobs.method_settings import MethodsJob, plan_settings
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.progress import Progress
from postdiff_calib.scores.names import SCORES

if TYPE_CHECKING:
    from postdiff_calib.accelerate.foreign import Foreign
    from postdiff_calib.cost.table import CostTable
    from postdiff_calib.jobs.workbench import Workbench
    from postdiff_calib.quality.clip import ClipScorer
    from postdiff_calib.quality.fid import Fid
    from postdiff_calib.scores.select import PlanScores
    from postdiff_calib.study.methods import MethodComparison, MethodRow, Setting

#: Calls of each chosen setting whose seconds are taken.
ROUNDS = 7
#: Images of the call that a set-up's MACs are counted in.
_COUNTED = 2
#: Most that timing takes, in seconds.
_TIME_LIMIT = 180.0


class MethodStudy:
    """One run of the study.

    Args:
        job: what was asked for.
        bench: what images are made and scored with.
        folder: of the study.
        progress: hears of every image.
    """

    def __init__(self, job: MethodsJob, bench: Workbench, folder: Path, progress: Progress) -> None:
        from postdiff_calib.accelerate.foreign import FOREIGN

        self.job, self.bench, self.folder, self.progress = job, bench, folder, progress
        self.card = bench.loaded.card
        self.baseline = Knobs(self.card.num_inference_steps)
        self.foreign: dict[str, Foreign] = {one.name: one for one in FOREIGN}
        self.refused: dict[str, str] = {}
        self.reference: Any = None
        if job.fid_reference is not None:
            from postdiff_calib.quality.fid import clip_features, require_enough

            count = len(bench.held_out)
            require_enough(count, "prompts")
            batches = reference_images(job.fid_reference, job.model, count, job.seed)
            self.reference = clip_features(cast("ClipScorer", bench.scorer), batches, unit=True)
        self.batch = min(bench.settings.batch_size, len(bench.held_out))

    def compare(self, budgets: Sequence[Budget]) -> MethodComparison:
        """Every method at each budget."""
        from postdiff_calib.study.methods import MethodComparison, MethodRow, Setting, largest_within, out_of_reach

        by_seconds = any(budget.kind == "seconds" for budget in budgets)
        table = self._prices(measure=by_seconds)
        cost = table.price(compile_plan(self.baseline))
        whole = Setting("baseline", "", cost, self.baseline)
        settings = plan_settings(self.card, table, self.job.calibrated())
        settings |= self._other_settings(whole, timed=by_seconds)
        limits: dict[str, Limit] = {budget.text: budget.resolve(cost) for budget in budgets}
        chosen = {
            text: {method: largest_within(own, limit) for method, own in settings.items()}
            for text, limit in limits.items()
        }
        unique = {(one.key, one.label): one for own in chosen.values() for one in own.values() if one is not None}
        scored = self._score([whole, *unique.values()])
        reference = cast("PlanScores", scored["", ""])  # a baseline that cannot be scored is raised
        seconds = self._seconds([whole, *unique.values()]) if self.job.measure else {}

        def row(one: Setting) -> MethodRow:
            from postdiff_calib.study.ablation import measures_of

            result, share = scored[one.key, one.label], one.cost.macs / cost.macs
            if isinstance(result, str):
                return MethodRow(one.method, one.label, one.cost, share, why=result)
            measures, timed = measures_of(result, reference), seconds.get((one.key, one.label), ())
            return MethodRow(one.method, one.label, one.cost, share, measures, timed, fid=self._fid(result))

        budgets_rows = {
            text: [
                *(
                    row(one) if one is not None else MethodRow(method, why=out_of_reach(settings[method], limits[text]))
                    for method, one in own.items()
                ),
                *(MethodRow(method, why=why) for method, why in self.refused.items()),
            ]
            for text, own in chosen.items()
        }
        how = self.bench.settings
        prompts = len(self.bench.held_out)
        return MethodComparison(self.job.model, prompts, row(whole), budgets_rows, how.noise, how.switch)

    def _fid(self, scores: PlanScores) -> Fid | None:
        """FID of a setting's images on the kept embeddings, which are of unit length."""
        import numpy as np

        from postdiff_calib.quality.fid import fid_of

        if self.reference is None or scores.features is None:
            return None
        found = scores.features[np.isfinite(scores.features).all(1)]
        return fid_of(found, self.reference, f"unit features of {self.bench.scorer.name}", self.job.seed)

    def _prices(self, *, measure: bool) -> CostTable:
        from postdiff_calib.cost.build import build_cost_table
        from postdiff_calib.cost.setting import Setting as Measured

        settings, scales = self.bench.settings, self.card.low_res_scales
        how = Measured(**settings.call, batch_size=settings.batch_size, scales=scales, quick=True)
        return build_cost_table(self.bench.loaded, how, measure=measure, progress=self.progress)

    def _other_settings(self, whole: Setting, *, timed: bool) -> dict[str, list[Setting]]:
        """Settings of other packages' set-ups, each counted in a real call; ``refused`` says which have none."""
        from postdiff_calib.study.methods import Setting

        found: dict[str, list[Setting]] = {}
        own, _ = self._counted(whole)
        for method in self.foreign.values():
            if why := method.why_not(self.bench.loaded.pipe):
                if "it is for" not in why:
                    self.refused[method.name] = why
                continue
            self.progress.stage(f"counting {method.name}", len(method.values))
            settings = []
            try:
                for value in method.values:
                    label = f"{method.symbol}={value:g}"
                    one = Setting(method.name, label, whole.cost, whole.knobs, value)
                    macs, seconds = self._counted(one, timed=timed)
                    # scaled by the baseline, counted in the same way, so that both ways of counting agree on it
                    cost = PlanCost(whole.cost.macs * macs / own, whole.cost.macs_paper * macs / own, seconds, seconds)
                    settings.append(Setting(method.name, label, cost, whole.knobs, value))
                    self.progress.advance()
            except Exception as error:  # other packages raise what they like on networks that they were not made for
                if isinstance(error, PostdiffError):
                    raise
                self.refused[method.name] = f"it does not run on {self.job.model} ({type(error).__name__})"
                self.progress.note(f"{method.name} is left out: {self.refused[method.name]}")
                continue
            found[method.name] = settings
        return found

    def _on(self, one: Setting) -> AbstractContextManager[None]:
        """The pipeline with another package's set-up, where the setting is of one."""
        if one.value is None:
            return nullcontext()
        return self.foreign[one.method].on(self.bench.loaded.pipe, one.value)

    def _call(self, one: Setting, count: int) -> None:
        """Images of the first prompts, thrown away."""
        from postdiff_calib.generate.images import generate

        bench = self.bench
        settings, prompts = bench.batch.within(bench.settings), bench.held_out.prompts[:count]
        for _ in generate(
            bench.loaded.pipe, one.knobs, prompts, range(bench.seed, bench.seed + len(prompts)), settings
        ):
            pass

    def _counted(self, one: Setting, *, timed: bool = False) -> tuple[float, float | None]:
        """MACs of the denoiser in one call, and seconds per image of another."""
        from postdiff_calib.cost.macs import FLOPS_PER_MAC, flop_counter
        from postdiff_calib.models.families import denoiser_in

        _, network = denoiser_in(self.bench.loaded.pipe)
        with self._on(one), flop_counter() as counter:
            name = type(network).__name__
            self._call(one, _COUNTED)
        macs = sum(counter.get_flop_counts()[name].values()) / FLOPS_PER_MAC
        if not timed:
            return macs, None
        with self._on(one):
            start = time.perf_counter()
            self._call(one, self.batch)
        return macs, (time.perf_counter() - start) / self.batch

    def _score(self, settings: Sequence[Setting]) -> Mapping[tuple[str, str], PlanScores | str]:
        """Scores of every setting, or why it has none; the baseline comes first, the others are compared with it."""
        from postdiff_calib.scores.book import ScoreBook
        from postdiff_calib.scores.store import FileStore

        bench, progress = self.bench, self.progress
        found: dict[tuple[str, str], PlanScores | str] = {}
        count, size = len(bench.held_out), bench.settings.batch_size
        evaluator = bench.evaluator(bench.held_out, bench.held_out_seed, progress.advance, self.folder, progress.note)
        book = ScoreBook(evaluator, count, self.baseline, FileStore(self.folder / SCORES))
        progress.stage("scoring methods", count * len(settings))
        for one in settings:
            try:
                if one.value is not None:
                    found[one.key, one.label] = self._beside(one)
                    continue
                for first in range(0, count, size):
                    book.scores(one.knobs, range(first, min(first + size, count)))
                found[one.key, one.label] = book.plan_scores(one.knobs, one.cost)
            except (PlanError, UnsupportedError) as error:
                if one.value is None and one.knobs == self.baseline:
                    raise
                found[one.key, one.label] = str(error)
                progress.note(f"{one.method} {one.label} is left out: {error}")
        return found

    def _beside(self, one: Setting) -> PlanScores:
        """Scores of another package's set-up, kept in a file of its own."""
        from postdiff_calib.generate.images import generate
        from postdiff_calib.jobs.judge_images import SetUpEvaluator, kept_scores
        from postdiff_calib.scores.evaluator import BaselineImages
        from postdiff_calib.scores.store import FileStore

        bench, count = self.bench, len(self.bench.held_out)
        store = FileStore(self.folder / f"scores-{safe_name(one.key, 'set-up')}.jsonl")
        unkept = BaselineImages(self.folder, self.baseline, {})
        evaluator = SetUpEvaluator(bench, self.folder, self.progress, unkept, 0)
        evaluator.with_setup(
            lambda prompts, seeds: generate(
                bench.loaded.pipe, one.knobs, prompts, seeds, bench.batch.within(bench.settings)
            )
        )
        with self._on(one):
            evaluator.fill(store, one.key, range(count))
        return replace(kept_scores(store, count).plan_scores(one.knobs), cost=one.cost)

    def _seconds(self, settings: Sequence[Setting]) -> dict[tuple[str, str], tuple[float, ...]]:
        """Seconds per image of whole calls, every setting in turn."""
        from postdiff_calib.jobs.in_turn import in_turn

        def timed(one: Setting) -> float:
            with self._on(one):
                start = time.perf_counter()
                self._call(one, self.batch)
            return (time.perf_counter() - start) / self.batch

        self.progress.stage("timing", ROUNDS)
        calls = [functools.partial(timed, one) for one in settings]
        rounds = in_turn(calls, ROUNDS, _TIME_LIMIT, time.monotonic, self.progress)
        return {(one.key, one.label): tuple(values) for one, values in zip(settings, rounds, strict=True)}
