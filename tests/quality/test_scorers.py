"""Scorers as plug-ins: how they are named, loaded and refused; a function of the user's own, and a process."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from postdiff_calib.cli.main import main
from postdiff_calib.errors import GuardError, ModelError, ScorerError, UsageError
from postdiff_calib.quality.command import CommandScorer
from postdiff_calib.quality.scorers import (
    FunctionScorer,
    given_scorer,
    given_text,
    load_scorer,
    measured_by,
    parse_scorer,
    parse_scorers,
)
from postdiff_calib.scores.guards import Guard, parse_guards

#: White, black and grey: their brightness is 1, 0 and about a half.
IMAGES = torch.stack([torch.full((3, 8, 8), level) for level in (1.0, 0.0, 0.5)])
PROMPTS = ["one", "two", "three"]

BRIGHTNESS = """
import json, sys
from PIL import Image, ImageStat
print("loading weights")
print(json.dumps({"postdiff_scorer": 1, "fingerprint": "v1", "direction": DIRECTION}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    scores = [ImageStat.Stat(Image.open(path).convert("L")).mean[0] / 255 for path in asked["images"]]
    print("a package prints")
    print(json.dumps({"id": asked["id"], "scores": scores}), flush=True)
"""
HELLO = 'import json, sys, os, time\nprint(json.dumps({"postdiff_scorer": 1, "timeout": 0.3}), flush=True)\n'


def script(folder, text, name="my_scorer.py"):
    path = folder / name
    path.write_text(text)
    return f"command: {sys.executable} {path}"


@pytest.fixture
def started():
    """Starts scorers, and ends them afterwards."""
    running = []

    def start(text):
        running.append(CommandScorer(text, "my_scorer"))
        return running[-1]

    yield start
    for scorer in running:
        scorer.close()


@pytest.mark.parametrize(
    ("text", "option", "kind", "metric"),
    [
        ("ViT-L-14::openai", "--scorer", "open_clip", "clip"),
        ("ViT-L-14::openai", "--also", "open_clip", "vit_l_14"),
        ("local-dir:/models/My CLIP", "--also", "open_clip", "my_clip"),
        ("shapes", "--scorer", "open_clip", "clip"),
        ("pickscore", "--scorer", "pickscore", "pickscore"),
        ("hpsv2:/weights.pt", "--also", "hpsv2", "hpsv2"),
        ("my_module.scores:Sharp", "--also", "function", "sharp"),
        ("folder/my_file.py:sharp", "--scorer", "function", "sharp"),
        ("command: /venv/bin/python -u 'my scorer.py' --a=b", "--scorer", "command", "my_scorer"),
        ("imagereward=command: /venv/bin/python x.py", "--also", "command", "imagereward"),
    ],
)
def test_every_form_has_a_kind_and_a_metric(text, option, kind, metric):
    found = parse_scorer(text, option)
    assert (found.kind, found.metric) == (kind, metric)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imagereward", "ImageReward runs in a process of its own; write 'imagereward=command:"),
        ("nonsense", "it is no scorer: see postdiff scorers"),
        ("scene=pickscore", "scene is another metric's name"),
        ("clip=pickscore", "clip is another metric's name"),
        ("my_module:cmmd", "cmmd is another metric's name"),
    ],
)
def test_what_is_no_scorer_is_refused_before_anything_is_loaded(text, message):
    with pytest.raises(UsageError, match=message):
        parse_scorer(text)


def test_a_command_must_name_a_program():
    with pytest.raises(ModelError, match="it names no program"):
        parse_scorer("command:")
    with pytest.raises(ModelError, match="cannot be split"):
        parse_scorer("command: python 'x.py")


def test_two_scorers_of_one_name_are_refused():
    with pytest.raises(UsageError, match="a second scorer is called hpsv2; give it another: --also 'NAME=hpsv2'"):
        parse_scorers(None, ["hpsv2", "hpsv2"])
    assert [m.name for m in measured_by("hpsv2", ["a:b", "pickscore"])] == ["hpsv2", "scene", "b", "pickscore"]
    assert [m.name for m in measured_by(None)] == ["clip", "scene"]


def test_scorers_are_guarded_by_either_option():
    measured = measured_by("hpsv2", ["imagereward=a:b"])
    wanted = (Guard("imagereward", -0.05),)
    assert parse_guards(["imagereward=0.05"], quality=measured) == wanted
    assert parse_guards(guards=["imagereward=-0.05"], quality=measured) == wanted
    assert str(wanted[0]) == "ImageReward difference at least -0.05"
    for guards, message in ((["imagereward=0.05"], "is guarded by --max-drop"), (["clip=-1"], "--guard knows")):
        with pytest.raises(GuardError, match=message):
            parse_guards(guards=guards, quality=measured)


def test_a_function_of_the_users_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_for_tests.py").write_text(
        "def bright(images, prompts):\n    return images.mean((1, 2, 3))\n"
        "def dark(images, prompts):\n    return images.mean((1, 2, 3))\n"
        "dark.direction, dark.fingerprint = 'lower', 'v7'\n"
        "def few(images, prompts):\n    return [1.0]\nsize = 3\n"
    )
    for text in ("mine_for_tests:bright", "mine_for_tests.py:bright"):
        assert load_scorer(parse_scorer(text)).score(IMAGES, PROMPTS) == pytest.approx([1, 0, 0.5])
    dark = load_scorer(parse_scorer("mine_for_tests.py:dark"))
    assert (dark.direction, dark.fingerprint, dark.metric) == ("lower", "v7", "dark")
    assert dark.score(IMAGES, PROMPTS) == pytest.approx([-1, 0, -0.5])
    before = load_scorer(parse_scorer("mine_for_tests.py:bright")).fingerprint
    (tmp_path / "mine_for_tests.py").write_text("def bright(images, prompts):\n    raise MemoryError('full')\n")
    changed = load_scorer(parse_scorer("mine_for_tests.py:bright"))
    assert changed.fingerprint != before
    with pytest.raises(ScorerError, match="MemoryError: full"):
        changed.score(IMAGES, PROMPTS)
    for text, message in (("mine_for_tests.py:gone", "has no function gone"), ("absent.py:f", "there is no file")):
        with pytest.raises(UsageError, match=message):
            load_scorer(parse_scorer(text))


def test_objects_and_functions_from_python():
    def mean(images, prompts):
        return images.mean((1, 2, 3))

    found = given_scorer(mean)
    assert (found.metric, given_text(mean)) == ("mean", "given:mean")
    assert found.score(IMAGES, PROMPTS) == pytest.approx([1, 0, 0.5])
    own = FunctionScorer(mean, "pickscore", "pickscore", "f")
    assert given_scorer(own) is own
    assert given_text(own) == "pickscore"
    assert parse_scorer(given_text(SimpleNamespace(name="x", metric="clip"))).metric == "clip"
    with pytest.raises(UsageError, match="it is neither a text, nor a function"):
        given_scorer(3)


def test_another_function_of_the_same_name_is_another_scorer_in_a_notebook():
    """A notebook's functions are of no file; what is run there again must not meet the scores of what it was."""
    found = []
    for text in ("images.mean((1, 2, 3))", "images.std((1, 2, 3))", "images.mean((1, 2, 3))"):
        cell = {"__name__": "__main_of_a_notebook__"}
        exec(f"def bright(images, prompts):\n    return {text}\n", cell)
        found.append(given_scorer(cell["bright"]).fingerprint)
    assert found[0] == found[2] != found[1]
    with pytest.raises(ModelError, match="it was an object of a Python program"):
        load_scorer(parse_scorer("given:mean"))
    short = FunctionScorer(lambda images, prompts: [1.0], "short", "short", "f")
    with pytest.raises(ScorerError, match="it gave 1 scores for 3 images"):
        short.score(IMAGES, PROMPTS)


@pytest.mark.parametrize(("direction", "sign"), [("higher", 1), ("lower", -1)])
def test_a_process_scores_images_in_files(tmp_path, started, direction, sign):
    command = script(tmp_path, BRIGHTNESS.replace("DIRECTION", repr(direction)))
    scorer = started(command)
    assert scorer.direction == direction
    for _ in range(2):
        assert scorer.score(IMAGES, PROMPTS) == pytest.approx([sign, 0, sign * 128 / 255], abs=1e-6)
    assert scorer.score(IMAGES[:0], []) == []
    assert started(command).fingerprint == scorer.fingerprint
    script(tmp_path, BRIGHTNESS.replace("DIRECTION", repr(direction)) + "# another\n")
    assert started(command).fingerprint != scorer.fingerprint


def test_a_process_that_crashes_is_started_once_more(tmp_path, started):
    text = HELLO + (
        "asked = json.loads(sys.stdin.readline())\n"
        f"mark = {str(tmp_path / 'seen')!r}\n"
        "if not os.path.exists(mark):\n"
        "    open(mark, 'w').close()\n    sys.exit('out of luck')\n"
        "print(json.dumps({'id': asked['id'], 'scores': [1, 2, 3]}), flush=True)\nsys.stdin.readline()\n"
    )
    assert started(script(tmp_path, text)).score(IMAGES, PROMPTS) == [1, 2, 3]


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("sys.stdin.readline()\nsys.exit('CUDA is gone')", "it ended with code 1; its last line: CUDA is gone"),
        ("sys.stdin.readline()\ntime.sleep(60)", "it did not answer within 0.3 s"),
        ('sys.stdin.readline()\nprint(\'{"id": 1, "scores": [1]}\', flush=True)\nsys.stdin.readline()', "failed twice"),
        (
            "for line in sys.stdin: print(json.dumps({'id': json.loads(line)['id'], 'scores': [1]}), flush=True)",
            "its answer is not 3 finite numbers",
        ),
        (
            "for line in sys.stdin: print(json.dumps({'id': json.loads(line)['id'], 'error': 'no face'}), flush=True)",
            "it says: no face",
        ),
    ],
)
def test_a_process_that_fails_twice_is_named_with_what_it_said(tmp_path, started, behaviour, message):
    scorer = started(script(tmp_path, HELLO + behaviour + "\n"))
    with pytest.raises(ScorerError, match=message):
        scorer.score(IMAGES, PROMPTS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "raise ImportError('no module named image_reward')",
            "ended with code 1; its last line: ImportError: no",
        ),
        ("print('{\"postdiff_scorer\": 2}', flush=True)", "it speaks protocol 2, this postdiff 1"),
        ('print(\'{"postdiff_scorer": 1, "direction": "up"}\', flush=True)', "its direction is 'up'"),
        ('print(\'{"postdiff_scorer": 1, "timeout": -1}\', flush=True)', "its timeout is -1"),
    ],
)
def test_a_process_that_does_not_say_who_it_is_is_refused_at_once(tmp_path, text, message):
    with pytest.raises(ModelError, match=message):
        CommandScorer(script(tmp_path, text + "\n"), "my_scorer")


def test_a_program_that_is_not_there_is_refused():
    with pytest.raises(ModelError, match="/no/such/python cannot be started"):
        CommandScorer("command: /no/such/python x.py", "x")


def test_the_list_says_what_is_missing_and_why(capsys):
    with pytest.raises(SystemExit) as left:
        main(["scorers", "--json"])
    assert not left.value.code
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)["scorers"]}
    assert found["shapes"]["available"]
    assert "process of its own" in found["imagereward"]["missing"]
    assert not found["imagereward"]["available"]
