"""The tables of docs/studies.md say what the recorded results say."""

import json
import re
from pathlib import Path

import pytest

from postdiff_calib.report.wording import interval
from postdiff_calib.scores.paired import Comparison

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results"
#: A row such as ``| k = 2 | 59 % | +0.01 [−0.10, +0.13] | …``.
ROW = re.compile(r"^\| ([km]) = ([\d.]+) \| (\d+) % \| ([^|]+) \|", re.MULTILINE)


def tables():
    """Rows of each table with k and m, by the model that heads it."""
    text = (ROOT / "docs" / "studies.md").read_text()
    found = {}
    for model in ("shapes", "shapes-flow"):
        (table,) = re.findall(rf"^\| `{model}` \| MACs .*\n\|[- |]+\n((?:\|.*\n)+)", text, re.MULTILINE)
        found[model] = ROW.findall(table)
    return found


def recorded(model, knob):
    if model == "shapes":
        return json.loads((RESULTS / "study_table.json").read_text())[knob]
    return json.loads((RESULTS / f"study_{knob}_{model}.json").read_text())


@pytest.mark.parametrize("model", ["shapes", "shapes-flow"])
def test_k_and_m(model):
    rows = tables()[model]
    assert len(rows) == 9
    for knob, value, share, shown in rows:
        settings = {row["label"]: row for row in recorded(model, knob)["settings"]}
        row = settings[f"{knob}={value}"]
        assert f"{row['share']:.0%}" == f"{share}%"
        assert interval(Comparison(**row["measures"]["clip"]["difference"]), "clip") == shown.strip()


@pytest.mark.parametrize("model", ["shapes"])
def test_clean_estimates(model):
    baseline, *traces = (t["mean"] for t in recorded_trace(model))
    below, jumps, late = [], [], []
    for trace, low in zip(traces, (6, 10, 14), strict=True):
        gaps = [b - own for b, own in zip(baseline, trace, strict=True)]
        below += gaps[:low]
        jumps.append(trace[low] - trace[low - 1])
        late.append(gaps[low + 5] - min(gaps[low:]))
    text = " ".join((ROOT / "docs" / "studies.md").read_text().split())
    assert f"it stays {min(below):.0f} to {max(below):.0f} points below" in text
    assert f"jumps by {min(jumps):.0f} to {max(jumps):.0f} at the switch" in text
    assert max(late) <= 0.5


def recorded_trace(model):
    return json.loads((RESULTS / f"study_trace_{model}.json").read_text())["traces"]
