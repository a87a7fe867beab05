"""What an earlier call on a study's folder left in its record, where it is the same study."""

from __future__ import annotations

import os
from dataclasses import replace

from postdiff_calib.profile.match import other_settings
from postdiff_calib.study.record import RECORD, Study, StudyRecord


def with_earlier_searches(study: Study) -> Study:
    """The study with the budgets that an earlier call searched in the same space; nothing is saved yet."""
    earlier = earlier_record(study)
    if earlier is None or earlier.asked.restrictions != study.record.asked.restrictions:
        return study
    return replace(study, record=replace(study.record, searched=earlier.searched))


def fitted_earlier(study: Study) -> int | None:
    """How many images at a time an earlier call found to fit into memory; None where not, or on another device."""
    earlier = earlier_record(study)
    if earlier is None or earlier.environment.device != study.record.environment.device:
        return None
    return earlier.fitting


def earlier_record(study: Study) -> StudyRecord | None:
    """The record in the study's folder; None where there is none, or one of another study."""
    if not os.path.lexists(study.folder / RECORD):
        return None
    earlier = Study.load(study.folder).record
    return None if other_settings(earlier.fingerprint, study.record.fingerprint) else earlier
