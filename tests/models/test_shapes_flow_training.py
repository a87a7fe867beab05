"""The recipe of ``shapes-flow`` in miniature: resumable to the bit, and what it exports is what it trained."""

import json
import warnings
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from postdiff_calib.models import load
from postdiff_calib.models.shapes import diffusion, fitting, flow, flow_training, judge, train

TINY = replace(
    flow_training.FlowRecipe(),
    samples=12,
    batch=4,
    warmup_samples=4,
    text_captions=32,
    evaluate_every=8,
    evaluate_images=2,
    evaluate_steps=2,
)
CPU = torch.device("cpu")
CAPTIONS = ["a red circle above a blue star on a green background", "a small ring on a white background"]


@pytest.fixture(scope="module", autouse=True)
def _small_networks():
    """Two narrow blocks, so that the file takes seconds; everything else is the recipe's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow, "WIDTH", 32)
        patch.setattr(flow, "HEADS", 1)
        patch.setattr(flow, "LAYERS", 2)
        yield


@pytest.fixture(scope="module")
def parts():
    return flow_training.load_parts(train.WEIGHTS)


@pytest.fixture(scope="module")
def whole(parts, tmp_path_factory):
    """A finished tiny run: its folder and the averaged network."""
    work = tmp_path_factory.mktemp("whole")
    average, counters = flow_training.train_flow(work, TINY, parts, CPU)
    assert counters["step"] == 3
    return work, average


def noise(n, side=16):
    return torch.randn(n, 12, side, side, generator=torch.Generator().manual_seed(0))


def drawn(latents, seed=0):
    return flow.draw(latents, torch.Generator().manual_seed(seed))


def loaded(folder):
    """The exported folder through the stock class, in float32."""
    from diffusers import StableDiffusion3Pipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        pipe = StableDiffusion3Pipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class _StopError(Exception):
    pass


def test_a_run_repeats_and_a_stopped_one_resumes_to_the_bit(parts, whole, tmp_path, monkeypatch):
    flow_training.train_flow(tmp_path / "again", TINY, parts, CPU)
    # Save after every step instead of every two minutes: each look at the clock is two hours later.
    clock = iter(range(0, 10**9, 7200))
    monkeypatch.setattr(fitting.time, "monotonic", lambda: float(next(clock)))
    real = diffusion.batch

    def dies_in_the_third_step(seed, step, *rest):
        if step == 2:
            raise _StopError
        return real(seed, step, *rest)

    monkeypatch.setattr(diffusion, "batch", dies_in_the_third_step)
    with pytest.raises(_StopError):
        flow_training.train_flow(tmp_path / "cut", TINY, parts, CPU)
    monkeypatch.setattr(diffusion, "batch", real)
    torch.manual_seed(12345)  # a global generator in another state must not matter
    flow_training.train_flow(tmp_path / "cut", TINY, parts, CPU)
    states = [load_file(folder / "flow.safetensors") for folder in (whole[0], tmp_path / "again", tmp_path / "cut")]
    assert {key.split("/")[0] for key in states[0]} == {"module", "average", "optimizer"}
    for other in states[1:]:
        assert states[0].keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in states[0].items())


def test_worker_processes_change_nothing(parts, whole, tmp_path):
    flow_training.train_flow(tmp_path, TINY, parts, CPU, workers=2)
    one, other = (load_file(folder / "flow.safetensors") for folder in (whole[0], tmp_path))
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_the_judge_reads_images_on_the_way(whole, parts, capsys):
    work, average = whole
    assert [p.name for p in (work / "samples").iterdir()] == ["00000008.png"]
    read = flow_training.report(work, 99, TINY, parts, average)
    assert "flow: 99 samples seen: background" in capsys.readouterr().out
    assert set(read) == {"background", "layout", "color", "shape", "size", "texture", "all"}


def test_the_exported_folder_loads_as_a_stock_pipeline_and_draws_what_was_trained(whole, parts, tmp_path):
    work, average = whole
    out = tmp_path / "out"
    flow_training.export_flow(work, TINY, parts, out, CPU)
    pipe = loaded(out / "pipeline")
    assert type(pipe).__name__ == "StableDiffusion3Pipeline"
    got = pipe(CAPTIONS, latents=noise(2), num_inference_steps=3, guidance_scale=3.0, output_type="latent").images
    rounded = average.folded().half().float()
    expected = flow.sample(rounded, parts.text, CAPTIONS, noise(2), 3, 3.0)
    assert torch.equal(got, expected)
    images = pipe(CAPTIONS, latents=noise(2), num_inference_steps=3, guidance_scale=3.0, output_type="pt").images
    decoded = (parts.autoencoder.decode(expected, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)
    assert torch.equal(images, decoded)
    assert judge.SceneJudge().codes(images).shape == (2, 21)
    facts = json.loads((out / "recipe.json").read_text())
    assert facts["recipe"] == json.loads(json.dumps(asdict(TINY)))
    assert facts["stages"]["flow"]["step"] == 3
    assert "pipeline/transformer/diffusion_pytorch_model.safetensors" in facts["sha256"]
    assert not [p for p in out.rglob("*.json") if "_name_or_path" in p.read_text()]
    assert parts.text.sentence.dtype == torch.float32, "the export must not round what it was given"


def test_postdiff_loads_the_folder_and_smaller_images_come_out(whole, parts, tmp_path):
    flow_training.export_flow(whole[0], TINY, parts, tmp_path, CPU)
    with pytest.MonkeyPatch.context() as patch:
        imported = []
        patch.setattr(load, "importlib", SimpleNamespace(import_module=imported.append))
        patch.setattr(load, "derive_card", lambda pipe, source: None)
        pipe = load.load_pipeline(str(tmp_path / "pipeline"), device="cpu").pipe
    assert sorted(imported) == [
        "postdiff_calib.models.shapes.absent_text",
        "postdiff_calib.models.shapes.autoencoder",
    ]
    for side in (6, 8, 10, 12, 14, 16):
        images = pipe(CAPTIONS[0], height=4 * side, width=4 * side, num_inference_steps=1, output_type="pt").images
        assert images.shape == (1, 3, 4 * side, 4 * side)


def test_folding_moves_the_standardisation_into_the_text_layer(parts):
    training = flow.Training(0, 12)
    training.standardise(parts.text, 0, captions=64)
    torch.nn.init.normal_(training.transformer.proj_out.weight)
    hidden, pooled = parts.text(CAPTIONS)
    given = {"pooled_projections": pooled, "timestep": torch.tensor([500.0, 900.0])}
    standard = (hidden - training.text_mean) / training.text_scale
    named = standard[:, :24]
    assert float(named.abs().mean()) < 1.5 < float(hidden.abs().max()) / 10, "one dimension dwarfs the others"
    with torch.no_grad():
        a = training.transformer(noise(2), encoder_hidden_states=standard, **given).sample
        b = training.folded()(noise(2), encoder_hidden_states=hidden, **given).sample
    assert float(a.std()) > 0.1
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_the_text_is_that_of_shapes_sentence_and_words(parts):
    from transformers import CLIPTextModel

    shapes = CLIPTextModel.from_pretrained(train.WEIGHTS / "pipeline" / "text_encoder", dtype=torch.float32)
    ids = parts.text.tokenizer(CAPTIONS, padding="max_length", max_length=24, return_tensors="pt").input_ids
    with torch.no_grad():
        read = shapes(ids, output_hidden_states=True)
    hidden, pooled = parts.text(CAPTIONS)
    assert hidden.shape == (2, 25, 256)
    assert torch.equal(hidden[:, :24, :128], read.hidden_states[-1]), "the whole encoder, last layer included"
    assert torch.equal(hidden[:, :24, 128:], read.hidden_states[0]), "the words alone"
    assert not hidden[:, 24].any(), "one token of zeros where the T5 would be"
    assert torch.equal(pooled[:, :128], read.pooler_output)


def test_the_absent_encoder_is_the_pipelines_own_zeros_of_length_one(whole, parts):
    pipe = flow.build_pipeline(whole[1].folded(), parts.text, parts.autoencoder)
    pipe.set_progress_bar_config(disable=True)
    arguments = {"latents": noise(2), "num_inference_steps": 2, "output_type": "latent"}
    with_it = pipe(CAPTIONS, **arguments).images
    pipe.text_encoder_3 = pipe.tokenizer_3 = None
    without = pipe(CAPTIONS, max_sequence_length=1, **arguments).images
    assert torch.equal(with_it, without)


def test_the_loss_of_a_network_that_says_nothing_is_that_of_the_velocity():
    """Its output is zero at first, so the loss is E‖ε − x₀‖² = 1 + x₀² for a constant x₀ of 3: ten."""
    training = flow.Training(0, 12)
    hidden, pooled = torch.zeros(64, 25, 256), torch.zeros(64, 256)
    for side in (6, 16):
        latents = torch.full((64, 12, side, side), 3.0)
        loss = training.loss(latents, hidden, pooled, drawn(latents))
        assert loss.item() == pytest.approx(10, rel=0.02)


def test_noise_levels_are_logit_normal_at_every_size(monkeypatch):
    training = flow.Training(0, 12)
    seen = []
    real = training.transformer.forward
    monkeypatch.setattr(training.transformer, "forward", lambda x, **kw: seen.append(kw["timestep"]) or real(x, **kw))
    hidden, pooled = torch.zeros(512, 25, 256), torch.zeros(512, 256)
    for side in (6, 16):
        latents = torch.zeros(512, 12, side, side)
        training.loss(latents, hidden, pooled, drawn(latents, 1))
    for t in seen:
        logit = torch.logit(t / 1000)
        assert float(logit.mean()) == pytest.approx(0, abs=0.15)
        assert float(logit.std()) == pytest.approx(1, abs=0.1)
    assert torch.equal(*seen), "small images see the same levels"


def test_half_precision_follows_full_precision_and_leaves_no_setting_behind(parts):
    training = flow.Training(0, 12)
    training.standardise(parts.text, 0, captions=64)
    torch.nn.init.normal_(training.transformer.proj_out.weight, std=0.1)
    hidden, pooled = parts.text(CAPTIONS)
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    full, half = (
        training.loss(noise(2), hidden, pooled, drawn(noise(2)), dtype).item()
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert half != full
    assert half == pytest.approx(full, rel=0.01)
    assert torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed() == before
    assert not torch.is_autocast_enabled("cpu")


def test_smaller_sizes_take_their_share_of_the_batches(parts, monkeypatch):
    monkeypatch.setattr(diffusion, "render", lambda scenes, seed, side: torch.zeros(len(scenes), 3, side, side))
    recipe = flow_training.FlowRecipe()
    given = {"small_share": recipe.small_share, "small_sides": recipe.small_sides}
    batches = [diffusion.batch(4, step, 1, parts.autoencoder, **given) for step in range(400)]
    sides = [latents.shape[-1] for latents, _, _ in batches]
    assert sum(side < 16 for side in sides) / 400 == pytest.approx(0.35, abs=0.05)
    assert set(sides) == {16, *recipe.small_sides}
    assert all(side % flow.PATCH == 0 for side in sides)


def test_the_stages_are_run_by_name_and_take_no_part_in_those_of_shapes(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(flow_training, "load_parts", lambda weights: calls.append(weights))
    monkeypatch.setattr(
        flow_training, "train_flow", lambda work, recipe, parts, device, workers: calls.append((work, recipe))
    )
    monkeypatch.setattr(flow_training, "export_flow", lambda work, recipe, parts, out, device: calls.append(out))
    monkeypatch.setattr(train, "train_autoencoder", lambda *given: pytest.fail("not of this model"))
    train.main(["--stage", "flow", "--stage", "flow-export", "--work", str(tmp_path), "--samples", "128"])
    assert calls == [
        train.WEIGHTS,
        (tmp_path, replace(flow_training.FlowRecipe(), samples=128)),
        train.FLOW_WEIGHTS,
    ]


def test_the_networks_have_the_size_that_the_card_will_name():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow, "WIDTH", 160)
        patch.setattr(flow, "HEADS", 5)
        patch.setattr(flow, "LAYERS", 6)
        network = flow.build_transformer(12)
    assert sum(p.numel() for p in network.parameters()) == 5_465_968
    assert not network.proj_out.weight.any()
