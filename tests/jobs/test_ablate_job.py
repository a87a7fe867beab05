"""``postdiff ablate`` on the embedded model, small: files, resuming, traces, refusals before anything is loaded."""

import json

import pytest
import torch

from postdiff_calib.accelerate.clean_estimates import Estimates, step_scores
from postdiff_calib.cli.main import main
from postdiff_calib.cost import latency
from postdiff_calib.cost.meter import StepKey
from postdiff_calib.cost.table import Latency, Timing
from postdiff_calib.generate.images import generate
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.jobs import workbench
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.load import load_pipeline


def run(capsys, *argv):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in ("ablate", *argv)])
    return ended.value.code, *capsys.readouterr()


def made_up_latency():
    """Of a machine whose full steps take 0.1 s, and whose rounds disagree by a half."""
    step, nothing = Timing(0.1, 0.1, 0.1, 3), Timing(0.0, 0.0, 0.0, 3)
    parts = dict.fromkeys(("before", "after", "text", "step_overhead"), nothing)
    numbers = {"switch": 0.0, "scale": 1.0, "reuse_slope": 0.0, "p95_ratio": 1.0, "batch_size": 1, "disagreement": 0.5}
    return Latency({StepKey(16, 16, True, True, True, -1): step}, **parts, **numbers)


def test_it_scores_traces_draws_and_goes_on(tmp_path, capsys, monkeypatch):
    study, out = tmp_path / "s", tmp_path / "r.json"
    base = ("--study", study, "--out", out, "--num-prompts", 2, "--fix", "T=2", "--quiet", "--no-measure")
    code, printed, _ = run(capsys, *base, "--vary", "k=1,2", "--json", "--trace")
    assert code == 0
    data = json.loads(printed)
    assert (data["baseline"]["cost"]["seconds"], data["stable"], data["disagreement"]) == (None, None, None)
    assert data == json.loads(out.read_text())
    assert [row["label"] for row in data["settings"]] == ["T=2 k=1", "T=2 k=2"]
    assert data["settings"][1]["cost"]["macs"] < data["settings"][0]["cost"]["macs"] < data["baseline"]["cost"]["macs"]
    assert {len(trace["mean"]) for trace in data["traces"]} == {20, 2}
    assert "scene" in data["settings"][0]["measures"]
    assert out.with_suffix(".png").exists()
    assert (tmp_path / "r-trace.png").exists()
    made = []
    real = workbench.Workbench.evaluator

    def evaluator(self, *given, **more):
        found = real(self, *given, **more)
        measured = found.measured
        found.measured = lambda knobs, indices: made.append(knobs.describe()) or measured(knobs, indices)
        return found

    monkeypatch.setattr(workbench.Workbench, "evaluator", evaluator)
    code, printed, _ = run(capsys, *base, "--vary", "k=1,2", "--vary", "m=0.5,1")
    assert (code, made) == (0, ["T=2 m=0.5", "T=2 k=2 m=0.5"])
    assert "table 1" in printed
    # seconds are measured where nobody says no; here they are made up
    monkeypatch.setattr(latency, "measured_latency", lambda *_, **__: made_up_latency())
    code, printed, _ = run(capsys, *base[:-1], "--vary", "k=1,2", "--json")
    data = json.loads(printed)
    assert [row["cost"]["seconds"] for row in (data["baseline"], data["settings"][0])] == pytest.approx([2.0, 0.2])
    assert 0.1 < data["settings"][1]["cost"]["seconds"] < 0.2
    assert (code, data["stable"], data["disagreement"]) == (0, False, 0.5)
    code, _, said = run(capsys, *base, "--vary", "k=1", "--noise", "coupled")
    assert code == 2
    assert "other settings" in said


