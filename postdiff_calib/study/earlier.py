"""What an earlier call on a study's folder left in its record, where it is the same study."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postdiff_calib.profile.match import other_settings
from postdiff_calib.study.record import RECORD, Study, StudyRecord

if TYPE_CHECKING:
    from postdiff_calib.cost.table import Latency


def with_earlier_searches(study: Study) -> Study:
    """The study with the budgets that an earlier call searched in the same space; nothing is saved yet.

    Whole calls that it timed are kept beside the seconds that they were timed with.
    """
    earlier = earlier_record(study)
    if earlier is None:
        return study
    if earlier.cost.latency == study.record.cost.latency:
        study = replace(study, record=replace(study.record, whole_calls=earlier.whole_calls))
    if earlier.asked.restrictions != study.record.asked.restrictions:
        return study
    return replace(study, record=replace(study.record, searched=earlier.searched))


def fitted_earlier(study: Study) -> int | None:
    """How many images at a time an earlier call found to fit into memory; None where not, or on another device."""
    earlier = earlier_record(study)
    if earlier is None or earlier.environment.device != study.record.environment.device:
        return None
    return earlier.fitting


def earlier_seconds(folder: Path, environment: dict[str, Any]) -> Latency | None:
    """The seconds that the study in a folder was begun with; None where it has none of this environment."""
    record = _record_in(folder)
    latency = None if record is None else record.cost.latency
    return latency if latency is not None and dict(latency.environment) == environment else None


def earlier_record(study: Study) -> StudyRecord | None:
    """The record in the study's folder; None where there is none, or one of another study."""
    earlier = _record_in(study.folder)
    if earlier is None or other_settings(earlier.fingerprint, study.record.fingerprint):
        return None
    return earlier


def _record_in(folder: Path) -> StudyRecord | None:
    return Study.load(folder).record if os.path.lexists(folder / RECORD) else None
