import json
import runpy
from pathlib import Path

import pytest

from postdiff_calib.errors import PromptError
from postdiff_calib.prompts import content_hash, draw, load_prompt_set, shipped_sets
from postdiff_calib.prompts.read import PromptSet

ROOT = Path(__file__).parents[2]


def prompt_set(n, held_out=0):
    held = tuple(f"held {i}" for i in range(held_out))
    return PromptSet(tuple(f"prompt {i}" for i in range(n)), "x", held_out=held)


def write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_shipped_shapes_set_is_what_its_script_writes():
    script = runpy.run_path(str(ROOT / "calib_sets" / "make_shapes.py"))
    assert shipped_sets()["shapes"].read_text(encoding="utf-8") == script["text"]()


def test_shipped_shapes_set_loads_with_provenance():
    shapes = load_prompt_set("shapes")
    assert len(shapes) == len(set(shapes)) == 2000
    assert shapes.licence == "Apache-2.0"
    assert "postdiff" in shapes.source
    assert shapes.name == "shapes"


def test_formats_agree(tmp_path):
    texts = ["a red cube", "two dogs, running", "ein Häuschen"]
    files = [
        write(tmp_path, "a.txt", "\ufeffa red cube\n\n  two dogs,   running\nA RED CUBE\nein Häuschen"),
        write(tmp_path, "a.csv", 'id,Caption\n1,a red cube\n2,"two dogs, running"\n\n3,ein Häuschen\n'),
        write(tmp_path, "a.jsonl", '{"source": "x"}\n' + "".join(json.dumps({"prompt": t}) + "\n" for t in texts)),
        write(tmp_path, "a.json", json.dumps(texts)),
        write(
            tmp_path,
            "coco.json",
            json.dumps(
                {
                    "images": [],
                    "annotations": [
                        {"image_id": i, "id": 10 * i + j, "caption": text + "." * j}
                        for i, text in enumerate(texts)
                        for j in range(2)
                    ],
                }
            ),
        ),
    ]
    loaded = [load_prompt_set(path) for path in files]
    assert [list(s) for s in loaded] == [texts] * 5
    assert {s.sha256 for s in loaded} == {content_hash(texts)}


def test_held_out_rows_are_kept_apart(tmp_path):
    rows = [
        {"prompt": "a"},
        {"prompt": "b"},
        {"prompt": "B", "split": "held_out"},
        {"prompt": "c", "split": "held_out"},
    ]
    loaded = load_prompt_set(write(tmp_path, "s.jsonl", "\n".join(map(json.dumps, rows))))
    assert loaded.prompts == ("a",)
    assert loaded.held_out == ("B", "c")
    assert loaded.sha256 != content_hash(["a"])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("e.txt", " \n\n", "holds no prompt"),
        ("e.jsonl", '{"source": "x"}\n', "holds no prompt"),
        ("b.jsonl", '{"prompt": "a"}\n{"prompt": \n', "line 2"),
        ("n.jsonl", '{"prompt": "a"}\n\n{"text": "b"}\n', "line 3"),
        ("t.jsonl", '{"prompt": 3}\n', "line 1"),
        ("l.jsonl", '["a"]\n', "line 1"),
        ("s.jsonl", '{"prompt": "a", "split": "test"}\n', "split is 'test'"),
        ("c.csv", "id,title\n1,a\n", "id, title"),
        ("e.csv", "", "none"),
        ("short.csv", "id,prompt\n1\n", "line 2"),
        ("q.csv", 'prompt\n"a"b\n', "line 2"),
        ("o.json", '{"images": []}', "no list of captions"),
        ("r.json", '[{"image_id": 1}]', "caption 1"),
        ("x.json", "[", "line 1"),
        ("x.docx", "a", ".docx is not read"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, name, text, said):
    with pytest.raises(PromptError) as caught:
        load_prompt_set(write(tmp_path, name, text))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_binary_file_is_refused(tmp_path):
    path = tmp_path / "b.txt"
    path.write_bytes(b"\xff\xfe\x00bad\x80")
    with pytest.raises(PromptError, match="UTF-8"):
        load_prompt_set(path)


def test_unknown_name_lists_the_shipped_sets(tmp_path):
    with pytest.raises(PromptError, match="shapes"):
        load_prompt_set("no-such-set")
    with pytest.raises(PromptError, match="no such file"):
        load_prompt_set(tmp_path)


def test_draw_is_disjoint_seeded_and_nested():
    source = prompt_set(100)
    calibration, held_out = draw(source, 40, seed=3)
    assert (len(calibration), len(held_out)) == (20, 40)
    assert not set(calibration) & set(held_out)
    assert draw(source, 40, seed=3) == (calibration, held_out)
    assert draw(source, 40, seed=4)[0] != calibration
    assert draw(source, 60, seed=3)[0].prompts[:20] == calibration.prompts
    assert draw(source, 60, seed=3)[1].prompts[:40] == held_out.prompts
    assert calibration.sha256 == content_hash(calibration.prompts)
    assert calibration.sha256 != held_out.sha256


def test_draw_uses_marked_held_out_rows_only():
    calibration, held_out = draw(prompt_set(40, held_out=20), 20, seed=0)
    assert len(calibration) == 10
    assert all(p.startswith("prompt") for p in calibration)
    assert sorted(held_out) == sorted(f"held {i}" for i in range(20))


@pytest.mark.parametrize(
    ("size", "n", "held_out", "searched"),
    [(1, 2, 0, 1), (2, 3, 0, 1), (3, 4, 0, 1), (4, 6, 0, 2), (7, 10, 0, 3), (7, 3, 7, 3), (1, 1, 1, 1)],
)
def test_the_size_is_that_of_the_held_out_set_and_half_as_many_are_searched_on(size, n, held_out, searched):
    calibration, judged = draw(prompt_set(n, held_out), size, seed=0)
    assert (len(calibration), len(judged)) == (searched, size)
    if n > 1:
        with pytest.raises(PromptError, match="are needed"):
            draw(prompt_set(n - 1, held_out), size, seed=0)


@pytest.mark.parametrize(("n", "held_out", "largest"), [(6, 0, 4), (10, 0, 7), (3, 20, 7), (40, 20, 20)])
def test_the_largest_size_is_two_thirds_of_the_set_or_what_was_reserved(n, held_out, largest):
    with pytest.raises(PromptError, match=f"at most {largest} "):
        draw(prompt_set(n, held_out), 100, seed=0)


@pytest.mark.parametrize("n", [2, 3, 4, 10, 11, 12, 100])
def test_draw_names_the_largest_size_that_works(n):
    with pytest.raises(PromptError) as caught:
        draw(prompt_set(n), n, seed=0)
    largest = int(str(caught.value).split("at most ")[1].split()[0])
    assert largest >= 1
    draw(prompt_set(n), largest, seed=0)
    with pytest.raises(PromptError):
        draw(prompt_set(n), largest + 1, seed=0)


@pytest.mark.parametrize("size", [0, -1, True, 2.0])
def test_draw_refuses_sizes_below_one(size):
    with pytest.raises(PromptError, match="at least 1"):
        draw(prompt_set(10), size, seed=0)