def test_damaged_traces_are_made_again_or_refused(tmp_path, capsys):
    argv = ("--study", tmp_path, "--num-prompts", 2, "--vary", "T=2", "--quiet", "--no-measure", "--json", "--trace")
    whole = json.loads(run(capsys, *argv)[1])
    path = tmp_path / "traces.jsonl"
    good = path.read_bytes()
    first, second = good.splitlines()
    path.write_bytes(first + b"\n" + b'{"plan": "\xff"}\n' + second[:50])
    code, printed, _ = run(capsys, *argv)
    assert (code, json.loads(printed)) == (0, whole)
    block = json.loads(second)
    # a trace of one step where there are two would be shown as one
    for change in ({"scores": [[1.0], [2.0]]}, {"scores": 3}, {"prompts": [0]}, {"prompts": [0.5, 1]}, {"plan": None}):
        path.write_text(f"{first.decode()}\n{json.dumps(block | change)}\n")
        code, _, said = run(capsys, *argv)
        assert code == 2
        assert "line 2: not a block of traces" in said


def test_estimates_end_in_the_image_and_change_nothing():
    loaded = load_pipeline("shapes", device="cpu", dtype="float32")
    card = loaded.card
    settings = GenerationSettings(card.height, card.width, card.guidance_scale, 2, latent_multiple=card.latent_multiple)
    knobs, prompts = Knobs(3, 0.4, 0.5), ["a large red circle on a blue background"]
    (stock,) = generate(loaded.pipe, knobs, prompts, [1], settings)
    seen, kept = [], []

    class Scorer:
        def score(self, images, own):
            seen.append(images)
            return [float(len(seen))]

    def runs():
        for images in generate(loaded.pipe, knobs, prompts, [1], settings):
            kept.append(images)
            yield images

    assert step_scores(Estimates(loaded.pipe, card.latent_size()), runs(), prompts, Scorer(), 3) == [[1.0, 2.0, 3.0]]
    assert torch.equal(kept[0], stock)
    assert [tuple(image.shape[-2:]) for image in seen] == [(32, 32), (64, 64), (64, 64)]
    # DDIM's last step goes to its clean estimate itself, but for the last alpha, which is not quite one.
    assert (seen[-1] - stock).abs().mean() < 0.02


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((), "nothing is varied"),
        (("--vary", "beta=0.5"), "does nothing while s=0"),
        (("--vary", "k=0..3"), "from 1 to 1000"),
        (("--steps", "8,many"), "'many' is no number"),
    ],
)
def test_nonsense_is_refused_before_anything_is_loaded(tmp_path, capsys, monkeypatch, argv, said):
    monkeypatch.setattr("postdiff_calib.models.load.load_pipeline", lambda *_, **__: pytest.fail("it was loaded"))
    code, _, line = run(capsys, "--study", tmp_path / "s", *argv)
    assert code == 2
    assert said in line


def test_a_price_counts_each_plan_once_and_makes_nothing(tmp_path, capsys):
    argv = ("--vary", "k=1,2", "--vary", "m=0.5,1", "--dry-run", "--num-prompts", 10, "--json")
    code, printed, _ = run(capsys, *argv, "--study", tmp_path / "s")
    # Of the four settings, that of k=1 and m=1 is the baseline.
    assert (code, json.loads(printed)["images"]) == (0, 40)
    assert 20 < json.loads(printed)["baseline_images"] < 40
    assert not (tmp_path / "s").exists()


def test_branches_of_a_transformer_are_two_plans_of_two_prices(tmp_path, capsys):
    base = ("--model", "shapes-flow", "--fix", "k=2", "--dry-run", "--num-prompts", 10, "--json", "--study", tmp_path)
    prices = []
    for branches in ("0", "1", "0,1"):
        code, printed, _ = run(capsys, *base, "--vary", f"cache_branch={branches}")
        assert code == 0
        prices.append(json.loads(printed))
    assert [price["images"] for price in prices] == [20, 20, 30]
    own = [price["baseline_images"] - 10 for price in prices]
    assert own[0] < own[1]
    assert own[2] == pytest.approx(own[0] + own[1])
    code, _, line = run(capsys, *base, "--vary", "cross=mean", "--fix", "m=0.5")
    assert code == 2
    assert "cross: it does nothing for this model" in line
