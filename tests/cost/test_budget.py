"""Budgets: every unit by hand, then properties, then what is refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postdiff_calib.cost.budget import (
    Limit,
    PlanCost,
    budget_of,
    budgets_of,
    format_macs,
    format_seconds,
    parse_budget,
    parse_budgets,
)
from postdiff_calib.errors import BudgetError

BASELINE = PlanCost(macs=40e12, macs_paper=30e12, seconds=2.0, seconds_p95=2.4)

positive = st.floats(min_value=1e-3, max_value=1e6, allow_nan=False)


@pytest.mark.parametrize(
    ("text", "kind", "relative", "quantile", "limit"),
    [
        ("1.2s", "seconds", False, "median", 1.2),
        (" 1.2 s ", "seconds", False, "median", 1.2),
        ("850ms", "seconds", False, "median", 0.85),
        ("850 ms per image", "seconds", False, "median", 0.85),
        ("1.5s/image", "seconds", False, "median", 1.5),
        ("p95:1.2s", "seconds", False, "p95", 1.2),
        ("P95: 900ms", "seconds", False, "p95", 0.9),
        ("9.5TMACs", "macs", False, "median", 9.5e12),
        ("4.2 gmacs", "macs", False, "median", 4.2e9),
        ("19TFLOPs", "macs", False, "median", 9.5e12),
        ("1MFLOP", "macs", False, "median", 0.5e6),
        ("7MACs", "macs", False, "median", 7),
        ("60%", "macs", True, "median", 24e12),
        ("60% macs", "macs", True, "median", 24e12),
        ("60% time", "seconds", True, "median", 1.2),
        ("p95:50%", "seconds", True, "p95", 1.2),
        ("2x", "seconds", True, "median", 1.0),
        ("2X macs", "macs", True, "median", 20e12),
        ("p95:2x", "seconds", True, "p95", 1.2),
        ("120%", "macs", True, "median", 48e12),
        ("1e3ms", "seconds", False, "median", 1.0),
    ],
)
def test_every_unit(text: str, kind: str, relative: bool, quantile: str, limit: float) -> None:
    budget = parse_budget(text)
    assert (budget.kind, budget.relative, budget.quantile) == (kind, relative, quantile)
    assert budget.text == text.strip()
    resolved = budget.resolve(BASELINE)
    assert resolved.kind == kind
    assert resolved.value == pytest.approx(limit, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "fast", "1.2", "s", "%", "x", "-1s", "-5%", "0s", "0%", "0x", "1,2s", "1.2 parsecs", "1.2h", "infs"),
        *("nan%", "1e999s", "inf%", "1e-999s", "p95:9TMACs", "p95:60% macs", "p50:1s", "1.2s time", "1 2s", "1.2.3s"),
        *("s1.2", "١s", "1s 2s", "TMACs", "1YMACs", "0x10s", "1_000ms", "1e308PMACs"),
    ],
)
def test_nonsense_gets_one_line_that_says_what_is_accepted(text: str) -> None:
    with pytest.raises(BudgetError) as caught:
        parse_budget(text)
    message = str(caught.value)
    assert "\n" not in message
    assert "9.5TMACs" in message
    assert repr(text) in message


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        budget = parse_budget(text)
    except BudgetError:
        return
    assert math.isfinite(budget.amount)
    assert budget.amount > 0


@given(positive)
def test_units_agree(value: float) -> None:
    assert parse_budget(f"{value!r}s").amount == value
    assert parse_budget(f"{value!r}ms").amount == pytest.approx(value / 1000)
    assert parse_budget(f"{value!r}GMACs").amount == pytest.approx(value * 1e9)
    assert parse_budget(f"{2 * value!r}GFLOPs").amount == pytest.approx(value * 1e9)
    assert parse_budget(f"{value!r}%").amount == pytest.approx(value / 100)
    assert parse_budget(f"{value!r}x").amount == pytest.approx(1 / value)


@given(positive, st.sampled_from(["s", "ms", "TMACs", "GFLOPs", "%", "x", "% time", "x macs"]), positive, positive)
def test_a_limit_allows_what_costs_no_more(value: float, unit: str, cost: float, more: float) -> None:
    limit = parse_budget(f"{value!r}{unit}").resolve(BASELINE)
    cheap, expensive = PlanCost(cost, cost, cost, cost), PlanCost(cost + more, cost, cost + more, cost + more)
    assert limit.allows(cheap) or not limit.allows(expensive)
    exact = PlanCost(limit.value, 0.0, limit.value, limit.value)
    assert limit.allows(exact)


@pytest.mark.parametrize("text", ["100%", "1x", "1x macs", "100% time", "p95:1x"])
def test_the_baseline_meets_its_own_cost_and_says_so(text: str) -> None:
    limit = parse_budget(text).resolve(BASELINE)
    assert limit.allows(BASELINE)
    assert "nothing needs to be saved" in (limit.above_baseline or "")


def test_a_budget_below_the_baseline_has_nothing_to_say() -> None:
    assert parse_budget("99%").resolve(BASELINE).above_baseline is None


def test_p95_is_compared_with_p95() -> None:
    limit = parse_budget("p95:2.2s").resolve(BASELINE)
    assert not limit.allows(BASELINE)
    assert limit.allows(PlanCost(1, 1, seconds=2.3, seconds_p95=2.1))


def test_seconds_are_of_a_call_unless_an_image_is_named() -> None:
    batch = PlanCost(40e12, 30e12, seconds=2.0, seconds_p95=2.5, batch_size=4)
    assert (batch.call, batch.call_p95) == (8.0, 10.0)
    assert [parse_budget(text).per for text in ("8s", "2s/image", "2s per call", "60%")] == [
        *("call", "image", "call", "image")
    ]
    for text, allowed in (("8s", True), ("7.9s", False), ("2s/image", True), ("1.9s per image", False)):
        assert parse_budget(text).resolve(batch).allows(batch) is allowed
    assert parse_budget("p95:10s").resolve(batch).allows(batch)
    assert not parse_budget("p95:9.9s").resolve(batch).allows(batch)
    assert [parse_budget(text).resolve(batch).value for text in ("2x", "2x per image", "60%")] == [4.0, 1.0, 24e12]
    units = [parse_budget(text).resolve(batch).unit for text in ("2x", "2x per image", "60%")]
    assert units == ["s per call", "s per image", "MACs per image"]
    with pytest.raises(BudgetError, match="MACs are counted per image"):
        parse_budget("60% per call")


def test_the_flag_for_images_changes_seconds_that_do_not_say_what_they_are_of() -> None:
    asked = {"1.2s": "1.2s per image", "p95:2x": "p95:2x per image", "2s per call": "2s per call", "60%": "60%"}
    for text, meant in asked.items():
        assert budget_of(text, per_image=True) == parse_budget(meant)
        assert budget_of(text) == parse_budget(text)
    assert [b.text for b in budgets_of("1s,2s/image,60%", per_image=True)] == ["1s per image", "2s/image", "60%"]
    for nonsense in ("soon", "1s,,2s"):
        with pytest.raises(BudgetError):
            budgets_of(nonsense, per_image=True)


def test_limits_of_calls_and_of_images_are_not_the_same() -> None:
    call, image = Limit("seconds", "median", 1.0, 2.0), Limit("seconds", "median", 1.0, 2.0, per="image")
    assert call.terms != image.terms
    assert image.text == "1.0s per image"
    assert Limit("macs", "median", 1.0, 2.0) == Limit("macs", "median", 1.0, 2.0, per="image")


def test_seconds_that_were_not_measured_are_refused() -> None:
    unmeasured = PlanCost(macs=1e12, macs_paper=1e12)
    with pytest.raises(BudgetError, match="no seconds were measured"):
        parse_budget("2x").resolve(unmeasured)
    with pytest.raises(BudgetError, match="no seconds were measured"):
        Limit("seconds", "median", 1.0, 2.0).allows(unmeasured)
    assert parse_budget("60%").resolve(unmeasured).allows(PlanCost(0.6e12, 1.0))


def test_an_unreachable_budget_names_what_is_reachable_and_what_binds() -> None:
    limit = parse_budget("5%").resolve(BASELINE)
    with pytest.raises(BudgetError, match=r"T=4 k=5.* costs 4 TMACs, 10% of the baseline, and T cannot go below 4"):
        limit.require_reachable(PlanCost(4e12, 3e12), "T=4 k=5", "T cannot go below 4")
    limit.require_reachable(PlanCost(2e12, 2e12), "T=2", "T cannot go below 2")


def test_descriptions_state_image_batch_and_quantile() -> None:
    assert parse_budget("1.2s").describe(4) == "at most 1.2 s per call (median, batch 4)"
    assert parse_budget("p95:850ms").describe() == "at most 850 ms per call (p95, batch 1)"
    assert parse_budget("60%").describe() == "at most 60% of the baseline's MACs per image (attention counted)"
    assert parse_budget("2x").describe() == "at most 50% of the baseline's seconds per call (median, batch 1)"


def test_figures_in_words() -> None:
    assert format_macs(30.42e12) == "30.42 TMACs"
    assert format_macs(12) == "12 MACs"
    assert format_seconds(0.85) == "850 ms"
    assert format_seconds(1.25) == "1.25 s"
    assert format_seconds(0.04567) == "45.7 ms"
    assert format_seconds(0.9994) == "999 ms"
    assert format_seconds(0.99951) == "1 s"
    assert format_seconds(1234.5) == "1230 s"


def test_several_budgets_have_commas_between_them():
    assert [budget.text for budget in parse_budgets("0.8s, 60%,0.8s")] == ["0.8s", "60%"]
    for text in ("", "0.8s,", "1,5s"):
        with pytest.raises(BudgetError):
            parse_budgets(text)


@pytest.mark.parametrize("text", ["60%", "2x", "1.2s", "p95:1.5s", "0.5TMACs", "60% time"])
def test_a_limit_carries_the_text_it_was_asked_for_by(text):
    assert parse_budget(f" {text} ").resolve(BASELINE).text == text


@pytest.mark.parametrize(
    "limit",
    [Limit("macs", "median", 6e11, 1e12), Limit("seconds", "median", 0.1, 2.0), Limit("seconds", "p95", 3.0, 4.0)],
)
def test_a_limit_without_a_text_gets_one_that_says_the_same(limit):
    cost = PlanCost(limit.baseline, limit.baseline, limit.baseline, limit.baseline)
    assert parse_budget(limit.text).resolve(cost) == limit


def test_limits_are_compared_by_value_not_by_text():
    assert Limit("macs", "median", 60.0, 100.0, "60%") == Limit("macs", "median", 60.0, 100.0, "60MACs")
