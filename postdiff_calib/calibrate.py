"""The main job on one page: model and budget in, deployment profile out.

Stages: load → draw prompts → price → search → confirm → conclude. Each leaves what it computed in the study folder, so
the same command goes on where a killed one stopped; a study made with other settings is refused by what differs.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postdiff_calib.budget import Budget, Limit, parse_budget
from postdiff_calib.errors import KnobError, OutputError, StudyError
from postdiff_calib.plan import compile_plan
from postdiff_calib.profile import Profile
from postdiff_calib.progress import Progress, Silent

if TYPE_CHECKING:
    from postdiff_calib.conclude import Scored
    from postdiff_calib.cost.table import CostTable
    from postdiff_calib.models.load import LoadedModel
    from postdiff_calib.prompts import PromptSet
    from postdiff_calib.quality.clip import ClipScorer
    from postdiff_calib.search.pictures import PictureEvaluator
    from postdiff_calib.search.study import SearchResult

#: Shares of the unaccelerated cost at which the three families are compared beside the asked-for budget.
LADDER_SHARES = (0.25, 0.4, 0.8)
#: Prompts scored per plan at those.
LADDER_PROMPTS = 80
#: Finalists of the joint search that are confirmed on held-out prompts, with the best of the two other families.
FINALISTS = 2


@dataclass(frozen=True)
class CalibrateJob:
    """What ``postdiff calibrate`` was asked for; see its help for the meaning of each field.

    ``prompts`` and ``num_prompts`` None take the model's own set and size, ``study`` None a folder under ``studies/``,
    ``batch_size`` 0 a size that suits the picture, ``delta`` None one per cent of the unaccelerated model's mean score.
    """

    model: str = "shapes"
    budget: str = "60%"
    prompts: str | None = None
    num_prompts: int | None = None
    trials: int = 24
    seed: int = 0
    out: Path = Path("profile.yaml")
    study: Path | None = None
    noise: str = "coupled"
    sampler: str = "postdiff"
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 0
    delta: float | None = None
    fresh: bool = False

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.study or Path("studies") / "".join(c if c.isalnum() or c in "-_." else "-" for c in self.model)


@dataclass(frozen=True)
class CalibrateResult:
    """The profile, where it was written, and whether Ctrl-C ended the search early."""

    profile: Profile
    path: Path
    interrupted: bool


def run_calibrate(job: CalibrateJob, progress: Progress | None = None) -> CalibrateResult:
    """Find the best plan under the budget and write its profile.

    Raises:
        PostdiffError: bad input, by one line; nothing already computed is lost.
        KeyboardInterrupt: stopped before any plan was completely scored.
    """
    progress = progress or Silent()
    budget = parse_budget(job.budget)
    _check(job)

    from postdiff_calib.models.load import load_pipeline
    from postdiff_calib.prompts import draw, load_prompt_set
    from postdiff_calib.quality.clip import ClipScorer

    progress.stage("loading the model")
    loaded = load_pipeline(job.model, device=job.device, dtype=job.dtype)
    card = loaded.card
    prompt_set = load_prompt_set(job.prompts or card.prompt_set)
    calibration, held_out = draw(prompt_set, job.num_prompts or card.num_prompts, job.seed)
    scorer = ClipScorer(card.scorer, device=loaded.device)
    for note in loaded.notes:
        progress.note(note)

    task = _Task(job, loaded, scorer, prompt_set.name, calibration, held_out, progress)
    table, limit = task.price(budget)
    search = task.search(table, limit)
    confirmed, interrupted = None, search.interrupted
    if not interrupted:
        try:
            confirmed = task.confirm(search, limit)
        except KeyboardInterrupt:
            interrupted = True

    from postdiff_calib.conclude import Scored, conclude

    scored = Scored(search.baseline, list(search.plans.values()))
    try:
        profile = conclude(budget, limit, scored, confirmed, ladder(limit), task.facts(search, confirmed), job.delta)
    except ValueError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise
    return CalibrateResult(profile, profile.save(job.out), interrupted)


def ladder(limit: Limit) -> tuple[Limit, ...]:
    """The trade-off table's other budgets, in the terms of ``limit``."""
    return tuple(Limit(limit.kind, limit.quantile, share * limit.baseline, limit.baseline) for share in LADDER_SHARES)


