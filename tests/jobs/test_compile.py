"""``--compile`` on the commands: refused in one line, kept out of the timing, stated in the profile, and compared."""

from dataclasses import replace
from types import SimpleNamespace

import pipelines
import pytest
import torch
import yaml
from profiles import profile_data
from test_workbench import bench

from postdiff_calib.accelerate import compiled
from postdiff_calib.cli.main import main
from postdiff_calib.cost import build_cost_table, latency
from postdiff_calib.cost.rounds import MIN_ROUNDS
from postdiff_calib.cost.setting import Setting
from postdiff_calib.cost.store import environment_of, latency_path, read_table
from postdiff_calib.errors import UsageError
from postdiff_calib.jobs import generate
from postdiff_calib.jobs.generate import GenerateJob, run_generate
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.jobs.preflight import check_job
from postdiff_calib.jobs.same_pipeline import environment_checks
from postdiff_calib.jobs.verify import VerifyJob, run_verify
from postdiff_calib.models.load import LoadedModel, derive_card
from postdiff_calib.profile import Profile

SETTING = Setting(height=128, width=128, guidance_scale=5.0, batch_size=1, scales=(0.5,), quick=True)


SMALL = {
    "block_out_channels": (8, 8),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}


class ReachedError(Exception):
    """The network would be compiled now."""


@pytest.fixture(autouse=True)
def eager_backend(monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "eager")


@pytest.fixture(scope="module")
def loaded():
    pipe = pipelines.sd("dpm", **SMALL)
    return LoadedModel(pipe, derive_card(pipe, "tiny"), "tiny", "", (), "f", "cpu", "float32")


