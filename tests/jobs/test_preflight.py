"""What is refused before time is spent: no measuring, no loading, nothing written over."""

import re
from types import SimpleNamespace

import pytest

from postdiff_calib.cost.budget import parse_budget
from postdiff_calib.cost.build import table_for_card
from postdiff_calib.errors import BudgetError, GuardError
from postdiff_calib.jobs.calibrate import run_calibrate
from postdiff_calib.jobs.given import Given
from postdiff_calib.jobs.job import CalibrateJob
from postdiff_calib.jobs.preflight import check_metrics
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.cards import get_card
from postdiff_calib.models.load import load_pipeline
from postdiff_calib.plan import compile_plan
from postdiff_calib.search.space import SearchSpace, require_reachable


def forbidden(*_, **__):
    raise AssertionError("too early")


@pytest.mark.parametrize("budget", ["1%", "10MMACs", "50x macs"])
def test_a_budget_in_macs_that_nothing_meets_is_refused_before_the_model_is_loaded(tmp_path, monkeypatch, budget):
    monkeypatch.setattr("postdiff_calib.models.load.load_pipeline", forbidden)
    with pytest.raises(BudgetError) as caught:
        run_calibrate(CalibrateJob(budget=parse_budget(budget), study=tmp_path / "s", out=tmp_path / "p.yaml"))
    assert "the cheapest reachable plan (T=2 " in str(caught.value)
    assert "% of the baseline, and T there is at its lower end of 2" in str(caught.value)


@pytest.mark.slow
def test_a_model_without_a_card_is_loaded_but_not_measured(tmp_path, monkeypatch):
    pipe = load_pipeline("shapes", device="cpu").pipe
    pipe.save_pretrained(tmp_path / "model")
    monkeypatch.setattr("postdiff_calib.cost.latency.measured_latency", forbidden)
    job = CalibrateJob(
        model=str(tmp_path / "model"),
        budget=parse_budget("1%"),
        prompts="shapes",
        num_prompts=10,
        study=tmp_path / "s",
        out=tmp_path / "p.yaml",
        device="cpu",
    )
    with pytest.raises(BudgetError, match="cheapest reachable plan"):
        run_calibrate(job, given=Given(scorer=get_card("shapes").scorer))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model": "sd15"}, "--max-drop scene: sd15 is not measured by it, but by clip; "),
        ({"prompts": "cats.txt"}, "--max-drop scene: scenes are not judged: prompt 'a photo of a cat 0': no scene"),
    ],
)
def test_a_drop_of_scenes_that_nothing_judges_is_refused_before_any_image(tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cats.txt").write_text("".join(f"a photo of a cat {i}\n" for i in range(30)))
    early = "models.load.load_pipeline" if "model" in options else "cost.latency.measured_latency"
    for name in (early, "generate.images.generate"):
        monkeypatch.setattr(f"postdiff_calib.{name}", forbidden)
    job = CalibrateJob(max_drop=("scene=2",), num_prompts=10, study=tmp_path / "s", device="cpu", **options)
    with pytest.raises(GuardError) as caught:
        run_calibrate(job)
    assert says.replace("cat 0", "cat ") in re.sub(r"cat \d+", "cat ", str(caught.value))
    assert "\n" not in str(caught.value)


def test_prompts_that_are_no_captions_are_noted_and_not_refused():
    card = get_card("shapes")
    told = "scenes are not judged: prompt 'a cat': why"
    bench = SimpleNamespace(loaded=SimpleNamespace(card=card), unjudged=told, unembedded="")
    assert check_metrics(CalibrateJob(max_drop=("clip=1",)), bench) == bench.unjudged
    bench.unjudged = ""
    assert check_metrics(CalibrateJob(max_drop=("scene=1",)), bench) == ""


def test_the_corner_that_is_priced_holds_the_cheapest_plan():
    card = get_card("shapes")
    table = table_for_card(card)
    space = SearchSpace.from_card(card, latent_size=card.latent_size())
    cheapest = min(table.price(plan).macs for plan in space.plans)
    baseline = table.price(compile_plan(Knobs(card.num_inference_steps)))
    reachable = parse_budget(f"{cheapest * 1.0001:.0f}MACs").resolve(baseline)
    require_reachable(space, table.price, reachable)
    with pytest.raises(BudgetError):
        require_reachable(space, table.price, parse_budget(f"{cheapest * 0.9999:.0f}MACs").resolve(baseline))
