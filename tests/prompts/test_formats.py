"""Columns of prompts and categories, in every format: PartiPrompts' and COCO's files as they are, others by name."""

import json

import pytest

from postdiff_calib.errors import PromptError
from postdiff_calib.prompts import Columns, content_hash, load_prompt_set
from postdiff_calib.prompts.read import Corpus

TEXTS = ("a heron", 'a sign that says "open", in red', '"Late" in neon')
KINDS = {"a heron": "Animals", TEXTS[1]: "Text", TEXTS[2]: "Text"}


def write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_partiprompts_tsv_as_it_is(tmp_path):
    rows = [("Prompt", "Category", "Challenge", "Note")]
    rows += [(text, KINDS[text], "Basic", "" if i else "a note, with a comma") for i, text in enumerate(TEXTS)]
    path = write(tmp_path, "PartiPrompts.tsv", "".join("\t".join(row) + "\n" for row in rows))
    found = load_prompt_set(path)
    assert found.prompts == TEXTS
    assert found.categories == KINDS
    assert found.sha256 == content_hash(TEXTS)
    assert found.name == "PartiPrompts"
    # as a spreadsheet saves it: quoted where there are quotes, Windows' line ends
    quoted = [[f'"{cell.replace(chr(34), chr(34) * 2)}"' if '"' in cell else cell for cell in row] for row in rows]
    again = load_prompt_set(write(tmp_path, "PartiPrompts.tsv", "".join("\t".join(r) + "\r\n" for r in quoted)))
    assert again == found


def test_coco_captions_as_they_are(tmp_path):
    captions = [
        {"image_id": i, "id": 5 * i + j, "caption": f"{text}{'.' * j}"} for i, text in enumerate(TEXTS) for j in (0, 1)
    ]
    content = {"info": {}, "images": [], "licenses": [], "annotations": captions, "type": "captions"}
    found = load_prompt_set(write(tmp_path, "captions_val2014.json", json.dumps(content)))
    assert found.prompts == TEXTS
    assert found.categories == {}
    named = load_prompt_set(write(tmp_path, "c.json", json.dumps(content)), Columns(category="id"))
    assert named.categories == {text: str(5 * i) for i, text in enumerate(TEXTS)}


def parquet(path, columns):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table(columns), path)
    return path


def same_content(folder):
    """The three prompts with kinds in unusual columns, in every format that has columns."""
    import csv

    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "Wish", "Kind"), *((i, t, KINDS[t]) for i, t in enumerate(TEXTS))])
    yield folder / "t.csv"
    lines = ["id\tWish\tKind", *(f"{i}\t{t}\t{KINDS[t]}" for i, t in enumerate(TEXTS))]
    yield write(folder, "t.tsv", "\n".join(lines))
    rows = [{"id": i, "Wish": t, "Kind": KINDS[t]} for i, t in enumerate(TEXTS)]
    yield write(folder, "t.jsonl", "\n".join(map(json.dumps, rows)))
    yield write(folder, "t.json", json.dumps(rows))
    yield parquet(folder / "t.parquet", {"id": [0, 1, 2], "Kind": list(KINDS.values()), "Wish": list(TEXTS)})


@pytest.mark.parametrize("columns", [Columns("Wish", "Kind"), Columns("wish", "KIND")])
def test_named_columns_in_every_format(tmp_path, columns):
    for path in same_content(tmp_path):
        found = load_prompt_set(path, columns)
        assert (found.prompts, dict(found.categories)) == (TEXTS, KINDS), path.name
        corpus = Corpus(path, columns)
        assert tuple(corpus) == TEXTS
        assert corpus.categories_of(TEXTS[:2]) == {text: KINDS[text] for text in TEXTS[:2]}
        assert load_prompt_set(path, Columns("Wish")).categories == {}


def test_columns_that_are_not_there_are_refused_by_name_in_every_format(tmp_path):
    for path in same_content(tmp_path):
        for columns, said in (
            (Columns("Wish", "Theme"), "--category 'Theme'"),
            (Columns("Text"), "Text"),
            (Columns("Wish", "wish"), "--category 'wish'"),
            (Columns(), ""),
        ):
            with pytest.raises(PromptError) as caught:
                load_prompt_set(path, columns)
            assert said in str(caught.value), path.name
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "columns", "said"),
    [
        ("a.tsv", "Prompt\tCategory\na\n", None, "line 2: 1 columns; the header has 2"),
        ("a.tsv", "Prompt\tKind\na\t\n", Columns(category="Kind"), "line 2: no text under 'Kind'"),
        ("a.csv", f"prompt,kind\na,{'x' * 61}\n", Columns(category="kind"), "line 2: 61 characters under 'kind'"),
        ("a.jsonl", '{"prompt": "a"}\n', Columns(category="kind"), "has the columns prompt"),
        ("a.jsonl", '{"prompt": "a", "kind": 1}\n{"prompt": "b"}', Columns(category="kind"), "line 2: no text under"),
        ("a.jsonl", '{"prompt": "a", "kind": [1]}\n', Columns(category="kind"), "line 1: no text under 'kind'"),
        ("a.txt", "a\n", Columns("prompt"), "without columns"),
        ("a.json", '["a"]', Columns("prompt"), "without columns"),
        ("a.json", '[{"caption": "a"}]', Columns(category="kind"), "has the columns caption"),
    ],
)
def test_what_is_wrong_with_columns_is_said_in_one_line(tmp_path, name, text, columns, said):
    with pytest.raises(PromptError) as caught:
        load_prompt_set(write(tmp_path, name, text), columns)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_category_that_nobody_named_is_taken_where_it_is_a_short_text(tmp_path):
    rows = [
        {"prompt": "a", "category": " two  words "},
        {"prompt": "b", "category": None},
        {"prompt": "c", "category": 3},
        {"prompt": "d", "category": "x" * 61},
        {"prompt": "e"},
    ]
    found = load_prompt_set(write(tmp_path, "s.jsonl", "\n".join(map(json.dumps, rows))))
    assert found.categories == {"a": "two words", "c": "3"}
    assert found.categories_of(found.prompts) == ("two words", "", "3", "", "")
