"""Mixed-resolution fine-tuning: rule and targets by hand, a falling loss, resuming bit for bit, output that loads."""

import io
import json
import subprocess
import sys
import tarfile
from dataclasses import replace

import pipelines as P
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file

from postdiff_calib.errors import (
    KnobError,
    ModelError,
    OutputError,
    PromptError,
    StudyError,
    UnsupportedError,
    UsageError,
)
from postdiff_calib.jobs.finetune import FinetuneJob, price_finetune, run_finetune
from postdiff_calib.models.cards import get_card
from postdiff_calib.models.deployment import DeploymentSettings
from postdiff_calib.models.load import load_pipeline
from postdiff_calib.models.tuning.asked import STATE, Tuning
from postdiff_calib.models.tuning.loop import Tuner, accelerator_for
from postdiff_calib.models.tuning.objective import is_low, low_side, mixed_loss, objective_of, require_tunable
from postdiff_calib.models.tuning.samples import Samples, open_source
from postdiff_calib.prompts.formats import Columns

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
PLAIN = Columns()


def small_sd(**changes):
    """Two levels, so that latents of 8 and of 4 are both taken."""
    blocks = {
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    return P.sd("ddim", **blocks, **changes)


class Colours(torch.utils.data.Dataset):
    def __getitem__(self, number):
        name = list(COLOURS)[number % 3]
        return torch.tensor(COLOURS[name]).float().div(255)[:, None, None].expand(3, 64, 64), name


def tuner(folder, objective=None, **tuning):
    settings = {"batch_size": 4, "rate": 1e-3, "warmup": 1, **tuning}
    objective = objective or objective_of(small_sd())
    return Tuner(objective, Tuning(**settings), accelerator_for("cpu", settings.get("accumulation", 1)), folder)


def png(colour, size=(80, 72)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format="PNG")
    return buffer.getvalue()


def write_folder(folder):
    folder.mkdir()
    for name, colour in COLOURS.items():
        (folder / f"{name}.png").write_bytes(png(colour))
        (folder / f"{name}.txt").write_text(f"{name}\n")
    return folder


def test_the_noisy_share_of_the_schedule_is_low():
    places = torch.tensor([0, 299, 300, 499, 500, 999]).double() / 1000
    assert is_low(places, 0.5).tolist() == [False, False, False, False, True, True]
    assert is_low(places, 0.7).tolist() == [False, False, True, True, True, True]
    assert is_low(places, 0.0).tolist() == [False] * 6
    assert low_side(get_card("shapes"), 0.5) == (32, 32)
    assert low_side(get_card("shapes"), 0.75) == (48, 48)


def test_flow_places_follow_the_shift_of_sampling():
    objective = objective_of(P.sd3())  # shift 3
    assert objective.sigma(torch.tensor([0.0, 0.5, 1.0])).tolist() == [0.0, 0.75, 1.0]
    pipe = P.sd3(scheduler_changes={"shift": 1.0})
    pipe.scheduler.set_timesteps(10)
    # the first 3 of 10 steps are those that s = 0.3 gives small images
    assert is_low(pipe.scheduler.sigmas[:-1].double(), 0.3).tolist() == [True] * 3 + [False] * 7


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow"])
def test_targets(kind):
    """The error of a network that predicts nothing is the mean square of its target."""
    pipe = P.sd3() if kind == "flow" else small_sd(scheduler_changes={"prediction_type": kind})
    objective, generator = objective_of(pipe), torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 2, 4, 8, 8, generator=generator)
    places = torch.tensor([0.25, 0.75]).double()
    seen = {}

    def nothing(noisy, timestep, return_dict, **_):
        seen.update(noisy=noisy, timestep=timestep)
        return (torch.zeros_like(noisy),)

    errors = objective.errors(nothing, latents, noise, places, {})
    if kind == "flow":
        sigma = torch.tensor([0.5, 0.9])  # 3u / (1 + 2u)
        a, b, target = 1 - sigma, sigma, noise - latents
        assert seen["timestep"].tolist() == pytest.approx([500, 900])
    else:
        assert seen["timestep"].tolist() == [250, 750]
        kept = pipe.scheduler.alphas_cumprod[[250, 750]]
        a, b = kept.sqrt(), (1 - kept).sqrt()
        velocity = a[:, None, None, None] * noise - b[:, None, None, None] * latents
        target = {"epsilon": noise, "v_prediction": velocity, "sample": latents}[kind]
    expected = a[:, None, None, None] * latents + b[:, None, None, None] * noise
    assert torch.allclose(seen["noisy"], expected, atol=1e-5)
    assert torch.allclose(errors, target.square().mean((1, 2, 3)), atol=1e-4)


