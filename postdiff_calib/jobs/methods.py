"""Study H: methods side by side at equal budgets (main table 3), each at its largest setting that fits.

Stages: cost of every setting → the one that fits, by method and budget → score the baseline and these on the same
prompts and seeds → seconds, in turn. Scores are kept by plan id, those of other packages' set-ups in files of their
own, so a stopped study goes on and another budget makes only what is new.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from postdiff_calib.errors import ProfileError
from postdiff_calib.files import StudyLock
from postdiff_calib.jobs.method_settings import KIND, MethodsJob, plan_settings
from postdiff_calib.jobs.paper_study import Price, about_study, card_of, claim, set_up
from postdiff_calib.jobs.stopped import saying_what_is_kept
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.progress import Progress, Silent
from postdiff_calib.scores.names import BASELINE, SCORES
from postdiff_calib.techniques import registered
from postdiff_calib.techniques.encoder_propagation import EncoderPropagation

if TYPE_CHECKING:
    from postdiff_calib.jobs.workbench import Workbench
    from postdiff_calib.profile import Profile
    from postdiff_calib.study.methods import MethodComparison

#: Files of values: of plans, and of other packages' set-ups.
VALUES = (SCORES, "scores-*.jsonl")


def price_methods(job: MethodsJob) -> Price:
    """What the study costs where nothing is scored yet; set-ups of other packages count as just fitting."""
    from postdiff_calib.accelerate.foreign import FOREIGN
    from postdiff_calib.cost.build import table_for_card
    from postdiff_calib.study.methods import largest_within

    card = card_of(job)
    with registered(EncoderPropagation()):
        table, count = table_for_card(card), job.num_prompts or card.num_prompts
        whole = table.price(compile_plan(Knobs(card.num_inference_steps)))
        settings = plan_settings(card, table, job.calibrated())
        chains = bool(card.denoiser.chains)
        others = sum(one.of_chains == chains for one in FOREIGN)
        chosen: dict[str, float] = {"": whole.macs}
        limits = [budget.resolve(whole) for budget in job.asked()]
        for limit in limits:
            for own in settings.values():
                if (one := largest_within(own, limit)) is not None:
                    chosen[compile_plan(one.knobs).plan_id] = one.cost.macs
        macs = sum(chosen.values()) + others * sum(limit.value for limit in limits)
    images = count * (len(chosen) + others * len(limits))
    return Price(images, count * macs, count * macs / whole.macs)


def refuse_other_pipeline(path: Path, profile: Profile, bench: Workbench) -> None:
    """Refuse a profile that was not calibrated on this pipeline, as the study runs it.

    Raises:
        ProfileError: naming the differences.
    """
    from postdiff_calib.profile.match import call_mismatches, mismatches

    low_res = bool(profile.knobs.low_res_fraction)
    found = mismatches(profile.model, bench.loaded)
    found += call_mismatches(profile.generation, bench.settings, low_res=low_res)
    if found:
        rule = f"it was calibrated on another pipeline: this one differs in {'; '.join(found)}"
        raise ProfileError(f"--profile {path}", rule, "calibrate this one, or leave it out")


def run_methods(job: MethodsJob, progress: Progress | None = None) -> MethodComparison:
    """Compare, or go on comparing.

    Raises:
        PostdiffError: bad input, by one line; what was scored is kept.
    """
    from postdiff_calib.jobs.fid import reference_images
    from postdiff_calib.jobs.method_study import MethodStudy
    from postdiff_calib.models.cards import known_card
    from postdiff_calib.quality.fid import require_enough

    progress, folder = progress or Silent(), job.folder(KIND)
    job.check_places(KIND, VALUES, job.profiles)
    budgets, profiles = job.asked(), job.calibrated()
    if (known := known_card(job.model)) is not None:
        known.require()
        if job.fid_reference is not None:
            require_enough(job.num_prompts or known.num_prompts, "prompts")
    if job.fid_reference is not None:
        reference_images(job.fid_reference, job.model, 0, job.seed)  # refuses one that cannot be used; none is read
    kept = saying_what_is_kept(folder, VALUES, fresh=job.fresh)
    with kept, registered(EncoderPropagation()), StudyLock(folder, inside=(BASELINE,)) as lock:
        bench, prompt_set = set_up(job, None, progress)
        for path, profile in zip(job.profiles, profiles, strict=True):
            refuse_other_pipeline(path, profile, bench)
        lock.take()
        claim(folder, about_study(KIND, bench, prompt_set), VALUES, fresh=job.fresh)
        return MethodStudy(job, bench, folder, progress).compare(budgets)
