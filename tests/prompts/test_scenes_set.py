import runpy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from postdiff_calib.prompts import draw, load_prompt_set, shipped_sets


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(Path(__file__).parents[2] / "calib_sets" / "make_scenes.py"))


def test_shipped_scenes_are_what_the_script_writes(script):
    assert shipped_sets()["scenes"].read_text(encoding="utf-8") == script["text"]()


def test_no_two_scenes_are_near_duplicates(script):
    prompts = load_prompt_set("scenes").prompts
    assert len(prompts) == 1000
    sets = [script["triples"](p) for p in prompts]
    index: dict = {}
    for i, mine in enumerate(sets):
        for triple in mine:
            index.setdefault(triple, []).append(i)
    worst = 0.0
    for i, mine in enumerate(sets):
        for j, shared in Counter(k for t in mine for k in index[t] if k < i).items():
            worst = max(worst, shared / len(mine | sets[j]))
    assert worst <= 0.30
    # whatever measure: no two prompts hold the same words
    assert len({frozenset(p.lower().split()) for p in prompts}) == 1000


def test_scenes_vary_in_length_subject_and_style():
    prompts = load_prompt_set("scenes").prompts
    lengths = np.array([len(p.split()) for p in prompts])
    assert lengths.min() >= 4
    assert lengths.max() <= 45
    assert (lengths <= 8).mean() > 0.1
    assert (lengths >= 18).mean() > 0.1
    assert max(Counter(" ".join(p.lower().split()[:6]) for p in prompts).values()) <= 12
    words = Counter(w for p in prompts for w in set(p.lower().replace(",", "").split()))
    assert len(words) > 1000
    calibration, held_out = draw(load_prompt_set("scenes"), 500, seed=0)
    assert (len(calibration), len(held_out)) == (500, 250)