def test_each_image_is_at_the_size_of_its_timestep():
    objective, sizes = objective_of(small_sd()), {}
    errors = objective.errors

    def watched(network, latents, noise, places, condition):
        sizes[latents.shape[-1]] = (places, len(condition["encoder_hidden_states"]))
        return errors(network, latents, noise, places, condition)

    objective.errors = watched
    images, captions = torch.rand(16, 3, 64, 64), ["red"] * 16
    mixed_loss(objective, objective.network, images, captions, (0.3, (32, 32)), torch.Generator().manual_seed(1))
    assert sorted(sizes) == [4, 8]
    assert (sizes[4][0] >= 0.7).all()
    assert (sizes[8][0] < 0.7).all()
    assert sizes[4][1] + sizes[8][1] == 16
    assert sizes[4][1] == len(sizes[4][0])


@pytest.mark.parametrize("build", [small_sd, P.sd3])
def test_the_loss_falls(build, tmp_path):
    objective = objective_of(build())
    images, captions = zip(*[Colours()[i] for i in range(12)], strict=True)

    @torch.no_grad()
    def loss():
        generator = torch.Generator().manual_seed(3)
        return float(
            mixed_loss(objective, objective.network, torch.stack(images), captions, (0.5, (32, 32)), generator)
        )

    before = loss()
    one = tuner(tmp_path, objective, rate=5e-3, ema=0.5)
    one.run(Colours(), 30, (32, 32))
    one.use_average()
    assert loss() < 0.9 * before
    assert [step for step, _ in one.losses] == [30]


