"""The recipe in miniature: the autoencoder is exact where it can be, losses fall, a stopped run resumes as if whole."""

import json
from dataclasses import fields, replace
from random import Random

import pytest
import torch

from postdiff_calib.models.shapes import checkpoint, diffusion, fitting, gates, judge, scorer, train
from postdiff_calib.models.shapes.autoencoder import PatchAutoencoder
from postdiff_calib.models.shapes.drawing import render
from postdiff_calib.models.shapes.world import parse_caption, sample_scene, scene_code

TINY = replace(
    train.Recipe(),
    autoencoder_images=64,
    judge_steps=4,
    judge_batch=4,
    scorer_cycles=(1, 2),
    scorer_batch=8,
    text_steps=3,
    text_batch=4,
    samples=24,
    batch=4,
    warmup_samples=8,
)


@pytest.fixture(scope="module")
def scenes():
    rng = Random(0)
    return [sample_scene(rng) for _ in range(64)]


@pytest.fixture(scope="module")
def autoencoder(scenes):
    model = PatchAutoencoder(latent_channels=12)
    model.fit(render(scenes, seed=0) * 2 - 1)
    return model


def test_twelve_channels_keep_28_db_and_all_48_keep_everything(scenes, autoencoder):
    assert gates.autoencoder_db(autoencoder, scenes, seed=1) > 28
    full = PatchAutoencoder(latent_channels=48)
    full.fit(render(scenes, seed=0) * 2 - 1)
    assert gates.autoencoder_db(full, scenes, seed=1) > 80


def test_latents_have_unit_first_variance_and_falling_ones(scenes, autoencoder):
    latents = autoencoder.encode(render(scenes, seed=0) * 2 - 1)
    assert latents.shape == (64, 12, 16, 16)
    std = latents.transpose(0, 1).flatten(1).std(1)
    assert float(std[0]) == pytest.approx(1, abs=0.01)
    assert torch.all(std[:-1] >= std[1:] - 1e-3)


def test_perfect_reading_scores_one_and_a_wrong_colour_shows():
    scene = parse_caption("a large red circle above a blue star on a green background")
    code = torch.tensor([scene_code(scene)]).clamp(min=0)
    assert judge.accuracies(code, [scene])["all"] == 1
    code[0, 4] = 2  # colour of the object at the top
    result = judge.accuracies(code, [scene])
    assert result["all"] == 0
    assert result["color"] == 0.5
    assert result["layout"] == result["shape"] == result["background"] == 1


def test_zero_shot_of_an_oracle_is_perfect_and_of_noise_is_not(scenes):
    axes: dict[str, int] = {}

    def one_hot(captions):
        rows = torch.zeros(len(captions), 40_000)
        for row, caption in zip(rows, captions, strict=True):
            row[axes.setdefault(caption, len(axes))] = 1
        return rows

    features = one_hot([s.caption() for s in scenes])
    assert set(gates.zero_shot(scenes, features, one_hot, seed=0).values()) == {1.0}
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(scenes), 8, generator=generator)
    blind = gates.zero_shot(scenes, noise, lambda c: torch.randn(len(c), 8, generator=generator), seed=0)
    assert blind["color"] < 0.5


def test_held_out_scenes_are_distinct_and_unseen(scenes):
    seen = {s.caption() for s in gates.held_out_scenes(20, 0, set())[:5]}
    fresh = gates.held_out_scenes(20, 0, seen)
    captions = [s.caption() for s in fresh]
    assert len(set(captions)) == 20
    assert not seen & set(captions)


def test_text_targets_tell_an_unnamed_size_from_a_named_one():
    training = diffusion.Training(0, 12)
    loss = training.text_loss([parse_caption("a red circle on a white background")], Random(0))
    assert torch.isfinite(loss)
    assert [head.out_features for head in training.text_heads] == [9, 7, 4, 3] * 5 + [10]


def test_batches_are_functions_of_their_step(autoencoder):
    first = diffusion.batch(3, 7, 4, autoencoder)
    again = diffusion.batch(3, 7, 4, autoencoder)
    assert torch.equal(first[0], again[0])
    assert first[1] == again[1]
    assert not torch.equal(first[0][:1, :, :2, :2], diffusion.batch(3, 8, 4, autoencoder)[0][:1, :, :2, :2])