def run(*arguments):
    """Exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code


def profile(mode):
    data = profile_data()
    data["environment"]["compile"] = mode
    return Profile.model_validate(data)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["cost", "--compile", "default"], "--compile default: it changes seconds, which are measured; add --measure"),
        (["cost", "--measure", "--compile", "reduce-overhead"], "take --compile default"),
        (["calibrate", "--compile", "fast"], "--compile fast: it must be off, default or repeated-blocks"),
        (["generate", "-p", "p.yaml", "--compile", "fast", "a"], "--compile fast"),
        (["verify", "p.yaml", "--compile", "fast"], "--compile fast"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(profile_data(), sort_keys=False))
    assert run(*arguments) == 2
    said = capsys.readouterr().err.strip()
    assert says in said
    assert "\n" not in said


def test_seconds_are_known_by_how_the_network_is_compiled(loaded):
    stock = environment_of(loaded, 1)
    assert stock["compiled"] == "off"
    paths = {latency_path(loaded, SETTING, stock)}
    for mode in ("default", "repeated-blocks"):
        with compiled.compiled(loaded.pipe, mode, 1):
            now = environment_of(loaded, 1)
            assert now == {**stock, "compiled": mode}
            paths.add(latency_path(loaded, SETTING, now))
    assert environment_of(loaded, 1) == stock
    assert len(paths) == 3


def test_scores_of_a_compiled_network_are_not_mixed_with_others():
    plain = bench("sd15")
    made = replace(plain, compile="default")
    assert made.fingerprint() == {**plain.fingerprint(), "compile": "default"}


def test_a_study_says_before_what_compiling_takes_and_after_what_it_took():
    heard, plain = [], bench("sd15")
    with plain.compiled(heard.append):
        pass
    assert heard == []
    made = replace(
        plain, loaded=SimpleNamespace(**{**vars(plain.loaded), "pipe": pipelines.sd("dpm")}), compile="default"
    )
    with made.compiled(heard.append):
        assert compiled.mode_of(made.loaded.pipe.unet) == "default"
    before, after = heard
    assert before.startswith("compiling (default): up to ")
    assert after == "compiled (default): 0 graphs in 0 s, which no timing includes"


def test_a_wrong_mode_is_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(UsageError, match="--compile fast"):
        check_job(CalibrateJob(study=tmp_path / "s", out=tmp_path / "p.yaml", compile="fast"))


@pytest.mark.parametrize(
    ("stated", "mode", "outcome"),
    [("default", "default", "passed"), ("default", "off", "warning"), ("off", "repeated-blocks", "warning")],
)
def test_verify_compares_how_the_network_is_compiled(stated, mode, outcome, loaded):
    (check,) = [c for c in environment_checks(profile(stated), loaded, mode) if c.name == "compile"]
    assert (check.wanted, check.found, check.outcome) == (stated, mode, outcome)


def test_an_older_profile_states_nothing_to_compare(loaded):
    assert not [c for c in environment_checks(profile(None), loaded, "default") if c.name == "compile"]


@pytest.mark.parametrize(
    ("stated", "given", "runs"), [("default", "auto", "default"), (None, "auto", "off"), ("default", "off", "off")]
)
def test_verify_compiles_as_the_profile_was(stated, given, runs, tmp_path, monkeypatch):
    def reached(pipe, mode, kinds):
        raise ReachedError(mode, kinds)

    module = "postdiff_calib.jobs.verify"
    monkeypatch.setattr(f"{module}.fresh_prompts", lambda *_: SimpleNamespace(note=""))
    monkeypatch.setattr(
        "postdiff_calib.models.load.load_pipeline",
        lambda *_, **__: LoadedModel(None, None, "", "", (), "", "cpu", "float32"),
    )
    monkeypatch.setattr(f"{module}.identity_checks", lambda *_: [])
    monkeypatch.setattr(f"{module}.counted_macs", lambda *_: 1.0)
    monkeypatch.setattr(f"{module}.compiled", reached)
    path = tmp_path / "p.yaml"
    profile(stated).save(path)
    with pytest.raises(ReachedError) as caught:
        run_verify(VerifyJob(path, compile=given))
    assert caught.value.args[0] == runs
    assert caught.value.args[1] > 1


@pytest.mark.parametrize(("mode", "count"), [("off", 5), ("default", 5), ("default", 4)])
def test_generate_compiles_whole_and_last_batches_before_it_times(mode, count, tmp_path, monkeypatch):
    made, clock = [], iter(range(100))

    def made_up(pipe, knobs, prompts, seeds, settings):
        made.append((len(prompts), compiled.mode_of(pipe.unet)))
        return iter([torch.rand(len(prompts), 3, 16, 16)])

    def tick():
        made.append("clock")
        return next(clock)

    monkeypatch.setattr("postdiff_calib.generate.images.generate", made_up)
    monkeypatch.setattr(generate.time, "perf_counter", tick)
    fake = SimpleNamespace(pipe=pipelines.sd("dpm"), card=SimpleNamespace(num_inference_steps=20))
    monkeypatch.setattr(generate, "load_for", lambda *_, **__: (fake, ()))
    stated = profile("repeated-blocks")
    stated = stated.model_copy(update={"budget": stated.budget.model_copy(update={"batch_size": 2})})
    path = tmp_path / "p.yaml"
    stated.save(path)
    job = GenerateJob(("a",) * count, path, False, tmp_path / "out", 0, "cpu", "float32", False, mode)
    result = run_generate(job)
    warm = [(2, mode), *([(1, mode)] if count % 2 else [])] if mode != "off" else []
    assert made[: len(warm)] == warm
    assert made[len(warm) :] == ["clock", (count, mode), "clock"]
    assert result.notes[0] == f"the profile's seconds are of --compile repeated-blocks, this run is {mode}"
    assert len(result.notes) == (2 if mode != "off" else 1)
    assert compiled.mode_of(fake.pipe.unet) == "off"


@pytest.mark.slow
def test_nothing_is_compiled_while_it_is_timed(loaded, tmp_path, monkeypatch):
    table = build_cost_table(loaded, SETTING, measure=False)
    stock, graphs = latency.run_plan, []

    def run_plan(*given, **more):
        times = stock(*given, **more)
        graphs.append(done.graphs)
        return times

    monkeypatch.setattr(latency, "run_plan", run_plan)
    plans = latency.probes(loaded.card.knobs, table, SETTING)
    with compiled.compiled(loaded.pipe, "default", latency.MAX_KINDS) as done:
        found = latency.measure(loaded, table, SETTING, environment_of(loaded, 1), 0.0)
    assert found.environment["compiled"] == "default"
    warm, timed = graphs[: len(plans)], graphs[len(plans) :]
    assert len(timed) >= MIN_ROUNDS * len(plans)
    # More than the 8 at which dynamo would have gone on uncompiled; and none of them while the clock ran.
    assert 8 < warm[-1] == timed[0] == timed[-1]


@pytest.mark.slow
def test_cost_measures_a_compiled_network_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("POSTDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("postdiff_calib.cost.latency.QUICK_LIMIT", 0.0)
    pipelines.sd("dpm").save_pretrained(tmp_path / "tiny", safe_serialization=True)
    out = tmp_path / "here.json"
    model = ["cost", "--model", str(tmp_path / "tiny"), "--measure", "--quick", "-T", "4"]
    run(*model, "--compile", "repeated-blocks", "--out", str(out))
    said = capsys.readouterr().out
    assert said.startswith("compiling (repeated-blocks): up to ")
    assert "compiled (repeated-blocks): " in said
    assert ", compiled (repeated-blocks)\n" in said
    assert read_table(out).latency.environment["compiled"] == "repeated-blocks"
    run(*model)
    assert "compil" not in capsys.readouterr().out