def _check(job: CalibrateJob) -> None:
    """Refuse before anything is computed what would only fail at the end."""
    if job.noise not in ("coupled", "independent"):
        raise KnobError(f"noise {job.noise!r}", "it is coupled or independent", "coupled keeps a seed's composition")
    if job.sampler not in ("postdiff", "tpe", "gp", "random", "nsga2"):
        raise StudyError(f"sampler {job.sampler!r}", "samplers are postdiff, tpe, gp, random, nsga2", "take postdiff")
    if job.delta is not None and job.delta <= 0:
        raise StudyError(f"delta {job.delta:g}", "it must be above 0", "give the score difference you care about")
    for folder, what in ((job.out.parent, f"output {job.out}"), (job.folder, f"study folder {job.folder}")):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / ".postdiff-probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise OutputError(what, f"it cannot be written ({error.strerror})", "choose another path") from error
    if job.out.is_dir():
        raise OutputError(f"output {job.out}", "it is a folder", "give a file's path, such as profile.yaml")


@dataclass(frozen=True)
class _Task:
    """The stages between loading and concluding, on what they all share."""

    job: CalibrateJob
    loaded: LoadedModel
    scorer: ClipScorer
    prompt_set: str
    calibration: PromptSet
    held_out: PromptSet
    progress: Progress

    @property
    def batch_size(self) -> int:
        """Images per batch: as asked, else 10 for small pictures and 4 for large ones."""
        side = max(self.loaded.card.latent_size())
        return self.job.batch_size or (10 if side <= 96 else 4)

    @property
    def settings(self) -> dict[str, Any]:
        """How pictures are made, by calibration and deployment alike."""
        card = self.loaded.card
        return {
            "height": card.height,
            "width": card.width,
            "guidance_scale": card.guidance_scale,
            "batch_size": self.batch_size,
            "noise": self.job.noise,
            "latent_multiple": card.latent_multiple,
        }

    def price(self, budget: Budget) -> tuple[CostTable, Limit]:
        """The cost of every plan on this machine, and the budget as a hard limit."""
        from postdiff_calib.cost.build import build_cost_table
        from postdiff_calib.knobs import Knobs

        card = self.loaded.card
        table = build_cost_table(
            self.loaded,
            height=card.height,
            width=card.width,
            guidance_scale=card.guidance_scale,
            batch_size=self.batch_size,
            measure=True,
            scales=card.low_res_scales,
            quick=True,
            progress=self.progress,
        )
        limit = budget.resolve(table.price(compile_plan(Knobs(card.num_inference_steps))))
        if limit.above_baseline:
            self.progress.note(limit.above_baseline)
        return table, limit

    def evaluator(self, prompts: PromptSet, base_seed: int, on_images: Callable[[int], None]) -> PictureEvaluator:
        """Makes and scores the pictures of a prompt set."""
        from postdiff_calib.search.pictures import PictureEvaluator

        return PictureEvaluator(self.loaded.pipe, self.scorer, prompts.prompts, base_seed, self.settings, on_images)

    def search(self, table: CostTable, limit: Limit) -> SearchResult:
        """The Optuna study over the space's plans within the limit."""
        from postdiff_calib.search import study
        from postdiff_calib.search.space import SearchSpace
        from postdiff_calib.search.strategy import SearchSettings

        card, job = self.loaded.card, self.job
        last = 0

        def show(state: study.Progress) -> None:
            nonlocal last
            best = "" if state.best is None else f", best {state.best.knobs.describe()} {state.best_difference:+.2f}"
            self.progress.advance(state.images_made - last, f"trial {state.trials_done}/{state.trials_total}{best}")
            last = state.images_made

        problem = study.Problem(
            space=SearchSpace.from_card(card, latent_size=card.latent_size()),
            price=table.price,
            limit=limit,
            evaluator=self.evaluator(self.calibration, job.seed, lambda count: None),
            num_prompts=len(self.calibration),
            ladder=ladder(limit),
        )
        settings = SearchSettings(
            n_trials=job.trials, sampler=job.sampler, seed=job.seed, ladder_prompts=LADDER_PROMPTS
        )
        self.progress.stage("searching", None)
        return study.run_search(problem, settings, job.folder, self.fingerprint(), fresh=job.fresh, progress=show)

    def confirm(self, search: SearchResult, limit: Limit) -> Any:
        """The finalists, the best of each family and the unaccelerated model on held-out prompts."""
        from postdiff_calib.conclude import Scored
        from postdiff_calib.search import select
        from postdiff_calib.search.confirm import confirm

        plans = list(search.plans.values())
        finalists = select.best(plans, search.baseline, allows=limit.allows, count=FINALISTS)
        for arm in ("fewer", "cheaper"):
            finalists += select.best(plans, search.baseline, allows=limit.allows, arm=arm)
        unique = list({plan.plan.content: plan for plan in finalists}.values())
        self.progress.stage("confirming", len(self.held_out) * (1 + len(unique)))
        evaluator = self.evaluator(self.held_out, self.held_out_seed, self.progress.advance)
        baseline, scored = confirm(evaluator, len(self.held_out), unique, search.baseline, self.job.folder)
        return Scored(baseline, scored)

    @property
    def held_out_seed(self) -> int:
        """Seed of the first held-out prompt: behind the calibration prompts' seeds."""
        return self.job.seed + len(self.calibration)

    def fingerprint(self) -> dict[str, Any]:
        """What a score depends on; a study made with anything else is refused."""
        return {
            "model": self.loaded.fingerprint,
            "prompts": self.calibration.sha256,
            "held_out": self.held_out.sha256,
            "scorer": self.scorer.weights_sha256,
            "seed": self.job.seed,
            "dtype": self.loaded.dtype,
            **{key: value for key, value in self.settings.items() if key != "batch_size"},
        }

    def facts(self, search: SearchResult, confirmed: Scored | None) -> Any:
        """The profile's sections that do not follow from scores."""
        from importlib.metadata import version

        from postdiff_calib.conclude import Facts

        loaded, job, card = self.loaded, self.job, self.loaded.card
        pipe = loaded.pipe
        denoiser = getattr(pipe, card.denoiser_role)
        known = card.name if card.name != loaded.source else None
        confirmed_plans = [confirmed.baseline, *confirmed.plans] if confirmed else []
        held = {plan.plan.content: plan.n for plan in confirmed_plans}
        images = sum(plan.n for plan in search.plans.values()) + sum(held.values())
        return Facts(
            model={
                "id": known if known == "shapes" else loaded.source,
                "card": known,
                "revision": loaded.revision or "local",
                "pipeline_class": type(pipe).__name__,
                "denoiser_class": type(denoiser).__name__,
                "fingerprint": loaded.fingerprint,
                "dtype": loaded.dtype,
                "height": card.height,
                "width": card.width,
                "scheduler": type(pipe.scheduler).__name__,
                "guidance_scale": float(card.guidance_scale),
                "notes": list(loaded.notes),
            },
            evidence={
                "prompt_set": self.prompt_set,
                "prompt_set_sha256": self.calibration.sha256,
                "num_prompts": len(self.calibration),
                "num_held_out": len(self.held_out) if confirmed else 0,
                "held_out_sha256": self.held_out.sha256,
                "seed": job.seed,
                "scorer": "shapes" if known == "shapes" else self.scorer.name,
                "scorer_sha256": self.scorer.weights_sha256,
                "sampler": job.sampler,
                "trials": search.trials,
                "images": images,
                "study": str(job.folder),
            },
            environment={
                "device": device_name(loaded.device),
                "versions": {
                    "python": platform.python_version(),
                    **{name: version(name) for name in ("postdiff", "torch", "diffusers", "transformers", "optuna")},
                },
            },
            batch_size=self.batch_size,
            noise=job.noise,
            latent_multiple=card.latent_multiple,
        )


def device_name(device: str) -> str:
    """The accelerator's own name, or the processor's kind."""
    import torch

    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"{device} ({platform.machine()}, {torch.get_num_threads()} threads)"
