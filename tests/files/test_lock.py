"""One process at a time on a study's folder; a killed one leaves no lock and no file half written."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from postdiff_calib.errors import OutputError, StudyError
from postdiff_calib.files import StudyLock, remove_leftovers, replacing
from postdiff_calib.jobs.calibrate import run_calibrate
from postdiff_calib.jobs.job import CalibrateJob

HOLD = """
    import sys
    sys.path.insert(0, {root!r})
    from pathlib import Path
    from postdiff_calib.files import StudyLock

    lock = StudyLock(Path({folder!r}))
    lock.take()
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock on ``tmp_path / "study"`` until it is killed."""
    script = HOLD.format(root=str(Path(__file__).parents[2]), folder=str(tmp_path / "study"))
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_by_the_name_of_the_first(tmp_path, holder):
    with (
        pytest.raises(StudyError, match=rf"process {holder.pid} on .* is working on it; wait"),
        StudyLock(tmp_path / "study") as lock,
    ):
        lock.take()
    # the refused attempt neither took the lock nor the first one's name
    assert (tmp_path / "study" / "study.lock").read_text().startswith(f"process {holder.pid} ")


def test_a_second_calibration_is_refused_before_a_model_is_loaded(tmp_path, holder, monkeypatch):
    monkeypatch.setattr("postdiff_calib.models.load.load_pipeline", None)
    before = sorted((tmp_path / "study").iterdir())
    with pytest.raises(StudyError, match=f"process {holder.pid} "):
        run_calibrate(CalibrateJob(study=tmp_path / "study", out=tmp_path / "p.yaml"))
    assert sorted((tmp_path / "study").iterdir()) == before


def test_a_killed_process_leaves_no_lock_and_nothing_half_written(tmp_path, holder):
    folder = tmp_path / "study"
    (folder / "baseline").mkdir()
    halves = [folder / ".postdiff-0123.tmp", folder / "baseline" / ".postdiff-4567.tmp"]
    for path in (*halves, folder / "kept.tmp"):
        path.write_text("half")
    holder.kill()
    holder.wait()
    with StudyLock(folder, inside=("baseline",)) as lock:
        lock.take()
        lock.take()  # held already
        assert (folder / "study.lock").read_text().startswith(f"process {os.getpid()} ")
    assert sorted(path.name for path in folder.rglob("*")) == ["baseline", "kept.tmp", "study.lock"]
    with StudyLock(folder) as again:
        again.take()


def test_looking_early_makes_no_folder_and_a_file_in_the_way_is_one_line(tmp_path):
    with StudyLock(tmp_path / "new") as lock:
        lock.take(make=False)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="it cannot be locked"), StudyLock(tmp_path / "file") as lock:
        lock.take()


WRITE = """
    import sys
    sys.path.insert(0, {root!r})
    from postdiff_calib.files import replacing

    with replacing({path!r}) as temporary:
        temporary.write_text("half")
        print("writing", flush=True)
        sys.stdin.read()
"""


def test_beside_an_output_only_what_nobody_writes_any_more_is_removed(tmp_path):
    script = WRITE.format(root=str(Path(__file__).parents[2]), path=str(tmp_path / "p.yaml"))
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "writing\n"
    (tmp_path / "mine.tmp").write_text("of somebody else")
    with replacing(tmp_path / "q.yaml") as own:
        remove_leftovers(tmp_path, shared=True)
        assert own.exists()
        own.write_text("whole")
    assert len(list(tmp_path.glob(".postdiff-*.tmp"))) == 1
    process.kill()
    process.communicate()
    remove_leftovers(tmp_path, shared=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.tmp", "q.yaml"]


def test_a_file_that_was_cleared_up_before_its_lock_is_made_again(tmp_path, monkeypatch):
    made = os.open

    def cleared(path, flags, mode=0o777):
        handle = made(path, flags, mode)
        if flags & os.O_EXCL:
            monkeypatch.setattr(os, "open", made)
            os.unlink(path)
        return handle

    monkeypatch.setattr(os, "open", cleared)
    with replacing(tmp_path / "q.yaml") as temporary:
        temporary.write_text("whole")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("q.yaml", "whole")]
