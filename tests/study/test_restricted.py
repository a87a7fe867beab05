"""A restricted study answers with plans that keep its restrictions, whatever earlier searches scored."""

from dataclasses import replace

from studies import make_study

from postdiff_calib.report.terminal import profile_facts
from postdiff_calib.search.restrict import parse_restrictions
from postdiff_calib.study.earlier import with_earlier_searches
from postdiff_calib.study.record import Study, StudyRecord


def restricted(study, *texts):
    record = study.record
    record = replace(
        record,
        searched=(),  # as a calibration with these restrictions begins
        asked=replace(record.asked, restrictions=parse_restrictions(texts)),
        evidence=record.evidence.model_copy(update={"restrictions": list(texts)}),
    )
    return Study(study.folder, record)


def test_the_profile_keeps_them_and_says_so(tmp_path):
    study = make_study(tmp_path / "s")
    free = study.conclude()
    assert free.knobs.cache_interval > 1
    assert "restricted to" not in profile_facts(free)
    profile = restricted(study, "k=1").conclude()
    assert profile.knobs.cache_interval == 1
    assert profile.evidence.restrictions == ["k=1"]
    assert profile_facts(profile)["restricted to"] == "k=1"


def test_budgets_that_were_searched_with_other_restrictions_count_no_more(tmp_path):
    study = make_study(tmp_path / "s")
    study.save()
    assert study.record.searched
    unsearched = replace(study.record, searched=())
    assert with_earlier_searches(Study(study.folder, unsearched)).record.searched == study.record.searched
    assert with_earlier_searches(restricted(Study(study.folder, unsearched), "k=1")).record.searched == ()


def test_a_record_keeps_them(tmp_path):
    record = restricted(make_study(tmp_path / "s"), "k=1", "T=8").record
    assert StudyRecord.from_dict(record.as_dict()).asked.restrictions == record.asked.restrictions
    data = record.as_dict()
    del data["asked"]["restrictions"]
    assert StudyRecord.from_dict(data).asked.restrictions == ()
