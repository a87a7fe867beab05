import runpy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds

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
    assert (len(calibration), len(held_out)) == (250, 500)


def latent_semantics(prompts, dimensions=400):
    """Latent semantic analysis: TF-IDF of words and of character 3- to 5-grams, reduced by a truncated SVD.

    A bag-of-words embedding, not a neural one: it sees reordered and slightly reworded prompts, not synonyms.
    """

    def terms(prompt):
        text = f" {' '.join(prompt.lower().replace(',', ' ').split())} "
        return Counter([*text.split(), *(text[i : i + n] for n in (3, 4, 5) for i in range(len(text) - n + 1))])

    counts = [terms(prompt) for prompt in prompts]
    documents = Counter(term for count in counts for term in count)
    column = {term: i for i, term in enumerate(sorted(documents))}
    rows, columns, values = [], [], []
    for row, count in enumerate(counts):
        for term, times in count.items():
            rows.append(row)
            columns.append(column[term])
            values.append((1 + np.log(times)) * np.log(len(prompts) / documents[term]))
    matrix = csr_matrix((values, (rows, columns)), shape=(len(prompts), len(column)))
    left, size, _ = svds(matrix, k=dimensions, random_state=0)
    points = left * size
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def test_no_two_scenes_are_near_duplicates_by_latent_semantic_analysis():
    prompts = list(load_prompt_set("scenes").prompts)
    # copies with one word changed, and with the halves swapped, must stand out from what is shipped
    longest = sorted(prompts, key=len)[-20:]
    reworded = [" ".join([*p.split()[:3], "really", *p.split()[3:]]) for p in longest]
    swapped = [" ".join([*p.split()[len(p.split()) // 2 :], *p.split()[: len(p.split()) // 2]]) for p in longest]
    points = latent_semantics(prompts + reworded + swapped)
    likeness = points @ points.T
    own = likeness[:1000, :1000] - np.eye(1000)
    originals = [prompts.index(p) for p in longest]
    copies = [likeness[i, 1000 + j] for j, i in enumerate(originals)]
    copies += [likeness[i, 1020 + j] for j, i in enumerate(originals)]

    assert own.max() < 0.86
    assert min(copies) > 0.9
