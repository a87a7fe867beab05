"""Studies B, C and I: what a knob does to cost and quality, alone or beside another (figures 2, 6, 7 and table 1).

Stages: settings from texts → price → score the baseline and every setting on the same prompts and seeds → trace, if
asked. Scores are kept by plan id in the study's folder, so a stopped study goes on, and another ablation of the same
model and prompts in the same folder makes no plan twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postdiff_calib.errors import PlanError, UsageError
from postdiff_calib.files import StudyLock
from postdiff_calib.jobs.paper_study import PaperStudyJob, Price, about_study, card_of, claim, price_of, set_up
from postdiff_calib.jobs.stopped import saying_what_is_kept
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.progress import Progress, Silent
from postdiff_calib.scores.blocks import check_prompts, check_table
from postdiff_calib.scores.names import BASELINE, SCORES

if TYPE_CHECKING:
    from postdiff_calib.cost.table import CostTable
    from postdiff_calib.jobs.workbench import Workbench
    from postdiff_calib.models.card import Card
    from postdiff_calib.scores.book import ScoreBook
    from postdiff_calib.search.vary import Setting
    from postdiff_calib.study.ablation import Ablation, Trace

KIND, TRACES = "ablation", "traces.jsonl"
#: Files of values.
VALUES = (SCORES, TRACES)


@dataclass(frozen=True)
class AblateJob(PaperStudyJob):
    """What ``postdiff ablate`` was asked for.

    Attributes:
        vary, fix: texts as ``search.vary`` reads them.
        steps: the same as ``--vary T=…``.
        measure: seconds are measured too, by the quick cost table: as long as a dozen calls take, or some ten seconds.
        trace: the clean estimate of every step is scored too.
    """

    vary: tuple[str, ...] = ()
    fix: tuple[str, ...] = ()
    steps: str | None = None
    measure: bool = True
    trace: bool = False

    def asked(self, card: Card) -> tuple[dict[str, tuple[Any, ...]], dict[str, Any], list[Setting]]:
        """(varied values by field, fixed ones, the settings).

        Raises:
            UsageError: nonsense, or nothing is varied.
            KnobError: a value that is refused.
        """
        from postdiff_calib.search.space import SearchSpace
        from postdiff_calib.search.vary import parse_fixed, parse_varied, settings

        texts = [*self.vary, *([f"T={self.steps}"] if self.steps is not None else [])]
        if not texts:
            raise UsageError("an ablation", "nothing is varied", "give --vary, such as --vary k=1..5, or --steps")
        space = SearchSpace.from_card(card, latent_size=card.latent_size())
        varied, fixed = parse_varied(texts, space), parse_fixed(self.fix)
        return varied, fixed, settings(varied, fixed, space)


def _plans(chosen: Sequence[Setting], default_steps: int) -> dict[str, Knobs]:
    """Knobs of every plan that is to be scored, by plan id, the baseline first."""
    baseline = Knobs(default_steps)
    plans = {compile_plan(baseline).plan_id: baseline}
    for setting in chosen:
        plans.setdefault(setting.plan_id, setting.knobs)
    return plans


def price_ablation(job: AblateJob) -> Price:
    """What the study costs where nothing is scored yet; no image is made."""
    from postdiff_calib.cost.build import table_for_card

    card = card_of(job)
    _, _, chosen = job.asked(card)
    count = job.num_prompts or card.num_prompts
    plans = _plans(chosen, card.num_inference_steps).values()
    times = 2 if job.trace else 1
    return price_of([(knobs, times * count) for knobs in plans], table_for_card(card), card.num_inference_steps)


def run_ablation(job: AblateJob, progress: Progress | None = None) -> Ablation:
    """Score every setting, or go on scoring them.

    Raises:
        PostdiffError: bad input, by one line; what was scored is kept.
    """
    from postdiff_calib.models.cards import known_card

    progress, folder = progress or Silent(), job.folder(KIND)
    job.check_places(KIND, VALUES)
    if (known := known_card(job.model)) is not None:
        job.asked(known)  # refused before anything is loaded
    kept = saying_what_is_kept(folder, VALUES, fresh=job.fresh)
    with kept, StudyLock(folder, inside=(BASELINE,)) as lock:
        bench, prompt_set = set_up(job, None, progress)
        varied, fixed, chosen = job.asked(bench.loaded.card)
        lock.take()
        claim(folder, about_study(KIND, bench, prompt_set), VALUES, fresh=job.fresh)
        table = _prices(bench, progress, measure=job.measure)
        book, failed = _scored(bench, _plans(chosen, bench.loaded.card.num_inference_steps), table, folder, progress)
        traces = _traced(bench, chosen, folder / TRACES, failed, progress) if job.trace else ()
        return _together(job.model, book, table, chosen, failed, varied, fixed, traces)


def _prices(bench: Workbench, progress: Progress, *, measure: bool) -> CostTable:
    from postdiff_calib.cost.build import build_cost_table
    from postdiff_calib.cost.setting import Setting

    settings, card = bench.settings, bench.loaded.card
    setting = Setting(**settings.call, batch_size=settings.batch_size, scales=card.low_res_scales, quick=True)
    return build_cost_table(bench.loaded, setting, measure=measure, progress=progress)


def _scored(
    bench: Workbench, plans: dict[str, Knobs], table: CostTable, folder: Path, progress: Progress
) -> tuple[ScoreBook, dict[str, str]]:
    """The scores of all plans, and why some have none (by plan id)."""
    from postdiff_calib.scores.book import ScoreBook
    from postdiff_calib.scores.store import FileStore

    count, size = len(bench.held_out), bench.settings.batch_size
    baseline = next(iter(plans.values()))
    evaluator = bench.evaluator(bench.held_out, bench.seed, progress.advance, folder, progress.note)
    book = ScoreBook(evaluator, count, baseline, FileStore(folder / SCORES))
    left = [(knobs, count - book.count(plan)) for plan, knobs in plans.items()]
    price = price_of(left, table, baseline.num_inference_steps)
    progress.note(str(price))
    progress.stage("scoring settings", price.images)
    failed: dict[str, str] = {}
    for plan, knobs in plans.items():
        try:
            for first in range(0, count, size):
                book.scores(knobs, range(first, min(first + size, count)))
        except PlanError as error:
            if knobs == baseline:
                raise
            failed[plan] = str(error)
            progress.note(f"{knobs.describe()} is left out: {error}")
    return book, failed


def _traced(
    bench: Workbench, chosen: Sequence[Setting], path: Path, failed: dict[str, str], progress: Progress
) -> tuple[Trace, ...]:
    """The score of the clean estimate at every step: the baseline and every setting, each plan once."""
    import numpy as np

    from postdiff_calib.accelerate.clean_estimates import Estimates, step_scores
    from postdiff_calib.generate.images import generate
    from postdiff_calib.scores.store import FileStore
    from postdiff_calib.study.ablation import label_of, trace_of

    card, settings, prompts = bench.loaded.card, bench.batch.within(bench.settings), bench.held_out.prompts
    plans = {p: k for p, k in _plans(chosen, card.num_inference_steps).items() if p not in failed}
    labels = {setting.plan_id: label_of(setting.values) for setting in reversed(chosen)}
    steps = {plan: knobs.num_inference_steps for plan, knobs in plans.items()}
    store = FileStore(path, partial(_check_traces, steps), "traces")
    known = {(b["plan"], i): row for b in store.read() for i, row in zip(b["prompts"], b["scores"], strict=True)}
    estimates = Estimates(bench.loaded.pipe, card.latent_size())
    missing = {plan: [i for i in range(len(prompts)) if (plan, i) not in known] for plan in plans}
    progress.stage("tracing", sum(map(len, missing.values())))
    traces = []
    for plan, knobs in plans.items():
        for first in range(0, len(missing[plan]), settings.batch_size):
            batch = missing[plan][first : first + settings.batch_size]
            own = [prompts[i] for i in batch]
            runs = generate(bench.loaded.pipe, knobs, own, [bench.seed + i for i in batch], settings)
            rows = step_scores(estimates, runs, own, bench.scorer, knobs.num_inference_steps)
            store.append({"plan": plan, "prompts": batch, "scores": rows})
            known |= {(plan, i): row for i, row in zip(batch, rows, strict=True)}
            progress.advance(len(batch))
        rows = [known[plan, i] for i in range(len(prompts))]
        traces.append(trace_of(labels.get(plan, "baseline"), np.array(rows)))
    return tuple(traces)


def _check_traces(steps: Mapping[str, int], block: Any) -> None:
    """Refuse a block that is none of traces; ``steps`` has those of each plan.

    Raises:
        ValueError: says what is wrong with it.
    """
    if not isinstance(block, dict) or not isinstance(block.get("plan"), str):
        raise ValueError("it names no plan")
    check_prompts(block.get("prompts"))
    if (width := steps.get(block["plan"])) is not None:
        check_table("scores", block.get("scores"), (len(block["prompts"]), width))


def _together(
    model: str,
    book: ScoreBook,
    table: CostTable,
    chosen: Sequence[Setting],
    failed: dict[str, str],
    *asked: Any,
) -> Ablation:
    from postdiff_calib.search.vary import Setting
    from postdiff_calib.study.ablation import Ablation, row_of

    def scores(knobs: Knobs) -> Any:
        return book.plan_scores(knobs, table.price(compile_plan(knobs)))

    varied, fixed, traces = asked
    own = Setting({}, book.plans[book.baseline])
    baseline = scores(own.knobs)
    rows = [row_of(s, scores(s.knobs), baseline, failed.get(s.plan_id, "")) for s in chosen]
    whole = row_of(own, baseline, baseline)
    disagreement = table.latency.disagreement if table.latency is not None else None
    return Ablation(model, book.num_prompts, varied, fixed, whole, tuple(rows), traces, disagreement)
