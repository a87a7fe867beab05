"""Profiles survive a round trip exactly, and every kind of damage is named with its line."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from profiles import profile_data

from postdiff_calib.errors import OutputError, ProfileError
from postdiff_calib.files import write_atomically
from postdiff_calib.jobs.checks import budget_section
from postdiff_calib.knobs import Knobs
from postdiff_calib.plan import compile_plan
from postdiff_calib.profile import (
    SCHEMA_VERSION,
    Profile,
    TimesSection,
    comment,
    json_schema,
    load_profile,
    parse_profile,
)
from postdiff_calib.report.terminal import profile_facts
from postdiff_calib.report.wording import results, verdict, winner

VERSION_1 = Path(__file__).parents[1] / "data" / "profile_version_1.yaml"


def as_text(data):
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


@pytest.fixture
def data():
    return profile_data()


def test_round_trip(data, tmp_path):
    profile = parse_profile(as_text(data))
    assert profile.knobs == Knobs(20, 0.3, 0.5, 2, 0.75)
    path = profile.save(tmp_path / "deep" / "p.yaml")
    again = load_profile(path)
    assert again == profile
    assert again.to_dict() == data
    text = path.read_text()
    for line in "\n".join(comment(section, profile.words) for section in profile.to_dict()).splitlines():
        assert f"# {line}" in text
    words = "20 steps, the first 6 at 0.5 of the side, deep blocks on 10 of them, guidance on the first 15"
    assert profile.words == words
    assert f"# The plan: {words}.\n" in text
    assert [p.name for p in path.parent.iterdir()] == ["p.yaml"]


def test_the_words_of_a_model_without_guidance_do_not_speak_of_it(data):
    data["model"]["guidance_scale"] = 1.0
    assert "guidance" not in parse_profile(as_text(data)).words


def test_a_profile_that_names_no_way_to_full_size_is_of_renoising(data):
    data["plan"]["switch"] = "expand-own-grid"
    assert parse_profile(as_text(data)).generation.switch == "expand-own-grid"
    del data["plan"]["switch"]
    profile = parse_profile(as_text(data))
    assert profile.switch == profile.generation.switch == "renoise"
    assert profile.plan.plan_id == compile_plan(profile.knobs).plan_id


def damaged(data, change):
    data = copy.deepcopy(data)
    change(data)
    return as_text(data)


def line_of(text, key):
    return next(i for i, line in enumerate(text.splitlines(), 1) if line.strip().startswith(f"{key}:"))


@pytest.mark.parametrize(
    ("change", "key", "says"),
    [
        (lambda d: d["knobs"].update(cache_intervall=2), "cache_intervall", "unknown key"),
        (lambda d: d.update(extra_section={}), "extra_section", "unknown key"),
        (lambda d: d["knobs"].update(cache_interval="2"), "cache_interval", "valid integer"),
        (lambda d: d["knobs"].update(low_res_scale=1.5), "low_res_scale", "less than or equal to 1"),
        (lambda d: d["knobs"].update(cross_attention_cache="guided"), "cross_attention_cache", "'cond'"),
        (lambda d: d["budget"].update(limit=-1.0), "limit", "greater than 0"),
        (lambda d: d["expected"]["difference"].update(mean="x"), "mean", "valid number"),
        (lambda d: d["tradeoff"]["rows"][0].update(winner="me"), "winner", "'step_reduction'"),
        (lambda d: d["model"].update(height=None), "height", "valid integer"),
    ],
)
def test_damage_is_named_with_line_and_key(data, change, key, says):
    text = damaged(data, change)
    with pytest.raises(ProfileError) as caught:
        parse_profile(text, "p.yaml")
    message = str(caught.value)
    lines = [i for i, line in enumerate(text.splitlines(), 1) if line.strip().startswith(f"{key}:")]
    assert key in message
    assert says in message
    assert any(f"p.yaml, line {line}," in message for line in lines)
    assert "\n" not in message


def test_a_missing_key_is_named(data):
    del data["evidence"]["seed"]
    with pytest.raises(ProfileError, match=r"evidence\.seed: this key is missing"):
        parse_profile(as_text(data))


def test_knobs_that_contradict_the_plan_are_refused(data):
    data["knobs"]["cache_interval"] = 3
    with pytest.raises(ProfileError, match="does not follow from the knobs"):
        parse_profile(as_text(data))


def test_rules_between_knobs_are_the_knobs_own(data):
    data["knobs"]["low_res_scale"] = 1.0
    with pytest.raises(ProfileError, match="low-resolution steps need a scale below 1"):
        parse_profile(as_text(data))


def test_times_of_other_rows_are_refused(data):
    data["times"]["rows"][0]["share"] = 0.5
    with pytest.raises(ProfileError, match="rows of the times are not those of the trade-off"):
        parse_profile(as_text(data))


def test_a_newer_schema_is_refused(data):
    data["schema_version"] = 5
    with pytest.raises(ProfileError, match="line 1, schema_version: 5: this postdiff reads up to 4"):
        parse_profile(as_text(data), "p.yaml")


def test_version_1_is_still_read_and_shown():
    profile = load_profile(VERSION_1)
    assert profile.schema_version == SCHEMA_VERSION
    assert profile.plan.plan_id == compile_plan(profile.knobs).plan_id == "909734c6dbc44d9b"
    assert (profile.evidence.search, profile.evidence.minimum_detectable_difference) == ("postdiff", 0.6772225867601348)
    assert all(row.searched for row in profile.tradeoff.rows)
    assert parse_profile(profile.to_yaml()) == profile
    (only,) = results(profile)
    assert (only.metric, only.difference, only.verdict) == ("clip", profile.expected.difference, "better")
    facts = profile_facts(profile)
    assert facts["CLIP score"] == "86.70, baseline 86.08: +0.62 [+0.14, +1.10] better"
    assert facts["verdict"] == "better on 100 held-out prompts"
    assert "scenes right" not in facts


def test_version_1_counted_prompts_that_are_scored():
    # they were held-out prompts, of which --num-prompts gives as many as it says
    data = load_profile(VERSION_1).to_dict()
    data["expected"] |= {"verdict": "undecided", "prompts_to_decide": 480}
    assert verdict(Profile.model_validate(data)) == "undecided; --num-prompts 480 would decide"


def version_3():
    """The data of ``profile_data`` as version 3 had it: seconds of an image, beside what they are of."""
    data = copy.deepcopy(profile_data())
    times = data.pop("times")
    data["schema_version"] = 3
    for cost, plan in (("cost", "plan"), ("baseline_cost", "baseline")):
        figures = times[plan]
        data["expected"][cost] |= {"seconds": figures["per_image"], "seconds_p95": figures["per_image_p95"]}
    data["expected"]["relative_seconds"] = times["relative"]
    data["environment"] |= {"latency_device": times["device"], "latency_disagreement": times["disagreement"]}
    for row, timed in zip(data["tradeoff"]["rows"], times["rows"], strict=True):
        for arm in ("step_reduction", "cheaper_steps", "combined"):
            if row[arm] is not None:
                row[arm]["seconds"] = timed[arm] / data["budget"]["batch_size"]
    return data


def version_2():
    """The same as version 2 had it."""
    data = version_3()
    data["schema_version"] = 2
    data["plan"]["content"] = data["plan"].pop("plan_id")
    data["evidence"] |= {"sampler": data["evidence"].pop("search")}
    data["evidence"]["smallest_difference"] = data["evidence"].pop("minimum_detectable_difference")
    for row in data["tradeoff"]["rows"]:
        for old, new in (("fewer", "step_reduction"), ("cheaper", "cheaper_steps"), ("joint", "combined")):
            row[old] = row.pop(new)
            if row[old] is not None:
                row[old]["content"] = row[old].pop("plan_id")
        row["cheaper_minus_fewer"] = row.pop("cheaper_steps_minus_step_reduction")
        row["winner"] = "cheaper"
    return data


@pytest.mark.parametrize("earlier", [version_2, version_3])
def test_an_earlier_version_is_the_same_profile_in_other_words(data, earlier):
    assert parse_profile(as_text(earlier())) == parse_profile(as_text(data))


def test_an_earlier_budget_in_seconds_was_of_an_image():
    data = version_3()
    data["budget"] |= {"text": "2x", "kind": "seconds", "limit": 0.05, "share": 0.5, "unit": "s per image"}
    profile = parse_profile(as_text(data))
    assert (profile.budget.text, profile.budget.unit) == ("2x per image", "s per image")
    assert budget_section(profile).outcome == "passed"
    assert (profile.times.plan.call, profile.times.plan.per_image) == (1.5, 0.06)
    # what was never timed has no times
    for cost in ("cost", "baseline_cost"):
        data["expected"][cost] |= {"seconds": None, "seconds_p95": None}
    data["expected"]["relative_seconds"] = data["environment"]["latency_device"] = None
    del data["environment"]["latency_disagreement"]
    for row in data["tradeoff"]["rows"]:
        row["step_reduction"]["seconds"] = row["cheaper_steps"]["seconds"] = None
    assert parse_profile(as_text(data)).times == TimesSection()


@pytest.mark.parametrize(
    ("section", "key", "told"),
    [
        ("expected", "relative_seconds", "expected.relative_seconds"),
        ("environment", "latency_device", "latency_device"),
    ],
)
def test_wrong_times_of_an_earlier_version_are_named_by_its_own_key(section, key, told):
    data = version_3()
    data[section][key] = [1]
    with pytest.raises(ProfileError, match=rf"line \d+, .*{told}"):
        parse_profile(as_text(data))


def test_an_error_in_an_older_version_names_the_key_that_stands_in_the_file():
    older = version_2()
    older["tradeoff"]["rows"][0]["fewer"]["content"] = 3
    with pytest.raises(ProfileError, match=r"line \d+, tradeoff\.rows\.0\.fewer\.content:"):
        parse_profile(as_text(older))


@pytest.mark.parametrize("key", ["step_reduction", "fewer"])
def test_old_and_new_words_do_not_mix(data, key):
    mixed = version_2() if key == "step_reduction" else data
    mixed["tradeoff"]["rows"][0][key] = None
    with pytest.raises(ProfileError, match="unknown key"):
        parse_profile(as_text(mixed))


@pytest.mark.parametrize("broken", [None, 3, "x", [], {"rows": 3}, {"rows": [None, 7]}])
@pytest.mark.parametrize("section", ["plan", "expected", "tradeoff", "evidence"])
def test_a_broken_older_profile_is_one_line(broken, section):
    with pytest.raises(ProfileError, match=section):
        parse_profile(as_text({**version_2(), section: broken}))


def test_version_1_rows_keep_what_they_decided():
    rows = load_profile(VERSION_1).tradeoff.rows
    assert [winner(row) for row in rows] == ["step reduction", "step reduction", "neither", "cheaper steps"]


def test_delta_of_another_size_is_not_called_a_tenth(data):
    profile = Profile.model_validate(data)
    tenth = "CLIP score within 0.70, scenes right within 3.0 (a tenth of what another seed changes)"
    assert verdict(profile) == f"equivalent: {tenth}"
    assert verdict(profile, "on 250 held-out prompts") == f"equivalent on 250 held-out prompts, {tenth}"
    data["expected"]["metrics"][1]["delta"] = 2.0
    assert verdict(Profile.model_validate(data)) == "equivalent: CLIP score within 0.70, scenes right within 2.0"
    data["expected"]["metrics"] = data["expected"]["metrics"][:1]
    assert verdict(Profile.model_validate(data)) == "equivalent within 0.70 (a tenth of what another seed changes)"
    data["expected"] |= {"verdict": "undecided", "prompts_to_decide": 1200}
    assert verdict(Profile.model_validate(data)) == "undecided; --num-prompts 1200 would decide"


def test_a_metric_that_is_not_known_here_is_shown_by_its_name(data):
    data["expected"]["metrics"][1]["metric"] = "taste"
    facts = profile_facts(Profile.model_validate(data))
    assert facts["taste"] == "87.600, baseline 88.000: −0.400 [−1.900, +1.100] equivalent"


@pytest.mark.parametrize("text", ["a: [", "just words", "- a list", "", "!!python/object/apply:os.system ['true']"])
def test_what_is_no_profile_is_refused(text):
    with pytest.raises(ProfileError):
        parse_profile(text)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(ProfileError, match="cannot be read"):
        load_profile(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ProfileError, match="it is not text"):
        load_profile(tmp_path / "b.yaml")


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    target = tmp_path / "p.yaml"
    write_atomically(target, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OutputError, match="No space left"):
        write_atomically(target, "new")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["p.yaml"]


def test_an_unwritable_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_atomically(tmp_path / "file" / "p.yaml", "x")


def test_json_schema_accepts_a_profile_and_refuses_a_typo(data):
    validator = jsonschema.Draft202012Validator(json.loads(json.dumps(json_schema())))
    written = Profile.model_validate(data, strict=False).to_dict()
    assert list(validator.iter_errors(written)) == []
    written["knobs"]["cache_intervall"] = 2
    assert [e.validator for e in validator.iter_errors(written)] == ["additionalProperties"]
