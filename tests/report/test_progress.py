import io
import re

from rich.console import Console

from postdiff_calib.progress import Silent
from postdiff_calib.report import progress as module
from postdiff_calib.report.progress import console_progress


def shown(monkeypatch, *, terminal, width=120):
    """What a stage of 40 images, of at first 100 at most, looks like a minute on."""
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=width, no_color=True, get_time=lambda: now)
    with console_progress(quiet=False, console=console) as bar:
        bar.stage("searching")
        for _ in range(4):
            now += 15.0
            bar.advance(10, "trial 3/36, best k=2 -0.10", total=100)
        bar.note("[b]not bold[/b]")
    return out.getvalue()


def test_plain_lines_say_how_far_how_much_and_how_long_still(monkeypatch):
    lines = shown(monkeypatch, terminal=False).splitlines()
    assert lines[0] == "searching …"
    assert lines[1] == "searching: 10/100, 15 s, about 2 min left · trial 3/36, best k=2 -0.10"
    assert lines[4] == "searching: 40/100, 60 s, about 2 min left · trial 3/36, best k=2 -0.10"


def test_the_live_view_says_the_same(monkeypatch):
    text = shown(monkeypatch, terminal=True)
    assert "note [b]not bold[/b]" in text
    last = text.rsplit("searching", 1)[1]
    assert "40/100" in last
    assert "2 min left" in last
    assert "trial 3/36, best k=2 -0.10" in last


def test_at_eighty_columns_the_live_view_is_whole(monkeypatch):
    text = shown(monkeypatch, terminal=True, width=80)
    bar, remark = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text).rstrip().splitlines()[-2:]
    assert "…" not in text
    assert bar.split()[0] == "searching"
    assert "40/100" in bar
    assert bar.rstrip().endswith("2 min left")
    assert remark.strip() == "trial 3/36, best k=2 -0.10"


def test_quiet_shows_nothing():
    out = io.StringIO()
    with console_progress(quiet=True, console=Console(file=out)) as bar:
        assert isinstance(bar, Silent)
        bar.stage("searching", 3)
        bar.advance(1, "x", total=5)
        bar.note("y")
    assert out.getvalue() == ""
