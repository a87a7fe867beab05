"""A dry run: the space by arm and budget, images at most, seconds from the table; wrong input before weights."""

import json
from types import SimpleNamespace

import pytest
from studies import cost_table, latency

from postdiff_calib.cost.budget import parse_budget
from postdiff_calib.errors import BudgetError, ModelError, PromptError
from postdiff_calib.generate.settings import GenerationSettings
from postdiff_calib.jobs.dry_run import plan_of, run_dry
from postdiff_calib.jobs.given import Given
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.models.cards import get_card
from postdiff_calib.report.dry_run import print_dry_run
from postdiff_calib.report.wording import duration
from postdiff_calib.search.restrict import parse_restrictions
from postdiff_calib.search.space import SearchSpace

CARD = get_card("shapes")


def planned(budget="60%", **options):
    restrictions = parse_restrictions(["s=0", "m=1"], ["T=9..20"], ["k=1,2"])
    job = CalibrateJob(budget=parse_budget(budget), restrictions=restrictions, **options)
    bench = SimpleNamespace(
        loaded=SimpleNamespace(card=CARD),
        space=SearchSpace.from_card(CARD, CARD.latent_size(), restrictions),
        calibration=range(60),
        held_out=range(120),
        settings=GenerationSettings(64, 64, 3.6, 10),
    )
    return plan_of(job, bench, cost_table(latency(1e-6)), scoring=0.5)


def test_the_space_is_counted_by_arm_and_budget():
    plan = planned()
    # T 9 to 20, each with k = 1 and k = 2; a cached step costs a fifth
    assert plan.plans == 24
    assert plan.restrictions == ("s=0", "m=1", "T=9..20", "k=1,2")
    own = plan.budgets[0]
    assert (own.budget, own.share) == ("60%", pytest.approx(0.6))
    # fewer steps: T 9 … 12; cheaper ones: k = 2 at T = 20 is 10 + 10/5 of 20 = 60 %; both: these, and k = 2 at all T
    assert own.plans == {"step_reduction": 4, "cheaper_steps": 1, "combined": 4 + 12}
    assert [at.budget for at in plan.budgets] == ["60%", "25%", "40%", "80%"]
    assert plan.budgets[1].plans == {"step_reduction": 0, "cheaper_steps": 0, "combined": 0}
    assert plan.baseline == "baseline: 20 steps DDIMScheduler, guidance 3.6, 64×64"


def test_images_are_bounded_and_their_seconds_follow():
    plan = planned(trials=12)
    assert plan.images["spread"] == 2 * 30  # the baseline with two seeds more
    assert plan.images["search"] == 60 + 3 * (plan.trials - 1)  # the baseline on all prompts, three for each evaluation
    # 3 + 1 + 2 finalists of the own budget, none fits 25 %, and at the others as many as fit
    assert plan.images["held-out"] % 120 == 0
    assert plan.images_at_most == sum(plan.images.values())
    baseline = 20 * 2000e-6
    assert plan.seconds["spread"] == pytest.approx(60 * baseline)
    assert 0 < plan.seconds["search"] < plan.images["search"] * baseline
    assert plan.seconds["scoring"] == pytest.approx(0.5 * plan.images_at_most)
    assert plan.seconds["proposals"] > 0
    assert plan.seconds_expected == pytest.approx(sum(plan.seconds.values()))
    assert planned(trials=100).images["search"] > plan.images["search"]


def test_it_is_printed_and_is_plain_data(capsys):
    plan = planned()
    print_dry_run(plan, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == plan.baseline
    assert "k: 1, 2" in lines
    assert "s: 0" in lines
    assert "24 distinct plans, restricted to s=0, m=1, T=9..20, k=1,2; those within each budget:" in lines
    assert any(line.startswith(f"at most {plan.images_at_most} images in {plan.trials} trials") for line in lines)
    print_dry_run(plan, as_json=True)
    assert json.loads(capsys.readouterr().out)["images_at_most"] == plan.images_at_most


def test_a_budget_out_of_reach_is_refused():
    with pytest.raises(BudgetError, match="cheapest reachable plan"):
        planned("10%")


def test_durations_are_for_people():
    assert [duration(s) for s in (9, 89, 300, 7800)] == ["9 s", "89 s", "5 min", "2 h 10 min"]


@pytest.mark.parametrize(
    ("options", "given", "error", "says"),
    [
        ({"prompts": "none.txt"}, {}, PromptError, "none.txt"),
        ({"num_prompts": 10**6}, {}, PromptError, "1000000"),
        ({"scorer": "local-dir:/nowhere"}, {}, ModelError, "/nowhere"),
        ({"device": "nothing"}, {}, ModelError, "device 'nothing'"),
    ],
)
def test_prompts_scorer_and_device_are_refused_before_weights_are_loaded(
    tmp_path, monkeypatch, options, given, error, says
):
    def forbidden(*_, **__):
        raise AssertionError("too early")

    monkeypatch.setattr("postdiff_calib.models.load.load_pipeline", forbidden)
    job = CalibrateJob(
        budget=parse_budget("60% time"), study=tmp_path / "s", out=tmp_path / "p.yaml", **{"device": "cpu", **options}
    )
    with pytest.raises(error, match=says):
        run_dry(job, given=Given(**given))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_dry_run_of_the_embedded_model_leaves_no_study(tmp_path, monkeypatch):
    monkeypatch.setenv("POSTDIFF_CACHE", str(tmp_path / "cache"))
    job = CalibrateJob(
        study=tmp_path / "s",
        out=tmp_path / "p.yaml",
        num_prompts=10,
        device="cpu",
        restrictions=parse_restrictions(["k=1", "m=1"], ["T=8..20"]),
    )
    plan = run_dry(job)
    assert all(seconds > 0 for seconds in plan.seconds.values())
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]
