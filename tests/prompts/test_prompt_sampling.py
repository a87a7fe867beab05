import json
from random import Random

import numpy as np
import pytest

from postdiff_calib.errors import OutputError, PromptError
from postdiff_calib.prompts import draw, load_prompt_set
from postdiff_calib.prompts.read import PromptSet
from postdiff_calib.prompts.sample import clusters, sample, write_set


def corpus(n=4000, seed=0):
    rng = Random(seed)
    return PromptSet(tuple(f"p{i} " + "word " * rng.choice([3, 3, 3, 8, 8, 20]) for i in range(n)), "x")


def lengths(prompts):
    return np.array([len(p.split()) for p in prompts])


def test_sample_is_seeded_disjoint_and_of_the_asked_sizes():
    source = corpus()
    calibration, held_out = sample(source, 300, seed=1)
    assert (len(calibration), len(held_out)) == (300, 150)
    assert len({*calibration, *held_out}) == 450
    assert sample(source, 300, seed=1) == (calibration, held_out)
    assert set(sample(source, 300, seed=2)[0]) != set(calibration)


def test_every_length_is_represented_in_proportion():
    source = corpus()
    calibration, held_out = sample(source, 300, seed=3)
    for length in (4, 9, 21):
        share = (lengths(source) == length).mean()
        assert (lengths(calibration) == length).mean() == pytest.approx(share, abs=0.015)
        assert (lengths(held_out) == length).mean() == pytest.approx(share, abs=0.015)


def test_every_cluster_is_represented_in_proportion():
    source = corpus(1000)
    topic = np.arange(1000) % 10 == 0  # a tenth is about something else
    points = np.random.default_rng(0).normal(size=(1000, 4)) * 0.05 + topic[:, None] * 3.0
    calibration, _ = sample(source, 100, seed=0, stratify="embedding", embed=lambda prompts: points)
    rare = {p for p, is_rare in zip(source, topic, strict=True) if is_rare}
    assert len(rare & set(calibration)) == pytest.approx(10, abs=2)
    labels = np.array(clusters(points, 0))
    assert not set(labels[topic]) & set(labels[~topic])
    assert clusters(points, 0) == clusters(points, 0)


def test_the_whole_corpus_can_be_used_and_no_more():
    calibration, held_out = sample(corpus(15), 10, seed=0)
    assert len({*calibration, *held_out}) == 15
    with pytest.raises(PromptError, match="15 distinct prompts"):
        sample(corpus(15), 11, seed=0)
    with pytest.raises(PromptError, match="at least 1"):
        sample(corpus(15), 0, seed=0)


def test_written_set_keeps_its_split_and_provenance(tmp_path):
    calibration, held_out = sample(corpus(60), 20, seed=0)
    path = tmp_path / "new" / "set.jsonl"
    write_set(path, calibration, held_out, {"source": "made up", "licence": "CC0-1.0"})
    loaded = load_prompt_set(path)
    assert [" ".join(p.split()) for p in calibration] == list(loaded.prompts)
    assert loaded.licence == "CC0-1.0"
    first, second = draw(loaded, 20, seed=5)
    assert set(second) == {" ".join(p.split()) for p in held_out}
    assert set(first) == set(loaded.prompts)
    assert json.loads(path.read_text().splitlines()[0])["held_out"] == 10
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_set(tmp_path / "file" / "x.jsonl", calibration, held_out, {})


def test_command_samples_a_coco_sized_file(tmp_path):
    typer_testing = pytest.importorskip("typer.testing")
    import typer

    from postdiff_calib.cli.prompts import sample_command as command

    rows = [
        {"image_id": i, "id": 5 * i + j, "caption": f"scene {i} seen {j} times"} for i in range(40_000) for j in (0, 1)
    ]
    (tmp_path / "captions.json").write_text(json.dumps({"annotations": rows}))
    app = typer.Typer()
    app.command()(command)
    arguments = ["--from", str(tmp_path / "captions.json"), "--size", "500", "--out", str(tmp_path / "x.jsonl")]
    done = typer_testing.CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "500 calibration and 250 held-out prompts of 40000" in done.output
    assert len(load_prompt_set(tmp_path / "x.jsonl")) == 500
