"""The cost table: sums done in the head, prediction of what was not measured, and its file."""

import json

import pytest

from postdiff_calib.cost import CostTable, Latency
from postdiff_calib.cost.check import read_data
from postdiff_calib.cost.latency import MAX_KINDS, _middle_first, probes, summarise, timing
from postdiff_calib.cost.macs import Macs
from postdiff_calib.cost.meter import Meter, StepKey
from postdiff_calib.cost.setting import Setting
from postdiff_calib.cost.store import load_latency, read_table, save_latency, write_json
from postdiff_calib.cost.table import Timing
from postdiff_calib.cost.timeline import Timeline
from postdiff_calib.errors import ModelError, OutputError, UnsupportedError
from postdiff_calib.knobs import Knobs, names
from postdiff_calib.plan import compile_plan

SCALES = (0.375, 0.5, 0.625, 0.75, 0.875)


class FakeMeter(Meter):
    """Full 16×16 steps cost 1000 MACs per network item, a tenth of it attention; reuse a fifth, cached a tenth less."""

    def __init__(self) -> None:
        super().__init__({"_class_name": "Fake"}, 4)

    def step(self, key: StepKey) -> Macs:
        if key.branch > 2:
            raise UnsupportedError("cache_branch", "too deep", "less")
        items = 2 if key.guided else 1
        share = (1 if key.refresh else 0.2) * (1 if key.cross_attention_live else 0.9)
        area = key.height * key.width / 256
        return Macs(conv=round(900 * items * share * area), attention=round(100 * items * share * area))


def table(latency: Latency | None = None) -> CostTable:
    return CostTable(
        model="fake",
        height=64,
        width=64,
        latent=(16, 16),
        latent_multiple=2,
        guides=True,
        meter=FakeMeter(),
        macs_text_encoder=7,
        macs_vae_decoder=9,
        latency=latency,
    )


def constant(seconds: float) -> Timing:
    return Timing(seconds, seconds, seconds, 5)


def latency(steps: dict[StepKey, float], **changes) -> Latency:
    values = {
        "steps": {key: constant(seconds) for key, seconds in steps.items()},
        "before": constant(1.0),
        "after": constant(2.0),
        "text": constant(0.5),
        "step_overhead": constant(0.01),
        "switch": 0.25,
        "scale": 1.0,
        "reuse_slope": 0.0,
        "p95_ratio": 1.5,
        "batch_size": 1,
        "environment": {"device": "cpu"},
    }
    return Latency(**{**values, **changes})


FULL = StepKey(16, 16, True, True, True, -1)
REUSE = StepKey(16, 16, True, False, True, 1)
LOW = StepKey(8, 8, True, True, True, -1)


def test_macs_are_the_sum_over_steps() -> None:
    cost = table().price(compile_plan(Knobs(4)))
    assert (cost.macs, cost.macs_paper) == (8000, 7200)
    assert (cost.seconds, cost.seconds_p95) == (None, None)
    # s = 0.5 at β = 0.5: two steps at a quarter; k = 2: refresh and reuse in each half.
    cost = table().price(compile_plan(Knobs(4, 0.5, 0.5, 2)))
    assert cost.macs == 500 + 100 + 2000 + 400


def test_seconds_are_before_steps_switch_and_after() -> None:
    measured = table(latency({FULL: 1.0, REUSE: 0.25, LOW: 0.5}))
    assert measured.price(compile_plan(Knobs(4))).seconds == 1 + 4 + 2
    assert measured.price(compile_plan(Knobs(4, cache_interval=2))).seconds == 1 + 2 + 0.5 + 2
    cost = measured.price(compile_plan(Knobs(4, 0.5, 0.5)))
    assert cost.seconds == 1 + 2 * 0.5 + 0.25 + 2 + 2
    assert cost.seconds_p95 == 1.5 * cost.seconds
    doubled = table(latency({FULL: 1.0, REUSE: 0.25, LOW: 0.5}, scale=2.0))
    assert doubled.price(compile_plan(Knobs(4))).seconds == 1 + 8 + 2
    # r = 1/2: the steps' 2.5 s take 1 + 0.4/2 times as long.
    sloped = table(latency({FULL: 1.0, REUSE: 0.25, LOW: 0.5}, reuse_slope=0.4))
    assert sloped.price(compile_plan(Knobs(4, cache_interval=2))).seconds == pytest.approx(1 + 1.2 * 2.5 + 2)


