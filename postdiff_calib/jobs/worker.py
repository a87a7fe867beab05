"""A worker: joins the study that ``postdiff calibrate --storage`` leads and runs trials until none is left.

Everything a worker must know is in the study's record: the model's name, the prompts' texts, seeds, settings, budget
and prices. It loads the model itself and proves by its fingerprint that it makes the very scores the leader would.
Quality may be scored on any host. Seconds are the leader's, measured on its host; a worker times nothing, so a budget
in seconds means the leader's machine wherever a plan is scored. Held-out prompts are the leader's too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from postdiff_calib.accelerate.compiled import stated_mode
from postdiff_calib.errors import NoStudyYetError, StudyError
from postdiff_calib.jobs.calibrate import run_stage
from postdiff_calib.jobs.devices import LocalWorkers
from postdiff_calib.jobs.profile_scorers import loaded_scorers, named_again
from postdiff_calib.jobs.workbench import Workbench
from postdiff_calib.profile.match import other_settings
from postdiff_calib.progress import Progress, Silent
from postdiff_calib.prompts import PromptSet, content_hash
from postdiff_calib.quality.scorers import EMBEDDED, close_scorers, parse_scorer
from postdiff_calib.scores.names import STUDY_NAME
from postdiff_calib.study.record import Study, StudyRecord

#: Seconds between two looks for the leader's study.
POLL = 2.0


@dataclass(frozen=True)
class WorkerJob:
    """What ``postdiff worker`` was asked for.

    ``storage`` and ``study_name`` are those of the leader. ``model`` stands in for the record's where the model lies in
    another place on this host; ``dtype`` ``auto`` is the study's own. ``scorer`` and ``also`` name the study's scorers
    again, where they are code or lie in another place. ``wait`` are the seconds in which the leader may come.
    """

    storage: str
    study_name: str = STUDY_NAME
    model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    scorer: str | None = None
    also: tuple[str, ...] = ()
    wait: float = 0.0


@dataclass(frozen=True)
class WorkerResult:
    """What one worker did.

    Attributes:
        study: the study's name.
        storage: where it is, without a password.
        trials: trials this worker finished.
        images: images it made.
        study_trials: finished trials of the study, whoever ran them.
        failed: (knobs, reason) of the study's plans whose images were broken.
        latency_of: the device whose seconds the study carries; None where none were measured.
        interrupted: stopped by Ctrl-C; its trial was given back.
    """

    study: str
    storage: str
    trials: int
    images: int
    study_trials: int
    failed: tuple[tuple[str, str], ...]
    latency_of: str | None
    interrupted: bool

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def run_worker(job: WorkerJob, progress: Progress | None = None) -> WorkerResult:
    """Join the study and run trials until none is left.

    Raises:
        StudyError: no leader has made the study, this host would make other scores, or the storage cannot be used.
        PostdiffError: the model cannot be loaded, or nothing can be stored.
    """
    from postdiff_calib.cost.store import cache_folder
    from postdiff_calib.search.backend.storage import read_record, shown

    progress = progress or Silent()
    given = f"study {job.study_name!r}"
    if job.wait > 0:
        progress.stage("waiting for the leader")
    data = awaited(lambda: read_record(job.storage, job.study_name), job.wait)
    record = StudyRecord.from_dict(data, given)
    progress.stage("loading the model")
    bench = set_up(record, job)
    _require_same(given, record, bench)
    device = None
    if record.cost.latency is not None:
        device = str(record.cost.latency.environment.get("device_name", "unknown"))
    measured = f"measured on the leader's {device}" if device else "not measured: the study is priced in MACs alone"
    progress.note(f"seconds are {measured}; this worker times nothing")

    # The baseline's images, which others are measured against; shared by all workers of this host.
    folder = cache_folder() / "workers" / content_hash([json.dumps(record.fingerprint, sort_keys=True)])[:16]
    others = LocalWorkers((), job.storage, job.study_name, progress.note)
    with ExitStack() as stack:
        stack.callback(close_scorers, (bench.scorer, *bench.also))
        stack.enter_context(bench.compiled(progress.note))
        result = run_stage(Study(folder, record), bench, progress, workers=others, join=True)
    return WorkerResult(
        study=job.study_name,
        storage=shown(job.storage),
        trials=result.own_trials,
        images=result.images_made,
        study_trials=result.trials,
        failed=result.failed,
        latency_of=device,
        interrupted=result.interrupted,
    )


def awaited(
    read: Callable[[], Any],
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Any:
    """What ``read`` returns, once the leader has made the study and described it.

    Args:
        read: raises ``NoStudyYetError`` until then; any other error is passed on at once.
        seconds: by ``clock`` after which that is passed on too.
        clock, pause: returns seconds; lets some go by.

    Raises:
        StudyError: there was no study in all that time, or it cannot be read.
    """
    end = clock() + seconds
    while True:
        try:
            return read()
        except NoStudyYetError as error:
            if clock() >= end:
                waited = f" after {seconds:.0f} s" if seconds > 0 else ""
                raise NoStudyYetError(error.given, f"{error.rule}{waited}", error.remedy) from error
        pause(min(POLL, max(0.0, end - clock())))


def set_up(record: StudyRecord, job: WorkerJob) -> Workbench:
    """Load the study's model and scorer, with its prompts and settings.

    Raises:
        ModelError: the model or a scorer cannot be loaded on this host.
        UsageError: a scorer is code that the study alone names.
    """
    from postdiff_calib.models.load import load_pipeline

    dtype = record.model.dtype if job.dtype == "auto" else job.dtype
    deployment = record.asked.deployment
    stated = record.asked.scorer
    others = {parse_scorer(text, "--also").metric: text for text in record.asked.also}
    named = named_again(stated or EMBEDDED, others, job.scorer, job.also)
    loaded = load_pipeline(job.model or record.model_to_load, device=job.device, dtype=dtype, settings=deployment)
    if stated is None and job.scorer is None:
        named = (parse_scorer(loaded.card.scorer), *named[1:])
    scorer, *also = loaded_scorers(named, loaded.device)

    def prompt_set(prompts: Sequence[str]) -> PromptSet:
        return PromptSet(tuple(prompts), content_hash(prompts), name=record.evidence.prompt_set)

    calibration, held_out = prompt_set(record.calibration), prompt_set(record.held_out)
    mode = stated_mode(record.fingerprint.get("compile")) or "off"
    return Workbench(
        loaded,
        scorer,
        calibration,
        held_out,
        record.seed,
        record.settings,
        deployment,
        record.asked.restrictions,
        compile=mode,
        also=tuple(also),
    )


def _require_same(given: str, record: StudyRecord, bench: Workbench) -> None:
    """Refuse a host whose scores would not be the study's."""
    from postdiff_calib.quality.metrics import absent, metric

    if other := other_settings(record.fingerprint, bench.fingerprint()):
        raise StudyError(
            given,
            f"this host would make other scores: {other}",
            "use the leader's model and --dtype",
        )
    for guard in record.asked.rails:
        if (found := absent(metric(guard.metric))) is not None:
            label = metric(guard.metric).label
            raise StudyError(given, f"its guard on {label} cannot be computed here: {found.rule}", found.remedy)
