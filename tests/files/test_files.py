"""Files are written whole, through links, with the modes they should have; nothing is destroyed; texts are bounded."""

import os
import stat

import pytest

from postdiff_calib.errors import OutputError, PostdiffError, ProfileError, one_line, printable
from postdiff_calib.files import (
    file_sha256,
    read_yaml,
    refuse_output,
    refuse_result,
    replacing,
    require_writable,
    safe_name,
    without_passwords,
    write_atomically,
)
from postdiff_calib.files.lock import LOCK
from postdiff_calib.files.write import STUDY_FILES
from postdiff_calib.jobs import judge, methods
from postdiff_calib.jobs.ablate import TRACES
from postdiff_calib.jobs.judge import SECONDS
from postdiff_calib.jobs.overwrite import EXPORTED
from postdiff_calib.jobs.paper_study import ABOUT
from postdiff_calib.jobs.redundancy import VALUES
from postdiff_calib.models.tuning.asked import STATE
from postdiff_calib.prompts.sample import Sample, write_set
from postdiff_calib.scores import names
from postdiff_calib.study import record


@pytest.fixture
def umask():
    before = os.umask(0o077)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_a_new_file_gets_what_the_umask_leaves(tmp_path, umask):
    assert mode(write_atomically(tmp_path / "p.yaml", "x")) == 0o600


def test_an_existing_file_keeps_its_mode(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("old")
    path.chmod(0o640)
    write_atomically(path, "new")
    assert (path.read_text(), mode(path)) == ("new", 0o640)


def test_links_are_followed(tmp_path):
    (tmp_path / "real").mkdir()
    for name in ("there.yaml", "absent.yaml"):
        (tmp_path / name).symlink_to(tmp_path / "real" / name)
    (tmp_path / "real" / "there.yaml").write_text("old")
    for name in ("there.yaml", "absent.yaml"):
        write_atomically(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "real" / name).read_text() == "new"
    assert sorted(p.name for p in (tmp_path / "real").iterdir()) == ["absent.yaml", "there.yaml"]


def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    for path in (tmp_path / "fifo", tmp_path / "link"):
        with pytest.raises(OutputError, match="a FIFO, not a regular file"):
            write_atomically(path, "x")
    with pytest.raises(OutputError, match="a device, not a regular file"):
        write_atomically("/dev/null", "x")
    assert stat.S_ISFIFO(os.stat(tmp_path / "fifo").st_mode)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt(), TypeError("x")])
def test_whatever_fails_leaves_the_old_file_and_nothing_else(tmp_path, fault):
    path = tmp_path / "p.png"
    path.write_text("old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise fault

    with pytest.raises((OutputError, KeyboardInterrupt, TypeError)):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]


def test_a_prompt_set_on_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_set(tmp_path / "set.jsonl", Sample(["a"], ["b"], 2), {})
    assert list(tmp_path.iterdir()) == []


def test_a_name_of_the_longest_length_can_be_written(tmp_path):
    path = tmp_path / ("x" * 255)
    assert write_atomically(path, "x").read_text() == "x"
    with pytest.raises(OutputError, match="name too long"):
        write_atomically(tmp_path / ("x" * 256), "x")


