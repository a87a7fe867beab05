"""The command that checks a GPU, in miniature on the CPU: what must hold there holds, and what is planted is found."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import acceptance_checks as checks
import acceptance_timing as timing
import gpu_acceptance
import random_models as models
from acceptance_bench import Bench, settings
from acceptance_table import COLUMNS, markdown

from postdiff_calib.errors import UnsupportedError
from postdiff_calib.techniques.guidance import Guidance

LATER = 1e12


@pytest.fixture
def bench():
    return Bench("cpu", True, LATER)


def test_identity_is_bitwise_and_written_to_the_file(tmp_path, capsys):
    out = tmp_path / "out.json"
    gpu_acceptance.main(["--miniature", "--only", "identity", "second-device", "further", "--out", str(out)])
    record = json.loads(out.read_text())
    assert list(record["sections"]) == ["identity", "second-device", "further"]
    assert [entry["state"] for entry in record["sections"].values()] == ["ran"] * 3
    rows = record["sections"]["identity"]["rows"]
    assert [row["dtype"] for row in rows] == ["bfloat16", "float16", "bfloat16", "bfloat16"]
    for row in rows:
        assert row["stock_repeats"]
        assert row["neutral"]["bitwise"]
        assert row["disabled"]["bitwise"]
        assert row["accelerated_finite"]
        assert row["accelerated_differs"]
    assert record["machine"]["versions"]["diffusers"]
    (second,) = record["sections"]["second-device"]["rows"]
    assert (second["device"], second["state"], len(second["raw"])) == ("cpu", "timed", 3)
    assert second["parts_over_total"] == pytest.approx(1)
    further = record["sections"]["further"]["rows"]
    sizes = [size.label for size in models.FURTHER]
    assert [row["model"] for row in further if "neutral" in row] == sizes
    assert all(row["neutral"]["bitwise"] for row in further if "neutral" in row)
    plans = {size: {row["plan"]: row for row in further if row["model"] == size and "plan" in row} for size in sizes}
    assert all(list(rows) == list(settings(4)) for rows in plans.values())
    # FLUX's guidance is an input of its network: there is no half to drop
    flux = plans["FLUX-size 1024²"]
    assert [name for name, row in flux.items() if "state" in row] == ["m=.75", "all"]
    assert all("efficiency" in row for row in plans["SD3-size 1024²"].values())
    assert "| SD1.5-size 512² | bfloat16 | True | bitwise | bitwise | True |" in capsys.readouterr().out


def test_equal_to_the_packages(bench):
    checks.equality(bench)
    assert [row["against"] for row in bench.rows] == ["DeepCache k=2", "DeepCache k=3", "T-GATE m=.5"] * 2
    assert all(row["bitwise"] and row["differs_from_stock"] for row in bench.rows)
    # Neither package left anything on the network.
    network = bench.model(models.SIZES[0]).pipe.unet
    assert not any({"forward", "cache"} & module.__dict__.keys() for module in network.modules())


def test_no_host_reads_are_added_and_a_planted_one_is_found(bench, monkeypatch):
    loaded, plan = bench.model(models.SIZES[0]), settings(bench.steps)["all"]
    stock = checks.reads_of(bench, loaded, None)
    assert checks.reads_of(bench, loaded, plan) == stock
    begin = Guidance.begin

    def reading(self, call):
        call.sample.mean().item()
        return begin(self, call)

    monkeypatch.setattr(Guidance, "begin", reading)
    found = checks.reads_of(bench, loaded, plan)
    assert found["scalar reads"] == stock["scalar reads"] + bench.steps


def test_time_is_kept(tmp_path):
    ran = []
    sections = [
        gpu_acceptance.Section("identity", 10, lambda _: ran.append("long")),
        gpu_acceptance.Section("memory", 0, lambda _: ran.append("short")),
    ]
    bench = Bench("cpu", False, gpu_acceptance.time.monotonic() + 5)
    record = gpu_acceptance.run(sections, bench, None, 1.0)
    assert ran == ["short"]
    assert record["sections"]["identity"]["state"].startswith("not run: time (")
    assert record["sections"]["memory"]["state"] == "ran"
    assert "## identity: not run: time" in markdown(record)


def test_a_section_that_raises_keeps_its_rows_and_the_others_go_on(bench, tmp_path):
    def breaking(bench):
        bench.note(model="a", batch=1)
        raise RuntimeError("out of luck")

    sections = [gpu_acceptance.Section("memory", 0, breaking), gpu_acceptance.Section("further", 0, lambda _: None)]
    gpu_acceptance.run(sections, bench, tmp_path / "out.json", 1.0)
    record = json.loads((tmp_path / "out.json").read_text())["sections"]
    assert record["memory"]["state"] == "failed: RuntimeError: out of luck"
    assert record["memory"]["rows"] == [{"model": "a", "batch": 1}]
    assert "breaking" in record["memory"]["traceback"]
    assert record["further"]["state"] == "ran"


def test_every_row_is_in_the_file_before_the_next(bench, tmp_path):
    out, seen = tmp_path / "out.json", []

    def rows(bench):
        for number in range(2):
            bench.note(batch=number)
            entry = json.loads(out.read_text())["sections"]["memory"]
            seen.append((entry["state"], len(entry["rows"])))

    gpu_acceptance.run([gpu_acceptance.Section("memory", 0, rows)], bench, out, 1.0)
    assert seen == [("stopped while it ran", 1), ("stopped while it ran", 2)]


@pytest.mark.parametrize(
    ("label", "parameters"),
    [
        ("SD1.5-size 512²", 859_520_964),
        ("SDXL-size 1024²", 2_567_463_684),
        ("FLUX-size 1024²", 11_901_408_320),
        ("SD3-size 1024²", 2_028_328_000),
    ],
)
def test_full_sizes_have_the_published_parameters(label, parameters):
    size = next(size for size in (*models.SIZES, *models.FURTHER) if size.label == label)
    loaded = models.build(models.card_of(size), "meta", "bfloat16")
    network = getattr(loaded.pipe, loaded.card.denoiser_role)
    assert sum(weight.numel() for weight in network.parameters()) == parameters
    assert {weight.dtype for weight in network.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    assert (loaded.card.height, loaded.card.width) == (size.side, size.side)


def test_a_model_is_built_where_memory_allows(bench, monkeypatch):
    size = models.FURTHER[1]
    card = models.miniature(models.card_of(size))
    needed = round(models.weight_bytes(card, "bfloat16") * (1 + models.ROOM)) + models.SPARE
    assert models.weight_bytes(card, "float32") == 2 * models.weight_bytes(card, "bfloat16")
    models.require_room(card, "bfloat16", needed)
    models.require_room(card, "bfloat16", None)
    with pytest.raises(UnsupportedError, match=r"it takes 4.0 GiB, and 4.0 GiB are free"):
        models.require_room(card, "bfloat16", needed - 1)
    monkeypatch.setattr(Bench, "free", 30 * 2**30)
    monkeypatch.setattr(timing, "FURTHER", models.FURTHER[:1])
    timing.further(bench)  # 16.8 billion weights
    (row,) = bench.rows
    assert row["state"].startswith("skipped: ")
    assert "and 30.0 GiB are free" in row["state"]


def test_a_missing_card_and_a_missing_family_are_named(monkeypatch):
    with pytest.raises(UnsupportedError, match="no card begins with 'nothing'"):
        models.card_of(models.Size("nothing", "nothing", 64))
    stranger = replace(next(c for c in models.CARDS if c.name == "sd15"), pipeline_class="OtherPipeline")
    monkeypatch.setattr(models, "CARDS", (stranger,))
    with pytest.raises(UnsupportedError, match="OtherPipeline is of no family"):
        models.card_of(models.SIZES[0])


def test_every_section_has_its_table():
    assert set(COLUMNS) == set(gpu_acceptance.NAMES)
    assert [section.name for section in gpu_acceptance.sections()] == list(gpu_acceptance.NAMES)


@pytest.mark.slow
def test_timed_sections_have_their_values(bench, monkeypatch, tmp_path):
    monkeypatch.setenv("POSTDIFF_CACHE", str(tmp_path))
    timing.efficiency(bench)
    plans = list(settings(bench.steps))
    assert [row["plan"] for row in bench.rows] == 2 * plans
    for row in bench.rows:
        assert row["efficiency"] == pytest.approx(row["speed_up"] / row["speed_up_by_macs"])
        assert (row["speed_up_by_macs"] == 1) == (row["plan"] == "neutral")
        assert len(row["loop_seconds"]) == len(row["stock_loop_seconds"]) == 1
        assert 0 < row["loop_seconds"][0] <= row["whole_seconds"][0]
    bench.rows.clear()
    timing.prediction(bench)
    assert [row["table"] for row in bench.rows] == ["before", "after", "marks"]
    for row in bench.rows[:2]:
        assert len(row["plans"]) == 4
        assert row["median_error"] <= row["p95_error"]
        assert all(run["total"] > sum(run["steps"]) for run in row["runs"])
    # A warm-up, then a timed round, of each plan, behind the probes'.
    timed = [run["knobs"] for run in bench.rows[0]["runs"][-8:]]
    assert sorted(map(str, timed)) == sorted(str(row["settings"]) for row in bench.rows[0]["plans"] * 2)
    assert bench.rows[2]["seconds"].keys() == {"plain", "marks", "memory"}
    bench.rows.clear()
    timing.prediction_sdxl(bench)
    assert [(row["model"], row["table"]) for row in bench.rows] == [
        ("SDXL-size 1024²", table) for table in ("before", "after", "marks")
    ]
    assert len(bench.rows[0]["plans"]) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_compiled_steps_are_never_mixed_with_uncompiled(bench, monkeypatch):
    timing.compiled(bench, ["k=2", "m=.75", "s=.5 β=.5"])
    rows = {row["plan"]: row for row in bench.rows}
    assert not any("state" in row for row in rows.values())
    assert all(row["graphs_compiled_while_timed"] == 0 and not row["graph_breaks"] for row in rows.values())
    assert all(row["against_eager"]["bitwise"] for row in rows.values())
    graphs = {name: row["graphs"] for name, row in rows.items()}
    # the last guided step, which keeps cross-attention for those after it, is a graph of its own
    assert graphs == {"stock": 1, "k=2": 2, "m=.75": 3, "s=.5 β=.5": 2}
    # With less room than kinds of step, the plan fails by name rather than running uncompiled.
    bench.rows.clear()
    monkeypatch.setattr(timing, "RECOMPILE_LIMIT", 1)
    timing.compiled(bench, ["k=2"])
    rows = {row["plan"]: row for row in bench.rows}
    assert rows["stock"]["graphs"] == 1
    assert "limit" in rows["k=2"]["state"]
    assert rows["k=2"]["state"].startswith("failed: ")
