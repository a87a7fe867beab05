"""Prompts to verify on: none that the calibration drew, or the held-out ones with new seeds, and it is said."""

import json

import pytest
from profiles import profile_data

from postdiff_calib.errors import PromptError
from postdiff_calib.jobs.fresh import fresh_prompts
from postdiff_calib.profile import Profile
from postdiff_calib.prompts import draw, left_over, load_prompt_set


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """A function: a profile drawn from a file of ``total`` prompts, and the two sets that were drawn."""
    monkeypatch.chdir(tmp_path)

    def build(total, size=20, seed=3, name="set"):
        (tmp_path / f"{name}.txt").write_text("".join(f"prompt number {i}\n" for i in range(total)))
        calibration, held_out = draw(load_prompt_set(f"{name}.txt"), size, seed)
        data = profile_data()
        data["evidence"] |= {
            "prompt_set": name,
            "prompt_set_sha256": calibration.sha256,
            "num_prompts": size,
            "held_out_sha256": held_out.sha256,
            "seed": seed,
            "study": str(tmp_path / "study"),
        }
        return Profile.model_validate(data), calibration, held_out

    return build


def test_fresh_prompts_are_none_that_were_drawn(drawn):
    made, calibration, held_out = drawn(100)
    fresh = fresh_prompts(made, 50, "set.txt")
    assert len(set(fresh.prompts)) == 50
    assert not set(fresh.prompts) & {*calibration.prompts, *held_out.prompts}
    assert fresh.seed >= 3 + 10 + 20  # behind every seed of the calibration
    assert fresh.note == ""
    assert fresh_prompts(made, 50, load_prompt_set("set.txt")) == fresh
    everything = {*left_over(load_prompt_set("set.txt"), 20, 3), *calibration.prompts, *held_out.prompts}
    assert everything == set(load_prompt_set("set.txt").prompts)


def test_marked_held_out_rows_are_left_over_after_the_others(tmp_path):
    path = tmp_path / "marked.jsonl"
    rows = [{"prompt": f"p{i}"} for i in range(6)] + [{"prompt": f"h{i}", "split": "held_out"} for i in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rest = left_over(load_prompt_set(path), 3, 0)
    assert [prompt[0] for prompt in rest] == [*"ppppp", "h"]


def test_too_few_left_are_said_to_be_few(drawn):
    made, *_ = drawn(30 + 25)
    fresh = fresh_prompts(made, 50, "set.txt")
    assert len(fresh.prompts) == 25
    assert "only 25 fresh prompts" in fresh.note


def test_an_exhausted_set_gives_held_out_prompts_with_new_seeds(drawn):
    made, _, held_out = drawn(30 + 5)
    fresh = fresh_prompts(made, 50, "set.txt")
    assert set(fresh.prompts) == set(held_out.prompts)
    assert fresh.seed >= 3 + 10 + 20  # behind every seed of the calibration
    assert "new seeds" in fresh.what
    assert "5 prompts left" in fresh.note


def test_another_set_is_refused(drawn, tmp_path):
    made, *_ = drawn(100)
    (tmp_path / "other.txt").write_text("".join(f"other {i}\n" for i in range(100)))
    with pytest.raises(PromptError, match="not the one"):
        fresh_prompts(made, 50, "other.txt")
    with pytest.raises(PromptError, match=r"none\.txt"):
        fresh_prompts(made, 50, "none.txt")


def test_without_set_and_study_nothing_is_known_to_be_fresh(drawn):
    made, *_ = drawn(100)
    with pytest.raises(PromptError, match="--prompt-set"):
        fresh_prompts(made, 50)  # by the name of its stem, "set", no file is found
    with pytest.raises(PromptError, match="at least 2"):
        fresh_prompts(made, 1, "set.txt")
