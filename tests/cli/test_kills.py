"""One calibration killed again and again, in every stage, ends as one that never was: nothing lost, nothing silent."""

import json
import re
import shutil
import signal

import pytest
import yaml
from killing import START, WRITING, Calibration, Moment

MEASURING, PRICING, SPREAD = "measuring kinds of step", "pricing every plan", "measuring the baseline's spread"
SEARCHING, JUDGING = "searching", "judging the finalists"
KILL, STOP, CTRL_C = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
#: What the command leaves with; a killed process has no say.
CODES = {KILL: -KILL, STOP: 143, CTRL_C: 130}
#: In the order of the stages, so that each run goes on where the one before was stopped.
MOMENTS = [
    Moment(START, 1),
    Moment("loading the model", 1),
    Moment("loading the model", 1, CTRL_C),
    Moment(MEASURING, 2),
    Moment(MEASURING, 5, STOP),
    Moment(PRICING, 2),
    Moment(SPREAD, 1),
    Moment(SPREAD, 2),
    *(Moment(SEARCHING, number) for number in (1, 2, 3, 5, 7, 8, 9, 11, 12, 15, 18, 21)),
    Moment(SEARCHING, 25, STOP),
    Moment(SEARCHING, 40, CTRL_C),
    *(Moment(SEARCHING, number) for number in (30, 37, 44, 51)),
    Moment(JUDGING, 1),
    Moment(JUDGING, 3),
    Moment(JUDGING, 5, STOP),
    Moment(JUDGING, 8),
    Moment(JUDGING, 8, CTRL_C),
    Moment(JUDGING, 9),
    Moment(WRITING, 1, STOP),
    Moment(WRITING, 1),
    Moment(WRITING, 2),
]


@pytest.mark.slow
def test_kills_in_every_stage_change_nothing(tmp_path):
    straight, chain = Calibration(tmp_path / "straight"), Calibration(tmp_path / "chain")
    first = straight.run()
    assert first.code == 0, first.err

    # another study's confirmed profile is in the way: only a finished run may take its place
    other = yaml.safe_load(straight.out.read_text())
    assert other["expected"]["confirmed"]
    other["evidence"]["study"] = "another"
    chain.out.write_text(yaml.safe_dump(other, sort_keys=False))
    before = chain.out.read_bytes()
    for moment in MOMENTS:
        ended = chain.run(moment)
        assert ended.code == CODES[moment.signal], (moment, ended)
        assert chain.database() == "ok"
        if moment != Moment(WRITING, 2):
            assert chain.out.read_bytes() == before
        if moment.signal == KILL:
            continue
        assert ended.err.startswith("postdiff: stopped: "), (moment, ended)
        assert ended.err.count("\n") == 1
        assert ended.err.endswith("; the same command goes on\n") or "the same command starts again" in ended.err
        beside = chain.folder / "p.interrupted.yaml"
        assert beside.exists() == ("the best plan so far is in" in ended.err)
        beside.unlink(missing_ok=True)

    last = chain.run()
    assert last.code == 0, last.err
    assert chain.profile() == straight.profile()
    assert chain.trials() == straight.trials()
    for name in ("scores.jsonl", "held_out.jsonl", "other_seeds.jsonl"):
        assert scores(chain.study / name) == scores(straight.study / name)
    assert chain.leftovers() == []
    assert [name for name in chain.files() if name not in straight.files()] == []


@pytest.mark.slow
def test_the_same_command_writes_the_same_bytes_but_for_the_times(tmp_path):
    texts = []
    for _ in range(2):
        one = Calibration(tmp_path / "same")  # each with a study and a cache of its own
        ended = one.run()
        assert ended.code == 0, ended.err
        texts.append(one.out.read_bytes().decode())
        shutil.rmtree(one.folder)
    times = [yaml.safe_load(text)["times"] for text in texts]
    assert times[0]["plan"] != times[1]["plan"]
    rest = [re.sub(r"(?ms)^times:\n.*?(?=^\S|\Z)", "", text) for text in texts]
    assert rest[0].encode() == rest[1].encode()
    assert all("times" not in yaml.safe_load(text) and len(yaml.safe_load(text)) == 9 for text in rest)


def scores(path):
    """Every score and measure of a file by plan and prompt, however they were put into blocks."""
    found = {}
    for line in path.read_text().splitlines():
        try:
            block = json.loads(line)
        except ValueError:  # cut by a kill; a later line has its scores
            continue
        for i, prompt in enumerate(block["prompts"]):
            found[block["plan"], prompt] = [block["scores"][i], *(v[i] for v in block.get("measures", {}).values())]
    return found
