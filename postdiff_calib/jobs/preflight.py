"""What ``calibrate`` refuses before it spends time: what would only fail at the end, or spoil what is there.

Settings and places are checked before anything is loaded, a budget in MACs before anything is measured, a study
folder before anything is written into it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postdiff_calib.accelerate.compiled import parse_compile
from postdiff_calib.errors import GuardError, OutputError, StudyError
from postdiff_calib.files import refuse_output, require_writable
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.jobs.paper_study import refuse_other_kind
from postdiff_calib.jobs.workbench import Workbench, generation_settings, metrics_of
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.profile.match import other_settings
from postdiff_calib.prompts.draw import HIGHEST_SEED, require_seed
from postdiff_calib.quality import metric as find_metric
from postdiff_calib.quality.metrics import absent, metrics, quality_metrics
from postdiff_calib.quality.scorers import measured_by, parse_scorers
from postdiff_calib.scores.guards import Guard, parse_guards
from postdiff_calib.scores.names import STUDY_NAME
from postdiff_calib.scores.objective import parse_per_metric
from postdiff_calib.search.strategies import find_strategy
from postdiff_calib.study.record import RECORD, Study, StudyRecord
from postdiff_calib.techniques.noise import parse_noise, parse_switch

if TYPE_CHECKING:
    from postdiff_calib.models.card import Card
    from postdiff_calib.models.load import LoadedModel


def check_job(job: CalibrateJob) -> None:
    """Refuse before anything is computed what would only fail at the end."""
    parse_noise(job.noise)
    if job.switch is not None:
        parse_switch(job.switch)
    parse_compile(job.compile)
    strategy = find_strategy(job.search)
    _check_settings(job)
    if job.storage is None and job.study_name != STUDY_NAME:
        raise StudyError(f"--name {job.study_name}", "it names a study in a shared storage", "add --storage")
    measured = [m.name for m in measured_by(job.scorer, job.also)]
    for option, texts in (("--delta", job.delta), ("--weight", job.weight)):
        parse_per_metric(option, texts, measured)
    # Optuna's own searches keep their seed in 32 bits.
    require_seed(job.seed, 1_000_000, HIGHEST_SEED if not strategy.asks else 2**32 - 1 + 999_999)
    _check_places(job)
    if job.storage is not None:
        from postdiff_calib.search.backend.database import probe

        probe(job.storage)
    if job.devices:
        from postdiff_calib.models.load import pick_device

        for device in job.devices:
            pick_device(device)
    if not job.fresh:
        _refuse_other_job(job)


def _check_settings(job: CalibrateJob) -> None:
    """Settings that a model's card or files do not take, or restrictions that leave it nothing to search."""
    from postdiff_calib.models.cards import known_card
    from postdiff_calib.search.space import SearchSpace

    job.deployment.check_model(job.model)
    if (card := known_card(job.model)) is not None and card.available:
        with_settings = job.deployment.card(card)
        SearchSpace.from_card(with_settings, with_settings.latent_size(), job.restrictions)


def _check_places(job: CalibrateJob) -> None:
    """The study's folder and the profile's path; nothing is made."""
    given = f"study folder {job.folder}"
    if os.path.lexists(job.folder) and not os.path.isdir(job.folder):
        raise OutputError(given, "it is not a folder", "give another (--study)")
    if job.storage is None and "?" in str(job.folder):
        raise OutputError(given, "a database's path must not hold '?'", "give another (--study)")
    require_writable(job.folder, given, "give another (--study)")
    if not os.path.lexists(job.folder / RECORD):
        refuse_other_kind(job.folder, "calibration", fresh=job.fresh)
    refuse_output(job.out, inputs=inputs_of(job), study=job.folder)


def inputs_of(job: CalibrateJob) -> list[str]:
    """The files that a calibration reads, as far as they are on this machine."""
    inputs = [job.prompts] if job.prompts is not None else []
    inputs += [job.model] if os.path.isfile(job.model) else []
    if os.path.isdir(job.model):
        inputs += [str(path) for path in Path(job.model).rglob("*") if path.suffix not in (".yaml", ".yml")]
    return inputs


def _refuse_other_job(job: CalibrateJob) -> None:
    """Refuse a folder whose study surely is another one, before the model is loaded."""
    from postdiff_calib.models.cards import CARDS, known_card

    if not os.path.lexists(job.folder / RECORD):
        return
    try:
        known = Study.load(job.folder).record
    except StudyError as error:
        remedy = "move it away, then the same command writes it anew from the scores; or start anew (--fresh)"
        raise StudyError(error.given, error.rule, remedy) from error
    then: dict[str, Any] = {"seed": known.seed, "noise": known.settings.noise}
    now: dict[str, Any] = {"seed": job.seed, "noise": job.noise}
    then["metrics"] = [m.name for m in measured_by(known.asked.scorer, known.asked.also)]
    now["metrics"] = [m.name for m in measured_by(job.scorer, job.also)]
    if job.switch is not None:
        then["switch"], now["switch"] = known.settings.switch, job.switch
    for name, value in job.deployment.asked.items():
        if name != "batch_size":
            then[name], now[name] = _stated(known, name), value
    own = known_card(job.model)
    if (count := job.num_prompts or (own.num_prompts if own is not None else None)) is not None:
        then["num_prompts"], now["num_prompts"] = len(known.held_out), count
    cards = {card.name for card in CARDS}
    if job.model in cards and known.asked.model in cards:
        then["model"], now["model"] = known.asked.model, job.model
    _refuse_difference(job.folder, then, now)