def test_small_batches_skip_the_clean_timesteps(autoencoder, monkeypatch):
    seen = []
    real = torch.randint
    monkeypatch.setattr(torch, "randint", lambda low, high, size, **kw: seen.append(low) or real(low, high, size, **kw))
    training = diffusion.Training(0, 12)
    for side in (6, 16):
        training.loss(torch.zeros(1, 12, side, side), ["a red circle"], torch.Generator().manual_seed(0))
    assert seen == [diffusion.SMALL_FIRST_TIMESTEP, 0]


class _StopError(Exception):
    pass


def run_judge(work, stop_at=None):
    """Train the tiny judge; with ``stop_at`` the run dies in that step after a checkpoint at the step before."""
    torch.manual_seed(0)
    model = judge.Judge()
    model.eval()

    def loss_at(step):
        if step == stop_at:
            raise _StopError
        rng = Random(step)
        batch = [sample_scene(rng) for _ in range(4)]
        return judge.code_loss(model(render(batch, seed=step)), torch.tensor([scene_code(s) for s in batch]))

    groups = [{"params": list(model.parameters()), "lr": 1e-3}]
    fitting.fit(fitting.Stage("judge", work, 4, 1, TINY), model, groups, loss_at)
    return model


def test_a_stopped_run_resumes_as_if_whole(tmp_path, monkeypatch, capsys):
    whole = run_judge(tmp_path / "whole")
    # Save after every step instead of every two minutes: each look at the clock is two hours later.
    clock = iter(range(0, 10**9, 7200))
    monkeypatch.setattr(fitting.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(_StopError):
        run_judge(tmp_path / "cut", stop_at=2)
    resumed = run_judge(tmp_path / "cut")
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert "judge: 4/4" in capsys.readouterr().out


def test_checkpoints_hold_no_pickles(tmp_path):
    run_judge(tmp_path)
    with (tmp_path / "judge.safetensors").open("rb") as f:
        assert f.read(9)[8:] == b"{"
    model = judge.Judge()
    counters = checkpoint.load_modules(tmp_path / "judge.safetensors", {"module": model})
    assert counters["step"] == 4


def test_learning_rate_rises_holds_and_falls():
    values = [fitting.rate_at(x / 10, 0.2, 0.3) for x in range(11)]
    assert values == pytest.approx([0, 0.5, 1, 1, 1, 1, 1, 1, 2 / 3, 1 / 3, 0])


class _Tiny(train.Recipe):
    """The tiny recipe under the real one's interface: unset fields take the tiny values."""

    def __init__(self, **given):
        for field in fields(train.Recipe):
            object.__setattr__(self, field.name, given.get(field.name, getattr(TINY, field.name)))


@pytest.mark.slow
def test_the_whole_recipe_in_miniature(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "Recipe", _Tiny)
    out = tmp_path / "weights"
    train.main(["--work", str(tmp_path / "run"), "--out", str(out), "--samples", "24", "--device", "cpu"])
    from diffusers import StableDiffusionPipeline
    from open_clip import create_model_from_pretrained, get_tokenizer

    pipe = StableDiffusionPipeline.from_pretrained(out / "pipeline", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    images = pipe(["a red circle"], num_inference_steps=2, output_type="pt").images
    assert images.shape == (1, 3, 64, 64)
    clip, preprocess = create_model_from_pretrained(f"local-dir:{out / 'scorer'}")
    tokens = get_tokenizer(f"local-dir:{out / 'scorer'}")(["a red circle"])
    assert clip.encode_text(tokens).shape == (1, 160)
    assert len(preprocess.transforms) > 1
    assert scorer.config(1)["model_cfg"]["embed_dim"] == 160
    facts = json.loads((out / "recipe.json").read_text())
    assert list(facts["stages"]) == ["judge", "scorer", "diffusion"]
    reader = judge.SceneJudge(out / "judge" / "model.safetensors")
    assert facts["sha256"]["judge/model.safetensors"] == reader.weights_sha256
