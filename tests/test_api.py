"""The jobs from Python: what is passed on, what comes back as plain data, what is refused; and the six lines."""

from pathlib import Path
from types import SimpleNamespace

import pipelines
import pytest
from profiles import profile_data
from studies import make_study

import postdiff_calib
from postdiff_calib import Knobs, calibrate, disable, enable, judge, price, verify
from postdiff_calib.errors import (
    BudgetError,
    KnobError,
    ModelError,
    PostdiffError,
    PromptError,
    UnsupportedError,
    UsageError,
)
from postdiff_calib.jobs.calibrate import CalibrateResult
from postdiff_calib.models.cards import get_card
from postdiff_calib.models.live import live_model
from postdiff_calib.profile import Profile
from postdiff_calib.prompts import draw

PROMPTS = [f"a red circle and {n} blue squares" for n in range(30)]


@pytest.fixture(scope="module")
def pipe():
    return pipelines.sd("ddim")


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Calls of the job behind ``calibrate``, which answers with a made-up study."""
    calls = []
    study = make_study(tmp_path / "s")

    def run(job, progress, given):
        calls.append((job, progress, given))
        progress.note("hello")
        return CalibrateResult(study.conclude(), Path("p.yaml"), False)

    monkeypatch.setattr("postdiff_calib.jobs.calibrate.run_calibrate", run)
    return calls


def test_the_public_names_are_there():
    assert {"calibrate", "verify", "price", "Result"} <= set(postdiff_calib.__all__)
    assert postdiff_calib.calibrate is calibrate


def test_everything_reaches_the_job_and_the_pipeline_stays_as_it_was(pipe, asked, tmp_path):
    lines, before = [], dict(vars(pipe))
    result = calibrate(
        pipe, "40%", prompts=PROMPTS, scorer="A::b", progress=lines.append, height=64, width=128,
        num_inference_steps=8, guidance_scale=3, negative_prompt="blurry", batch_size=2, trials=5, seed=3,
        study=tmp_path / "s", fix="k=1", range=["T=4..8"], guards="ssim=0.5",
    )  # fmt: skip
    ((job, _, given),) = asked
    assert (job.budget.text, job.trials, job.seed, job.folder) == ("40%", 5, 3, tmp_path / "s")
    assert job.deployment.asked == {
        "height": 64, "width": 128, "num_inference_steps": 8, "guidance_scale": 3.0, "negative_prompt": "blurry",
        "batch_size": 2,
    }  # fmt: skip
    assert [one.text for one in job.restrictions] == ["k=1", "T=4..8"]
    assert (job.guards, job.max_drop) == (("ssim=0.5",), ())
    assert (given.prompts.prompts, job.scorer, given.scorer, job.num_prompts) == (tuple(PROMPTS), "A::b", None, 20)
    assert given.loaded.pipe is pipe
    assert (given.loaded.card.height, given.loaded.card.width, given.loaded.card.num_inference_steps) == (64, 128, 8)
    assert lines == ["hello"]
    assert vars(pipe) == before
    assert isinstance(result.profile, Profile)


def test_the_result_is_plain_data(pipe, asked, tmp_path):
    result = calibrate(pipe, study=tmp_path / "s")
    assert asked[0][2].prompts is None
    table = result.table
    assert {row["arm"] for row in table} == {"step_reduction", "cheaper_steps", "combined"}
    assert [row["budget"] for row in table] == sorted(row["budget"] for row in table)
    frontier = result.frontier
    assert frontier
    assert [row["share"] for row in frontier] == sorted(row["share"] for row in frontier)
    assert all(row["low"] <= row["difference"] <= row["high"] for row in frontier)
    figure = result.plot(tmp_path / "arms.png")
    assert (tmp_path / "arms.png").read_bytes().startswith(b"\x89PNG")
    assert figure.axes
    page = result.report(tmp_path / "r.html", images=False)
    assert "<html" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"steps": 5}, UsageError, "option 'steps': options are height"),
        ({"height": 63}, ModelError, "multiples of 8"),
        ({"num_inference_steps": 0}, UsageError, "--steps 0"),
        ({"fix": "q=1"}, KnobError, "no knob 'q'"),
        ({"prompts": ["a", " "]}, PromptError, "not empty"),
        ({"budget": "fast"}, PostdiffError, "write such as"),
        ({"budget": 60}, BudgetError, "budget 60: a budget is a text with its unit; write such as"),
        ({"prompts": PROMPTS[:14], "scorer": len}, PromptError, "num_prompts=9: at least 10 must judge"),
        ({"prompts": ["a"] * 30, "scorer": len}, PromptError, "num_prompts=0: at least 10 must judge"),
    ],
)
def test_wrong_options_are_the_projects_errors(pipe, options, error, says):
    with pytest.raises(error, match=says):
        calibrate(pipe, **options)


def test_a_list_of_prompts_is_judged_on_as_a_whole(pipe, monkeypatch):
    drawn = []

    def run(job, progress, given):
        drawn.extend(draw(given.prompts, job.base.num_prompts, job.base.seed)[1])
        return SimpleNamespace(judgement=None)

    monkeypatch.setattr("postdiff_calib.jobs.judge.run_judge", run)
    judge(pipe, [Knobs(4)], prompts=PROMPTS, scorer=len)
    assert sorted(drawn) == sorted(PROMPTS)


def test_a_profile_of_a_list_of_prompts_is_verified_by_the_list(pipe, monkeypatch):
    asked = []
    monkeypatch.setattr("postdiff_calib.jobs.verify.run_verify", lambda *given: asked.append(given))
    verify(pipe, Profile.model_validate(profile_data()), prompts=PROMPTS)
    ((job, _, given, _),) = asked
    assert (job.prompt_set, given.prompts.prompts) == (None, tuple(PROMPTS))


def test_pipelines_that_cannot_be_calibrated_are_refused(pipe):
    for wrong in (object(), pipelines.sd("pndm")):
        with pytest.raises(UnsupportedError):
            calibrate(wrong)
    enable(pipe, Knobs(4))
    try:
        with pytest.raises(UsageError, match=r"call disable\(pipe\) first"):
            calibrate(pipe)
    finally:
        disable(pipe)


def test_a_lora_changes_the_fingerprint_and_so_does_its_scale(pipe):
    from peft import LoraConfig

    base = live_model(pipe).fingerprint
    other = pipelines.sd("ddim")
    other.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"]), adapter_name="style")
    with_lora = live_model(other).fingerprint
    assert with_lora != base
    for module in other.unet.modules():
        if hasattr(module, "scaling") and isinstance(module.scaling, dict):
            module.scaling = {name: value / 2 for name, value in module.scaling.items()}
    assert live_model(other).fingerprint not in (base, with_lora)
    assert live_model(pipe).fingerprint == base


def test_prices_of_a_name_a_card_and_a_live_pipeline(pipe):
    half = Knobs(10)
    by_name = price("shapes", half)
    assert by_name["relative_to_baseline"] == pytest.approx(0.5)
    assert by_name == price(get_card("shapes"), half)
    assert price("shapes", half, num_inference_steps=10)["relative_to_baseline"] == pytest.approx(1)
    live = price(pipe, Knobs(4), height=64, width=64, num_inference_steps=8)
    assert live["relative_to_baseline"] == pytest.approx(0.5)
    assert len(live["macs_per_step"]) == 4
    with pytest.raises(UsageError, match="pass one that is loaded"):
        price("shapes", measure=True)
    with pytest.raises(ModelError, match="no such card"):
        price("sd99")


@pytest.mark.parametrize("mode", ["cond", "mean"])
def test_a_price_refuses_the_knobs_that_enable_refuses_in_the_same_words(mode):
    joint, knobs = pipelines.sd3(), Knobs(4, guidance_fraction=0.5, cross_attention_cache=mode)
    with pytest.raises(UnsupportedError, match=r"has no cross-attention layers.*='off'") as by_enable:
        enable(joint, knobs)
    for model in (joint, "sd35-medium"):
        with pytest.raises(UnsupportedError) as by_price:
            price(model, knobs)
        assert str(by_price.value) == str(by_enable.value)


def test_a_price_of_what_a_transformer_takes():
    joint = pipelines.sd3()
    assert price(joint, num_inference_steps=4)["relative_to_baseline"] == 1
    off = price(joint, Knobs(4, guidance_fraction=0.5, cross_attention_cache="off"), num_inference_steps=4)
    assert off["relative_to_baseline"] == pytest.approx(0.75)
    first, ends = (price(joint, Knobs(4, cache_interval=2, cache_branch=b))["macs_total"] for b in (0, 1))
    assert first < ends


@pytest.mark.slow
def test_the_main_job_in_six_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POSTDIFF_CACHE", str(tmp_path / "cache"))
    from postdiff_calib.models.load import load_pipeline

    pipe = load_pipeline("shapes", device="cpu").pipe
    result = calibrate(pipe, "60%", num_prompts=10, trials=4, fix=["m=1"], range="T=10..20")
    enable(pipe, result.profile)
    image = pipe("a large red circle on a white background").images[0]
    disable(pipe)

    assert image.size == (64, 64)
    assert result.profile.expected.cost.macs <= result.profile.budget.limit
    assert result.profile.evidence.restrictions == ["m=1", "T=10..20"]
    assert (tmp_path / "profile.yaml").is_file()
    assert result.table
    assert result.report("report.html").is_file()
    again = calibrate(pipe, "60%", num_prompts=10, trials=4, fix=["m=1"], range="T=10..20")
    assert again.profile == result.profile  # and no image is made twice
    checked = verify(pipe, result.profile, num_prompts=10)
    assert not {"weights", "pipeline", "denoiser", "scheduler", "size", "scorer"} & set(checked.failed)
