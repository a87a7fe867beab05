"""``postdiff analyze redundancy`` on the embedded model, small: files, resuming, refusals, a price without images."""

import json

import pytest

from postdiff_calib.cli.main import main
from postdiff_calib.generate import images
from postdiff_calib.jobs import redundancy


def run(capsys, *argv):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in ("analyze", "redundancy", *argv)])
    return ended.value.code, *capsys.readouterr()


def test_it_writes_json_and_plot_and_goes_on_where_it_was(tmp_path, capsys, monkeypatch):
    study, out = tmp_path / "s", tmp_path / "r.json"
    base = ("-T", 2, "--study", study, "--out", out, "--batch-size", 1, "--quiet")
    code, printed, _ = run(capsys, *base, "--num-prompts", 2, "--json")
    assert code == 0
    data = json.loads(printed)
    assert data == json.loads(out.read_text())
    assert (data["num_prompts"], data["num_inference_steps"]) == (2, 2)
    assert all(len(row) == 1 and row[0] > 0 for row in data["relative_l1"].values())
    assert data["paper"]
    assert out.with_suffix(".png").stat().st_size > 1000
    made = []
    real = redundancy._measured
    monkeypatch.setattr(redundancy, "_measured", lambda *given: made.append(given[2]) or real(*given))
    code, printed, _ = run(capsys, *base, "--num-prompts", 3, "--json")
    assert (code, made) == (0, [[2]])
    assert json.loads(printed)["num_prompts"] == 3
    code, printed, _ = run(capsys, *base, "--num-prompts", 3)
    assert (code, made) == (0, [[2], []])
    assert "The paper, figure 1" in printed
    code, _, said = run(capsys, *base, "--num-prompts", 2, "--seed", 5)
    assert code == 2
    assert "other settings" in said
    assert "Traceback" not in said


def test_damaged_distances_are_measured_again_or_refused(tmp_path, capsys):
    argv = ("-T", 2, "--num-prompts", 2, "--study", tmp_path / "s", "--quiet", "--json")
    whole = json.loads(run(capsys, *argv)[1])
    path = tmp_path / "s" / "distances.jsonl"
    good = path.read_bytes()
    path.write_bytes(b'{"prompts": "\xff"}\n' + good[: len(good) // 2])  # what a kill, or a failing disk, leaves
    code, printed, _ = run(capsys, *argv)
    assert (code, json.loads(printed)) == (0, whole)
    block = json.loads(good)
    wrong = [{"kinds": 3}, {"prompts": ["0", "1"]}, {"prompts": [-1, 0]}, {"l2": [[1], [2]]}, {"relative_l1": "x"}]
    for lines in (*([block | change] for change in wrong), [block, block | {"blocks": ["a"]}], [None]):
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        code, _, said = run(capsys, *argv)
        assert code == 2
        assert f"line {len(lines)}: not a block of distances" in said


def test_a_batch_that_does_not_fit_into_memory_is_halved(tmp_path, capsys, monkeypatch):
    argv = ("-T", 2, "--num-prompts", 3, "--json")
    whole = json.loads(run(capsys, *argv, "--study", tmp_path / "a", "--batch-size", 1)[1])
    real = images.generate

    def small(pipe, knobs, prompts, *more):
        first = list(real(pipe, knobs, prompts[:1], more[0][:1], *more[1:]))  # what is left behind must not count
        if len(prompts) > 1:
            raise RuntimeError("CUDA out of memory")
        return first

    monkeypatch.setattr(images, "generate", small)
    code, printed, _ = run(capsys, *argv, "--study", tmp_path / "b", "--batch-size", 3)
    assert (code, json.loads(printed)) == (0, whole)
    monkeypatch.setattr(images, "generate", lambda *given: oom())
    code, _, said = run(capsys, *argv, "--study", tmp_path / "c", "--batch-size", 1)
    assert (code, "memory: there is not enough of it for this command" in said) == (2, True)


def oom():
    raise RuntimeError("CUDA out of memory")


def test_a_price_makes_nothing(tmp_path, capsys):
    code, printed, _ = run(capsys, "--dry-run", "--num-prompts", 10, "-T", 10, "--study", tmp_path / "s", "--json")
    assert code == 0
    # Ten images of half the default's twenty steps.
    assert json.loads(printed)["images"] == 10
    assert json.loads(printed)["baseline_images"] == pytest.approx(5)
    assert not (tmp_path / "s").exists()


def test_one_step_has_no_neighbour(tmp_path, capsys):
    code, _, said = run(capsys, "-T", 1, "--dry-run")
    assert code == 2
    assert "take at least 2" in said
