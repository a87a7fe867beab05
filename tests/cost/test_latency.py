"""Measuring a real tiny pipeline: complete, restored afterwards, kept on disk, and asked again only when told."""

from types import SimpleNamespace

import pipelines
import pytest
import torch

from postdiff_calib.cost import Latency, build_cost_table, table_for_card
from postdiff_calib.cost.latency import measured_latency, probes, timing
from postdiff_calib.cost.meter import StepKey
from postdiff_calib.cost.rounds import MIN_ROUNDS, MORE_ROUNDS
from postdiff_calib.cost.setting import Setting
from postdiff_calib.cost.store import cache_folder, environment_of, latency_path
from postdiff_calib.cost.timeline import Clock, timed_call
from postdiff_calib.errors import UnsupportedError
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.fingerprint import fingerprint_pipeline
from postdiff_calib.models.load import LoadedModel, derive_card, load_pipeline
from postdiff_calib.plan import compile_plan

SETTING = Setting(height=128, width=128, guidance_scale=5.0, batch_size=2, scales=(0.5,), quick=True)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    pipe = pipelines.sd("dpm")
    return LoadedModel(pipe, derive_card(pipe, "tiny"), "tiny", "", (), fingerprint_pipeline(pipe), "cpu", "float32")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POSTDIFF_CACHE", str(tmp_path))
    return tmp_path


def make_table(loaded: LoadedModel, **changes):
    how = {name: changes.pop(name) for name in ("measure", "refresh", "progress") if name in changes}
    values = {"height": 128, "width": 128, "guidance_scale": 5.0, "batch_size": 2, "scales": (0.5,)}
    return build_cost_table(loaded, Setting(**{**values, **changes}), **{"measure": False, **how})


class Recorder:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.stages, self.counted, self.notes = [], 0, []

    def stage(self, name, total=None):
        self.stages.append(name)

    def advance(self, count=1, detail=None, total=None):
        self.counted += count

    def note(self, text):
        self.notes.append(text)


@pytest.mark.slow
def test_measuring_gives_seconds_and_leaves_the_pipeline_as_it_was(loaded, cache) -> None:
    table = make_table(loaded)
    plan = compile_plan(Knobs(4, 0.5, 0.5, 2, 0.5))
    assert table.price(plan).seconds is None
    before = fingerprint_pipeline(loaded.pipe)
    progress = Recorder()
    latency = measured_latency(loaded, table, SETTING, limit=0, progress=progress)
    wanted = probes(loaded.card.knobs, table, SETTING)
    rounds = progress.counted / len(wanted)
    assert MIN_ROUNDS <= rounds <= MIN_ROUNDS + MORE_ROUNDS  # more where the machine is not steady
    assert progress.stages
    assert rounds / 2 * len(wanted) <= latency.before.count <= progress.counted
    assert set(latency.steps) == {key for p in wanted for key in table.keys(p)}
    assert all(t.low <= t.median <= t.high and t.low > 0 for t in latency.steps.values())
    assert 0 < latency.text.median < latency.before.median
    assert latency.after.median > 0
    assert latency.p95_ratio >= 1
    assert latency.environment["batch_size"] == 2
    table.latency = latency
    cost = table.price(plan)
    assert cost.seconds_p95 >= cost.seconds > 0
    assert not any("postdiff" in name for name in loaded.pipe.__dict__)
    assert fingerprint_pipeline(loaded.pipe) == before
    assert "decode" not in loaded.pipe.vae.__dict__
    for module in (loaded.pipe.unet, loaded.pipe.text_encoder):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_a_second_time_comes_from_the_disk(loaded, cache, monkeypatch) -> None:
    key = StepKey(16, 16, True, True, True, -1)
    calls = []

    def fake(*_) -> Latency:
        calls.append(1)
        one = timing([float(len(calls))])
        return Latency({key: one}, one, one, one, one, 0.0, 1.0, 0.0, 1.0, 2)

    monkeypatch.setattr("postdiff_calib.cost.latency.measure", fake)
    monkeypatch.setattr("postdiff_calib.cost.latency.drift", lambda *_: 0.0)
    table = make_table(loaded)
    first = measured_latency(loaded, table, SETTING)
    files = list((cache / "latency").iterdir())
    assert (len(files), len(calls)) == (1, 1)
    progress = Recorder()
    assert measured_latency(loaded, table, SETTING, progress=progress) == first
    assert (len(calls), len(progress.notes)) == (1, 1)
    files[0].write_text('{"table_version": 1')
    assert measured_latency(loaded, table, SETTING).steps[key].median == 2
    assert measured_latency(loaded, table, SETTING, refresh=True).steps[key].median == 3
    assert measured_latency(loaded, table, SETTING).steps[key].median == 3


