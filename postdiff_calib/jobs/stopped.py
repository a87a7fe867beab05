"""What a calibration or a study that was stopped leaves behind, and what it says about it.

Ctrl-C and SIGTERM end the search after the image in hand. The best plan so far goes into a profile, but never over a
profile whose plan was confirmed on held-out prompts: that one is worth more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from postdiff_calib.errors import PostdiffError
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.profile import load_profile
from postdiff_calib.scores.names import DATABASE, OTHER_SEEDS, SCORES
from postdiff_calib.study.record import RECORD


def place_for_unfinished(out: Path) -> Path:
    """Where a stopped calibration writes its profile: ``out`` itself, or beside it where a confirmed profile is."""
    try:
        confirmed = load_profile(out).expected.confirmed
    except (PostdiffError, OSError):
        return out
    return out.with_name(f"{out.stem}.interrupted{out.suffix}") if confirmed else out


def stopped_line(job: CalibrateJob, written: Path | None = None) -> str:
    """What was kept and how to go on, without a line break.

    Args:
        job: what was stopped.
        written: the profile of the best plan so far; None where no plan was scored on enough prompts.
    """
    told = []
    if written is not None and written != job.out:
        told.append(f"{job.out} holds a confirmed profile and stays as it is, the best plan so far is in {written}")
    names = (RECORD,) if job.shared_storage is not None else (SCORES, OTHER_SEEDS, DATABASE)
    if any((job.folder / name).is_file() for name in names):
        where = job.folder if job.storage is None else f"study {job.study_name!r} of the storage"
        told.append(f"all scores so far are kept in {where}")
        told.append("the same command without --fresh goes on" if job.fresh else "the same command goes on")
    else:
        told.append("nothing was scored yet, the same command starts again")
    return "; ".join(told)


@contextmanager
def saying_what_is_kept(folder: Path, values: Sequence[str], *, fresh: bool) -> Iterator[None]:
    """Ctrl-C and SIGTERM inside the block say what a study's folder keeps and how to go on.

    Args:
        folder: the study's.
        values: names of its files of values, ``*`` standing for anything.
        fresh: the study was started anew.

    Raises:
        KeyboardInterrupt: with the line as its text.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        if any(path.stat().st_size for name in values for path in folder.glob(name)):
            again = "the same command without --fresh goes on" if fresh else "the same command goes on"
            told = f"what was made so far is kept in {folder}; {again}"
        else:
            told = "nothing was made yet, the same command starts again"
        raise KeyboardInterrupt(str(stop) or told) from stop
