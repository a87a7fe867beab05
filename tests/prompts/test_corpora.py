"""Parquet corpora as they are published: a re-captioned ImageNet-21K shard, and DiffusionDB's table of prompts."""

import pytest

from postdiff_calib.errors import PromptError
from postdiff_calib.prompts import load_prompt_set
from postdiff_calib.prompts.formats import Columns
from postdiff_calib.prompts.read import Corpus
from postdiff_calib.prompts.sample import sample

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

SHORT = [f"a thing number {i}" for i in range(90)]
LONG = [f"a long caption of thing number {i} with all that is to be said of it" for i in range(30)]


@pytest.fixture
def shard(tmp_path):
    """Images with their bytes, a class, and two captions each."""
    texts = [*SHORT, *LONG]
    images = [{"bytes": bytes([i % 256]) * 50, "path": f"{i}.jpg"} for i in range(len(texts))]
    columns = {
        "image": images,
        "class": [f"n{i % 3:08d}" for i in range(len(texts))],
        "recaption": texts,
        "recaption_short": [text[:9] for text in texts],
    }
    path = tmp_path / "train-00000-of-00001.parquet"
    parquet.write_table(pa.table(columns), path, row_group_size=16)
    return path


def test_a_recaptioned_shard_is_read_by_the_columns_that_are_named(shard, monkeypatch):
    read = []
    stock = parquet.ParquetFile.iter_batches

    def watched(self, *args, columns, **more):
        for batch in stock(self, *args, columns=columns, **more):
            read.append((batch.num_rows, tuple(columns)))
            yield batch

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", watched)
    found = load_prompt_set(shard, Columns("recaption", "class"))
    assert found.prompts == (*SHORT, *LONG)
    assert found.categories[SHORT[4]] == "n00000001"
    # The images are not read with the captions.
    assert {columns for _, columns in read} == {("recaption", "class")}
    with pytest.raises(PromptError, match=r"its columns are image, class, recaption, recaption_short.*--column"):
        load_prompt_set(shard)


def test_a_sample_of_a_shard_keeps_the_proportions_of_lengths(shard):
    drawn = sample(Corpus(shard, Columns("recaption")), 40, seed=1)
    assert drawn.corpus_prompts == 120
    assert (len(drawn.held_out), len(drawn.calibration)) == (40, 20)
    for part in (drawn.held_out, drawn.calibration):
        assert sum(text in LONG for text in part) == pytest.approx(len(part) / 4, abs=1)
    assert not set(drawn.held_out) & set(drawn.calibration)


def test_diffusiondb_as_it_is(tmp_path):
    texts = ["a cat, artstation", "a cat, artstation", "", "a dog, 8 k", "A Cat, Artstation"]
    columns = {
        "image_name": [f"{i}.png" for i in range(5)],
        "prompt": texts,
        "part_id": pa.array(range(5), pa.uint16()),
        "seed": pa.array([2**32 - 1] * 5, pa.uint32()),
        "step": pa.array([50] * 5, pa.uint16()),
        "cfg": pa.array([7.0] * 5, pa.float32()),
        "sampler": pa.array([8] * 5, pa.uint8()),
    }
    path = tmp_path / "metadata.parquet"
    parquet.write_table(pa.table(columns), path, row_group_size=2)
    assert load_prompt_set(path).prompts == ("a cat, artstation", "a dog, 8 k")
    assert list(Corpus(path)) == ["a cat, artstation", "a cat, artstation", "a dog, 8 k", "A Cat, Artstation"]
    by_sampler = load_prompt_set(path, Columns(category="sampler"))
    assert set(by_sampler.categories.values()) == {"8"}
