"""Judging a profile: each check on both sides of its boundary, then a real profile that holds, and ways it does not."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from profiles import profile_data

from postdiff_calib.cli.main import main
from postdiff_calib.cost.budget import parse_budget
from postdiff_calib.errors import BudgetError, CheckError
from postdiff_calib.jobs import checks
from postdiff_calib.jobs.calibrate import run_calibrate
from postdiff_calib.jobs.in_turn import in_turn
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.jobs.verify import VerifyJob, VerifyResult, run_verify
from postdiff_calib.profile import Comparison, Profile, load_profile
from postdiff_calib.progress import Silent
from postdiff_calib.scores import paired as stats
from postdiff_calib.scores.guards import Guard, Reading


def profile(**budget):
    """A profile with another budget section; by default its own of 60% of 5 GMACs."""
    data = profile_data()
    data["budget"].update(budget)
    return Profile.model_validate(data)


def seconds_budget(text="1.5s", limit=1.5, **more):
    """Of calls of 25 images."""
    return profile(text=text, kind="seconds", limit=limit, share=limit / 2.5, unit="s per call", **more)


# --- the budget section ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "budget",
    [
        {},
        {"text": "3GMACs"},
        {"text": "60ms per image", "kind": "seconds", "limit": 0.06, "unit": "s per image"},
        {"text": "1.5s", "kind": "seconds", "limit": 1.5, "unit": "s per call"},
        {"text": "2x", "kind": "seconds", "limit": 1.25, "share": 0.5, "unit": "s per call"},
        {"text": "p95:1.65s", "kind": "seconds", "quantile": "p95", "limit": 1.65, "share": 0.6, "unit": "s per call"},
    ],
)
def test_a_budget_that_agrees_with_itself_passes(budget):
    assert checks.budget_section(profile(**budget)).outcome == "passed"


@pytest.mark.parametrize(
    "edit",
    [
        {"limit": 1.5e9},
        {"text": "30%"},
        {"share": 0.3},
        {"kind": "seconds"},
        {"quantile": "p95"},
        {"unit": "s per call"},
    ],
)
def test_a_budget_edited_in_one_place_fails(edit):
    check = checks.budget_section(profile(**edit))
    assert check.outcome == "failed"
    assert "edited" in check.reason


def test_a_budget_text_that_is_none_is_bad_input():
    with pytest.raises(BudgetError, match="soon"):
        checks.budget_section(profile(text="soon"))


# --- compute --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("macs", "outcome"), [(2.9e9, "passed"), (2.95e9, "warning"), (3.0e9, "warning"), (3.01e9, "failed")]
)
def test_counted_macs_against_the_limit_and_the_stated_figure(macs, outcome):
    assert checks.compute(profile(), macs).outcome == outcome


def test_macs_do_not_judge_a_budget_in_seconds():
    assert checks.compute(seconds_budget(), 4e9).outcome == "warning"
    assert checks.compute(seconds_budget(), 2.9e9).outcome == "passed"


# --- latency --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "outcome"), [(1.475, "passed"), (1.5, "passed"), (1.55, "warning"), (1.6, "failed")]
)
def test_latency_around_an_absolute_limit(seconds, outcome):
    check = checks.latency(seconds_budget(), [seconds] * 5, [2.5] * 5)
    assert check.outcome == outcome
    assert check.figures["p50"] == seconds
    assert "1.5 s per call" in check.wanted
    image = profile(text="60ms per image", kind="seconds", limit=0.06, unit="s per image")
    check = checks.latency(image, [seconds] * 5, [2.5] * 5)
    assert check.outcome == outcome
    assert check.figures["measured"] == pytest.approx(seconds / 25)
    assert "60 ms per image" in check.wanted


def test_a_median_budget_forgives_stragglers_and_a_p95_budget_does_not():
    times = [1.25] * 18 + [2.25] * 2
    assert checks.latency(seconds_budget(), times, [2.5] * 20).outcome == "passed"
    strict = seconds_budget("p95:1.5s", quantile="p95")
    assert checks.latency(strict, times, [2.5] * 20).outcome == "failed"
    assert checks.latency(strict, [1.25] * 19 + [2.25], [2.5] * 20).outcome == "passed"


def test_a_relative_budget_is_judged_by_the_same_minutes():
    relative = seconds_budget("60% time")
    assert checks.latency(relative, [0.11] * 5, [0.2] * 5).outcome == "passed"  # a machine half as fast
    assert checks.latency(relative, [0.05] * 5, [0.06] * 5).outcome == "failed"


def test_the_baselines_own_seconds_are_compared_on_the_same_device_alone():
    ((name, outcome),) = [(c.name, c.outcome) for c in checks.stated_seconds(profile(), "cpu", [2.45, 2.7, 9.0])]
    assert (name, outcome) == ("baseline seconds", "passed")
    for busy in (2.2, 2.8):
        (check,) = checks.stated_seconds(profile(), "cpu", [busy] * 3)
        assert check.outcome == "warning"
        assert "busy" in check.reason
    assert checks.stated_seconds(profile(), "another", [9.0]) == []


def test_a_budget_in_macs_reports_seconds_without_judging_them():
    check = checks.latency(profile(), [9.0] * 5, [0.1] * 5)
    assert check.outcome == "not judged"
    assert check.passed is None
    assert check.figures["p50"] == 9.0


def test_quantiles_by_hand():
    values = list(range(1, 21))
    assert checks.quantile(values, 0.95) == 19
    assert checks.quantile(values, 1.0) == 20
    assert checks.quantile([7], 0.95) == 7


def test_calls_are_timed_in_turn_after_a_warm_up():
    order, ticks = [], itertools.count()
    calls = [lambda: order.append("a") or 1.0, lambda: order.append("b") or 2.0]
    first, second = in_turn(calls, 3, 1e9, lambda: next(ticks), Silent())
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert first == [1.0] * 3
    assert second == [2.0] * 3


def test_a_slow_machine_stops_after_the_least_number_of_rounds():
    clock = itertools.count(0, 100)
    (times,) = in_turn([lambda: 1.0], 20, 50.0, lambda: next(clock), Silent())
    assert len(times) == 5


# --- quality --------------------------------------------------------------------------------------------------------


def comparison(mean, half, n=100):
    """A stated and a measured comparison with the same interval."""
    error = half / checks.stats.t.ppf(0.975, n - 1)
    return (
        Comparison(mean=mean, low=mean - half, high=mean + half, num_prompts=n),
        stats.Comparison(n, mean, mean - half, mean + half, error * np.sqrt(n)),
    )


def judged(stated, fresh, half=0.2):
    return checks.quality("clip", comparison(stated, half)[0], comparison(fresh, half)[1], "fresh prompts")


def test_two_intervals_of_a_fifth_differ_by_chance_up_to_their_joint_width():
    # Two equal half widths of 0.2 make one of 0.2·√2 ≈ 0.283 for the difference, nearly (198 degrees, not 99).
    assert judged(-0.1, -0.1).outcome == "passed"
    assert judged(-0.1, -0.37).outcome == "passed"
    failed = judged(-0.1, -0.39)
    assert failed.outcome == "failed"
    assert "0.29 points" in failed.reason


def test_a_check_is_of_one_metric_and_the_level_is_shared_among_them():
    stated, fresh = comparison(-0.1, 0.2)[0], comparison(-0.39, 0.2)[1]
    check = checks.quality("scene", stated, fresh, "fresh prompts", metrics=2)
    assert check.name == "quality scene"
    assert check.figures["metric"] == "scene"
    assert check.outcome == "passed"
    assert checks.quality("scene", stated, fresh, "fresh prompts").outcome == "failed"


def test_a_scorers_small_values_are_shown():
    stated, fresh = comparison(-1e-4, 2e-5)[0], comparison(-9e-4, 2e-5)[1]
    check = checks.quality("aesthetics", stated, fresh, "fresh prompts")
    assert check.wanted.startswith("−0.00010 [−0.00012, −0.000080] over")
    assert check.reason.startswith("worse than stated by 0.00080, at least 0.00077 of that")
    assert checks.baseline_score("aesthetics", 5e-4, 9, [1e-4, 2e-4], "fresh prompts").wanted == "0.00050, or better"


def test_the_noise_of_the_stated_loss_is_taken_from_its_lower_end():
    # That end allows for the choice among finalists.
    stated, fresh = comparison(-0.1, 0.2)
    flattered = stated.model_copy(update={"high": stated.mean})
    assert checks.quality("clip", flattered, fresh, "fresh prompts").figures == {
        **checks.quality("clip", stated, fresh, "fresh prompts").figures,
        "stated": flattered.model_dump(),
    }


def test_better_than_stated_passes_however_much():
    assert judged(-1.0, 3.0).outcome == "passed"


def test_few_prompts_say_what_they_cannot_see():
    stated, _ = comparison(-0.1, 0.2)
    _, wide = comparison(-2.0, 9.0, n=5)
    check = checks.quality("clip", stated, wide, "fresh prompts")
    assert check.outcome == "passed"
    assert "further loss of 9" in check.reason


def test_images_that_equal_the_baselines_differ_by_nothing():
    exact = Comparison(mean=0.0, low=0.0, high=0.0, num_prompts=50)
    for fresh, outcome in ((0.0, "passed"), (-0.5, "failed")):
        same = stats.Comparison(50, fresh, fresh, fresh, 0.0)
        assert checks.quality("clip", exact, same, "fresh prompts").outcome == outcome


def test_one_in_forty_sets_of_fresh_prompts_fails_by_chance():
    rng = np.random.default_rng(0)
    failed = 0
    for _ in range(2000):
        stated, fresh = rng.normal(-0.3, 2.0, 80), rng.normal(-0.3, 2.0, 40)
        first, second = stats.compare(stated, 0 * stated), stats.compare(fresh, 0 * fresh)
        section = Comparison(mean=first.mean, low=first.low, high=first.high, num_prompts=80)
        failed += checks.quality("clip", section, second, "fresh prompts").outcome == "failed"
    assert 0.015 < failed / 2000 < 0.035


# --- guards ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "bound", "value", "outcome"),
    [
        ("ssim", 0.8, 0.8, "passed"),
        ("ssim", 0.8, 0.79, "warning"),
        ("ssim", 0.8, 0.77, "failed"),
        ("lpips", 0.2, 0.15, "passed"),
        ("cmmd", 0.2, 0.215, "warning"),
        ("cmmd", 0.2, 0.225, "failed"),
        ("clip", -0.3, -0.29, "passed"),
        ("clip", -0.3, -0.33, "failed"),
    ],
)
def test_a_guard_on_fresh_prompts_is_given_its_own_noise(metric, bound, value, outcome):
    check = checks.guard_rail(Guard(metric, bound), Reading(value, 0.01, 100), "fresh prompts")
    assert check.outcome == outcome
    assert check.name == f"guard {metric}"
    assert check.figures["value"] == value


def test_a_guard_on_few_prompts_or_on_nothing_does_not_fail():
    assert checks.guard_rail(Guard("ssim", 0.8), Reading(0.1, 0.01, 5), "fresh prompts").outcome == "warning"
    assert checks.guard_rail(Guard("lpips", 0.2), None, "fresh prompts").passed is None


# --- the environment ------------------------------------------------------------------------------------------------


def test_versions_warn_from_the_minor_number_on():
    found = {"torch": "2.15.3+cpu", "diffusers": "0.43.0"}
    torch, diffusers = checks.versions({"torch": "2.15.0", "diffusers": "0.42.1"}, found)
    assert torch.outcome == "passed"
    assert diffusers.outcome == "warning"
    assert checks.versions({}, found)[0].outcome == "warning"


def test_seconds_of_another_device_are_a_warning():
    assert checks.latency_device("H100", "H100").outcome == "passed"
    assert checks.latency_device("H100", "A100").outcome == "warning"
    assert checks.latency_device(None, "A100").passed is None


def test_warnings_do_not_fail_a_profile_and_failures_are_named(tmp_path):
    warned = VerifyResult(tmp_path, (checks.Check("a", "1", "2", "warning"), checks.not_judged("b", "1", "why")))
    warned.require()
    assert warned.as_dict()["passed"] is True
    assert [check["passed"] for check in warned.as_dict()["checks"]] == [True, None]
    failed = replace(warned, checks=(*warned.checks, checks.same("c", "1", "2", "why")))
    with pytest.raises(CheckError, match="1 of 3 checks failed: c"):
        failed.require()
    assert CheckError.exit_code == 3


# --- a real profile -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrated")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("POSTDIFF_CACHE", str(folder / "cache"))
        job = CalibrateJob(budget=parse_budget("60%"), num_prompts=20, trials=6, device="cpu", dtype="float32")
        run_calibrate(replace(job, study=folder / "study", out=folder / "profile.yaml"))
    return folder


def edited(folder, tmp_path, section, **changes):
    data = load_profile(folder / "profile.yaml").to_dict()
    data[section].update(changes)
    path = tmp_path / "edited.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
    return path


def checked(path, **options):
    result = run_verify(VerifyJob(path, num_prompts=20, device="cpu", **options))
    return result, {check.name: check for check in result.checks}


@pytest.mark.slow
def test_a_profile_holds_on_the_machine_that_made_it(calibrated, capsys, monkeypatch):
    monkeypatch.chdir(calibrated)
    with pytest.raises(SystemExit) as stop:
        main(["verify", "profile.yaml", "--prompts", "20", "--json", "--device", "cpu"])
    data = json.loads(capsys.readouterr().out)
    by_name = {check["name"]: check for check in data["checks"]}
    assert data["failed"] == []
    assert stop.value.code in (None, 0)
    assert by_name["latency"]["outcome"] == "not judged"  # the budget is in MACs
    assert by_name["latency"]["figures"]["p50"] > 0
    assert by_name["compute"]["outcome"] == "passed"
    for name in ("quality clip", "quality scene"):
        assert by_name[name]["figures"]["fresh"]["num_prompts"] == 20
        assert "fresh prompts" in by_name[name]["found"]


@pytest.mark.slow
def test_a_budget_below_the_plans_cost_fails(calibrated, tmp_path):
    expected = load_profile(calibrated / "profile.yaml").expected
    percent = int(50 * expected.relative_macs)  # about half of what the plan costs
    limit = percent / 100 * expected.baseline_cost.macs
    path = edited(calibrated, tmp_path, "budget", text=f"{percent}%", limit=limit, share=percent / 100)
    result, by_name = checked(path)
    assert result.failed == ("compute",)
    assert "the budget" in by_name["compute"].reason
    path = edited(calibrated, tmp_path, "budget", limit=limit)
    assert checked(path)[0].failed == ("budget", "compute")


@pytest.mark.slow
def test_guards_are_judged_on_fresh_prompts(calibrated, tmp_path):
    def rail(metric, rule, limit):
        return {"metric": metric, "rule": rule, "limit": limit, "value": 0.5, "bound": False}

    rails = [rail("ssim", "at least", 0.999), rail("psnr", "at least", 3.0), rail("cmmd", "at most", 5.0)]
    rails.append(rail("scene", "at least", -100.0))
    result, by_name = checked(edited(calibrated, tmp_path, "budget", guards=rails))
    assert result.failed == ("guard ssim",)
    assert 0 < by_name["guard ssim"].figures["value"] < 0.999
    assert by_name["guard psnr"].outcome == by_name["guard cmmd"].outcome == "passed"
    assert by_name["guard scene"].outcome == "passed"
    assert by_name["guard scene"].figures["value"] % 5 == pytest.approx(0)  # a share of 20 scenes
    assert "over 20 fresh prompts" in by_name["guard psnr"].found


@pytest.mark.slow
def test_another_scheduler_size_or_scorer_fails(calibrated, tmp_path, capsys):
    result, by_name = checked(edited(calibrated, tmp_path, "model", scheduler="EulerDiscreteScheduler"))
    assert result.failed == ("scheduler",)
    assert by_name["scheduler"].found == "DDIMScheduler"
    assert by_name["quality"].passed is None
    # At the size that the profile states the baseline scores otherwise than the profile says.
    result, by_name = checked(edited(calibrated, tmp_path, "model", height=32, width=32))
    assert "baseline clip" in result.failed
    assert by_name["size"].found == "32×32"
    path = edited(calibrated, tmp_path, "evidence", scorer_sha256="00" * 32)
    result, by_name = checked(path)
    assert result.failed == ("scorer",)
    assert "scorer" in by_name["quality"].reason
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(path), "--prompts", "20", "--device", "cpu", "--quiet"])
    assert stop.value.code == 3
    out, err = capsys.readouterr()
    assert "✗ failed" in out
    assert err.startswith(f"postdiff: profile {path}: 1 of ")
    assert "checks failed: scorer" in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_other_weights_fail_and_the_same_ones_elsewhere_do_not(calibrated, tmp_path):
    import torch

    from postdiff_calib.models.load import load_pipeline

    pipe = load_pipeline("shapes", device="cpu", dtype="float32").pipe
    pipe.save_pretrained(tmp_path / "same")
    result, _ = checked(calibrated / "profile.yaml", model=str(tmp_path / "same"))
    assert result.failed == ()
    with torch.no_grad():
        pipe.unet.conv_in.weight.mul_(1.1)
    pipe.save_pretrained(tmp_path / "other")
    result, by_name = checked(calibrated / "profile.yaml", model=str(tmp_path / "other"))
    assert result.failed == ("weights",)
    assert by_name["latency"].passed is None
