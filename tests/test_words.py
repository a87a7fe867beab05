"""The project's own words: images and baseline, and docstrings that say who calls what."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [path for path in (ROOT / "postdiff_calib").rglob("*") if path.suffix in (".py", ".html", ".js", ".css", ".md")]
FILES += [path for name in ("docs", "benchmarks") for path in (ROOT / name).rglob("*") if path.suffix in (".py", ".md")]
FILES += [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]

#: Words that are not used, and those that are.
AVOIDED = {
    r"picture": "images",
    r"unaccelerated": "the baseline",
    r"\bis told\b": "called with …",
    r"\bin words:": "plan",
}


@pytest.mark.parametrize("word", AVOIDED)
def test_other_words_stay_out(word):
    found = [
        f"{path.relative_to(ROOT)}:{number}: say {AVOIDED[word]}"
        for path in FILES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(word, line, re.IGNORECASE)
    ]
    assert not found


def test_the_words_are_looked_for_everywhere():
    assert len(FILES) > 200
    assert any(path.suffix == ".html" for path in FILES)
