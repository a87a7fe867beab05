import json
import sys
import tracemalloc
from random import Random

import numpy as np
import pytest

from postdiff_calib.cli.main import main
from postdiff_calib.errors import OutputError, PromptError
from postdiff_calib.models.cards import get_card
from postdiff_calib.prompts import draw, load_prompt_set
from postdiff_calib.prompts.read import Corpus, PromptSet
from postdiff_calib.prompts.sample import BATCH, Sample, cluster_centres, nearest, sample, write_set


def corpus(n=4000, seed=0):
    rng = Random(seed)
    return PromptSet(tuple(f"p{i} " + "word " * rng.choice([3, 3, 3, 8, 8, 20]) for i in range(n)), "x")


def lengths(prompts):
    return np.array([len(p.split()) for p in prompts])


def run(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main(["prompts", "sample", *argv])
    out = capsys.readouterr()
    return stop.value.code, out.out, out.err


def test_categories_go_with_the_prompts(tmp_path, capsys):
    rows = [f"a wish no. {i}\t{('here', 'there')[i % 2]}" for i in range(40)]
    (tmp_path / "wishes.tsv").write_text("\n".join(["Wish\tPlace", *rows]))
    out = tmp_path / "o.jsonl"
    options = ["--from", str(tmp_path / "wishes.tsv"), "--out", str(out), "--size", "10"]
    code, _, err = run(capsys, *options)
    assert (code, "its columns are Wish, Place" in err) == (2, True)
    assert run(capsys, *options, "--column", "wish", "--category", "place")[0] == 0
    drawn = load_prompt_set(out)
    assert (len(drawn), len(drawn.held_out)) == (5, 10)
    assert drawn.categories == {
        prompt: ("here", "there")[int(prompt.split()[-1]) % 2] for prompt in (*drawn.prompts, *drawn.held_out)
    }


def test_sample_is_seeded_disjoint_and_of_the_asked_sizes():
    source = corpus()
    drawn = sample(source, 300, seed=1)
    assert (len(drawn.calibration), len(drawn.held_out), drawn.corpus_prompts) == (150, 300, 4000)
    assert len({*drawn.calibration, *drawn.held_out}) == 450
    assert sample(source, 300, seed=1) == drawn
    assert set(sample(source, 300, seed=2).calibration) != set(drawn.calibration)


@pytest.mark.parametrize(("size", "searched"), [(1, 1), (2, 1), (3, 1), (4, 2), (7, 3)])
def test_half_of_the_size_is_for_the_search_and_at_least_one_prompt(size, searched):
    drawn = sample(corpus(30), size, seed=1)
    assert (len(drawn.calibration), len(drawn.held_out)) == (searched, size)
    assert len({*drawn.calibration, *drawn.held_out}) == size + searched


def test_every_length_is_represented_in_proportion():
    source = corpus()
    drawn = sample(source, 300, seed=3)
    for length in (4, 9, 21):
        share = (lengths(source) == length).mean()
        assert (lengths(drawn.calibration) == length).mean() == pytest.approx(share, abs=0.015)
        assert (lengths(drawn.held_out) == length).mean() == pytest.approx(share, abs=0.015)


def test_every_cluster_is_represented_in_proportion():
    source = corpus(3000)
    rare = {p for i, p in enumerate(source) if i % 10 == 0}  # a tenth is about something else
    sizes = []

    def embed(prompts):
        sizes.append(len(prompts))
        noise = np.random.default_rng(len(prompts)).normal(size=(len(prompts), 4)) * 0.05
        return noise + np.array([[3.0 * (p in rare)] for p in prompts])

    drawn = sample(source, 100, seed=0, stratify="embedding", embed=embed)
    assert len(rare & set(drawn.calibration)) == pytest.approx(5, abs=2)
    assert len(rare & set(drawn.held_out)) == pytest.approx(10, abs=2)
    assert max(sizes) == BATCH


def test_clusters_part_what_is_apart():
    topic = np.arange(1000) % 10 == 0
    points = np.random.default_rng(0).normal(size=(1000, 4)) * 0.05 + topic[:, None] * 3.0
    labels = nearest(points, cluster_centres(points, 0))
    assert not set(labels[topic]) & set(labels[~topic])
    assert (labels == nearest(points, cluster_centres(points, 0))).all()


def test_the_whole_corpus_can_be_used_and_no_more():
    drawn = sample(corpus(15), 10, seed=0)
    assert len({*drawn.calibration, *drawn.held_out}) == 15
    with pytest.raises(PromptError, match="15 distinct prompts"):
        sample(corpus(15), 11, seed=0)
    with pytest.raises(PromptError, match="at least 1"):
        sample(corpus(15), 0, seed=0)
    with pytest.raises(PromptError, match="0 distinct prompts"):
        sample(corpus(0), 1, seed=0)


def test_repeats_and_empty_lines_count_once_and_not_at_all(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text("\n".join(f"a  dog number {i // 3}\n\nA DOG number {i // 3}" for i in range(90)))
    drawn = sample(Corpus(path), 20, seed=0)
    assert drawn.corpus_prompts == 30
    assert {*drawn.calibration, *drawn.held_out} == {f"a dog number {i}" for i in range(30)}


def test_a_corpus_is_never_held_in_memory(tmp_path):
    path = tmp_path / "large.jsonl"
    with path.open("w") as file:
        for i in range(60_000):
            file.write(json.dumps({"caption": f"{i} " + "x" * 1000}) + "\n")
    tracemalloc.start()
    try:
        drawn = sample(Corpus(path), 100, seed=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert drawn.corpus_prompts == 60_000
    assert path.stat().st_size > 60e6
    assert peak < 8e6


def test_all_formats_give_the_same_sample(tmp_path):
    texts = [f"a dog, number {i}" for i in range(200)]
    (tmp_path / "c.txt").write_text("\n".join(texts))
    (tmp_path / "c.csv").write_text("id,caption\n" + "".join(f'{i},"{t}"\n' for i, t in enumerate(texts)))
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    (tmp_path / "c.json").write_text(json.dumps(texts))
    drawn = [sample(Corpus(path), 40, seed=5) for path in sorted(tmp_path.iterdir())]
    assert len(drawn) == 4
    assert all(other == drawn[0] for other in drawn)


def test_parquet_is_read_by_batches(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = [None if i == 7 else f"a dog, number {i}" for i in range(3000)]
    table = pyarrow.table({"id": list(range(3000)), "Caption": texts})
    parquet.write_table(table, tmp_path / "c.parquet", row_group_size=500)
    (tmp_path / "c.txt").write_text("\n".join(t or "" for t in texts))
    assert sample(Corpus(tmp_path / "c.parquet"), 40, seed=5) == sample(Corpus(tmp_path / "c.txt"), 40, seed=5)
    assert len(load_prompt_set(tmp_path / "c.parquet")) == 2999
    parquet.write_table(pyarrow.table({"caption": [1, 2]}), tmp_path / "n.parquet")
    with pytest.raises(PromptError, match="no text under 'caption'"):
        load_prompt_set(tmp_path / "n.parquet")
    (tmp_path / "d.parquet").write_text("this is not it")
    with pytest.raises(PromptError, match="not Parquet"):
        load_prompt_set(tmp_path / "d.parquet")


def test_parquet_without_pyarrow_is_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "c.parquet").write_text("")
    code, out, err = run(capsys, "--from", str(tmp_path / "c.parquet"), "--out", str(tmp_path / "x.jsonl"))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "pip install 'postdiff[parquet]'" in err


def test_written_set_keeps_its_split_and_provenance(tmp_path):
    drawn = sample(corpus(60), 20, seed=0)
    path = tmp_path / "new" / "set.jsonl"
    write_set(path, drawn, {"source": "made up", "licence": "CC0-1.0"})
    loaded = load_prompt_set(path)
    assert [" ".join(p.split()) for p in drawn.calibration] == list(loaded.prompts)
    assert loaded.licence == "CC0-1.0"
    first, second = draw(loaded, 20, seed=5)
    assert set(second) == {" ".join(p.split()) for p in drawn.held_out}
    assert set(first) == set(loaded.prompts)
    header = json.loads(path.read_text().splitlines()[0])
    assert (header["held_out"], header["corpus_prompts"]) == (20, 60)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_set(tmp_path / "file" / "x.jsonl", Sample(["a"], ["b"], 2), {})


def test_command_samples_a_coco_sized_file(capsys, tmp_path):
    rows = [
        {"image_id": i, "id": 5 * i + j, "caption": f"scene {i} seen {j} times"} for i in range(40_000) for j in (0, 1)
    ]
    (tmp_path / "captions.json").write_text(json.dumps({"annotations": rows}))
    out = tmp_path / "x.jsonl"
    code, said, _ = run(capsys, "--from", str(tmp_path / "captions.json"), "--size", "500", "--out", str(out))
    assert code == 0
    assert "250 calibration and 500 held-out prompts of 40000" in said
    assert len(load_prompt_set(out)) == 250
    header = json.loads(out.read_text().splitlines()[0])
    assert header["corpus"] == "captions.json"
    assert len(header["corpus_sha256"]) == 64
    assert (header["seed"], header["stratify"]) == (0, "length")


@pytest.mark.slow
def test_command_stratifies_by_a_named_text_encoder(capsys, tmp_path):
    shapes = load_prompt_set("shapes").prompts[:300]
    (tmp_path / "c.txt").write_text("\n".join(shapes))
    scorer = get_card("shapes").scorer
    options = ["--from", str(tmp_path / "c.txt"), "--size", "40", "--stratify", "embedding", "--scorer", scorer]
    code, _, err = run(capsys, *options, "--out", str(tmp_path / "x.jsonl"))
    assert code == 0, err
    assert run(capsys, *options, "--out", str(tmp_path / "y.jsonl"))[0] == 0
    assert (tmp_path / "x.jsonl").read_bytes() == (tmp_path / "y.jsonl").read_bytes()
    header = json.loads((tmp_path / "x.jsonl").read_text().splitlines()[0])
    assert header["embedding"] == scorer
    assert set(load_prompt_set(tmp_path / "x.jsonl").prompts) <= set(shapes)
    # another draw than by length alone, since clusters decide first
    assert set(sample(Corpus(tmp_path / "c.txt"), 40, seed=0).calibration) != set(
        load_prompt_set(tmp_path / "x.jsonl").prompts
    )
    code, _, err = run(capsys, *options[:-1], "no-such-model", "--out", str(tmp_path / "z.jsonl"))
    assert (code, err.count("\n")) == (2, 1)