@pytest.mark.parametrize(("off", "measured", "told"), [(0.09, 1, "before"), (0.12, 2, "longer"), (-0.2, 2, "shorter")])
def test_seconds_that_a_call_does_not_take_any_more_are_measured_anew(loaded, cache, monkeypatch, off, measured, told):
    one, calls = timing([1.0]), []
    whole = Latency({StepKey(16, 16, True, True, True, -1): one}, one, one, one, one, 0.0, 1.0, 0.0, 1.0, 2)
    monkeypatch.setattr("postdiff_calib.cost.latency.measure", lambda *_: calls.append(1) or whole)
    table = make_table(loaded)
    measured_latency(loaded, table, SETTING)

    def run_plan(loaded, table, setting, plan):
        # the machine takes so much more than the seconds say; one call of three is disturbed
        total = 2 * (1.0 + 6 * 1.0 + 1.0) * (1 + off)
        runs.append(plan)
        return SimpleNamespace(total=total * (3 if len(runs) == 2 else 1))

    runs = []
    monkeypatch.setattr("postdiff_calib.cost.latency.run_plan", run_plan)
    progress = Recorder()
    measured_latency(loaded, table, SETTING, progress=progress)
    assert len(calls) == measured
    assert told in progress.notes[0]
    assert {plan.knobs for plan in runs} == {Knobs(6)}
    assert table.latency is None


def test_the_file_name_follows_all_that_seconds_depend_on(loaded, cache) -> None:
    from dataclasses import replace

    environment = environment_of(loaded, 2)
    assert environment["device"] == "cpu"
    assert environment["threads"] == torch.get_num_threads()
    path = latency_path(loaded, SETTING, environment)
    assert path.parent == cache_folder() / "latency"
    others = [
        latency_path(replace(loaded, fingerprint="other"), SETTING, environment),
        latency_path(loaded, replace(SETTING, batch_size=1), environment),
        latency_path(loaded, replace(SETTING, scales=(0.75,)), environment),
        latency_path(loaded, SETTING, {**environment, "torch": "9"}),
        latency_path(loaded, SETTING, {**environment, "dtype": "bfloat16"}),
    ]
    assert len({path, *others}) == len(others) + 1


def test_the_environment_names_what_changes_a_gpus_speed(loaded, monkeypatch) -> None:
    from dataclasses import replace

    monkeypatch.setattr("postdiff_calib.cost.store.device_name", lambda device: "a GPU")
    on_gpu = replace(loaded, device="cuda:1")
    for owner, name in ((torch.backends.cuda.matmul, "allow_tf32"), (torch.backends.cudnn, "benchmark")):
        before, value = environment_of(on_gpu, 1), getattr(owner, name)
        setattr(owner, name, not value)
        try:
            assert environment_of(on_gpu, 1) != before
        finally:
            setattr(owner, name, value)


def test_a_timeline_has_all_parts(loaded) -> None:
    pipe = loaded.pipe
    times = timed_call(
        pipe,
        pipe.unet,
        "cpu",
        lambda: pipe(["red"], num_inference_steps=3, height=64, width=64, generator=pipelines.generators(1)),
    )
    assert len(times.steps) == len(times.network) == 3
    assert times.total == pytest.approx(times.before + sum(times.steps) + times.after)
    assert times.peak_memory == []
    assert all(network < step for network, step in zip(times.network, times.steps, strict=True))


def test_a_call_that_fails_leaves_no_hook(loaded) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        timed_call(loaded.pipe, loaded.pipe.unet, "cpu", broken)
    with pytest.raises(UnsupportedError, match="did not call"):
        timed_call(loaded.pipe, loaded.pipe.unet, "cpu", lambda: None)
    assert not loaded.pipe.unet._forward_hooks
    assert "decode" not in loaded.pipe.vae.__dict__


def test_marks_are_in_order() -> None:
    clock = Clock("cpu")
    assert clock.between(clock.mark(), clock.mark()) >= 0


def test_macs_of_a_loaded_model_are_those_of_its_own_networks(loaded) -> None:
    """And guidance is what doubles them."""
    table = make_table(loaded, guidance_scale=1.0)
    assert not table.guides
    guided = make_table(loaded)
    plan = compile_plan(Knobs(2))
    assert guided.price(plan).macs == 2 * table.price(plan).macs
    assert guided.macs_text_encoder == 2 * table.macs_text_encoder > 0
    assert guided.macs_vae_decoder == table.macs_vae_decoder > 0


def test_the_embedded_models_card_and_pipeline_cost_the_same() -> None:
    loaded = load_pipeline("shapes")
    card = loaded.card
    setting = Setting(height=card.height, width=card.width, guidance_scale=card.guidance_scale, batch_size=1)
    built = build_cost_table(loaded, setting, measure=False)
    plan = compile_plan(Knobs(8, 0.5, 0.375, 2, 0.5))
    assert built.price(plan) == table_for_card(card).price(plan)
    assert built.latent == (16, 16)
    assert {key.height for key in built.keys(plan)} == {6, 16}