def _stated(record: StudyRecord, name: str) -> Any:
    """A setting of the deployment as a study has it, whether it was asked for or the model's own."""
    if name in ("num_inference_steps", "scheduler"):
        return record.num_inference_steps if name == "num_inference_steps" else record.model.scheduler
    return getattr(record.settings, name) if hasattr(record.settings, name) else record.asked.deployment.asked.get(name)


def check_guards(job: CalibrateJob) -> str:
    """Refuse guards that cannot be read here, before anything is computed; returns what is left out, to be noted."""
    from postdiff_calib.models.cards import known_card

    guards = parse_guards(job.max_drop, job.guards, measured_by(job.scorer, job.also))
    known = known_card(job.model)
    if known is not None:
        _require_metrics(guards, known)
    _require_embeddings(job, guards)
    left_out = []
    for m in metrics():
        if (found := absent(m)) is None:
            continue
        if any(guard.metric == m.name for guard in guards):
            raise GuardError(f"--guard {m.name}", f"it cannot be computed here: {found.rule}", found.remedy)
        left_out.append(f"{m.label} is not measured: {found.rule}")
    return "; ".join(left_out)


def check_metrics(job: CalibrateJob, bench: Workbench) -> str:
    """Refuse drops of what this model is not measured by on these prompts; returns what is left out, to be noted.

    Raises:
        GuardError: ``--max-drop`` names a quality metric that cannot be measured.
    """
    guards = parse_guards(job.max_drop, job.guards, measured_by(job.scorer, job.also))
    _require_metrics(guards, bench.loaded.card)
    if bench.unjudged and (judged := [guard.metric for guard in guards if find_metric(guard.metric).judged]):
        raise GuardError(f"--max-drop {judged[0]}", bench.unjudged, "calibrate on the model's own prompts, or drop it")
    if bench.unembedded and (of_set := [g.metric for g in guards if not find_metric(g.metric).per_prompt]):
        raise GuardError(f"--guard {of_set[0]}", bench.unembedded, "take an open_clip scorer, or drop it")
    return "; ".join(line for line in (bench.unjudged, bench.unembedded) if line)


def _require_embeddings(job: CalibrateJob, guards: Sequence[Guard]) -> None:
    """Refuse a guard on a metric of the set where the scorer is known to have no embeddings."""
    scorer, _ = parse_scorers(job.scorer, job.also)
    of_set = [guard.metric for guard in guards if not find_metric(guard.metric).per_prompt]
    if of_set and scorer is not None and not scorer.embeds:
        rule = f"it is measured by embeddings, which scorer {scorer.text} has none of"
        raise GuardError(f"--guard {of_set[0]}", rule, "take an open_clip scorer, or drop it")


def _require_metrics(guards: Sequence[Guard], card: Card) -> None:
    """Refuse a guard on a quality metric that the model does not have."""
    names = [m.name for m in metrics_of(card)]
    listed = [m.name for m in quality_metrics()]
    for guard in guards:
        if guard.metric in listed and guard.metric not in names:
            raise GuardError(
                f"--max-drop {guard.metric}",
                f"{card.name} is not measured by it, but by {', '.join(names)}",
                "bound one of these, or drop it",
            )


def refuse_unreachable(job: CalibrateJob, loaded: LoadedModel | None = None) -> None:
    """Refuse a budget in MACs that nothing meets before seconds are measured; a known model's, before it is loaded."""
    from postdiff_calib.cost.build import build_cost_table, table_for_card
    from postdiff_calib.cost.setting import Setting
    from postdiff_calib.models.cards import known_card
    from postdiff_calib.search.space import SearchSpace, require_reachable

    own = known_card(job.model)
    known = None if own is None else job.deployment.card(own)
    if job.budget.kind != "macs" or (known is None and loaded is None) or (known is not None and loaded is not None):
        return
    if known is not None:
        card, table = known, table_for_card(known)
    elif loaded is not None:
        card = loaded.card
        settings = generation_settings(card, noise=job.noise, deployment=job.deployment)
        setting = Setting(**settings.call, batch_size=settings.batch_size)
        table = build_cost_table(loaded, setting, measure=False)
    limit = job.budget.resolve(table.price(compile_plan(Knobs(card.num_inference_steps))))
    require_reachable(SearchSpace.from_card(card, card.latent_size(), job.restrictions), table.price, limit)


def refuse_other_study(job: CalibrateJob, bench: Workbench) -> None:
    """Refuse a study made with other settings before anything is measured or written.

    Held-out scores are known by their folder alone, so it counts beside a shared storage too.

    Raises:
        StudyError: its record or its database says so, or the database cannot be used.
    """
    from postdiff_calib.search.backend.storage import StudyPlace, refuse_other_settings

    wanted = bench.fingerprint()
    if os.path.lexists(job.folder / RECORD):
        _refuse_difference(job.folder, Study.load(job.folder).record.fingerprint, wanted)
    place = StudyPlace(job.folder, job.shared_storage, job.study_name)
    refuse_other_settings(place, {**wanted, "num_prompts": len(bench.calibration)})


def _refuse_difference(folder: Path, known: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if other := other_settings(known, wanted):
        raise StudyError(
            f"study {folder}",
            f"it was made with other settings: {other}",
            "use those again, another folder (--study), or start anew (--fresh)",
        )