def test_an_unmeasured_size_lies_on_the_line_through_the_measured_ones() -> None:
    """Seconds = 0.1 + MACs/2000 at both measured sizes, so at every size between."""
    measured = table(latency({FULL: 1.1, LOW: 0.35}))
    for side in (10, 12, 14):
        key = StepKey(side, side, True, True, True, -1)
        assert measured.step_seconds(key) == pytest.approx(0.1 + 2000 * side * side / 256 / 2000, rel=1e-3)
        assert not measured.is_measured(key)
    assert measured.is_measured(FULL)


def test_an_unmeasured_kind_follows_the_most_similar_measured_one() -> None:
    """Reuse runs at half the rate of refresh when measured; so it does at another size."""
    steps = {FULL: 1.0, LOW: 0.25, REUSE: 0.4}
    measured = table(latency(steps))
    low_reuse = measured.step_seconds(LOW._replace(refresh=False, branch=1))
    assert 0 < low_reuse < 0.25
    assert low_reuse > 0.05, "twice as slow per MAC as a refresh"


def test_prediction_from_one_kind_is_proportional() -> None:
    measured = table(latency({FULL: 1.0}))
    assert measured.step_seconds(FULL._replace(guided=False)) == pytest.approx(0.5)


def test_prediction_never_turns_negative() -> None:
    """Noise: the smaller network was measured slower."""
    measured = table(latency({FULL: 1.0, LOW: 1.4}))
    assert 0.9 < measured.step_seconds(StepKey(12, 12, True, True, True, -1)) < 1.5


def test_seconds_of_nothing_measured_are_refused() -> None:
    with pytest.raises(ModelError, match="none were measured"):
        table().step_seconds(FULL)