def test_resuming_is_as_if_nothing_had_happened(tmp_path):
    whole = tuner(tmp_path / "whole", accumulation=2)
    whole.run(Colours(), 4, (32, 32))
    tuner(tmp_path / "parts", accumulation=2).run(Colours(), 2, (32, 32))
    second = tuner(tmp_path / "parts", accumulation=2)
    assert second.done == 2
    second.run(Colours(), 4, (32, 32))
    expected, found = (load_file(tmp_path / name / STATE) for name in ("whole", "parts"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert any(not torch.equal(a, b) for a, b in zip(whole.trained, whole.average, strict=True))


class Failing(Colours):
    """Colours up to sample 8, then an error or what no network takes."""

    def __init__(self, then):
        self.then = then

    def __getitem__(self, number):
        if number >= 8 and isinstance(self.then, BaseException):
            raise self.then
        image, name = super().__getitem__(number)
        return (image, name) if number < 8 else (image * self.then, name)


def test_a_stopped_run_tells_the_losses_of_a_whole_one(tmp_path):
    whole = tuner(tmp_path / "whole")
    whole.run(Colours(), 4, (32, 32))
    with pytest.raises(KeyboardInterrupt):
        tuner(tmp_path / "parts").run(Failing(KeyboardInterrupt()), 4, (32, 32))
    second = tuner(tmp_path / "parts")
    assert (second.done, second.losses) == (2, [])
    second.run(Colours(), 4, (32, 32))
    assert second.losses == whole.losses
    assert [step for step, _ in whole.losses] == [4]


def test_a_loss_that_is_no_number_ends_it_and_leaves_the_state_before(tmp_path):
    with pytest.raises(StudyError, match=r"--rate 0\.001: the loss is no number at step 3; take a smaller one"):
        tuner(tmp_path).run(Failing(float("nan")), 4, (32, 32), save_every=1)
    left = tuner(tmp_path)
    assert left.done == 2
    assert all(p.isfinite().all() for p in (*left.trained, *left.average))
    with pytest.raises(UsageError, match="rate=inf: it must be above 0 and finite"):
        Tuning(rate=float("inf"))


def test_a_damaged_state_is_one_line(tmp_path):
    tuner(tmp_path).save()
    whole = (tmp_path / STATE).read_bytes()
    for content in (b"", whole[:1000], whole[:-8], whole.replace(b"step", b"stop", 1)):
        (tmp_path / STATE).write_bytes(content)
        with pytest.raises(StudyError, match=r"state .*: it cannot be read .*start anew \(--fresh\)"):
            tuner(tmp_path)


def test_a_sample_that_cannot_be_read_is_one_line_from_every_process(tmp_path):
    folder = write_folder(tmp_path / "data")
    samples = Samples(open_source(folder, PLAIN), 0, 64, 64)
    before = samples.fingerprint
    (folder / "red.png").write_bytes(png("red")[:40])
    for workers in (0, 1):
        with pytest.raises(PromptError, match=r"image .*red\.png: it cannot be read"):
            tuner(tmp_path).run(samples, 2, (32, 32), workers=workers)
    assert samples.fingerprint != before
    (folder / "red.txt").write_bytes(b"\xff")
    with pytest.raises(PromptError, match=r"red\.txt: it cannot be read .*UTF-8"):
        open_source(folder, PLAIN)


def test_nothing_else_is_written_over(tmp_path, monkeypatch):
    monkeypatch.setattr("postdiff_calib.models.load.load_pipeline", lambda *_, **__: pytest.fail("it was loaded"))
    small_sd().save_pretrained(tmp_path / "model")
    given = {"model": str(tmp_path / "model"), "data": write_folder(tmp_path / "data"), "work": tmp_path / "work"}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model_index.json").touch()
    for out, rule in (
        ("model", "an input of this command"),
        ("model/unet", "an input of this command"),
        ("data", "an input of this command"),
        ("other", "it holds files that no fine-tuning wrote"),
        ("data/red.png", "it is not a folder"),
    ):
        with pytest.raises(OutputError, match=rule):
            run_finetune(FinetuneJob(**given, out=tmp_path / out, device="cpu"))
    for device in ("banana", "meta", *([] if torch.cuda.is_available() else ["cuda"])):
        with pytest.raises(ModelError, match="device"):
            run_finetune(FinetuneJob(**given, device=device))
    assert not (tmp_path / "work").exists()


def test_what_is_written_loads(tmp_path, capfd):
    small_sd().save_pretrained(tmp_path / "model")
    capfd.readouterr()
    data = write_folder(tmp_path / "data")
    stock = load_pipeline(str(tmp_path / "model"), device="cpu")
    tuning = Tuning(batch_size=2, rate=1e-2, warmup=1, ema=0.0)
    given = {"model": str(tmp_path / "model"), "data": data, "steps": 2, "device": "cpu"}

    job = FinetuneJob(**given, tuning=tuning, work=tmp_path / "work", gradient_checkpointing=True)
    result = run_finetune(job)
    tuned = load_pipeline(str(result.written), device="cpu")
    assert tuned.fingerprint != stock.fingerprint
    kept = json.loads((result.written / "finetune.json").read_text())
    assert kept["tuning"]["low_res_fraction"] == 0.5
    assert kept["data"] == "3 images of data"
    assert capfd.readouterr() == ("", "")  # transformers shows a bar of its own
    more = run_finetune(replace(job, steps=3))
    assert load_pipeline(str(more.written), device="cpu").fingerprint not in (tuned.fingerprint, stock.fingerprint)
    assert json.loads((result.written / "finetune.json").read_text())["steps"] == 3
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["about.json", "out", STATE, "study.lock"]
    (data / "red.txt").write_text("scarlet")
    with pytest.raises(StudyError, match="data_hash"):  # as many images, of the same folder
        run_finetune(replace(job, steps=4))
    (data / "red.txt").write_text("red")
    with pytest.raises(StudyError, match="rate"):
        run_finetune(FinetuneJob(**given, tuning=Tuning(batch_size=2, rate=2e-2), work=tmp_path / "work"))

    lora = FinetuneJob(**given, tuning=Tuning(batch_size=2, rate=1e-2, warmup=1, lora_rank=2), work=tmp_path / "lora")
    file = run_finetune(lora).written
    merged = load_pipeline(given["model"], device="cpu", settings=DeploymentSettings(loras=(str(file),)))
    assert merged.fingerprint != stock.fingerprint
    changed = [
        name
        for (name, a), b in zip(stock.pipe.unet.named_parameters(), merged.pipe.unet.parameters(), strict=True)
        if not torch.equal(a, b)
    ]
    assert changed
    assert all(".attn" in name for name in changed)


def test_images_of_every_form_are_read_alike(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = write_folder(tmp_path / "folder")
    listed = tmp_path / "listed"
    listed.mkdir()
    for name in COLOURS:
        (listed / f"{name}.png").write_bytes(png(COLOURS[name]))
    rows = [{"file_name": f"{name}.png", "text": name} for name in COLOURS]
    (listed / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        for name, colour in COLOURS.items():
            beside = (".txt", name.encode()) if name != "red" else (".json", json.dumps({"caption": name}).encode())
            for ending, content in ((".png", png(colour)), beside):
                member = tarfile.TarInfo(f"part/{name}{ending}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    images = [{"bytes": png(colour), "path": None} for colour in COLOURS.values()]
    table = pa.table({"image": images, "class": [1, 2, 3], "recaption": list(COLOURS)})
    parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=2)

    forms = [(folder, PLAIN), (listed, PLAIN), (tmp_path / "shard.tar", PLAIN)]
    for path, columns in [*forms, (tmp_path / "rows.parquet", Columns("recaption"))]:
        samples = Samples(open_source(path, columns), 0, 64, 48)
        epochs = [[samples[3 * epoch + i] for i in range(3)] for epoch in range(4)]
        for epoch in epochs:
            assert sorted(caption for _, caption in epoch) == sorted(COLOURS)
            for image, caption in epoch:
                assert image.shape == (3, 64, 48)
                assert torch.equal(image[:, 0, 0], torch.tensor(COLOURS[caption]) / 255)
        assert len({tuple(caption for _, caption in epoch) for epoch in epochs}) > 1
        again = Samples(open_source(path, columns), 0, 64, 48)
        assert again[7][1] == epochs[2][1][1]

    (folder / "blue.txt").unlink()
    with pytest.raises(PromptError, match=r"1 of 3 images have no caption, such as blue\.png.*blue\.txt"):
        open_source(folder, PLAIN)
    with pytest.raises(PromptError, match="there is no such file or folder"):
        open_source(tmp_path / "none", PLAIN)


def test_what_does_not_fit_is_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(
        UnsupportedError, match=r"PixArtAlphaPipeline.*StableDiffusionPipeline, StableDiffusion3Pipeline"
    ):
        require_tunable("PixArtAlphaPipeline")
    with pytest.raises(UnsupportedError, match="use_dynamic_shifting"):
        objective_of(P.sd3(scheduler_changes={"use_dynamic_shifting": True}))
    with pytest.raises(UsageError, match="sd15 has no images of its own"):
        run_finetune(FinetuneJob("sd15", work=tmp_path))
    with pytest.raises(UsageError, match=r"batch_size=3.*2 parts must divide it.*take such as 2"):
        Tuning(batch_size=3, accumulation=2).part(1)
    with pytest.raises(KnobError, match="low_res_scale=1"):
        Tuning(low_res_scale=1.0)
    assert not list(tmp_path.iterdir())


def test_the_price_is_of_both_sizes():
    price = {s: price_finetune(FinetuneJob(steps=10, tuning=Tuning(low_res_fraction=s))) for s in (0.0, 0.5)}
    assert price[0.0].images == price[0.5].images == 1280
    assert 0.6 < price[0.5].macs / price[0.0].macs < 0.65  # 32 of 64 pixels take a good quarter
    assert str(price[0.5]).startswith("1,280 images to train on, about ")


@pytest.fixture
def launched_anew():
    """accelerate keeps how its first process was launched, for the whole of its life."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("launched_anew")
def test_one_process_in_bfloat16(tmp_path, monkeypatch):
    """The launcher asks for it; weights, their average and what is written stay float32 in the state."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    seen = set()
    objective = objective_of(small_sd())
    objective.network.conv_in.register_forward_hook(lambda *call: seen.add(call[-1].dtype))
    one = tuner(tmp_path, objective)
    one.run(Colours(), 2, (32, 32))
    assert seen == {torch.bfloat16}
    assert {value.dtype for value in load_file(tmp_path / STATE).values()} == {torch.float32}
    assert all(value.isfinite().all() for value in one.average)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(UsageError, match="--mixed_precision fp16"):
        accelerator_for("cpu", 1)


def launched(*argv):
    """The command in two processes; their output."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no_python"]
    program = [sys.executable, "-c", "from postdiff_calib.cli.main import main; main()"]
    every = [*command, *program, "finetune", *map(str, argv)]
    return subprocess.run(every, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_two_processes_do_what_one_does_with_the_whole_batch_and_go_on(tmp_path):
    small_sd().save_pretrained(tmp_path / "model")
    data, work = write_folder(tmp_path / "data"), tmp_path / "two"
    argv = ("--model", tmp_path / "model", "--data", data, "--work", work, "--device", "cpu", "--batch-size", 8)
    argv += ("--rate", 1e-3, "--warmup", 1, "--ema", 0.5)
    for steps in (2, 4):
        ended = launched(*argv, "--steps", steps)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.count("written to") == 1, "one process speaks"
    assert "going on after 2 steps" in ended.stderr + ended.stdout
    tuning = Tuning(batch_size=8, accumulation=2, rate=1e-3, warmup=1, ema=0.5)
    given = {"model": str(tmp_path / "model"), "data": data, "steps": 4, "device": "cpu"}
    run_finetune(FinetuneJob(**given, tuning=tuning, work=tmp_path / "one"))
    start = dict(enumerate(objective_of(small_sd()).network.parameters()))
    two, one = load_file(work / STATE), load_file(tmp_path / "one" / STATE)
    for name, found in two.items():
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, one[name], atol=2e-5, rtol=1e-3)
    assert any((one[f"trained/{i}"] - begun).abs().max() > 2e-3 for i, begun in start.items())
    assert sorted(path.name for path in (work / "out").glob("*.json")) == ["finetune.json", "model_index.json"]