def test_inputs_and_study_files_are_no_outputs(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    os.link(tmp_path / "a.txt", tmp_path / "b.txt")
    for name in ("a.txt", "b.txt", "./a.txt"):
        with pytest.raises(OutputError, match="an input of this command"):
            refuse_output(tmp_path / name, inputs=[tmp_path / "a.txt"])
    refuse_output(tmp_path / "scores.jsonl")
    for name in STUDY_FILES:
        with pytest.raises(OutputError, match="a file of the study"):
            refuse_output(tmp_path / name, study=tmp_path)
    (tmp_path / "study.db").write_text("")
    with pytest.raises(OutputError, match="a file of the study"):
        refuse_output(tmp_path / "scores.jsonl")
    refuse_output(tmp_path / "profile.yaml", study=tmp_path)
    for name in ("baseline/000000-0123456789abcdef.png", "images/a.png", "baseline/deep/a.png"):
        with pytest.raises(OutputError, match="among the images of the study"):
            refuse_output(tmp_path / name, what="plot")
    (tmp_path / "elsewhere" / "images").mkdir(parents=True)
    refuse_output(tmp_path / "elsewhere" / "images" / "a.png")
    known = {
        names.DATABASE,
        names.DAMAGED_DATABASE,
        names.SCORES,
        names.HELD_OUT,
        names.OTHER_SEEDS,
        record.RECORD,
        LOCK,
        EXPORTED,
        ABOUT,
        VALUES,
        TRACES,
        SECONDS,
        STATE,
    }
    assert known == STUDY_FILES
    for name in (*judge.VALUES, *methods.VALUES):
        with pytest.raises(OutputError, match="a file of the study"):
            refuse_output(tmp_path / name.replace("*", "x"))


def test_a_result_and_its_plot_are_two_files_of_their_own(tmp_path):
    refuse_result(tmp_path / "r.json")
    refuse_result(tmp_path / "r")
    with pytest.raises(OutputError, match=r"output .*r\.png: the plot beside it has that name"):
        refuse_result(tmp_path / "r.png")
    (tmp_path / "r.png").mkdir()
    with pytest.raises(OutputError, match=r"output .*r\.png: it is a folder"):
        refuse_result(tmp_path / "r.json")
    (tmp_path / "t.png").touch()
    with pytest.raises(OutputError, match=r"output .*t\.png: it is an input"):
        refuse_result(tmp_path / "t.json", inputs=[tmp_path / "t.png"])


def test_trying_a_folder_makes_nothing_and_follows_no_link(tmp_path):
    victim = tmp_path / "victim"
    (tmp_path / ".postdiff-probe").symlink_to(victim)
    before = sorted(tmp_path.iterdir())
    require_writable(tmp_path, "output")
    require_writable(tmp_path / "new" / "deep", "output")
    assert sorted(tmp_path.iterdir()) == before
    assert not victim.exists()


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    with pytest.raises(OutputError, match=r"output p: it cannot be written \(Permission denied\)"):
        require_writable(tmp_path, "output p")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("sd15", "sd15"),
        ("runwayml/stable-diffusion", "runwayml-stable-diffusion"),
        ("..", "model"),
        (".", "model"),
        ("", "model"),
        ("///", "model"),
        ("../..", "model"),
        ("../sd15", "-.-sd15"),
        (".hidden", "-hidden"),
        ("a\x00b\nc", "a-b-c"),
        ("ü", "ü"),
    ],
)
def test_names_are_safe_in_paths(text, name):
    assert safe_name(text, "model") == name
    assert safe_name(text, "model") not in ("", ".", "..")


def test_long_names_are_cut_and_stay_distinct():
    first, second = (safe_name("ü" * 200 + end, "model") for end in "ab")
    assert first != second
    assert len(first.encode()) <= 120


def test_a_studys_folder_is_never_its_parent():
    from postdiff_calib.jobs.job import CalibrateJob

    folders = [CalibrateJob(model=model).folder for model in ("..", "../..", "a/../..", ".", "sd15")]
    assert all(folder.parent.name == "studies" and folder.name not in ("", ".", "..") for folder in folders)


def test_hashes_are_of_the_whole_file(tmp_path):
    import hashlib

    content = bytes(range(256)) * 9000
    (tmp_path / "f").write_bytes(content)
    assert file_sha256(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_an_error_is_one_printable_line():
    error = PostdiffError("a\x1b[31m\nb", "c\r\nd\u202e", "e\ud800\x9b")
    assert str(error) == r"a\x1b[31m b: c d\u202e; e\ud800\x9b"
    assert len(one_line("x" * 10_000)) == 1500
    assert printable("a\nb", keep="\n") == "a\nb"


def test_depth_and_length_are_bounded_at_their_limits():
    def nested(depth):
        return "[" * depth + "]" * depth

    assert read_yaml(f"a: {nested(31)}", "f")[0]
    with pytest.raises(ProfileError, match="nested more than 32"):
        read_yaml(f"a: {nested(32)}", "f")
    assert read_yaml(f"a: {2**64 - 1}", "f")[0] == {"a": 2**64 - 1}
    with pytest.raises(ProfileError, match="64 bits"):
        read_yaml(f"a: {2**64}", "f")
    with pytest.raises(ProfileError, match="larger than 1 MB"):
        read_yaml("a" * (1 << 20) + "a", "f")


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("postgresql://me:sesame@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:se@sa/me x@host/db", "postgresql://me:***@host/db"),
        ("postgresql://host/db?password=sesame&sslmode=on", "postgresql://host/db?password=***&sslmode=on"),
        ("postgresql://host/db:password=sesame", "postgresql://host/db:password=***"),
        ("mssql:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dsesame", "mssql:///?odbc_connect=DRIVER%3Dx%3BPWD%3D***"),
        ("DRIVER={x};UID=me;PWD={ses;ame}", "DRIVER={x};UID=me;PWD=***"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("studies/shapes", "studies/shapes"),
        ("a prompt: with password = shown", "a prompt: with password = shown"),
    ],
)
def test_addresses_lose_their_passwords(text, seen):
    assert without_passwords(text) == seen