def test_the_file_holds_everything(tmp_path) -> None:
    first = table(latency({FULL: 1.0, REUSE: 0.25, LOW: 0.5}, memory={FULL: 123.0}))
    first.price(compile_plan(Knobs(4, 0.5, 0.5, 2)))
    write_json(tmp_path / "h100.json", first.as_dict())
    second = read_table(tmp_path / "h100.json")
    assert second.latency == first.latency
    assert second.macs == first.macs
    plan = compile_plan(Knobs(6, 0.5, 0.5, 2))
    assert second.price(plan) == first.price(plan)
    assert second.as_dict() == first.as_dict()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["h100.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("{}", "version None"),
        ('{"table_version": 99}', "version 99"),
        ('{"table_version": 1}', "damaged"),
    ],
)
def test_a_bad_table_gets_one_line(tmp_path, text: str, message: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(ModelError, match=message):
        read_table(path)
    assert load_latency(path) is None


def test_a_missing_table_and_an_unwritable_place(tmp_path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        read_table(tmp_path / "none.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_json(tmp_path / "file" / "t.json", {})
    save_latency(tmp_path / "file" / "t.json", table(), latency({FULL: 1.0}))


def test_the_cache_gives_back_what_it_got(tmp_path) -> None:
    measured = latency({FULL: 1.0, LOW: 0.5})
    priced = table()
    save_latency(tmp_path / "a" / "x.json", priced, measured)
    assert priced.latency is None
    assert load_latency(tmp_path / "a" / "x.json") == measured
    assert json.loads((tmp_path / "a" / "x.json").read_text())["latency"]["switch"] == 0.25


def setting(**changes) -> Setting:
    return Setting(**{"height": 64, "width": 64, "guidance_scale": 5.0, "batch_size": 1, "scales": SCALES, **changes})


def test_probes_cover_the_space_within_the_limit_of_kinds() -> None:
    priced = table()
    plans = probes(names(), priced, setting(branches=(1, 0, 2)))
    kinds = {key for plan in plans for key in priced.keys(plan)}
    assert len(kinds) <= MAX_KINDS
    sides = {key.height for key in kinds}
    assert sides == {6, 8, 10, 12, 14, 16}
    for side in sides:
        flags = {(key.guided, key.refresh, key.cross_attention_live) for key in kinds if key.height == side}
        assert {(True, True, True), (True, False, True), (False, True, False), (False, False, False)} <= flags
    assert {key.branch for key in kinds} == {-1, 0, 1, 2}


def test_many_scales_leave_some_to_prediction() -> None:
    big = table()
    big.latent = (64, 64)
    scales = tuple(0.3 + 0.05 * i for i in range(13))
    kinds = {key for plan in probes(names(), big, setting(scales=scales)) for key in big.keys(plan)}
    assert 30 < len(kinds) <= MAX_KINDS
    assert 64 in {key.height for key in kinds}


def test_quick_probes_are_few() -> None:
    plans = probes(names(), table(), setting(quick=True))
    assert len(plans) == 5
    assert {plan.knobs.low_res_scale for plan in plans if plan.n_low} == {0.375, 0.625}


def test_probes_leave_out_what_does_not_apply_or_exist() -> None:
    plans = probes(frozenset({"num_inference_steps"}), table(), setting())
    assert all(plan.is_identity for plan in plans)
    plans = probes(names(), table(), setting(branches=(1, 9)))
    assert {plan.knobs.cache_branch for plan in plans} == {1}
    # β = 0.99 rounds to the full size.
    assert not any(plan.n_low for plan in probes(names(), table(), setting(scales=(0.99,))))


def test_middle_first() -> None:
    assert _middle_first(SCALES) == [0.625, 0.375, 0.875, 0.5, 0.75]
    assert _middle_first(()) == []
    assert _middle_first((0.5,)) == [0.5]


def test_timing_is_median_and_quartiles() -> None:
    assert timing([5, 1, 2, 4, 3]) == Timing(3, 2, 4, 5)
    assert timing([1.5]) == Timing(1.5, 1.5, 1.5, 1)


def test_a_summary_done_in_the_head() -> None:
    """Batch of 2: before 2 s, low steps 2 s (the switch 3 s), full steps 4 s, after 6 s; 21 s in all."""
    plan = compile_plan(Knobs(4, 0.5, 0.5))
    times = Timeline(total=21.0, text=1.0, before=2.0, steps=[2.0, 3.0, 4.0, 4.0], network=[1.0] * 4, after=6.0)
    priced = table()
    found = summarise(priced, [(plan, times)] * 3, batch_size=2, environment={"device": "cpu"})
    assert {key.height: value.median for key, value in found.steps.items()} == {8: 1.0, 16: 2.0}
    assert (found.before.median, found.after.median, found.text.median, found.switch) == (1.0, 3.0, 0.5, 0.5)
    assert found.step_overhead.median == 1.125 + 0.125
    assert (found.scale, found.reuse_slope, found.p95_ratio) == (1.0, 0.0, 1.0)
    priced.latency = found
    assert priced.price(plan).seconds == 10.5


def test_whole_runs_set_the_factor_and_the_tail() -> None:
    """Steps of 1, 1, 1 and 5 s: the median is 1 and their sum twice four; one run in ten is slow at the end."""
    plan = compile_plan(Knobs(4))
    steps = [1.0, 1.0, 1.0, 5.0]
    runs = [(plan, Timeline(10.0 + late, 0.0, 1.0, steps, [1.0] * 4, 1.0)) for late in [0] * 18 + [10] * 2]
    found = summarise(table(), runs, batch_size=1)
    assert found.scale == pytest.approx(2.0)
    assert found.p95_ratio == pytest.approx(2.0)


def test_what_a_run_takes_once_is_no_part_of_each_step() -> None:
    """Step 0 takes 4 s and the others 1 s, at low resolution 3 s and half a second: true of runs of any length."""
    short, low = compile_plan(Knobs(4)), compile_plan(Knobs(6, 0.5, 0.5))
    runs = [(short, Timeline(9.0, 0.0, 1.0, [4.0, 1.0, 1.0, 1.0], [1.0] * 4, 1.0))] * 3
    runs += [(low, Timeline(9.0, 0.0, 1.0, [3.0, 0.5, 0.5, 1.0, 1.0, 1.0], [1.0] * 6, 1.0))] * 3
    found = summarise(table(), runs, batch_size=1)
    assert (found.first, found.first_low, found.switch) == (3.0, 2.5, 0.0)
    assert (found.scale, found.reuse_slope) == (1.0, 0.0)
    assert {key.height: time.median for key, time in found.steps.items()} == {16: 1.0, 8: 0.5}
    priced = table(found)
    assert priced.price(compile_plan(Knobs(20))).seconds == pytest.approx(1 + 3 + 20 + 1)
    assert priced.price(compile_plan(Knobs(20, 0.5, 0.5))).seconds == pytest.approx(1 + 2.5 + 5 + 10 + 1)
    assert read_data(json.loads(json.dumps(priced.as_dict()))).latency == found


def test_a_machine_that_is_bound_by_its_host_is_predicted_from_short_probes() -> None:
    """Simulated: a step takes the host as long at any size, and every run takes 32 ms more in its first step."""
    milliseconds = {(True, True): 27.0, (True, False): 7.0, (False, True): 24.0, (False, False): 6.0}
    before, after, once = 16.0, 13.0, 32.0

    def run(plan):
        steps = [milliseconds[step.guided, step.refresh] for step in plan]
        steps[0] += once
        return Timeline(before + sum(steps) + after, 0.0, before, steps, steps, after)

    # Only the MACs differ between sizes, by which kinds outside the probes are predicted.
    priced = table()
    priced.latency = summarise(priced, [(plan, run(plan)) for plan in probes(names(), priced, setting())] * 3, 1)
    for knobs in (
        Knobs(20),
        Knobs(5),
        Knobs(20, cache_interval=2),
        Knobs(19, guidance_fraction=0.5),
        Knobs(16, 0.5, 0.5),
    ):
        plan = compile_plan(knobs)
        assert priced.price(plan).seconds == pytest.approx(run(plan).total, rel=0.02), knobs


def test_a_kind_that_only_begins_runs_is_known_by_its_beginning() -> None:
    plan = compile_plan(Knobs(4, cache_interval=4))
    runs = [(plan, Timeline(8.0, 0.0, 1.0, [3.0, 1.0, 1.0, 1.0], [1.0] * 4, 1.0))] * 3
    found = summarise(table(), runs, batch_size=1)
    assert found.steps[FULL].median == 3.0
    assert (found.first, found.first_low) == (0.0, 0.0)
    assert table(found).price(plan).seconds == pytest.approx(8)


def test_the_factor_is_a_line_in_the_share_of_reuse_steps() -> None:
    """Refresh steps take 1 s alone and 3 s after a reuse (1 s); at k = 1 and 2 the line meets both."""
    plain, cached = compile_plan(Knobs(4)), compile_plan(Knobs(4, cache_interval=2))
    runs = [(plain, Timeline(6.0, 0.0, 1.0, [1.0] * 4, [1.0] * 4, 1.0))] * 4
    runs += [(cached, Timeline(10.0, 0.0, 1.0, [3.0, 1.0, 3.0, 1.0], [1.0] * 4, 1.0))] * 4
    found = summarise(table(), runs, batch_size=1)
    priced = table(found)
    assert found.steps[FULL].median == 1.0
    assert (found.scale, found.reuse_slope) == (pytest.approx(1.0), pytest.approx(2.0))
    assert priced.price(plain).seconds == pytest.approx(6)
    assert priced.price(cached).seconds == pytest.approx(10)
